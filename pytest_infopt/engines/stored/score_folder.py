"""A folder of a reference's scores: a file for each document, and what all of them come from.

A document is found by its token ids. `Origin` says from which model, tokenizer and texts, in which
dtype; whoever reads the folder for something else is told what differs. Every file's SHA-256 stands
in the manifest, whose own is `ScoreFolder.digest`.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np

from ...errors import InvalidComparisonError
from ...strict_json import dumps, loads, write_atomically

SCHEMA = 1
MANIFEST = "manifest.json"
Columns = Mapping[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Origin:
    """What scores depend on. ``kind`` is how they are kept: compact, logits or hidden-states;
    ``model`` is what the release called it, ``model_fingerprint`` tells its weights."""

    kind: str
    model: str
    model_fingerprint: str
    configuration: str
    tokenizer_fingerprint: str
    corpus_fingerprint: str
    begins_with: str
    dtype: str
    vocabulary: int
    context_window: int
    version: str

    def differences(self, **found: object) -> list[str]:
        """Sentences on the fields that were found otherwise."""
        return [
            f"{name.replace('_', ' ')} {getattr(self, name)!r} in the store, {value!r} here"
            for name, value in found.items()
            if getattr(self, name) != value
        ]


class ScoreFolder:
    """The files of one folder."""

    def __init__(self, folder: Path, origin: Origin, files: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.origin = origin
        self._files = files or {}  # SHA-256 by name

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The folder that `save` wrote; InvalidComparisonError for another one."""
        try:
            document = loads((folder / MANIFEST).read_text(encoding="utf-8"))
            if document["schema"] != SCHEMA:
                raise ValueError(f"schema {document['schema']!r}; this version reads {SCHEMA}")
            known = {field.name for field in fields(Origin)}
            origin = Origin(**{k: v for k, v in document["origin"].items() if k in known})
            return cls(folder, origin, dict(document["files"]))
        except OSError as error:
            raise InvalidComparisonError(
                f"{folder}: holds no stored scores ({error.strerror or error}); write them with "
                "`infopt scores`"
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidComparisonError(
                f"{folder / MANIFEST} is damaged ({type(error).__name__}: {error}); write the "
                "scores anew with `infopt scores`"
            ) from error

    @property
    def digest(self) -> str:
        """SHA-256 of everything in the folder."""
        content = {"origin": asdict(self.origin), "files": self._files}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def documents(self) -> int:
        return sum(not name.startswith("shared-") for name in self._files)

    @property
    def nbytes(self) -> int:
        return sum((self.folder / name).stat().st_size for name in self._files)

    def write(self, name: str, columns: Columns) -> None:
        """Keep arrays under a name."""
        self.folder.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **columns)
        (self.folder / f"{name}.npz").write_bytes(buffer.getvalue())
        self._files[f"{name}.npz"] = hashlib.sha256(buffer.getvalue()).hexdigest()

    def save(self) -> None:
        """Write the manifest, without which the folder is none."""
        content = {"schema": SCHEMA, "origin": asdict(self.origin), "files": self._files}
        write_atomically(self.folder / MANIFEST, dumps(content, indent=1) + "\n")

    def arrays(self, name: str) -> dict[str, np.ndarray[Any, Any]] | None:
        """What was kept under the name, None for nothing.

        Raises InvalidComparisonError for a file that is not as it was written.
        """
        file = f"{name}.npz"
        if file not in self._files:
            return None
        try:
            content = (self.folder / file).read_bytes()
        except OSError as error:
            content = str(error).encode()
        if hashlib.sha256(content).hexdigest() != self._files[file]:
            raise InvalidComparisonError(
                f"{self.folder / file} is missing or not as it was written (SHA-256); copy the "
                "store again, or write it anew with `infopt scores`"
            )
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return dict(arrays)


def name_of(token_ids: Sequence[int]) -> str:
    """The name of a document's file."""
    return hashlib.sha256(json.dumps(list(token_ids)).encode()).hexdigest()[:32]
