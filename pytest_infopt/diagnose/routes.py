"""By which module a row's outputs depend on how the row is served.

Two passes compute the same tokens in two ways: among other neighbours, in a batch and alone,
padded, the last position asked for alone. The outputs of every module at these tokens are compared.
The control is the reference's weights in the candidate's dtype on the same two ways: what they
differ by at their worst token is rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..engines.base import BatchEngine, ServingPathsEngine, able
from ..errors import InfoptError
from ..measure import OUTPUT_FACTOR
from ..measure.module_calls import first_tensor, watched
from .subjects import OpenEngine, Subjects

__all__ = ["RouteDifference", "RoutesDiagnosis"]

_LAST = 4  # positions that are asked for without the others


@dataclass(frozen=True)
class Pass:
    """A pass in which the compared tokens lie at ``tokens`` of row ``row`` of ``rows``."""

    compute: Callable[[], Any]
    tokens: slice
    row: int = 0
    rows: int = 1


@dataclass(frozen=True)
class Route:
    """Two ways of one row. ``same_shape`` says that no bit may differ between them."""

    title: str
    passes: tuple[Pass, Pass]
    same_shape: bool = False


@dataclass(frozen=True)
class RouteDifference:
    """The first module whose output depends on the way by more than the control's does.

    ``error`` and ``rounding`` are shares of the output of the worst token; ``given`` says that its
    input depends on the way already, though no module before it made it: then ``module`` is the one
    around it.
    """

    route: str
    module: str
    error: float
    rounding: float
    given: bool


class RoutesDiagnosis:
    """``differences`` by route, each of the first text on which there is one."""

    def __init__(self, subjects: Subjects) -> None:
        self._subjects = subjects
        self.differences: dict[str, RouteDifference] = {}
        self.refused: dict[str, str] = {}
        for index, text in enumerate(subjects.texts):
            if index and subjects.deadline.passed:
                break
            self._add(text)

    def _add(self, text: Sequence[int]) -> None:
        subjects = self._subjects
        ways = zip(_routes(subjects.candidate, text), _routes(subjects.plain, text), strict=True)
        for route, control in ways:
            if route.title in self.differences:
                continue
            try:
                found = self._difference(route, control)
            except (InfoptError, RuntimeError, TypeError, ValueError) as error:
                self.refused[route.title] = str(error).partition("\n")[0]
                continue
            if found is not None:
                self.differences[route.title] = found

    def _difference(self, route: Route, control: Route) -> RouteDifference | None:
        candidate, plain = self._subjects.candidate, self._subjects.plain
        errors, usual = _errors(candidate, route), _errors(plain, control)
        least = 0.0 if route.same_shape else torch.finfo(self._subjects.dtype).eps
        rounding = max(max(pair) for pair in usual.values()) if usual else 0.0
        for name, (given, made) in errors.items():
            floors = [max(error, least) for error in usual.get(name, (rounding, rounding))]
            if made > OUTPUT_FACTOR * floors[1]:
                before = given > OUTPUT_FACTOR * floors[0]
                named = name.rpartition(".")[0] if before else name
                return RouteDifference(route.title, named, made, floors[1], before)
        return None

    @property
    def sentences(self) -> list[str]:
        """The first module of each route that differs."""
        found = [self._said(difference) for difference in self.differences.values()]
        found = found or ["no module's output depends on how a row is served by more than rounding"]
        return found + [f"{route}: not compared: {why}" for route, why in self.refused.items()]

    def _said(self, found: RouteDifference) -> str:
        layer = self._subjects.layer_of(found.module)
        where = "" if layer is None else f", in layer {layer}"
        between = ", between the modules in it" if found.given else ""
        return (
            f"{found.route}: {found.module or 'the whole model'}{where}, is the first module whose "
            f"output depends on it{between} ({100 * found.error:.3g} % of the worst token's size, "
            f"rounding {100 * found.rounding:.2g} %)"
        )

    @property
    def figures(self) -> dict[str, Any]:
        """What was found, as data."""
        return {
            route: {"module": found.module, "error": found.error, "between_modules": found.given}
            for route, found in self.differences.items()
        }


def _routes(engine: OpenEngine, text: Sequence[int]) -> Iterator[Route]:
    """Every route of one engine; what it cannot do is refused as the pass is made."""
    ids, count = list(text), len(text)
    short = ids[: max(1, count // 2)]
    others = [(token + 1) % engine.vocabulary for token in ids]

    def batch(*rows: list[int]) -> Callable[[], Any]:
        return lambda: able(engine, BatchEngine).batch_logits(rows)

    def served(make: Callable[[ServingPathsEngine], Any]) -> Callable[[], Any]:
        return lambda: make(able(engine, ServingPathsEngine))

    def padded(served_engine: ServingPathsEngine) -> Any:
        return served_engine.right_padded_logits([ids, short])

    alone, last = slice(-count, None), slice(-min(_LAST, count), None)
    plain = Pass(lambda: engine.full_logits(ids), alone)
    yield Route("the same pass again", (plain, plain), same_shape=True)
    for row, rows in enumerate(([ids, others], [others, ids])):
        again = [r if i == row else short + others[len(short) :] for i, r in enumerate(rows)]
        ways = (Pass(batch(*rows), alone, row, 2), Pass(batch(*again), alone, row, 2))
        yield Route(f"other neighbours of row {row}", ways, same_shape=True)
    cut = max(1, count // 2)
    changed = [*ids[:cut], *others[cut:]]
    behind = Pass(lambda: engine.full_logits(changed), slice(cut))
    ways = (Pass(plain.compute, slice(cut)), behind)
    yield Route("other tokens behind", ways, same_shape=True)
    yield Route("in a batch", (plain, Pass(batch(ids, others), alone, 0, 2)))
    half = slice(-len(short), None)
    short_alone = Pass(lambda: engine.full_logits(short), half)
    yield Route("left padding", (short_alone, Pass(batch(ids, short), half, 1, 2)))
    first = slice(len(short))
    ways = (Pass(short_alone.compute, first), Pass(served(padded), first, 1, 2))
    yield Route("right padding", ways)
    asked = Pass(served(lambda e: e.last_logits(ids, 1)), slice(-1, None))
    yield Route("the last position alone", (Pass(plain.compute, slice(-1, None)), asked))
    asked = Pass(served(lambda e: e.last_logits(ids, min(_LAST, count))), last)
    yield Route("the last positions alone", (Pass(plain.compute, last), asked))
    eager = Pass(served(lambda e: e.eager_logits(ids)), alone)
    yield Route("attention without a fused kernel", (plain, eager))


Values = dict[str, tuple[torch.Tensor | None, torch.Tensor]]  # by module: given and made [T, F]


@torch.no_grad()
def _errors(engine: OpenEngine, route: Route) -> Mapping[str, tuple[float, float]]:
    """What the worst token differs by between both ways, in each module's input and output."""
    one, other = (_values(engine, each) for each in route.passes)
    return {
        name: (_distance(other[name][0], given), _distance(other[name][1], made) or 0.0)
        for name, (given, made) in one.items()
        if name in other and other[name][1].shape == made.shape
    }


