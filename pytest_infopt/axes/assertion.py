"""`assert_equivalent`: two sides give the same answers along one axis of serving.

What is judged is the excess over a control arm: the base asked the same way again. Where that
never parts from the base, one parting of the other way is evidence enough. Where it does, prompts
on which one of the two parts alone are pairs of a sign test (`judge.e_process`, STATISTICS 4.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ..errors import NotEquivalentError, UndecidedError
from ..judge.e_process import SignProcess
from ..naming import nearest
from .answers import Answer, Prompt, answer_of, logits_of
from .differences import Base, Parting
from .opening import side_of
from .prompts import corpus_prompts, tie_free
from .sides import Side, Sided
from .ways import AXES, Axis, Trial

if TYPE_CHECKING:
    import torch

__all__ = ["Equivalence", "assert_equivalent"]

_ROUNDED = 2  # passes that round otherwise, where the model is at hand


@dataclass(frozen=True)
class Equivalence:
    """What was shown: on how many prompts, that the axis was exercised (``proof``), and on how many
    the control arm and the other way part from the base."""

    axis: str
    prompts: int
    proof: str
    control_parted: int
    parted: int

    def __str__(self) -> str:
        return (
            f"equivalent along {self.axis} on {self.prompts} prompts: {self.proof}; "
            f"{self.parted} part, {self.control_parted} in the control arm"
        )


def assert_equivalent(
    a: Sided,
    b: Sided | None = None,
    *,
    axis: str,
    prompts: Sequence[Prompt] | None = None,
    control: Sided | None = None,
    new_tokens: int = 16,
    requests: int = 100,
    alpha: float = 0.01,
) -> Equivalence:
    """Assert that ``b`` answers as ``a`` does, though one thing is done otherwise.

    ``a`` and ``b`` are engines, addresses of servers (".../v1"), functions of a prompt, or
    `Side`s; without ``b``, ``a`` is asked both ways. ``axis`` is one of `ways.AXES`: "cold/warm",
    "alone/batched", "chunked/whole prefill", "concurrent/serial", "first/hundredth request",
    "cache dtype", "eager/compiled", "engine version". ``prompts`` are what the sides take, token
    ids or texts; without them, tie-free ones of the corpus. ``control`` takes part in the control
    arm instead of ``a``: a plain implementation of what ``b`` may cost, such as a cache of the same
    dtype. ``new_tokens`` are generated where a side generates, and ``requests`` made along
    "first/hundredth request". ``alpha`` bounds the false alarms where the control arm parts, too.

    Raises NotEquivalentError, which is an AssertionError, with the first divergent tokens of both;
    AxisNotExercisedError where nothing shows that the axis was exercised; UndecidedError where the
    control arm parts and the prompts do not tell; ValueError for an unknown axis or no prompts.
    """
    __tracebackhide__ = True
    if axis not in AXES:
        raise ValueError(f"axis {axis!r}: there is none of that name{nearest(axis, AXES)}")
    if prompts is not None and not prompts:
        raise ValueError("prompts is empty; give one at least")
    with ExitStack() as opened:

        def opening(asked: Sided) -> Side:
            side = side_of(asked, new_tokens)
            if side is not asked:
                opened.callback(side.close)
            return side

        first = opening(a)
        trial = Trial(first, first if b is None or b is a else opening(b), requests)
        held_to = None if control is None else opening(control)
        return _compared(AXES[axis], trial, held_to, prompts, alpha)


def _compared(
    axis: Axis,
    trial: Trial,
    control: Side | None,
    prompts: Sequence[Prompt] | None,
    alpha: float,
) -> Equivalence:
    __tracebackhide__ = True
    asked = corpus_prompts(trial.a) if prompts is None else prompts
    answers = [axis.base(trial, prompt) for prompt in asked]
    kept = tie_free(asked, answers) if prompts is None else range(len(asked))
    bases = [_base(axis, trial, control, asked[i], answers[i], f"prompt {i}") for i in kept]
    varied = axis.varied(trial, [base.prompt for base in bases])
    proof = axis.proof(trial, [base.answer for base in bases], varied)
    return _judged(axis, proof, bases, varied, alpha)


def _base(
    axis: Axis, trial: Trial, control: Side | None, prompt: Prompt, answer: Answer, unit: str
) -> Base:
    again = axis.again(trial, prompt) if control is None else answer_of(control.answer(prompt))
    return Base(
        unit,
        prompt,
        answer,
        again,
        partial(_rounded, trial.a, prompt, answer, again) if control is None else None,
        axis.same_shapes,
        trial.a.decode,
    )


def _rounded(
    side: Side, prompt: Prompt, answer: Answer, again: Answer | None
) -> list[torch.Tensor]:
    """What the side makes of the prompt by passes that round otherwise: as it is, with every
    module's output off by a rounding unit, and in passes over more tokens. Last, the answer's own
    logits off by a rounding unit."""
    from ..measure import nudged, rounded_once_more

    base = logits_of(answer)
    found = [] if again is None else [again]
    for seed in range(_ROUNDED if side.model is not None else 0):
        with rounded_once_more(side.model, seed):
            found.append(answer_of(side.answer(prompt)))
    if len(base) == len(prompt) and not isinstance(prompt, str):
        for more in sorted({1, len(prompt) // 4 + 1, len(prompt)}):
            longer = answer_of(side.answer([*prompt, *prompt[:more]]))
            found.append(Answer(logits=logits_of(longer)[: len(prompt)]))
    return [*(logits_of(each) for each in found if each.logits is not None), nudged(base)]


def _judged(
    axis: Axis, proof: str, bases: Sequence[Base], varied: Sequence[Sequence[Answer]], alpha: float
) -> Equivalence:
    __tracebackhide__ = True
    excess, deficit, parted, of_control = list[Parting](), 0, 0, 0
    process = SignProcess()
    for base, answers in zip(bases, varied, strict=True):
        own = None if base.control is None else _control_parting(base)
        found = next(filter(None, map(base.parting, answers)), None)
        parted, of_control = parted + bool(found), of_control + bool(own)
        if found and not own:
            excess.append(found)
            process.observe(True)
        elif own and not found:
            deficit += 1
            process.observe(False)
    result = Equivalence(axis.name, len(bases), proof, of_control, parted)
    if len(excess) <= deficit:
        return result
    message = _message(axis, result, excess)
    if of_control and process.p > alpha:
        raise UndecidedError(
            f"{message}\nThe control arm parts, too (p = {process.p:.3g}, "
            f"{alpha:g} is asked for): give more prompts"
        )
    raise NotEquivalentError(message)


def _control_parting(base: Base) -> Parting | None:
    """Where the control arm itself parts. Logits are held to what it errs by already."""
    assert base.control is not None
    return base.parting(base.control) if base.answer.logits is None else None


def _message(axis: Axis, result: Equivalence, excess: Sequence[Parting]) -> str:
    head = (
        f"not equivalent along {axis.name}: {result.parted} of {result.prompts} prompts part, "
        f"{result.control_parted} in the control arm ({result.proof})"
    )
    return "\n".join([head, *excess[0].lines(axis.usual, axis.other)])
