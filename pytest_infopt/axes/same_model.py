"""`assert_same_model`: is what answers here the reference's model?

Three readings of each request: the reference's, its control's (the reference once more, or a plain
implementation of what the other side may cost), and the other side's. Were the other side's model
the reference's, its reading and the control's would be exchangeable, and either as likely the
farther from the reference. Requests on which one is farther are pairs of a sign test that may be
looked at after every one (`judge.e_process.SignProcess`): whenever it stops, a sound side is
accused with probability ``alpha`` at most.

    first token    log-probabilities of the first token: mean distance over the tokens both tell
                   (Chauvin et al. 2025, "Log Probability Tracking of LLM APIs", arXiv 2512.03816)
    border inputs  the first token alone, behind prompts where two are nearly tied (Chauvin et al.
                   2026, "Token-Efficient Change Detection in LLM APIs", B3IT, arXiv 2602.11083)
    shared seed    tokens drawn by adding the same Gumbel noise to both sides' logits: by how much
                   the token drawn falls short of the reference's best, noise included (Karvonen et
                   al. 2025, "DiFR", Token-DiFR, arXiv 2511.20621)

Legend: T positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import InvalidComparisonError, NotEquivalentError
from ..judge.e_process import SignProcess
from ..naming import nearest
from .answers import Answer, Prompt, answer_of, choices, gaps, logits_of
from .opening import side_of
from .prompts import corpus_prompts
from .sides import Side, Sided

if TYPE_CHECKING:
    import torch

__all__ = ["SameModel", "assert_same_model"]

_FIRST, _BORDER, _SEEDED = "first token", "border inputs", "shared seed"


@dataclass(frozen=True)
class SameModel:
    """What was seen of a side that was not told from the reference: requests, one reading of each,
    those of which one was farther, and the p-value that holds whenever it is read. It is no proof
    of sameness: a nearer model takes more requests to tell."""

    by: str
    requests: int
    readings: int
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
    both tell log-probabilities or logits; by border inputs, tokens are enough, and of the prompts
    those with the closest choices are asked, where ``a`` tells them; by shared seed, both give
    logits, of which each position draws a token by Gumbel noise of ``seed``.

    Raises NotEquivalentError, an AssertionError, as soon as the evidence is there, with the
    requests that it took; InvalidComparisonError where a side does not tell what ``by`` reads;
    ValueError for an unknown ``by``, no prompts, or an error rate that is none.
    """
    __tracebackhide__ = True
    if by not in _READINGS:
        raise ValueError(f"by {by!r}: there is no such test{nearest(by, _READINGS)}")
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha {alpha!r}: an error rate lies between 0 and 0.5")
    if prompts is not None and not prompts:
        raise ValueError("prompts is empty; give one at least")
    with ExitStack() as opened:
        sides = [a, b, a if control is None else control]
        known = {id(asked): side_of(asked, 1) for asked in sides}
        for asked in sides:
            if known[id(asked)] is not asked:
                opened.callback(known[id(asked)].close)
        first, other, again = (known[id(asked)] for asked in sides)
        wanted = corpus_prompts(first) if prompts is None else list(prompts)
        if by == _BORDER:
            wanted = _border(first, wanted)
        return _told_apart(by, first, again, other, wanted, alpha, seed)


def _told_apart(
    by: str,
    a: Side,
    control: Side,
    b: Side,
    prompts: Sequence[Prompt],
    alpha: float,
    seed: int,
) -> SameModel:
    __tracebackhide__ = True
    process, readings = SignProcess(), 0
    for number, prompt in enumerate(prompts, 1):
        base, again, other = (answer_of(side.answer(prompt)) for side in (a, control, b))
        pairs = zip(
            _READINGS[by](base, again, seed + number),
            _READINGS[by](base, other, seed + number),
            strict=True,
        )
        for of_control, of_other in pairs:
            readings += 1
            if of_other != of_control:
                process.observe(of_other > of_control)
            if process.p <= alpha:
                raise NotEquivalentError(
                    f"another model by {by}: told from the reference in {number} requests and "
                    f"{readings} readings, of {process.n} of which one is farther "
                    f"(p = {process.p:.3g}, {alpha:g} is the false-alarm rate)"
                )
    return SameModel(by, len(prompts), readings, process.n, process.p)


def _border(side: Side, prompts: Sequence[Prompt]) -> list[Prompt]:
    """The half with the closest choices of the first token; all where the side tells none."""
    told = [gaps(answer_of(side.answer(prompt))) for prompt in prompts]
    # Behind the prompt: the last row of logits, the only one of a generated token.
    known = [(found[-1], index) for index, found in enumerate(told) if found]
    if len(known) < len(prompts):
        return list(prompts)
    return [prompts[index] for _, index in sorted(known)[: max(1, len(prompts) // 2)]]


def _first_token(base: Answer, other: Answer, seed: int) -> Iterable[float]:
    """Mean distance of the log-probabilities of the tokens that both tell."""
    rows = [_row(answer) for answer in (base, other)]
    shared = rows[0].keys() & rows[1].keys()
    if not shared:
        raise InvalidComparisonError(
            "by first token, both sides tell log-probabilities of the same tokens; one tells none, "
            "or other tokens alone: use border inputs, which read tokens"
        )
    return [sum(abs(rows[0][token] - rows[1][token]) for token in shared) / len(shared)]


def _row(answer: Answer) -> dict[object, float]:
    if answer.logits is None:
        return dict(answer.top[0]) if answer.top else {}
    last = logits_of(answer)[-1].double().log_softmax(-1)
    return dict(enumerate(last.tolist()))


def _border_token(base: Answer, other: Answer, seed: int) -> Iterable[float]:
    """Whether the first token is another: 0 or 1."""
    place = 0 if base.logits is None else -1
    found = [choices(answer)[place:][:1] for answer in (base, other)]
    return [float(found[0] != found[1])]


def _seeded_tokens(base: Answer, other: Answer, seed: int) -> Iterable[float]:
    """By how much the tokens that the other draws fall short under the noise, on average: tokens of
    a request share what the request met, so that it is one reading."""
    import torch

    if base.logits is None or other.logits is None:
        raise InvalidComparisonError(
            "by shared seed, both sides give logits, to which the noise is added; use first token "
            "for sides that tell log-probabilities, border inputs for tokens"
        )
    own, drawn = (_noisy(logits_of(answer), seed) for answer in (base, other))
    tokens = drawn.argmax(-1, keepdim=True)
    short = own.amax(-1) - own.gather(1, tokens)[:, 0]
    return [float(torch.nan_to_num(short).mean())]


def _noisy(logits: torch.Tensor, seed: int) -> torch.Tensor:
    """Logits [T, V] and Gumbel noise: its largest is a draw of the softmax (Gumbel 1954)."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    noise = torch.empty(logits.shape, dtype=torch.float64).exponential_(generator=generator)
    return logits.double().cpu() - noise.log()


_READINGS: dict[str, Callable[[Answer, Answer, int], Iterable[float]]] = {
    _FIRST: _first_token,
    _BORDER: _border_token,
    _SEEDED: _seeded_tokens,
}
