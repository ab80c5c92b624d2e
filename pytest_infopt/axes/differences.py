"""Where an answer parts from the base by more than rounding explains.

Logits are held to what the gates hold them to: bit for bit where both ways compute passes of one
shape (`measure.same_shape`), to twice what a plain implementation errs by where one is given
(`measure.compare_with_oracle`), else to what two passes that round otherwise may differ by
(`measure.self_comparison`). Tokens may differ at near-ties alone: where the base's gap between its
two best tokens is among the smaller half of its gaps.

Legend: T positions, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from statistics import median
from typing import TYPE_CHECKING, Any

from ..report.message import top_text
from ..report.text import quoted, visible
from .answers import Answer, Prompt, Token, choices, gaps, logits_of

if TYPE_CHECKING:
    import torch

_SHOWN = 5  # tokens of a position


_CONTEXT = 60  # characters before it


@dataclass(frozen=True)
class Divergence:
    """The first token that shows it: its position, the text before it, what each way finds most
    probable there (text, probability), and by how many nats the base's best exceeds its second."""

    position: int
    context: str
    tops: tuple[list[tuple[str, float]], list[tuple[str, float]]]
    gap: float

    def lines(self, *ways: str) -> list[str]:
        """In words."""
        known = (
            "" if math.isnan(self.gap) else f", where {ways[0]} has a gap of {self.gap:.3g} nats"
        )
        told = [
            (way, top_text({f"{way}_top": t}, way)) for way, t in zip(ways, self.tops, strict=True)
        ]
        return [
            f"at token {self.position}{known}, after {quoted(self.context[-_CONTEXT:])}",
            *(f"  {visible(way)}: {text or 'the answer has ended'}" for way, text in told),
        ]


@dataclass(frozen=True)
class Parting:
    """An answer that is another than the base: why, and where."""

    unit: str
    why: str
    divergence: Divergence | None = None

    def lines(self, *ways: str) -> list[str]:
        """In words; ``ways`` are what the base and the other answer are called."""
        shown = [] if self.divergence is None else self.divergence.lines(*ways)
        return [f"{self.unit}: {self.why}", *(f"  {line}" for line in shown)]


class Dtype:
    """A number format by its name, which is all that a comparison asks of an engine."""

    def __init__(self, name: str) -> None:
        self.dtype = name


