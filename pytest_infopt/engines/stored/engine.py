"""A reference whose scores are read instead of computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from ...errors import InfoptError, InvalidComparisonError
from ..base import Capability, Scores
from ..tokenizer_texts import TokenizerTexts
from .compact_scores import restored
from .score_folder import ScoreFolder, name_of

COMPACT, LOGITS, HIDDEN_STATES = "compact", "logits", "hidden-states"
HEAD = "shared-head"


@dataclass(frozen=True)
class StoredRows:
    """`engines.base.Scores` from logits [T, V], or from hidden states [T, D] and a head [V, D]."""

    rows: torch.Tensor
    vocabulary: int
    head: torch.Tensor | None = None

    @property
    def positions(self) -> int:
        return len(self.rows)

    def logits(self, start: int, stop: int) -> torch.Tensor:
        rows = self.rows[start:stop]
        return rows if self.head is None else rows @ self.head.T


class StoredScoresEngine(TokenizerTexts):
    """`engines.base.ScoringEngine` of the documents in a folder. The tokenizer is a local copy."""

    capabilities = frozenset({Capability.SCORES})

    def __init__(self, name: str, folder: ScoreFolder, tokenizer: Any, device: str) -> None:
        origin = folder.origin
        self.name = name
        # What is computed with exact scores is what is computed with the model.
        exact = origin.kind != COMPACT
        self.fingerprint = origin.model_fingerprint if exact else f"compact-{folder.digest}"
        self.dtype = origin.dtype
        self.device = device
        self.vocabulary = origin.vocabulary
        self.context_window = origin.context_window
        self._tokenizer = tokenizer
        self._folder: ScoreFolder | None = folder

    @property
    def tokenizer(self) -> Any:
        return self._tokenizer

    def score(self, token_ids: Sequence[int]) -> Scores:
        """The document's scores; InvalidComparisonError where the folder has none."""
        folder = self._open
        arrays = folder.arrays(name_of(token_ids))
        origin = folder.origin
        if arrays is None:
            raise InvalidComparisonError(
                f"stored scores in {folder.folder}: a document of {len(token_ids)} tokens is not "
                f"among its {folder.documents}, which are those of corpus "
                f"{origin.corpus_fingerprint[:12]} beginning with {origin.begins_with!r}; write "
                "the store with this release's corpus, max_tokens, max_documents and seed"
            )
        if origin.kind == COMPACT:
            return restored(arrays).to(self.device)
        rows = _tensor(arrays, "rows").to(self.device)
        head = self._head if origin.kind == HIDDEN_STATES else None
        return StoredRows(rows, self.vocabulary, head)

    def close(self) -> None:
        self._folder = None
        vars(self).pop("_head", None)

    @property
    def _open(self) -> ScoreFolder:
        if self._folder is None:
            raise InfoptError(f"the engine of model {self.name!r} is closed; load it again")
        return self._folder

    @cached_property
    def _head(self) -> torch.Tensor:
        folder = self._open
        arrays = folder.arrays(HEAD)
        if arrays is None:
            raise InvalidComparisonError(f"{folder.folder}: its head is missing; write it anew")
        return _tensor(arrays, "rows").to(self.device)


def _tensor(arrays: dict[str, Any], name: str) -> torch.Tensor:
    """NumPy knows no bfloat16: such numbers are kept as their upper bits."""
    kept = torch.from_numpy(arrays[name])
    return kept.view(torch.bfloat16) if kept.dtype == torch.int16 else kept
