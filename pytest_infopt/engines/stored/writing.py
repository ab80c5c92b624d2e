"""Writing a reference's scores into a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...corpus import TokenisedDocument
from ...errors import ConfigurationError
from ...release import ModelSource
from ...version import __version__
from ..base import Capability, Engine, ModuleEngine, Scores, ScoringEngine, able
from ..files.sources import locate_tokenizer
from .compact_scores import compacted
from .engine import COMPACT, HEAD, HIDDEN_STATES, LOGITS
from .load import configuration_of
from .score_folder import Origin, ScoreFolder, name_of

AS_EXACT = 1e-5  # nats: what exact scores may differ by from the model's own


def write_scores(
    folder: Path,
    engine: ScoringEngine,
    source: ModelSource,
    documents: Iterable[TokenisedDocument],
    *,
    exact: bool,
    corpus: str,
    begins_with: str,
    show: Callable[[str], None] = lambda _: None,
) -> ScoreFolder:
    """Score the documents and keep what `StoredScoresEngine` reads.

    ``exact`` scores are hidden states and the head's matrix where the model's logits are their
    product, else logits. ``corpus`` is the fingerprint of the texts. Raises ConfigurationError for
    a folder that holds something else.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ConfigurationError(f"{folder} is not empty; name a new folder")
    documents = list(documents)
    head = _head(engine, documents[0].token_ids) if exact else None
    kind = COMPACT if not exact else LOGITS if head is None else HIDDEN_STATES
    kept = ScoreFolder(folder, _origin(kind, engine, source, corpus, begins_with))
    if head is not None:
        kept.write(HEAD, {"rows": _array(head)})
    for index, document in enumerate(documents):
        name = name_of(document.token_ids)
        scores = engine.score(document.token_ids)
        if kind == COMPACT:
            kept.write(name, compacted(scores, document.token_ids, int(name[:15], 16)))
        else:
            kept.write(name, {"rows": _array(_rows(scores, kind))})
        show(f"{index + 1} of {len(documents)} documents")
    kept.save()
    return kept


def _origin(
    kind: str, engine: Engine, source: ModelSource, corpus: str, begins_with: str
) -> Origin:
    return Origin(
        kind=kind,
        model=source.model,
        model_fingerprint=engine.fingerprint,
        configuration=configuration_of(locate_tokenizer(source).directory, source),
        tokenizer_fingerprint=engine.tokenizer_fingerprint,
        corpus_fingerprint=corpus,
        begins_with=begins_with,
        dtype=engine.dtype,
        vocabulary=engine.vocabulary,
        context_window=engine.context_window,
        version=__version__,
    )


def _rows(scores: Scores, kind: str) -> torch.Tensor:
    if kind == LOGITS:
        return scores.logits(0, scores.positions)
    hidden: torch.Tensor = getattr(scores, "hidden_states")  # noqa: B009  asked for in `_head`
    return hidden


def _head(engine: ScoringEngine, token_ids: list[int]) -> torch.Tensor | None:
    """The matrix [V, D] whose product with hidden states the logits are; None where they are more:
    a bias, a scale, a cap, or a coarse dtype, whose products another device rounds otherwise."""
    if not {Capability.HIDDEN_STATES, Capability.MODULES} <= engine.capabilities:
        return None
    embeddings = able(engine, ModuleEngine).module.get_output_embeddings()
    matrix = getattr(embeddings, "weight", None)
    scores = engine.score(token_ids)
    hidden = getattr(scores, "hidden_states", None)
    if matrix is None or hidden is None or hidden.dtype not in (torch.float32, torch.float64):
        return None
    matrix = matrix.detach()[: engine.vocabulary].to(hidden.dtype)
    if matrix.shape[1] != hidden.shape[1]:
        return None
    ours, own = (
        rows.double().log_softmax(-1)
        for rows in (hidden @ matrix.T, scores.logits(0, scores.positions))
    )
    return matrix if float((ours - own).abs().max()) <= AS_EXACT else None


def _array(rows: torch.Tensor) -> np.ndarray[Any, Any]:
    rows = rows.detach().cpu().contiguous()
    return (rows.view(torch.int16) if rows.dtype == torch.bfloat16 else rows).numpy()
