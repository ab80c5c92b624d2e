"""Speculative decoding: a drafter proposes tokens, the target checks them all in one pass.

    draft up to k tokens  →  target's logits behind the row and behind each of them, at once
    →  the rejection rule  →  emit the accepted tokens and one more  →  stop rules, token by token

Contract. Each row's output is distributed exactly as the target's own (`generate`), and with
temperature 0 equal to it but for near-ties of passes of several tokens. It depends on its prompt
and seed alone, never on other rows. No token follows one that ends it. A row that ends leaves; the
others go on.
Leaves out: lookahead that adapts to acceptance, drafts checked while the next are made.
Sources: Leviathan et al. 2023; Chen et al. 2023.
Legend: B rows, K drafted tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .drafter import Drafter
from .pipeline import LogitsPipeline
from .scorer import Scorer
from .statistics import SpeculativeStatistics
from .stopping import FinishReason, StoppingRules
from .verification import Drafts, Uniforms, verify


@dataclass(frozen=True)
class DecodedRow:
    """An output: its tokens, why it ended, and what it took."""

    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    statistics: SpeculativeStatistics


@dataclass
class _Row:
    index: int
    prompt: tuple[int, ...]
    generator: torch.Generator
    output: list[int] = field(default_factory=list)
    statistics: SpeculativeStatistics = field(default_factory=SpeculativeStatistics)

    @property
    def tokens(self) -> list[int]:
        return [*self.prompt, *self.output]


class SpeculativeDecoder:
    """Decodes rows with a target and a drafter.

    Args:
        target: scores tokens; it has the last word.
        drafter: proposes them.
        lookahead: k, how many tokens are proposed for a pass; or a function that says so for each
            pass, 0 among its values.
        pipeline: what target and draft put their logits through.
        stopping: when an output ends.
    """

    def __init__(
        self,
        target: Scorer,
        drafter: Drafter,
        lookahead: int | Callable[[int], int],
        pipeline: LogitsPipeline,
        stopping: StoppingRules,
    ) -> None:
        if isinstance(lookahead, int) and lookahead < 0:
            raise ValueError(f"lookahead is {lookahead}; give 0 (plain decoding) or more")
        self.target, self.drafter, self.lookahead = target, drafter, lookahead
        self.pipeline, self.stopping = pipeline, stopping

    def decode(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int]) -> list[DecodedRow]:
        """The outputs of prompts, each with a seed.

        Raises:
            ValueError: a prompt is empty, or logits are not fit to draw from.
        """
        if not all(map(len, prompts)):
            raise ValueError("a prompt is empty; give one token at least")
        active = [
            _Row(i, tuple(prompt), torch.Generator().manual_seed(seed))
            for i, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))
        ]
        decoded: list[DecodedRow | None] = [None] * len(active)
        passes = 0
        while active:
            asked = self.lookahead if isinstance(self.lookahead, int) else self.lookahead(passes)
            emitted = self._step(active, asked)
            passes += 1
            going = []
            for position, (row, (tokens, drafted)) in enumerate(zip(active, emitted, strict=True)):
                reason = self._extend(row, tokens, drafted)
                if reason is None:
                    going.append(position)
                else:
                    decoded[row.index] = DecodedRow(tuple(row.output), reason, row.statistics)
            if len(going) < len(active):
                active = [active[position] for position in going]
                if active:
                    self.target.select(going)
                    self.drafter.select(going)
        return [each for each in decoded if each is not None]

    def _step(self, active: Sequence[_Row], asked: int) -> list[tuple[list[int], int]]:
        """One pass of the target: what each row emits, and how many tokens were drafted for it."""
        rows = [row.tokens for row in active]
        prompts = [len(row.prompt) for row in active]
        room = [self.stopping.max_new_tokens - len(row.output) - 1 for row in active]
        lengths = [min(asked, each) for each in room]  # the target emits one more
        uniforms = Uniforms.from_generators([row.generator for row in active], lengths)
        drafts = self.drafter.draft(rows, prompts, lengths, uniforms.draft, self.pipeline)
        chances = self._chances(rows, prompts, drafts)
        return [*zip(verify(drafts, chances, uniforms), drafts.lengths(), strict=True)]

    def _chances(
        self, rows: Sequence[Sequence[int]], prompts: Sequence[int], drafts: Drafts
    ) -> Tensor:
        """The target's distributions behind each row and each drafted token, [B, K + 1, V]."""
        longer = [[*row, *new] for row, new in zip(rows, drafts.tokens, strict=True)]
        counts = [length + 1 for length in drafts.lengths()]
        logits = self.target.score(longer, counts)
        behind: list[list[int]] = []
        starts: list[int] = []
        if self.pipeline.needs_tokens:
            # Each sees the drafted tokens before it, and none that comes later.
            for new, row, prompt in zip(longer, rows, prompts, strict=True):
                behind += [new[:stop] for stop in range(len(row), len(new) + 1)]
                starts += [prompt] * (len(new) - len(row) + 1)
        chances = self.pipeline(logits, behind, starts)
        return pad_sequence([*chances.split_with_sizes(counts)], batch_first=True)

    def _extend(self, row: _Row, tokens: Sequence[int], drafted: int) -> FinishReason | None:
        before = len(row.output)
        row.output, reason = self.stopping.extended(row.output, tokens)
        emitted = len(row.output) - before
        accepted = min(emitted, len(tokens) - 1)  # the last token is the target's own
        row.statistics += SpeculativeStatistics(1, drafted, accepted, emitted)
        return reason
