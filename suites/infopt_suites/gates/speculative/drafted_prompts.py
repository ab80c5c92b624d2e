"""A prompt decoded with a draft and without, by the library that serves the candidate.

With the draft as without, the same tokens come; where they part, each further token must be the
plain pass's choice behind its own beginning, but for near-ties (`SelfComparison.add_tokens`). Where
one of the tokens ends the output, it ends there, though it was drafted. PYTEST_DONT_REWRITE: it
times.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from infopt_reference.quantization import ulp

from pytest_infopt import Sample, TokenFinding
from pytest_infopt.engines.base import (
    DraftedEngine,
    Drafting,
    Generated,
    TokenEvent,
    WholeLogitsEngine,
)
from pytest_infopt.measure import SelfComparison, host_logits, time_request

from .acceptance import acceptance_of
from .gate import ACCEPTANCE, MISMATCHES, SPEED_UP

WITH_DRAFT, ENDING = "with the draft", "ended by a token"


class SpeculatingEngine(DraftedEngine, WholeLogitsEngine, Protocol):
    """What this gate takes of a candidate."""


class Decoding:
    """One way of decoding, as something that can be timed; ``latest`` is what it generated last."""

    def __init__(self, engine: SpeculatingEngine, drafting: Drafting | None) -> None:
        self.name, self.device = engine.name, engine.device
        self._engine, self._drafting = engine, drafting
        self.latest = Generated((), 0, 0)

    def stream(self, prompt_ids: Sequence[int], max_new_tokens: int) -> Iterator[TokenEvent]:
        """The library gives all tokens at once."""
        self.latest = self._engine.generated(prompt_ids, max_new_tokens, self._drafting)
        arrived = time.perf_counter()
        for token in self.latest.token_ids:
            yield TokenEvent(token, arrived)


class DraftedOutputs:
    """Counts the tokens of one prompt that a draft changed: ``found`` by SelfComparison, and those
    that are missing or too many."""

    def __init__(
        self,
        engine: SpeculatingEngine,
        drafting: Drafting,
        prompt: Sequence[int],
        found: SelfComparison,
    ) -> None:
        self._engine, self._drafting = engine, drafting
        self._prompt, self._found = list(prompt), found
        self.wrong = 0
        self.findings: list[TokenFinding] = []

    def compare(
        self,
        route: str,
        expected: Sequence[int],
        tokens: Sequence[int],
        plain: Callable[[], SpeculatingEngine],
    ) -> None:
        """Take the tokens of a route beside those that plain decoding came to. ``plain`` gives
        the reference's weights in the candidate's dtype: what they cannot do by this route is no
        fault of the candidate's."""
        place = _parting(expected, tokens)
        if place == len(expected) == len(tokens):
            return
        if place == min(len(expected), len(tokens)):
            self.wrong += abs(len(expected) - len(tokens))
            return
        exact = self._choices(self._engine, tokens)
        self._found.add_tokens(
            route,
            tokens[place:],
            exact[place:],
            lambda: self._control(plain(), len(expected), place),
        )
        if illegal := self._found.mismatches[route]:
            self.wrong += illegal
            self.findings.append(self._finding(route, exact[place], expected, tokens, place))

    def _choices(self, engine: SpeculatingEngine, tokens: Sequence[int]) -> torch.Tensor:
        """The logits [S, V] of a plain pass from which each token would follow."""
        logits = engine.full_logits([*self._prompt, *tokens])
        return host_logits(logits[len(self._prompt) - 1 : -1])

    def _control(
        self, plain: SpeculatingEngine, count: int, place: int
    ) -> tuple[Sequence[int], torch.Tensor]:
        own = plain.generated(self._prompt, count, self._drafting).token_ids
        return own[place:], self._choices(plain, own)[place:]

    def _finding(
        self,
        route: str,
        row: torch.Tensor,
        expected: Sequence[int],
        tokens: Sequence[int],
        place: int,
    ) -> TokenFinding:
        engine, shares = self._engine, row.softmax(-1)
        context = [*self._prompt, *tokens[:place]]
        tops = [
            [(engine.decode([token]), float(shares[token]))]
            for token in (expected[place], tokens[place])
        ]
        return TokenFinding(
            document=f"{route}, {len(self._prompt)} tokens",
            position=len(context),
            context=engine.decode(context),
            true_token=engine.decode([expected[place]]),
            reference_top=tops[0],
            candidate_top=tops[1],
            kl=0.0,
            gap_ulps=abs(float(row[expected[place]] - row[tokens[place]]))
            / float(ulp(row.amax()[None], self._found.dtype)),
        )


def _parting(expected: Sequence[int], tokens: Sequence[int]) -> int:
    """The first place at which they differ, the shorter one's length where they do not."""
    pairs = zip(expected, tokens, strict=False)
    shorter = min(len(expected), len(tokens))
    return next((i for i, (a, b) in enumerate(pairs) if a != b), shorter)


def measure_drafted_prompt(
    engine: SpeculatingEngine,
    drafting: Drafting,
    prompt: Sequence[int],
    count: int,
    found: SelfComparison,
    plain: Callable[[], SpeculatingEngine],
    drafted_first: bool,
    unit: str,
) -> Sample:
    """``prompt`` decoded both ways, timed, and once more up to a token that ends it."""
    started = time.perf_counter()
    alone, drafted = Decoding(engine, None), Decoding(engine, drafting)
    ways = (drafted, alone) if drafted_first else (alone, drafted)
    seconds = {way: time_request(way, prompt, count).e2e for way in ways}
    expected, generated = alone.latest.token_ids, drafted.latest
    outputs = DraftedOutputs(engine, drafting, prompt, found)
    outputs.compare(WITH_DRAFT, expected, generated.token_ids, plain)
    end, stop = _ending(expected)
    ended = engine.generated(prompt, count, drafting, [end]).token_ids
    outputs.compare(ENDING, expected[:stop], ended, plain)
    values = {
        MISMATCHES.name: float(outputs.wrong),
        SPEED_UP.name: math.log(seconds[alone] / len(expected))
        - math.log(seconds[drafted] / max(1, len(generated.token_ids))),
    }
    accepted = acceptance_of(
        generated.drafted,
        generated.accepted,
        f"candidate {engine.name!r}",
        is_wrong=bool(outputs.wrong),
    )
    if accepted is not None:
        values[ACCEPTANCE.name] = accepted
    return Sample(
        unit=unit,
        weight=max(1, generated.drafted),
        values=values,
        findings=outputs.findings,
        details={
            "drafted": generated.drafted,
            "accepted": generated.accepted,
            "passes": generated.passes,
            "tokens": len(generated.token_ids),
            "seconds": [seconds[alone], seconds[drafted]],
            "notes": found.notes,
        },
        seconds=time.perf_counter() - started,
    )


def _ending(tokens: Sequence[int]) -> tuple[int, int]:
    """A token that ends the output near its middle, and the output's length with it."""
    firsts = {token: place for place, token in reversed([*enumerate(tokens)])}
    token, place = min(firsts.items(), key=lambda item: abs(item[1] - len(tokens) // 2))
    return token, place + 1
