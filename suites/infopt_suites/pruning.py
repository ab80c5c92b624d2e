"""PruningSuite: does a pruner remove as many weights as asked, the right ones, and for good?"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, cast

import hypothesis.strategies as st
import torch
from hypothesis.strategies import SearchStrategy
from torch import Tensor, nn

from .base import Suite, requires
from .properties import EXAMPLES, for_all, tried


class Pruner(Protocol):
    """Chooses the weights that stay."""

    def mask(
        self,
        weight: Tensor,
        *,
        sparsity: float | None = None,
        pattern: tuple[int, int] | None = None,
        inputs: Tensor | None = None,
    ) -> Tensor:
        """Bool, in the weight's shape, True = kept.

        Either ``sparsity``, the share to remove, or ``pattern`` (N, M): N kept of each M neighbours
        on the last axis. ``inputs`` [..., K], of a weight [M, K], only under "activations".
        """


class MaskKeeper(Pruner, Protocol):
    """Capability "training"."""

    def keep(
        self, module: nn.Module, masks: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
    ) -> Any:
        """From now on the named parameters are 0 outside their masks, whatever optimizer does."""


class MakePruner(Protocol):
    """The factory that `PruningSuite` asks for."""

    def __call__(self) -> Pruner:
        """A pruner with no memory of others."""


@dataclass(frozen=True)
class PruningCase:
    """A weight and what is to be removed of it."""

    weight: Tensor
    sparsity: float | None = None
    pattern: tuple[int, int] | None = None
    inputs: Tensor | None = None

    def __repr__(self) -> str:
        wanted = f"sparsity {self.sparsity}"
        if self.pattern is not None:
            wanted = "{}:{}".format(*self.pattern)
        inputs = "" if self.inputs is None else f", inputs {self.inputs.tolist()}"
        return f"{wanted} of {self.weight.dtype} {self.weight.tolist()}{inputs}"

    def mask_by(self, pruner: Pruner) -> Tensor:
        """The pruner's mask."""
        return pruner.mask(
            self.weight, sparsity=self.sparsity, pattern=self.pattern, inputs=self.inputs
        )

    @property
    def scores(self) -> Tensor:
        """Float64 |w|, or |w| · ‖x‖ where there are inputs, in the weight's shape."""
        scores = self.weight.double().abs()
        if self.inputs is None:
            return scores
        tokens = self.inputs.double().reshape(-1, self.weight.shape[-1])
        return scores * tokens.square().sum(dim=0).sqrt()


@dataclass(frozen=True)
class Trial:
    """A case, and how pruners are made."""

    make: MakePruner
    case: PruningCase

    def mask(self, **changes: Any) -> Tensor:
        """A new pruner's mask, of the case with these changes."""
        return replace(self.case, **changes).mask_by(self.make())


on_weights = tried("make_pruner")  # a property of a `Trial`