@dataclass(frozen=True)
class Base:
    """A prompt's base answer, the control arm's, and what rounding may change.

    ``rounded`` gives logits that round otherwise, in passes of other shapes; it is asked where an
    answer has other bits. Without it, the control arm is a plain implementation of what the other
    way may cost. ``same_shapes`` says that no bit may differ.
    """

    unit: str
    prompt: Prompt
    answer: Answer
    control: Answer | None
    rounded: Callable[[], Sequence[torch.Tensor]] | None
    same_shapes: bool
    decode: Callable[[Sequence[Any]], str]

    def parting(self, answer: Answer) -> Parting | None:
        """Where an answer parts from the base; None where it does not."""
        if (answer.logits is None) != (self.answer.logits is None):
            raise TypeError(f"{self.unit}: one way answers with logits, the other with tokens")
        return self._of_tokens(answer) if answer.logits is None else self._of_logits(answer)

    # Logits

    def _of_logits(self, answer: Answer) -> Parting | None:
        from ..measure import SameShapeComparison, differing_rows, host_logits

        whole, rows = host_logits(logits_of(self.answer)), host_logits(logits_of(answer))
        if len(rows) > len(whole) or rows.shape[1] != whole.shape[1]:
            why = (
                f"logits {list(rows.shape)} beside {list(whole.shape)} of the base, of whose "
                "positions they are all or the last"
            )
            return Parting(self.unit, why)
        exact = whole[len(whole) - len(rows) :]
        if not (differs := differing_rows(rows, exact)):
            return None
        if not self.same_shapes:
            return self._beyond_rounding(rows, exact)
        pairs = {"varied": (rows, exact), "control": self._controls(len(rows))}
        bits = SameShapeComparison("varied", lambda: "control")
        bits.add(lambda arm: {"a pass of the same shape": pairs[arm]}, same_tokens=True)
        if not bits.total:
            return None
        why = f"{int(bits.total)} of {len(rows)} rows have other bits in a pass of the same shape"
        return Parting(self.unit, why, self._divergence_at(differs[0], rows, exact))

    def _beyond_rounding(self, rows: torch.Tensor, exact: torch.Tensor) -> Parting | None:
        from ..measure import OUTPUT_FACTOR, logit_error, row_rms

        error, mismatches = self._error(rows, exact)
        if error <= OUTPUT_FACTOR and not mismatches:
            return None
        chosen = (rows.argmax(-1) != exact.argmax(-1)).nonzero().flatten().tolist()
        row = chosen[0] if mismatches else int(row_rms(logit_error(rows, exact)).argmax())
        granted = "the control" if self.rounded is None else "two passes that round otherwise"
        why = (
            f"logits err by {error:.3g} times what {granted} may, where {OUTPUT_FACTOR:g} are "
            f"allowed; {mismatches} tokens differ where there is no near-tie"
        )
        return Parting(self.unit, why, self._divergence_at(row, rows, exact))

    def _error(self, rows: torch.Tensor, exact: torch.Tensor) -> tuple[float, int]:
        """In units of what may be, and the tokens that differ where there is no near-tie."""
        from ..measure import SelfComparison, compare_with_oracle, dtype_error_of, host_logits

        base, control = logits_of(self.answer), self._controls(len(rows))
        if self.rounded is None:
            granted = dtype_error_of(exact, control[0], base.dtype)
            compared = compare_with_oracle(rows, exact, granted, base.dtype)
            return compared.ratio, len(compared.mismatches.illegal)
        dtype = Dtype(str(base.dtype).removeprefix("torch."))
        found = SelfComparison(dtype, host_logits(base), self._plain, self.unit, least_tokens=1)
        start = len(base) - len(rows)
        found.add("way", rows, exact, start=start, control=lambda: control)
        return found.errors["way"], found.mismatches["way"]

    @cached_property
    def _plain(self) -> torch.Tensor:
        """Of each position, the logits of the pass that rounds otherwise the most."""
        import torch

        from ..measure import host_logits, logit_error, row_rms

        exact = host_logits(logits_of(self.answer))
        known = [
            host_logits(logits)
            for logits in (self.rounded or list)()
            if logits.shape == exact.shape
        ]
        errors = torch.stack([row_rms(logit_error(logits, exact)) for logits in known])
        return torch.stack(known)[errors.argmax(0), torch.arange(len(exact))]

    def _controls(self, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The control arm's rows and the base's."""
        from ..measure import host_logits

        base = host_logits(logits_of(self.answer))[-rows:]
        if self.control is None or self.control.logits is None:
            return base, base
        return host_logits(logits_of(self.control))[-rows:], base

    def _divergence_at(self, row: int, rows: torch.Tensor, exact: torch.Tensor) -> Divergence:
        from ..measure import most_probable

        def told(logits: torch.Tensor) -> dict[Token, float]:
            values, ids = most_probable(logits[row].log_softmax(-1)[None])
            return dict(zip(ids[0].tolist(), values[0].tolist(), strict=True))

        place = len(logits_of(self.answer)) - len(rows) + row
        before = self.prompt[: place + 1]
        return self._divergence(place + 1, before, told(exact), told(rows))

    # Tokens

    def _of_tokens(self, answer: Answer) -> Parting | None:
        base, told = choices(self.answer), choices(answer)
        wide = gaps(self.answer)
        least = median(wide) if wide else 0.0
        for place, (one, other) in enumerate(zip_longest(base, told)):
            if one == other:
                continue
            if place < len(wide) and wide[place] < least:
                return None  # a near-tie, behind which the texts are others
            why = "tokens differ where there is no near-tie"
            return Parting(self.unit, why, self._at(place, answer))
        return None

    def _at(self, place: int, answer: Answer) -> Divergence:
        rows = [
            each.top[place] if place < len(each.top) else dict.fromkeys(each.tokens[place:][:1], 0)
            for each in (self.answer, answer)
        ]
        return self._divergence(place, self.answer.tokens[:place], *rows)

    def _divergence(
        self,
        place: int,
        before: Sequence[Any],
        base: Mapping[Token, float],
        other: Mapping[Token, float],
    ) -> Divergence:
        best = sorted(base.values(), reverse=True)
        return Divergence(
            place,
            before if isinstance(before, str) else self.decode(before),
            (self._named(base), self._named(other)),
            best[0] - best[1] if len(best) > 1 else math.nan,
        )

    def _named(self, row: Mapping[Token, float]) -> list[tuple[str, float]]:
        best = sorted(row, key=lambda token: -row[token])[:_SHOWN]
        return [
            (token if isinstance(token, str) else self.decode([token]), math.exp(row[token]))
            for token in best
        ]
