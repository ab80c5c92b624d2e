"""FakeQuantSuite: does training see what will be deployed, and do gradients get through?"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, ClassVar, Protocol, cast

import torch
from infopt_reference.quantization import Granularity, QuantizationScheme, preset
from torch import Tensor, nn

from ..base import Suite, requires
from ..properties import for_all, tried
from ..tally import each_case
from .grids import grid_of, group_extremes, group_ids
from .protocol import Quantizer
from .weights import Accepted, WeightCase, weight_cases, weight_traps


class FakeQuantizer(Protocol):
    """Weights as their scheme would round them, differentiable."""

    @property
    def quantizer(self) -> Quantizer:
        """What is deployed: the post-training quantizer of the same scheme."""

    def __call__(self, weight: Tensor) -> Tensor:
        """The rounded weight, in its own shape and dtype; the gradient passes straight through."""


class GivenScales(FakeQuantizer, Protocol):
    """Capability "given-scales"."""

    def __call__(
        self, weight: Tensor, *, scales: Tensor | None = None, zero_points: Tensor | None = None
    ) -> Tensor:
        """With constant scales, [] per tensor or [C] per channel; zero points if asymmetric."""


class ModuleTrainer(FakeQuantizer, Protocol):
    """Capability "modules"."""

    def prepare(self, linear: nn.Linear) -> nn.Module:
        """A layer that computes with fake-quantized weights and trains the float ones."""

    def convert(self, prepared: nn.Module) -> nn.Module:
        """The layer as deployed, with quantized weights."""


class MakeFakeQuantizer(Protocol):
    """The factory that `FakeQuantSuite` asks for."""

    def __call__(self, scheme: QuantizationScheme) -> FakeQuantizer:
        """A fake quantizer of that scheme, with no memory of others."""


on_weights = tried("make_fake_quantizer")  # a property of a fake quantizer and a `WeightCase`


class FakeQuantSuite(Suite):
    """Properties of fake quantization, as training with it needs, for every scheme of ``schemes``.

    Give a fixture ``make_fake_quantizer``: a `MakeFakeQuantizer`. Class attributes say what is
    tried:

    | attribute | default | meaning |
    |---|---|---|
    | ``schemes`` | int8, and int4 in groups of 32, 64, 128 | what fake quantizers are made for |
    | ``dtypes`` | float32, bfloat16 | dtypes of weights |
    | ``examples`` | 25 | drawn cases of a property |
    """

    topic = "fake_quantizer"
    fixture = "make_fake_quantizer"
    fixture_returns = "a callable: QuantizationScheme -> fake quantizer"
    offers = {  # noqa: RUF012  # read only
        "ragged": "the last group of a row may be shorter than group_size",
        "given-scales": "scales (and zero points) may be given: weights beyond them are clamped",
        "rounds-then-clamps": "up to half a step beyond the last level is not clamped yet (torch)",
        "modules": "prepare(linear) makes a layer to train, convert(layer) the one to deploy",
    }
    schemes: ClassVar[Sequence[QuantizationScheme]] = (
        preset("int8"),
        preset("int4", group_size=32),
        preset("int4", group_size=128),
        preset("int4", symmetric=True, group_size=64),
    )
    dtypes: ClassVar[Sequence[torch.dtype]] = (torch.float32, torch.bfloat16)
    examples: ClassVar[int] = 25
    methods = {"modules": ("prepare", "convert")}  # noqa: RUF012  # read only

    def made_from(self, implementation: Any) -> Any:
        return implementation(self.schemes[0])

    # Forward

    @on_weights()
    def test_training_sees_what_is_deployed(self, fake: FakeQuantizer, case: WeightCase) -> None:
        """Fake-quantized weights equal the deployed ones bit for bit, in every scheme.

        A difference is an error that training has not learnt to live with. Usual causes: a group
        size or scale dtype that the training side fixes for itself, arithmetic in another dtype,
        other ranges than the quantizer's.
        """
        deployed = _deployed(fake, case.weight)
        seen = fake(case.weight.clone().requires_grad_()).detach()
        assert seen.dtype is deployed.dtype
        assert seen.shape == deployed.shape
        different = seen != deployed
        assert not bool(different.any()), (
            f"{int(different.sum())} of {different.numel()} weights differ: "
            f"{seen[different][0].item():.9g} in training, "
            f"{deployed[different][0].item():.9g} deployed"
        )

    @on_weights()
    def test_the_weight_is_not_modified(self, fake: FakeQuantizer, case: WeightCase) -> None:
        """Training changes the float weights. Usual causes: in-place rounding or clamping."""
        weight = case.weight.clone()
        fake(weight)
        assert torch.equal(weight, case.weight), "fake quantization changed the weight itself"

    @on_weights(fresh=True)
    def test_nothing_is_remembered_from_earlier_weights(
        self, make: Callable[[], FakeQuantizer], case: WeightCase
    ) -> None:
        """The result depends on the weight alone, not on steps before, nor on a mode.

        Usual causes: running ranges, observers that are still on, buffers that are reused,
        evaluation that rounds otherwise than training.
        """
        fake, other = make(), case.weight.flip(-1) * 3 + 1
        first = fake(case.weight).detach().clone()
        expected = make()(other).detach()
        assert torch.equal(fake(other).detach(), expected), "it shows another weight's result"
        assert torch.equal(fake(case.weight).detach(), first), "other weights left a trace"
        if isinstance(fake, nn.Module):
            fake.eval()
            assert torch.equal(fake(case.weight).detach(), first), "eval() changes the result"

    # Backward

    @on_weights()
    def test_gradients_pass_straight_through(self, fake: FakeQuantizer, case: WeightCase) -> None:
        """Where nothing is clamped, the gradient is the identity.

        Scales come from the weights. So at most those beyond the outermost level of their group
        are clamped and may get 0, and a group's smallest and largest weights may get more, where
        gradients flow through the range as well. Usual causes: a detach, round without an
        estimator (0 throughout), a clamp whose gradient is 0 at its ends, a gradient scaled by
        the step.
        """
        weight = case.weight.clone().requires_grad_()
        rounded = fake(weight)
        upstream = _upstream(case.weight)
        (gradient,) = torch.autograd.grad(rounded, weight, upstream, allow_unused=True)
        assert gradient is not None, "no gradient reaches the weight"
        assert gradient.dtype is weight.dtype
        # Twice rounded where the gradient passes a division and a product by the scale.
        close = 2 * torch.finfo(weight.dtype).eps * upstream.abs()
        passed = (gradient - upstream).abs() <= close
        beyond = _outside_their_group(case, rounded.detach()) & (gradient == 0)
        low, high = group_extremes(case.weight, case.scheme)
        sets_range = (case.weight == low) | (case.weight == high)
        wrong = ~(passed | beyond | (sets_range & (gradient != 0)))
        assert not bool(wrong.any()), (
            f"{int(wrong.sum())} of {wrong.numel()} gradients are wrong: "
            f"{gradient[wrong][0].item():.6g} for {upstream[wrong][0].item():.6g}, at weight "
            f"{case.weight[wrong][0].item():.6g} that is rounded to "
            f"{rounded[wrong][0].item():.6g}"
        )

    def test_training_moves_the_deployed_weights(
        self, make_fake_quantizer: MakeFakeQuantizer
    ) -> None:
        """Gradient steps bring the quantized weights to a target that they were far from.

        Usual causes: gradients that do not reach the weight, have the wrong sign, or are stopped
        where they are needed.
        """
        for scheme in each_case(self.schemes):
            fake = make_fake_quantizer(scheme)
            start, target = _normal(4, _columns(scheme), seed=0), _normal(4, _columns(scheme), 1)
            weight = start.clone().requires_grad_()
            for _ in range(20):
                loss: Tensor = (fake(weight) - target).square().sum() / 2
                (gradient,) = torch.autograd.grad(loss, weight)
                weight = (weight - 0.3 * gradient).detach().requires_grad_()
            before, after, rounding = (
                float((_deployed(fake, w) - target).square().mean())
                for w in (start, weight.detach(), target)
            )
            # Steps of 0.3 leave 0.7²⁰ = 0.0008 of the distance; a tenth, where gradients flow
            # through the range too and the largest weights lag behind. The rest is rounding, which
            # the last step may have sent to the next level: twice the error, 4 times squared.
            assert after <= 4 * rounding + before / 10, (
                f"{scheme}: mean squared distance {before:.4g}, after training {after:.4g}"
            )

    @requires("given-scales")
    def test_given_scales_clamp_and_stop_gradients_outside(
        self, make_fake_quantizer: MakeFakeQuantizer
    ) -> None:
        """Constant scales: round, clamp; gradient 1 from the first level to the last, 0 beyond.

        The levels at both ends are inside: they are representable. Usual causes: strict
        inequalities at the ends, a range of another width, gradients that pass everywhere, the
        zero point left out of the comparison.
        """
        for scheme, scale, zero_point in each_case(_static_schemes(self.schemes)):
            low, high = _levels(scheme, zero_point)
            # Eighths of a step, from two steps below the levels to two above; ties left out.
            steps = torch.arange((low - 2) * 8, (high + 2) * 8 + 1, dtype=torch.float64) / 8
            steps = steps[(steps - steps.floor()) != 0.5]
            weight, scales, zeros = _static_case(scheme, steps, scale, zero_point)
            parameter = weight.clone().requires_grad_()
            fake = cast(GivenScales, make_fake_quantizer(scheme))
            rounded = fake(parameter, scales=scales, zero_points=zeros)
            upstream = _upstream(weight)
            (gradient,) = torch.autograd.grad(rounded, parameter, upstream)
            expected = (steps.round().clamp(low, high) * scale).to(weight.dtype)
            assert torch.equal(rounded.detach(), expected.expand_as(weight)), f"{scheme}: values"
            inside, outside = (
                (low <= steps) & (steps <= high),
                (steps < low - 0.5) | (steps > high + 0.5),
            )
            passed = gradient == upstream
            assert bool(passed[:, inside].all()), f"{scheme}: a level has no gradient"
            assert not bool(gradient[:, outside].any()), f"{scheme}: gradient beyond the levels"

    @requires("given-scales", "rounds-then-clamps")
    def test_half_a_step_beyond_the_levels_still_has_a_gradient(
        self, make_fake_quantizer: MakeFakeQuantizer
    ) -> None:
        """A weight that rounds to the last level is not clamped, as in torch.fake_quantize_*.

        Usual causes: the float weight compared with the range where its code is meant.
        """
        for scheme, scale, zero_point in each_case(_static_schemes(self.schemes)):
            low, high = _levels(scheme, zero_point)
            steps = torch.tensor([low - 0.375, high + 0.375], dtype=torch.float64)
            weight, scales, zeros = _static_case(scheme, steps, scale, zero_point)
            parameter = weight.clone().requires_grad_()
            fake = cast(GivenScales, make_fake_quantizer(scheme))
            rounded = fake(parameter, scales=scales, zero_points=zeros)
            (gradient,) = torch.autograd.grad(rounded, parameter, _upstream(weight))
            assert torch.equal(gradient, _upstream(weight)), f"{scheme}: gradient stopped"

    # Modules

    @requires("modules")
    def test_the_deployed_layer_computes_what_the_trained_one_did(
        self, make_fake_quantizer: MakeFakeQuantizer
    ) -> None:
        """After some steps, conversion changes no bit of the outputs; nor does eval().

        Usual causes: a scheme or group size that conversion takes from elsewhere, scales of an
        earlier step, the float weights deployed, the bias lost.
        """
        for scheme, trainer, module, x in each_case(self._trained_modules(make_fake_quantizer)):
            with torch.no_grad():
                seen = module(x).clone()
                assert torch.equal(module.eval()(x), seen), f"{scheme}: eval() changes outputs"
                deployed = trainer.convert(module)(x)
            assert torch.equal(deployed, seen), (
                f"{scheme}: outputs differ by up to {(deployed - seen).abs().max().item():.6g}"
            )

    @requires("modules")
    def test_training_changes_every_weight_of_the_layer(
        self, make_fake_quantizer: MakeFakeQuantizer
    ) -> None:
        """A step moves all weights and the bias, and the layer stays the one that was prepared.

        Usual causes: weights stored as buffers, parameters without requires_grad, a detach.
        """
        for scheme, _, module, x in each_case(self._trained_modules(make_fake_quantizer)):
            before = {name: p.detach().clone() for name, p in module.named_parameters()}
            sizes = sorted(p.numel() for p in before.values())
            assert sizes[-1] == 8 * _columns(scheme), f"{scheme}: no weight among {sorted(before)}"
            _step(module, x)
            for name, parameter in module.named_parameters():
                moved = parameter.detach() != before[name]
                assert bool(moved.all()), f"{scheme}: {int((~moved).sum())} of {name} did not move"

    # How properties are tried

    def _hold(
        self,
        make_fake_quantizer: MakeFakeQuantizer,
        holds: Callable[[Any, WeightCase], None],
        fresh: bool = False,
    ) -> None:
        """``fresh``: the property makes fake quantizers itself."""
        __tracebackhide__ = True

        def tried_on(case: WeightCase) -> None:
            make = partial(make_fake_quantizer, case.scheme)
            holds(make if fresh else make(), case)

        accepted = Accepted(self.dtypes, (2,), "ragged" in self.capabilities)
        traps = (trap for scheme in self.schemes for trap in weight_traps(scheme, accepted))
        cases = weight_cases(list(self.schemes), accepted)
        for_all(tried_on, cases, traps=traps, examples=self.examples)

    def _trained_modules(
        self, make_fake_quantizer: MakeFakeQuantizer
    ) -> Iterator[tuple[QuantizationScheme, ModuleTrainer, nn.Module, Tensor]]:
        for scheme in self.schemes:
            linear = nn.Linear(_columns(scheme), 8)
            linear.weight.data = _normal(8, _columns(scheme), seed=2)
            linear.bias.data = _normal(1, 8, seed=3)[0]
            trainer = cast(ModuleTrainer, make_fake_quantizer(scheme))
            module = trainer.prepare(copy.deepcopy(linear)).train()
            x = _normal(16, _columns(scheme), seed=4)
            for _ in range(3):
                _step(module, x)
            yield scheme, trainer, module, x


def _deployed(fake: FakeQuantizer, weight: Tensor) -> Tensor:
    return fake.quantizer.dequantize(fake.quantizer.quantize(weight))


def _step(module: nn.Module, x: Tensor) -> None:
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    loss: Tensor = (module(x) - 1).square().mean()
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    optimizer.step()
    optimizer.zero_grad()


def _normal(rows: int, columns: int, seed: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def _columns(scheme: QuantizationScheme) -> int:
    return 2 * (scheme.group_size or 32)


def _upstream(weight: Tensor) -> Tensor:
    """Gradients 1, −2, 3, … up to 7 in size: none is 0, none is its neighbour's."""
    index = torch.arange(weight.numel()).view(weight.shape) % 7
    return ((index + 1) * (-1) ** index).to(weight.dtype)


