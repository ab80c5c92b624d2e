"""`assert_same_model`: is what answers here the reference's model?

Three readings of each request: the reference's, its control's (the reference once more, or a plain
implementation of what the other side may cost), and the other side's. Were the other side's model
the reference's, its reading and the control's would be exchangeable, and either as likely the
farther from the reference. Requests on which one is farther are pairs of a sign test that may be
looked at after every one (`judge.e_process.SignProcess`): whenever it stops, a sound side is
accused with probability ``alpha`` at most. What is read of a request stands in `readings`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from ..errors import NotEquivalentError
from ..judge.e_process import SignProcess
from ..naming import nearest
from .answers import Prompt
from .borders import border_prompts
from .opening import side_of
from .prompts import corpus_prompts
from .readings import BORDER, DRAWN, FIRST, SEEDED, Sides, reading_of
from .sides import Sided

__all__ = ["SameModel", "assert_same_model"]

_KINDS = (FIRST, BORDER, SEEDED)


@dataclass(frozen=True)
class SameModel:
    """What was seen of a side that was not told from the reference: requests, the output tokens
    that they took, the requests on which one reading was farther, and the p-value that holds
    whenever it is read. It is no proof of sameness: a nearer model takes more requests to tell."""

    by: str
    requests: int
    tokens: int
    decisive: int
    p: float


def assert_same_model(
    a: Sided,
    b: Sided,
    *,
    by: str,
    control: Sided | None = None,
    prompts: Sequence[Prompt] | None = None,
    alpha: float = 0.01,
    seed: int = 0,
) -> SameModel:
    """Assert that ``b`` is not told from ``a``, request by request, at the false-alarm rate alpha.

    ``a``, ``b`` and ``control`` are sides as `assert_equivalent` takes them; without ``control``,
    ``a`` is asked twice. ``by`` is "first token", "border inputs" or "shared seed". By first token,
    both tell log-probabilities or logits; by border inputs, tokens are enough, and the inputs with
    the closest choices are asked, where ``a`` tells them (`borders.border_prompts`); by shared
    seed, all give logits, of which each position draws a token by Gumbel noise of ``seed``, or all
    draw tokens from a seed by themselves, as servers do.

    Raises NotEquivalentError, an AssertionError, as soon as the evidence is there, with the
    requests that it took; InvalidComparisonError where a side does not tell what ``by`` reads, or
    seeds do not decide what sides draw; ValueError for an unknown ``by``, no prompts, or an error
    rate that is none.
    """
    __tracebackhide__ = True
    if by not in _KINDS:
        raise ValueError(f"by {by!r}: there is no such test{nearest(by, _KINDS)}")
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha {alpha!r}: an error rate lies between 0 and 0.5")
    if prompts is not None and not prompts:
        raise ValueError("prompts is empty; give one at least")
    with ExitStack() as opened:
        named = [a, a if control is None else control, b]
        known = {id(asked): side_of(asked, DRAWN if by == SEEDED else 1) for asked in named}
        for asked in named:
            if known[id(asked)] is not asked:
                opened.callback(known[id(asked)].close)
        first, again, other = (known[id(asked)] for asked in named)
        wanted = corpus_prompts(first) if prompts is None else list(prompts)
        if by == BORDER:
            wanted = border_prompts(first, again, wanted)
        return _told_apart(by, (first, again, other), wanted, alpha, seed)


def _told_apart(
    by: str, sides: Sides, prompts: Sequence[Prompt], alpha: float, seed: int
) -> SameModel:
    __tracebackhide__ = True
    process, reading, tokens = SignProcess(), reading_of(by, sides, prompts[0]), 0
    for number, prompt in enumerate(prompts, 1):
        base, again, other = (reading.ask(side, prompt, seed + number) for side in sides)
        tokens += reading.tokens(other)
        of_control, of_other = reading.distances(base, [again, other], seed + number)
        if of_other != of_control:
            process.observe(of_other > of_control)
        if process.p <= alpha:
            raise NotEquivalentError(
                f"another model by {by}: told from the reference in {number} requests and "
                f"{tokens} output tokens; one is farther in {process.n} of them "
                f"(p = {process.p:.3g}, {alpha:g} is the false-alarm rate)"
            )
    return SameModel(by, len(prompts), tokens, process.n, process.p)
