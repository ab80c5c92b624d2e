"""SmoothingSuite: does moving scales between layers (AWQ, SmoothQuant) keep their function?

Legend: N tokens, J features that the producer reads, K features between producer and consumers.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..base import Suite, requires
from ..tally import each_case

FEATURES = 64  # K, between the layers
LARGE = slice(0, FEATURES, 16)  # features that are much larger than the others
TOKENS = 512


class Smoother(Protocol):
    """Moves scales from an activation into the weights that read it, before they are rounded."""

    def smooth(self, producer: nn.Module, consumers: Sequence[nn.Linear], inputs: Tensor) -> None:
        """Changes parameters in place.

        Args:
            producer: what makes the activation: a norm or a linear layer.
            consumers: all layers that read it.
            inputs: calibration inputs of the consumers, [..., K].
        """


class MakeSmoother(Protocol):
    """The factory that `SmoothingSuite` asks for."""

    def __call__(self) -> Smoother:
        """A smoother with no memory of others."""


@dataclass
class Network:
    """A producer and its consumers."""

    name: str
    producer: nn.Module
    consumers: list[nn.Linear]

    def copy(self, dtype: torch.dtype | None = None) -> Network:
        producer, consumers = copy.deepcopy((self.producer, self.consumers))
        if dtype is not None:
            producer, consumers = producer.to(dtype), [layer.to(dtype) for layer in consumers]
        return Network(self.name, producer, consumers)

    @torch.no_grad()
    def activations(self, x: Tensor) -> Tensor:
        """What the consumers read; of a fused producer the last features."""
        found: Tensor = self.producer(x)[..., -FEATURES:]
        return found

    @torch.no_grad()
    def outputs(self, x: Tensor) -> list[Tensor]:
        """Each consumer's output."""
        activations = self.activations(x)
        return [layer(activations) for layer in self.consumers]

    def parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        yield from self.producer.named_parameters(prefix="producer")
        for index, layer in enumerate(self.consumers):
            yield from layer.named_parameters(prefix=f"consumer {index}")