def _outside_their_group(case: WeightCase, rounded: Tensor) -> Tensor:
    """Weights that lie outside the levels that occur in their group: they may be clamped. Bool."""
    ids = group_ids(case.weight.shape, case.scheme)
    count = int(ids.max()) + 1
    flat = rounded.double().reshape(-1)
    ends = [
        torch.zeros(count, dtype=torch.float64).scatter_reduce(
            0, ids.reshape(-1), flat, how, include_self=False
        )[ids]
        for how in ("amin", "amax")
    ]
    weight = case.weight.double()
    return (weight < ends[0]) | (weight > ends[1])


def _static_schemes(
    schemes: Sequence[QuantizationScheme],
) -> Iterator[tuple[QuantizationScheme, float, int | None]]:
    """Per tensor and per channel versions of the schemes of equal steps, a scale, zero points."""
    found = dict.fromkeys(
        (scheme.bits, scheme.symmetric) for scheme in schemes if scheme.codebook is None
    )
    for bits, symmetric in found:
        for granularity in (Granularity.TENSOR, Granularity.CHANNEL):
            scheme = QuantizationScheme(bits=bits, symmetric=symmetric, granularity=granularity)
            for zero_point in (None,) if symmetric else (0, 2 ** (bits - 1), 2**bits - 1):
                yield scheme, 0.25, zero_point


def _levels(scheme: QuantizationScheme, zero_point: int | None) -> tuple[int, int]:
    """The first and the last level, in steps from 0."""
    steps = int(grid_of(scheme).steps)
    return (-steps, steps) if zero_point is None else (-zero_point, steps - zero_point)


def _static_case(
    scheme: QuantizationScheme, steps: Tensor, scale: float, zero_point: int | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Weights of three channels that are all these steps, scales, zero points."""
    weight = (steps * scale).float().expand(3, -1).contiguous()
    shape = (3,) if scheme.granularity is Granularity.CHANNEL else ()
    zeros = None if zero_point is None else torch.full(shape, zero_point)
    return weight, torch.full(shape, scale), zeros
