"""Which tool wrote a file, and what it says."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ...errors import ConfigurationError
from ...strict_json import parse
from .recording import Recording
from .serving_tools import (
    aiperf,
    guidellm,
    is_aiperf,
    is_guidellm,
    is_sglang,
    is_vllm,
    sglang,
    vllm,
)
from .task_tools import (
    inspect,
    is_inspect,
    is_lm_eval,
    is_lm_eval_sample,
    lm_eval,
    lm_eval_samples,
)

Document = Mapping[str, Any]


class _Tool(NamedTuple):
    name: str
    wrote: Callable[[Document], bool]
    read: Callable[[Document, str], Iterator[Recording]]


TOOLS = (
    _Tool("SGLang", is_sglang, sglang),
    _Tool("vLLM", is_vllm, vllm),
    _Tool("GuideLLM", is_guidellm, guidellm),
    _Tool("AIPerf", is_aiperf, aiperf),
    _Tool("lm-eval", is_lm_eval, lm_eval),
    _Tool("Inspect", is_inspect, inspect),
)
_BROKEN = (KeyError, TypeError, ValueError, AttributeError, IndexError)


def files_of(patterns: Iterable[str]) -> list[Path]:
    """The files of globs, each once, in the order of the globs and then of their names; raises
    ConfigurationError for a glob without any."""
    found: dict[Path, None] = {}
    for pattern in patterns:
        names = sorted(glob.glob(pattern, recursive=True))
        if not names:
            raise ConfigurationError(f"no file matches {pattern}; name result files or globs")
        found |= dict.fromkeys(map(Path, names))
    return list(found)


def read_recordings(path: Path) -> list[Recording]:
    """What a file holds: a JSON document, or a line for each session or item.

    Raises ConfigurationError for a file of no known tool, and for one that lacks what its tool
    writes, naming what.
    """
    documents = _documents(path)
    if is_lm_eval_sample(documents[0]):
        return _read("lm-eval", path, partial(lm_eval_samples, documents, path.name))
    return [recording for each in documents for recording in _session(each, path)]


def _session(document: Document, path: Path) -> list[Recording]:
    for tool in TOOLS:
        if tool.wrote(document):
            return _read(tool.name, path, partial(tool.read, document, path.name))
    raise ConfigurationError(
        f"{path}: no result file of {', '.join(tool.name for tool in TOOLS)}; it has the keys "
        f"{sorted(document)[:8]}"
    )


def _read(tool: str, path: Path, read: Callable[[], Iterator[Recording]]) -> list[Recording]:
    try:
        return list(read())
    except _BROKEN as error:
        raise ConfigurationError(
            f"{path}: is like a result of {tool}, and cannot be read: {type(error).__name__}: "
            f"{error}; write it with the tool's present version"
        ) from error


def _documents(path: Path) -> list[Document]:
    content = path.read_bytes()
    if content.startswith(b"PK"):
        raise ConfigurationError(
            f"{path}: is packed; an Inspect log is read as JSON: inspect log convert --to json"
        )
    try:
        lines = content.splitlines() if path.suffix == ".jsonl" else [content]
        documents = [parse(line) for line in lines if line.strip()]
    except ValueError as error:
        raise ConfigurationError(f"{path}: is no JSON: {error}") from error
    if not documents or not all(isinstance(each, dict) for each in documents):
        raise ConfigurationError(f"{path}: holds no JSON objects; name a tool's result file")
    return documents
