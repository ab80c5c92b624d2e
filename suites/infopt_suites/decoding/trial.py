"""One decoder on models of the suite: what it emits is compared with plain decoding.

Legend: V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from ..properties import FinalError
from .evidence import Evidence
from .oracle import chances, greedy
from .protocol import DecodingParameters, MakeSpeculativeDecoder, SpeculativeCounts, Tokens
from .table_model import VOCABULARY, CachedPass, TableModel, draft_tables, greedy_table

DRAFTS = tuple(draft_tables(greedy_table(0)))
CHUNK = 3000  # tokens between two looks at the evidence


@dataclass(frozen=True)
class GreedyCase:
    """A target whose tokens are certain, a draft of it, and what is asked of both."""

    draft: str = "identical"
    lookahead: int = 3
    prompt: tuple[int, ...] = (1,)
    length: int = 12
    seed: int = 0


class Trial:
    """A decoder, the models that it works on, and what they log."""

    def __init__(
        self, make: MakeSpeculativeDecoder, target: TableModel, draft: TableModel, lookahead: int
    ) -> None:
        self.target, self.draft, self.lookahead = target, draft, lookahead
        self.decoder: Any = make(target, draft, lookahead)

    @classmethod
    def greedy(cls, make: MakeSpeculativeDecoder, case: GreedyCase) -> Trial:
        table = greedy_table(case.seed)
        log: list[CachedPass] = []
        target = TableModel(table, "target", log)
        draft = TableModel(draft_tables(table)[case.draft], "draft", log)
        return cls(make, target, draft, case.lookahead)

    def check(self, prompt: Tokens, parameters: DecodingParameters, told: str = "") -> list[int]:
        """Raise AssertionError unless a prompt's greedy output is plain decoding's."""
        given = [*prompt]
        found = self.decoder.generate(given, parameters, 0)
        assert given == [*prompt], f"the prompt {[*prompt]} was changed to {given}"
        return self.compare(prompt, parameters, found, told)

    def compare(
        self, prompt: Tokens, parameters: DecodingParameters, found: Tokens, told: str = ""
    ) -> list[int]:
        """As `check`, for an output that has been made."""
        output = [int(token) for token in found]
        expected, whole = greedy(self.target, prompt, parameters)
        compared = output if whole else output[: len(expected)]
        assert compared == expected, (
            f"{told}the output is {output}; plain decoding of {[*prompt]} gives {expected}"
            f"{'' if whole else ', up to a near-tie'}"
        )
        return output

    def counts(self) -> SpeculativeCounts:
        counted: SpeculativeCounts = self.decoder.counts()
        return counted

    def draw(
        self,
        prompt: Tokens,
        parameters: DecodingParameters,
        tokens: int,
        generate: Callable[[int, int], Sequence[Tokens]],
    ) -> None:
        """Raise FinalError as soon as drawn outputs cannot be the target's.

        ``generate(seed, count)`` gives outputs; as many are drawn as have ``tokens`` tokens.
        """
        evidence, drawn = Evidence(), 0
        known: dict[tuple[int, ...], tuple[float, ...]] = {}
        while evidence.tokens < tokens:
            outputs = generate(drawn, max(CHUNK // parameters.max_new_tokens, 1))
            drawn += len(outputs)
            for output in outputs:
                self._add(evidence, known, prompt, parameters, [int(token) for token in output])
            if evidence.refuted:
                raise FinalError(
                    f"after {evidence.tokens} tokens the evidence that they are not the target's "
                    f"has log e = {evidence.log_e():.3g}: {evidence.worst()}"
                )

    def _add(
        self,
        evidence: Evidence,
        known: dict[tuple[int, ...], tuple[float, ...]],
        prompt: Tokens,
        parameters: DecodingParameters,
        output: list[int],
    ) -> None:
        if len(output) != parameters.max_new_tokens:
            raise FinalError(
                f"an output has {len(output)} tokens, {parameters.max_new_tokens} were asked for"
            )
        tokens = [*prompt, *output]
        states = self.target.states(tokens)
        has_memory = parameters.processor is not None
        for place in range(len(prompt), len(tokens)):
            state = states[place - 1]
            # With a processor, the distribution is one of the last token too.
            key = (state, tokens[place - 1]) if has_memory else (state,)
            if key not in known:
                before = tokens[:place]
                row = chances(self.target.logits[state], parameters, before, len(prompt))
                known[key] = tuple(row.tolist())
            evidence.add(known[key], tokens[place])


@st.composite
def greedy_cases(draw: st.DrawFn) -> GreedyCase:
    """Any draft, prompt, lookahead and length."""
    token = st.integers(0, VOCABULARY - 1)
    return GreedyCase(
        draft=draw(st.sampled_from(DRAFTS)),
        lookahead=draw(st.integers(1, 5)),
        prompt=tuple(draw(st.lists(token, min_size=1, max_size=5))),
        length=draw(st.integers(1, 16)),
        seed=draw(st.integers(0, 9)),
    )


def greedy_traps() -> Iterator[tuple[str, GreedyCase]]:
    """Each draft, with one drafted token and with several."""
    for draft in DRAFTS:
        for lookahead in (1, 2, 4):
            yield f"{draft} draft, {lookahead} ahead", GreedyCase(draft, lookahead, length=17)


def context_processor(tokens: Tokens, logits: Any) -> Any:
    """Ban a token, which one depends on the last token: the draft's favourite, often."""
    logits[int(tokens[-1]) // 2] = -float("inf")
    return logits


def place_processor(tokens: Tokens, logits: Any) -> Any:
    """Ban two tokens, which ones depends on how many came before."""
    logits[len(tokens) % VOCABULARY] = logits[5 * len(tokens) % VOCABULARY] = -float("inf")
    return logits