def _distance(value: torch.Tensor | None, expected: torch.Tensor | None) -> float:
    if value is None or expected is None or value.shape != expected.shape:
        return 0.0
    error = (value - expected).norm(dim=-1)
    sizes = expected.norm(dim=-1).clamp(min=torch.finfo(error.dtype).tiny)
    return float((error / sizes).nan_to_num(nan=torch.inf).max())


def _values(engine: OpenEngine, one: Pass) -> Values:
    """What each module was first given and made of the tokens that are compared."""
    found: Values = {}

    def keep(name: str, args: Any, keywords: Any, output: Any) -> None:
        made, given = (
            _tokens(first_tensor(output), one),
            _tokens(first_tensor((args, keywords)), one),
        )
        if made is not None:
            found.setdefault(name, (given, made))

    with watched(dict(engine.module.named_modules()), keep):
        one.compute()
    return found


def _tokens(value: torch.Tensor | None, one: Pass) -> torch.Tensor | None:
    """The compared tokens of [rows, T, F], or [rows·T, F], as [t, F]; None for another form."""
    if value is None or value.ndim not in (2, 3) or len(value) % one.rows:
        return None
    if value.ndim == 2 or len(value) != one.rows:
        value = value.reshape(one.rows, -1, value.shape[-1])
    return value[one.row, one.tokens].float()