class PruningSuite(Suite):
    """Properties of magnitude pruning and Wanda, unstructured and N:M, and of training with masks.

    Give a fixture ``make_pruner``: a `MakePruner`. ``patterns`` are the N:M that it takes,
    ``dtypes`` those of weights.
    """

    topic = "pruner"
    fixture = "make_pruner"
    fixture_returns = "a callable without arguments that makes a pruner"
    offers = {  # noqa: RUF012  # read only
        "sparsity": "mask(weight, sparsity=share) removes that share of the weight",
        "rows": "the share is removed of each row of the last axis, as in Wanda, not of the whole",
        "patterns": "mask(weight, pattern=(n, m)) keeps n of each m neighbours on the last axis",
        "activations": "scores are |w| · ‖x‖₂ (Wanda): mask(…, inputs=x)",
        "training": "keep(module, masks, optimizer) holds pruned parameters at 0",
    }
    patterns: ClassVar[Sequence[tuple[int, int]]] = ((2, 4), (1, 4), (4, 8))
    dtypes: ClassVar[Sequence[torch.dtype]] = (torch.float32, torch.float16, torch.bfloat16)
    examples: ClassVar[int] = EXAMPLES

    # How many

    @requires("sparsity")
    @on_weights(["sparsity"])
    def test_the_share_that_is_asked_for_is_removed(self, trial: Trial) -> None:
        """Exactly sparsity · n weights go, rounded either way where that is no integer.

        Speed and size are planned with it. Usual causes: a threshold that keeps, or removes, all
        of several equal weights; kthvalue at 0; int((1 − sparsity) · n) a float's breadth low.
        """
        case = trial.case
        removed = ~self._rows(case, trial.mask())
        count = removed.shape[1]
        asked = (case.sparsity or 0.0) * count
        rounding = count * 2**-52  # of the product, and of sparsity itself
        least, most = math.floor(asked + rounding), math.ceil(asked - rounding)
        for row, found in enumerate(removed.sum(dim=1).tolist()):
            assert least <= found <= most, (
                f"{found} of {count} weights of row {row} are removed, not {asked:.6g}"
            )

    @requires("patterns")
    @on_weights(["patterns"])
    def test_each_block_keeps_as_many_as_the_pattern_says(self, trial: Trial) -> None:
        """A sparse kernel reads exactly n of each m, so one block with more breaks the layout.

        Usual causes: a threshold and equal weights, blocks down the columns (silent on square
        weights), n and m swapped, a count that is right for another pattern.
        """
        kept, block = trial.case.pattern or (0, 1)
        counts = trial.mask().reshape(-1, block).sum(dim=1)
        wrong = counts != kept
        assert not bool(wrong.any()), (
            f"block {int(wrong.nonzero()[0])} keeps {counts[wrong][0].item()} of {block}"
        )

    # Which

    @on_weights()
    def test_what_stays_scores_no_less_than_what_goes(self, trial: Trial) -> None:
        """The smallest weights, or products with activations, are those that matter least.

        Usual causes: a forgotten abs, a ranking upside down, scores ranked over the whole weight
        for rows or blocks, a reshape that mixes axes, feature norms along the wrong axis.
        """
        mask = self._rows(trial.case, trial.mask())
        scores = self._rows(trial.case, trial.case.scores)
        # Norms here are powers of two: scores are exact, in every dtype.
        smallest = scores.where(mask, math.inf).amin(dim=1)
        largest = scores.where(~mask, -math.inf).amax(dim=1)
        wrong = smallest < largest
        assert not bool(wrong.any()), (
            f"a score of {smallest[wrong][0].item():.6g} stays where one of "
            f"{largest[wrong][0].item():.6g} goes"
        )

    @requires("activations")
    def test_activations_decide_with_the_weights(self, make_pruner: MakePruner) -> None:
        """The mask is that of |w| · ‖x‖₂ over all tokens, however they are split in sequences.

        Usual causes: inputs that are taken and not used, a mean or a maximum for the L2 norm, a
        norm over features for one over tokens, only the first sequence read.
        """
        for case in self._activation_cases():
            mask = case.mask_by(make_pruner())
            expected = _highest(self._rows(case, case.scores), case).view(mask.shape)
            assert torch.equal(mask, expected), (
                f"{int((mask != expected).sum())} of {mask.numel()} places of the mask differ"
            )

    @requires("activations")
    def test_features_that_never_fire_go_first(self, make_pruner: MakePruner) -> None:
        """A weight that meets 0 only changes nothing, be it ever so large.

        Usual causes: inputs that are not used, an epsilon beside large weights, norms that are
        normalised to 0/0.
        """
        for case in self._activation_cases():
            assert case.inputs is not None
            inputs, weight = case.inputs.clone(), case.weight.clone()
            dead = torch.arange(weight.shape[1]) % 4 == 1
            inputs[..., dead], weight[:, dead] = 0, 1000
            mask = replace(case, inputs=inputs, weight=weight).mask_by(make_pruner())
            # A quarter is dead, and every case removes at least half.
            assert not bool(mask[:, dead].any()), "a feature that is always 0 keeps a weight"

    # Symmetries

    @on_weights()
    def test_the_mask_is_bool_in_the_shape_of_the_weight(self, trial: Trial) -> None:
        """Usual causes: floats that a product accepts and an index does not, a flattened axis."""
        mask, weight = trial.mask(), trial.case.weight
        assert mask.dtype is torch.bool
        assert mask.shape == weight.shape
        assert mask.device == weight.device

    @on_weights()
    def test_weight_and_inputs_are_not_modified(self, trial: Trial) -> None:
        """Choosing is not yet pruning. Usual causes: abs_ or sort in place, zeros written."""
        case = trial.case
        weight, inputs = case.weight.clone(), None if case.inputs is None else case.inputs.clone()
        trial.mask(weight=weight, inputs=inputs)
        assert torch.equal(weight, case.weight)
        assert inputs is None or torch.equal(inputs, cast(Tensor, case.inputs))

    @on_weights(dtypes=[torch.float32])
    def test_permuting_rows_permutes_the_mask(self, trial: Trial) -> None:
        """No row is special (where no two scores are equal).

        Usual causes: blocks or rows that overlap, a last row left out, scores of another row.
        """
        weight = _distinct(trial.case.weight)
        order = torch.arange(len(weight)).roll(1).flip(0)
        assert torch.equal(trial.mask(weight=weight[order]), trial.mask(weight=weight)[order])

    @on_weights(dtypes=[torch.float32])
    def test_size_and_sign_of_weights_do_not_matter(self, trial: Trial) -> None:
        """Powers of two and a change of signs leave the ranking, ties included, as it was.

        Usual causes: an absolute threshold or epsilon, a forgotten abs, float16 in between.
        """
        expected = trial.mask()
        for factor in (-1.0, 2.0**-30, 2.0**30):
            scaled = trial.mask(weight=trial.case.weight * factor)
            assert torch.equal(scaled, expected), f"times {factor}"

    @on_weights()
    def test_the_same_weight_gets_the_same_mask(self, trial: Trial) -> None:
        """Masks depend on nothing but the arguments, ties included.

        Usual causes: an unstable sort, random tie-breaking, thresholds or norms left over.
        """
        pruner, case = trial.make(), trial.case
        first = case.mask_by(pruner).clone()
        replace(case, weight=case.weight.flip(-1) * 3 + 1).mask_by(pruner)
        assert torch.equal(case.mask_by(pruner), first)
        assert torch.equal(trial.mask(), first)

    # Training

    @requires("training")
    def test_pruned_weights_stay_zero_in_training(self, make_pruner: MakePruner) -> None:
        """Masks that are set after some steps hold through further ones: exactly 0, every time.

        Usual causes: gradients are masked, and momentum or weight decay moves the weights; masks
        applied before the forward pass and not after the step.
        """
        for optimizer, _, kept, masks in _trained(make_pruner):
            for name, mask in masks.items():
                revived = _parameter(kept.module, name)[~mask]
                assert not bool(revived.any()), (
                    f"{optimizer}: {int(revived.count_nonzero())} of {revived.numel()} pruned "
                    f"weights of {name} are no longer 0"
                )

    @requires("training")
    def test_kept_weights_train_as_if_zeros_were_written_after_each_step(
        self, make_pruner: MakePruner
    ) -> None:
        """Every weight that stays, and every bias, goes where it would go anyway.

        Usual causes: masks swapped between layers, parameters replaced by copies that the optimizer
        does not know, gradients masked twice or scaled.
        """
        for optimizer, plain, kept, _ in _trained(make_pruner):
            kept.forward()  # where it is the forward pass that applies the masks
            for name, parameter in plain.module.named_parameters():
                expected = parameter.detach()
                away = float((_parameter(kept.module, name) - expected).abs().max())
                # Another order of the same float64 products.
                allowed = 2**-40 * float(expected.abs().max())
                assert away <= allowed, f"{optimizer}: {name} is {away:.3g} away"

    # How properties are tried

    def _hold(
        self,
        make_pruner: MakePruner,
        holds: Callable[[Trial], None],
        ways: Sequence[str] = ("sparsity", "patterns"),
        dtypes: Sequence[torch.dtype] = (),
    ) -> None:
        __tracebackhide__ = True

        def tried_on(case: PruningCase) -> None:
            holds(Trial(make_pruner, case))

        for way in ways:
            if way in self.capabilities:
                cases = self._cases(dtypes or self.dtypes, way)
                for_all(tried_on, cases, traps=self._traps(way), examples=self.examples)

    def _rows(self, case: PruningCase, values: Tensor) -> Tensor:
        """Values as rows [R, n] of those that are ranked among each other."""
        if case.pattern is not None:
            return values.reshape(-1, case.pattern[1])
        by_row = "rows" in self.capabilities
        return values.reshape(-1, values.shape[-1]) if by_row else values.reshape(1, -1)

    def _cases(self, dtypes: Sequence[torch.dtype], way: str) -> SearchStrategy[PruningCase]:
        @st.composite
        def draw_case(draw: st.DrawFn) -> PruningCase:
            pattern = draw(st.sampled_from(self.patterns)) if way == "patterns" else None
            block = 1 if pattern is None else pattern[1]
            rows, columns = draw(st.integers(1, 4)), block * draw(st.integers(1, 8 // block + 1))
            numbers = draw(st.sampled_from([_FEW, _MANY]))
            values = draw(st.lists(numbers, min_size=rows * columns, max_size=rows * columns))
            weight = torch.tensor(values).view(rows, columns).to(draw(st.sampled_from(dtypes)))
            sparsity = None if pattern else draw(_SHARES)
            inputs = _exact_inputs(draw(st.integers(0, 99)), columns)
            return PruningCase(weight, sparsity, pattern, self._given(inputs))

        return draw_case()

    def _given(self, inputs: Tensor) -> Tensor | None:
        return inputs if "activations" in self.capabilities else None

    def _traps(self, way: str) -> Iterator[tuple[str, PruningCase]]:
        normal = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
        weights = {
            "all equal": torch.full((8, 8), 0.5),
            "all zero": torch.zeros(8, 8),
            "equal but for the sign": torch.ones(8, 8) - 2.0 * torch.eye(8),
            "one row a thousand times larger": torch.cat([normal[:1] * 1000, normal[1:]]),
            "one column a thousand times larger": torch.cat(
                [normal[:, :1] * 1000, normal[:, 1:]], 1
            ),
            "mostly zeros": normal * (normal > 1),
        }
        inputs = self._given(_exact_inputs(1, 8))
        for name, weight in weights.items():
            for share in (0.0, 0.5, 0.9, 1.0) if way == "sparsity" else ():
                yield name, PruningCase(weight, sparsity=share, inputs=inputs)
            for pattern in self.patterns if way == "patterns" else ():
                if 8 % pattern[1] == 0:
                    yield name, PruningCase(weight, pattern=pattern, inputs=inputs)

        if way == "sparsity":
            ten = torch.arange(100.0).view(10, 10)
            case = PruningCase(ten, sparsity=0.9, inputs=self._given(_exact_inputs(1, 10)))
            yield "a share that is no binary fraction, of a count that it divides", case

    def _activation_cases(self) -> Iterator[PruningCase]:
        """Normal weights and inputs of 3 sequences, features between 1/8 and 8 in size."""
        for seed in range(4):
            generator = torch.Generator().manual_seed(seed)
            weight = torch.randn(6, 16, generator=generator)
            inputs = torch.randn(3, 5, 16, generator=generator)
            inputs *= 2.0 ** torch.linspace(-3, 3, 16)[torch.randperm(16, generator=generator)]
            # Of two features with one norm, the second is spread over tokens, the first is not.
            inputs[..., 0], inputs[0, 0, 0] = 0, 8
            if "sparsity" in self.capabilities:
                yield PruningCase(weight, sparsity=0.5, inputs=inputs)
                yield PruningCase(weight, sparsity=0.75, inputs=inputs)
            if "patterns" in self.capabilities:
                for pattern in self.patterns:
                    if 16 % pattern[1] == 0 and 2 * pattern[0] <= pattern[1]:
                        yield PruningCase(weight, pattern=pattern, inputs=inputs)


_FEW = st.integers(-2, 2).map(float)  # many ties
_MANY = st.integers(-(2**10), 2**10).map(float)
_SHARES = st.one_of(
    st.sampled_from([0.0, 1.0, 0.5, 0.25, 0.75, 0.1, 0.9, 1 / 3]), st.floats(0, 1, width=32)
)
_OPTIMIZERS: dict[str, Callable[[Collection[nn.Parameter]], torch.optim.Optimizer]] = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.1),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.1),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9),
}