class SmoothingSuite(Suite):
    """Properties of the scaling step of AWQ and SmoothQuant, on small networks.

    Give a fixture ``make_smoother``: a `MakeSmoother`.
    """

    topic = "smoother"
    fixture = "make_smoother"
    fixture_returns = "a callable without arguments that makes a smoother"
    offers = {  # noqa: RUF012  # read only
        "norms": "the producer may be an nn.LayerNorm or an nn.RMSNorm",
        "linear-producers": "the producer may be an nn.Linear",
        "fused-producers": "the producer may be an nn.Linear whose last outputs alone are read",
        "mean-statistic": "scales follow mean |x|, on which one token has little influence (AWQ)",
    }
    demands = (("norms", "linear-producers"),)
    methods = {"": ("smooth",)}  # noqa: RUF012  # read only

    def made_from(self, implementation: Any) -> Any:
        return implementation()

    def test_the_function_is_preserved_in_float64(self, make_smoother: MakeSmoother) -> None:
        """Before anything is rounded to few bits, every consumer computes what it did.

        Usual causes: one consumer of several left without its scales, a bias of the producer that
        is not divided, a consumer's bias that is multiplied, scales on the wrong axis.
        """
        for network in each_case(self._networks(torch.float64)):
            x = _normal(TOKENS, network, seed=1)
            smoothed = self._smoothed(make_smoother, network, network.activations(x))
            self._assert_preserved(network, smoothed, _normal(32, network, seed=2))

    def test_the_function_is_preserved_in_float32(self, make_smoother: MakeSmoother) -> None:
        """The smoothed network errs no more than twice as much as the plain one, rounding apart.

        Usual causes: scales or their reciprocals in half precision, weights converted on the way.
        """
        for exact in each_case(self._networks(torch.float64)):
            plain = exact.copy(torch.float32)
            exact = plain.copy(torch.float64)  # the same numbers
            x = _normal(TOKENS, exact, seed=1)
            smoothed = self._smoothed(make_smoother, plain, plain.activations(x.float()))
            fresh = _normal(256, exact, seed=2)
            fresh = fresh.float().double()
            for index, (truth, own, found) in enumerate(
                zip(
                    exact.outputs(fresh),
                    plain.outputs(fresh.float()),
                    smoothed.outputs(fresh.float()),
                    strict=True,
                )
            ):
                floor = torch.finfo(torch.float32).eps * _rms(truth)
                allowed = 2 * _rms(own - truth) + floor
                error = _rms(found - truth)
                assert error <= allowed, (
                    f"{exact.name}, consumer {index}: error {error:.3g}, allowed {allowed:.3g}"
                )

    def test_dead_features_and_unread_features_are_survived(
        self, make_smoother: MakeSmoother
    ) -> None:
        """A feature that was 0 in calibration, or that no weight reads, gets some finite scale.

        It may well be alive in the next text. Usual causes: 0 as a divisor, a scale of 0 that
        wipes out the feature, statistics without a lower limit.
        """
        for network in each_case(self._networks(torch.float64)):
            for layer in network.consumers:
                layer.weight.data[:, [2, 5]] = 0
            inputs = network.activations(_normal(TOKENS, network, seed=1)).clone()
            inputs[:, [2, 3, -1]] = 0
            smoothed = self._smoothed(make_smoother, network, inputs)
            for name, parameter in smoothed.parameters():
                assert bool(torch.isfinite(parameter).all()), (
                    f"{network.name}: {name} has numbers that are not finite"
                )
            self._assert_preserved(network, smoothed, _normal(32, network, seed=2))

    def test_large_features_become_smaller_beside_the_others(
        self, make_smoother: MakeSmoother
    ) -> None:
        """That is what smoothing is for; one that does nothing preserves every function.

        Usual causes: scales computed and not applied, all equal, or applied the wrong way round.
        """
        for network in each_case(self._networks(torch.float64)):
            x = _normal(TOKENS, network, seed=1)
            before = network.activations(x)
            smoothed = self._smoothed(make_smoother, network, before)
            share, left = _share_of_large(before), _share_of_large(smoothed.activations(x))
            assert left < share, (
                f"{network.name}: large features were {share:.4g} times the others, and are "
                f"{left:.4g} times"
            )

    def test_nothing_else_changes(self, make_smoother: MakeSmoother) -> None:
        """Inputs, the consumers' biases, shapes, dtypes, flags and modes stay as they were.

        Usual causes: parameters replaced by new ones without requires_grad (tied weights and
        optimizers lose them), float32 throughout, statistics taken in place.
        """
        for dtype in (torch.float32, torch.bfloat16):
            for network in each_case(self._networks(dtype)):
                inputs = network.activations(_normal(TOKENS, network, seed=1).to(dtype))
                given, smoothed = inputs.clone(), network.copy()
                parameters = dict(smoothed.parameters())
                make_smoother().smooth(smoothed.producer, smoothed.consumers, given)
                assert torch.equal(given, inputs), f"{network.name}: inputs were modified"
                for name, old in network.parameters():
                    new = dict(smoothed.parameters()).get(name)
                    assert new is parameters[name], f"{network.name}: {name} was replaced"
                    assert new.shape == old.shape
                    assert new.dtype is dtype, f"{network.name}: {name} is {new.dtype}"
                    assert new.requires_grad == old.requires_grad
                for old_layer, layer in zip(network.consumers, smoothed.consumers, strict=True):
                    assert layer.training == old_layer.training
                    if layer.bias is not None:
                        assert torch.equal(layer.bias, old_layer.bias), "a consumer's bias changed"

    def test_only_the_tokens_matter(self, make_smoother: MakeSmoother) -> None:
        """Their order, their shape, and what was smoothed before do not.

        Usual causes: a statistic over the wrong axis of a batch, of its first sequence, or of an
        earlier network.
        """
        order = torch.randperm(TOKENS, generator=torch.Generator().manual_seed(4))
        for network in each_case(self._networks(torch.float64)):
            inputs = network.activations(_normal(TOKENS, network, seed=1))
            expected = dict(self._smoothed(make_smoother, network, inputs).parameters())
            used = make_smoother()
            other = network.copy()
            used.smooth(other.producer, other.consumers, inputs.flip(-1) * 7)
            for name, tokens, smoother in (
                ("another order of tokens", inputs[order], make_smoother()),
                ("a batch of sequences", inputs.view(4, -1, FEATURES), make_smoother()),
                ("another network before", inputs, used),
            ):
                found = network.copy()
                smoother.smooth(found.producer, found.consumers, tokens)
                for key, parameter in found.parameters():
                    # Sums over all tokens in float32, and what follows from them.
                    close = 8 * TOKENS * torch.finfo(torch.float32).eps * expected[key].abs()
                    assert bool(((parameter - expected[key]).abs() <= close).all()), (
                        f"{network.name}: {name} gives another {key}"
                    )

    @requires("mean-statistic")
    def test_one_outlier_token_moves_scales_little(self, make_smoother: MakeSmoother) -> None:
        """Features that one token of hundreds drives up keep about the scales of their likes.

        All weights are ±1, so scales follow activations alone: mean^ratio with a ratio of at most
        1. A token of size a among N tokens of size 1 moves a mean, and so a scale, by the factor
        1 + (a − 1)/N at most. Usual causes: the maximum of |x| where the mean is meant.
        """
        for network in each_case(self._networks(torch.float64)):
            for layer in network.consumers:
                layer.weight.data.sign_()
            inputs = _signs(TOKENS)
            inputs[:, LARGE] *= 16
            inputs[7, 1::4] *= 64.0
            smoothed = self._smoothed(make_smoother, network, inputs)
            scales = smoothed.consumers[0].weight.detach().abs().amax(dim=0)
            moved = float(scales[1::4].max() / scales[2::4].min())
            # The scales were read off weights that are rounded once.
            allowed = (1 + 63 / TOKENS) * (1 + TOKENS * torch.finfo(torch.float32).eps)
            assert moved <= allowed, (
                f"{network.name}: one token moves scales by the factor {moved:.4g}, not "
                f"{allowed:.4g}"
            )

    @requires("fused-producers")
    def test_only_the_outputs_that_are_read_are_scaled(self, make_smoother: MakeSmoother) -> None:
        """Of a fused q, k and v, o_proj reads v: the last rows. The others stay, bit for bit.

        Usual causes: the first rows scaled, or all of them.
        """
        network = _fused(torch.float64)
        x = _normal(TOKENS, network, seed=1)
        smoothed = self._smoothed(make_smoother, network, network.activations(x))
        self._assert_preserved(network, smoothed, _normal(32, network, seed=2))
        for name, parameter in network.producer.named_parameters():
            found = smoothed.producer.get_parameter(name)
            assert torch.equal(found[:-FEATURES], parameter[:-FEATURES]), f"other rows of {name}"

    # How properties are tried

    def _networks(self, dtype: torch.dtype) -> Iterator[Network]:
        if "norms" in self.capabilities:
            yield _network("LayerNorm, 3 consumers", nn.LayerNorm(FEATURES), (7, 3, 5), dtype)
            yield _network("RMSNorm, 2 consumers", nn.RMSNorm(FEATURES), (4, 64), dtype)
        if "linear-producers" in self.capabilities:
            yield _network("Linear with bias", nn.Linear(24, FEATURES), (6,), dtype)
            bare = nn.Linear(FEATURES, FEATURES, bias=False)
            yield _network("square Linear without bias", bare, (FEATURES,), dtype)

    def _smoothed(self, make_smoother: MakeSmoother, network: Network, inputs: Tensor) -> Network:
        smoothed = network.copy()
        make_smoother().smooth(smoothed.producer, smoothed.consumers, inputs.clone())
        return smoothed

    def _assert_preserved(self, network: Network, smoothed: Network, x: Tensor) -> None:
        """To the rounding of weights, products and sums, each relative to the terms of its sum."""
        size = _sizes(network.producer, x)[..., -FEATURES:]
        operations = FEATURES + x.shape[-1] + 16
        pairs = zip(network.outputs(x), smoothed.outputs(x), strict=True)
        for index, (before, after) in enumerate(pairs):
            layer = network.consumers[index]
            terms = size @ layer.weight.detach().abs().T
            if layer.bias is not None:
                terms = terms + layer.bias.detach().abs()
            allowed = 2 * operations * torch.finfo(x.dtype).eps * terms
            wrong = ~((after - before).abs() <= allowed)
            assert not bool(wrong.any()), (
                f"{network.name}, consumer {index}: {before[wrong][0].item():.9g} has become "
                f"{after[wrong][0].item():.9g}"
            )


