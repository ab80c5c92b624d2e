"""Who proposes tokens: a smaller model, or the text so far.

Contract. A drafter says from which distributions it drew. Losslessness depends on nothing else:
its model, its vocabulary and its cache change how much is accepted, and never what is emitted.
Sources: Saxena 2023, "Prompt Lookup Decoding"; Zhao et al. 2025, "FR-Spec", section 3 (a reduced
vocabulary).
Legend: B rows, K drafted tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from .pipeline import LogitsPipeline, drawn
from .scorer import Scorer
from .verification import Drafts


class Drafter(Protocol):
    """Proposes how rows go on."""

    def draft(
        self,
        rows: Sequence[Sequence[int]],
        prompts: Sequence[int],
        lengths: Sequence[int],
        uniforms: Tensor,
        pipeline: LogitsPipeline,
    ) -> Drafts:
        """At most ``lengths[i]`` tokens behind row i, of which the first ``prompts[i]`` are its
        prompt, drawn with the numbers ``uniforms`` [B, K] after ``pipeline``."""

    def select(self, rows: Sequence[int]) -> None:
        """From now on, row i is what row ``rows[i]`` was."""


class ModelDrafter:
    """Draws from a smaller model, token by token, through the target's pipeline.

    ``vocabulary`` [its own V]: the target's id of each token that the model has logits for, where
    these are not all. The model reads the target's ids.
    """

    def __init__(self, scorer: Scorer, vocab_size: int, vocabulary: Tensor | None = None) -> None:
        known = scorer.vocab_size if vocabulary is None else len(vocabulary)
        if known > vocab_size or (vocabulary is None and known < vocab_size):
            raise ValueError(
                f"the draft has logits for {known} tokens and the target for {vocab_size}; give "
                "vocabulary, the target's id of each of the draft's tokens"
            )
        self.scorer, self.vocab_size, self.vocabulary = scorer, vocab_size, vocabulary

    def draft(
        self,
        rows: Sequence[Sequence[int]],
        prompts: Sequence[int],
        lengths: Sequence[int],
        uniforms: Tensor,
        pipeline: LogitsPipeline,
    ) -> Drafts:
        longer = [[*row] for row in rows]
        most = max(lengths)
        chances = torch.zeros(len(rows), most, self.vocab_size, dtype=torch.float64)
        for step in range(most):
            active = [row for row, length in enumerate(lengths) if step < length]
            logits = self._full(self.scorer.score(longer, [int(step < n) for n in lengths]))
            behind = [longer[row] for row in active] if pipeline.needs_tokens else []
            found = pipeline(logits, behind, [prompts[row] for row in active])
            chances = chances.to(found.device)
            chances[active, step] = found
            for row, token in zip(active, drawn(found, uniforms[active, step]), strict=True):
                longer[row].append(int(token))
        return Drafts([new[len(row) :] for new, row in zip(longer, rows, strict=True)], chances)

    def _full(self, logits: Tensor) -> Tensor:
        """Logits of all the target's tokens: −∞ for those that the draft does not have."""
        if self.vocabulary is None:
            return logits
        full = logits.new_full((len(logits), self.vocab_size), -torch.inf)
        return full.index_copy(1, self.vocabulary.to(logits.device), logits)

    def select(self, rows: Sequence[int]) -> None:
        self.scorer.select(rows)


class PromptLookupDrafter:
    """Copies what followed the latest earlier occurrence of a row's last tokens.

    Args:
        longest: the most last tokens that are looked for; fewer, down to one, where they are new.
    """

    def __init__(self, longest: int = 3) -> None:
        if longest < 1:
            raise ValueError(f"longest is {longest}; give 1 or more")
        self.longest = longest

    def draft(
        self,
        rows: Sequence[Sequence[int]],
        prompts: Sequence[int],
        lengths: Sequence[int],
        uniforms: Tensor,
        pipeline: LogitsPipeline,
    ) -> Drafts:
        return Drafts([self._found(row, n) for row, n in zip(rows, lengths, strict=True)])

    def _found(self, row: Sequence[int], length: int) -> list[int]:
        for size in range(min(self.longest, len(row) - 1), 0, -1):
            last = [*row[-size:]]
            for start in range(len(row) - size - 1, -1, -1):
                if [*row[start : start + size]] == last:
                    return [*row[start + size : start + size + length]]
        return []

    def select(self, rows: Sequence[int]) -> None:
        pass