def _trained(
    make_pruner: MakePruner,
) -> Iterator[tuple[str, _Trainer, _Trainer, Mapping[str, Tensor]]]:
    """After each step with masks: the optimizer, a network trained plainly, one kept, the masks.

    The plain network's pruned weights are set to 0 after each step.
    """
    generator = torch.Generator().manual_seed(3)
    start = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    for parameter in start.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    x = torch.randn(16, 6, generator=generator, dtype=torch.float64)
    masks = {
        f"{layer}.weight": torch.rand(shape, generator=generator) > 0.5
        for layer, shape in ((0, (8, 6)), (2, (3, 8)))
    }
    for optimizer in _OPTIMIZERS:
        plain = _Trainer(copy.deepcopy(start), optimizer, x)
        kept = _Trainer(copy.deepcopy(start), optimizer, x)
        for _ in range(3):  # so that momentum is not 0
            plain.step()
            kept.step()
        _write_zeros(plain.module, masks)
        keeper = cast(MaskKeeper, make_pruner())
        handle = keeper.keep(kept.module, masks, kept.optimizer)
        for _ in range(4):
            yield optimizer, plain, kept, masks
            plain.step()
            _write_zeros(plain.module, masks)
            kept.step()
        del handle  # lives as long as the training


class _Trainer:
    def __init__(self, module: nn.Module, optimizer: str, x: Tensor) -> None:
        self.module, self.x = module, x
        self.optimizer = _OPTIMIZERS[optimizer](list(module.parameters()))

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.forward().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.optimizer.step()

    def forward(self) -> Tensor:
        loss: Tensor = self.module(self.x).square().mean()
        return loss


