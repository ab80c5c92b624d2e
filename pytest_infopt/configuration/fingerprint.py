"""The fingerprint by which a resumed run knows that it still gates the same release.

Every field of the release is part of it, the plans of third parties' gates included, but for those
that `EXCLUDED` names. A new field is therefore in it unless somebody takes it out and says why.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from ..corpus import corpus_fingerprint, load_corpus
from ..errors import ConfigurationError
from ..metrics.budget import Budget
from ..metrics.metric import Metric
from ..release import (
    CorpusSource,
    Implementation,
    ModelSource,
    Release,
    ServerSource,
    Statistics,
)
from ..version import __version__

EXCLUDED: Mapping[type, Mapping[str, str]] = {
    Release: {
        "origin": "where the release was written changes no result",
        "directory": "files are told by their content",
        "not_run": "it follows from what this machine has installed",
        "report_dir": "where reports go changes no result",
        "baseline": "each run reads the baseline anew",
        "diagnosis": "it explains verdicts, and changes none",
    },
    Statistics: {
        "budget_seconds": "an undecided run may be resumed with more time",
        "timeout_seconds": "an undecided run may be resumed with more time",
        "policy": "what INCONCLUSIVE does changes no verdict",
    },
    CorpusSource: {"files": "the documents' text is in it instead"},
    Implementation: {
        "origin": "where it was written changes no result",
        "directory": "where it was written changes no result",
    },
    ServerSource: {
        "api_key_env": "who pays for the answers does not change them",
        "ready_seconds": "how long a server may take to start changes no answer",
        "timeout_seconds": "how long an answer may take does not change it",
    },
    Budget: {"origin": "where a limit was written does not change it"},
    # A metric's name says which it is; the rest is the package's, whose version is in it.
    Metric: dict.fromkeys(
        (field.name for field in fields(Metric) if field.name != "name"), "follows from the name"
    ),
}


def fingerprint(release: Release, root: Path | None = None) -> str:
    """SHA-256 of everything that results depend on, so that a resumed run cannot mix two releases.

    A local model is told by the names and sizes of its files, any other file by its content.
    ``root`` is where relative globs of the corpus begin. Raises ConfigurationError where a file
    cannot be read.
    """
    content = {
        "version": __version__,
        "corpus text": corpus_fingerprint(load_corpus(release.corpus, root or Path())),
        "release": _identity(release),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _identity(value: Any) -> Any:
    """The value as JSON data, without what is excluded."""
    if is_dataclass(value) and not isinstance(value, type):
        left_out = EXCLUDED.get(type(value), {})
        names = [field.name for field in fields(value) if field.name not in left_out]
        found = {name: _identity(getattr(value, name)) for name in names}
        if isinstance(value, ModelSource):
            found["files"] = _listing(Path(value.model))
            folders = [Path(each) for each in value.options.values() if isinstance(each, str)]
            if kept := [listing for each in folders if (listing := _listing(each))]:
                found["option files"] = kept
        return [type(value).__name__, found]
    if isinstance(value, Mapping):
        return {str(key): _identity(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_identity(each) for each in value]
    if isinstance(value, Path):
        return _digest(value)
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror or error}") from error


def _listing(directory: Path) -> list[tuple[str, int]]:
    """Names and sizes of a local model's files; reading gigabytes of weights is the loader's task,
    whose own fingerprint covers their content."""
    if not directory.is_dir():
        return []
    return sorted(
        (path.name, path.stat().st_size) for path in directory.iterdir() if path.is_file()
    )