def _network(name: str, producer: nn.Module, widths: Sequence[int], dtype: torch.dtype) -> Network:
    """Random parameters; every second consumer has a bias; features `LARGE` are large."""
    consumers = [nn.Linear(FEATURES, n, bias=i % 2 == 0) for i, n in enumerate(widths)]
    network = Network(name, producer, consumers)
    generator = torch.Generator().manual_seed(len(name))
    for key, parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        if key.startswith("producer"):
            parameter.data[-FEATURES:][LARGE] *= 30
    return network.copy(dtype)


def _fused(dtype: torch.dtype) -> Network:
    return _network("fused Linear", nn.Linear(24, 3 * FEATURES), (6,), dtype)


def _normal(tokens: int, network: Network, seed: int) -> Tensor:
    """Inputs of the producer, float64 [N, J]."""
    producer = network.producer
    width = producer.in_features if isinstance(producer, nn.Linear) else FEATURES
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tokens, width, generator=generator, dtype=torch.float64)


def _signs(tokens: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 2, (tokens, FEATURES), generator=generator).double() * 2 - 1


@torch.no_grad()
def _sizes(producer: nn.Module, x: Tensor) -> Tensor:
    """The sum of the absolute terms of which each of the producer's outputs is the sum."""
    bias = getattr(producer, "bias", None)
    offset = bias.abs() if isinstance(bias, Tensor) else torch.zeros((), dtype=x.dtype)
    if isinstance(producer, nn.Linear):
        return x.abs() @ producer.weight.abs().T + offset
    centred: Tensor = producer(x)
    if isinstance(bias, Tensor):
        centred = centred - bias
    return centred.abs() + offset


def _share_of_large(activations: Tensor) -> float:
    sizes = activations.abs().amax(dim=0)
    others = torch.ones(FEATURES, dtype=torch.bool)
    others[LARGE] = False
    return float(sizes[LARGE].mean() / sizes[others].mean())


def _rms(values: Tensor) -> float:
    return float(values.double().square().mean().sqrt())