def _write_zeros(module: nn.Module, masks: Mapping[str, Tensor]) -> None:
    for name, mask in masks.items():
        module.get_parameter(name).data.mul_(mask)


def _parameter(module: nn.Module, name: str) -> Tensor:
    """What the module has computed with, be it a parameter or made from one."""
    path, _, last = name.rpartition(".")
    value: Tensor = getattr(module.get_submodule(path), last)
    return value.detach()


def _exact_inputs(seed: int, columns: int) -> Tensor:
    """Inputs [4, columns], ±2^e in column e or 0 throughout: their norms are powers of two."""
    generator = torch.Generator().manual_seed(seed)
    exponents = torch.randint(-3, 4, (columns,), generator=generator)
    signs = torch.randint(0, 2, (4, columns), generator=generator) * 2.0 - 1
    alive = torch.rand(columns, generator=generator) > 0.2
    return signs * 2.0**exponents * alive


def _distinct(weight: Tensor) -> Tensor:
    """The weight's signs with magnitudes 1, 1 + 1/n, … in some order: no two scores are equal.

    All lie within one power of two, so that products with norms that are powers of two differ too.
    """
    count = weight.numel()
    order = torch.randperm(count, generator=torch.Generator().manual_seed(count))
    magnitudes = 1 + order.view(weight.shape) / count
    return (torch.where(weight < 0, -magnitudes, magnitudes)).to(weight.dtype)


def _highest(rows: Tensor, case: PruningCase) -> Tensor:
    """Bool: of each row [R, n] of scores, which all differ, the highest, by sorting them."""
    count = rows.shape[1]
    kept = case.pattern[0] if case.pattern else count - round((case.sparsity or 0) * count)
    mask = torch.zeros(rows.shape, dtype=torch.bool)
    for row, scores in enumerate(rows.tolist()):
        best = sorted(range(count), key=scores.__getitem__, reverse=True)
        mask[row, best[:kept]] = True
    return mask
