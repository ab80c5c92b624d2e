"""The reference's scores of a release's corpus, written once; imports torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..corpus import corpus_fingerprint, load_corpus
from ..engines.base import ScoringEngine, able
from ..engines.registry import engine_named, load_engine
from ..engines.stored.load import FOLDER
from ..engines.stored.writing import write_scores
from ..errors import ConfigurationError
from ..process.pair_texts import documents_of
from ..release import ModelSource, Release


def write_release_scores(
    release: Release, root: Path, folder: Path | None, *, exact: bool
) -> list[str]:
    """Score the release's documents with its reference; returns what was written, in lines.

    ``folder`` is by default the one that the reference's option ``scores`` names. Raises
    ConfigurationError where there is none, and what loading and scoring raise.
    """
    named = release.reference.options.get(FOLDER)
    if folder is None and named is None:
        raise ConfigurationError("name the folder to write: infopt scores FOLDER")
    engine = able(load_engine(_computing(release.reference)), ScoringEngine)
    documents = documents_of(release, root, engine.encode, engine.context_window)
    kept = write_scores(
        folder or Path(str(named)),
        engine,
        release.reference,
        documents,
        exact=exact,
        corpus=corpus_fingerprint(load_corpus(release.corpus, root)),
        begins_with=release.corpus.begins_with,
    )
    tokens = sum(len(document.token_ids) for document in documents)
    return [
        f"{kept.folder}: {kept.documents} documents, {tokens} tokens, {kept.origin.kind}, "
        f"{kept.nbytes / 2**20:.1f} MiB, SHA-256 {kept.digest}",
        "to gate with it, write below [reference]:",
        'engine = "stored-scores"',
        f'options.{FOLDER} = "{kept.folder}"',
    ]


def _computing(source: ModelSource) -> ModelSource:
    """The source by the engine that computes its scores."""
    if not engine_named(source.engine).reference_only:
        return source
    options = {key: value for key, value in source.options.items() if key != FOLDER}
    return replace(source, engine=ModelSource.engine, options=options)
