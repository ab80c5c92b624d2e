"""From the files that a source names to an engine."""

from __future__ import annotations

import hashlib

from ...errors import ConfigurationError
from ...release import ModelSource
from .engine import RecordedEngine
from .reading import files_of, read_recordings

FILES = "files"  # the option


def load_recorded(source: ModelSource) -> RecordedEngine:
    """What the files of the source's option ``files`` say; of ``source.model``, nothing is read.

    Raises ConfigurationError without the option, and for files that hold no result.
    """
    patterns = source.options.get(FILES)
    if not isinstance(patterns, list) or not patterns:
        raise ConfigurationError(
            f"model {source.name!r}: engine {source.engine!r} reads files; name them, or globs, in "
            f'the table of infopt.toml: options.{FILES} = ["results/*.json"]'
        )
    files = files_of(patterns)
    digest = hashlib.sha256(b"".join(hashlib.sha256(f.read_bytes()).digest() for f in files))
    recordings = [recording for file in files for recording in read_recordings(file)]
    return RecordedEngine(source.name, digest.hexdigest(), recordings)
