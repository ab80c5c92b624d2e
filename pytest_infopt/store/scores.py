"""The reference's predictions, kept on disk: computed once for all candidates and all later runs.

An entry is one safetensors file with the decoder's last hidden states [T, D] of one document, V/D
times smaller than its logits. Everything that could change a bit of them is part of its name.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import safetensors
import safetensors.torch
import torch

from ..engines.base import Engine, Scores

_LOG = logging.getLogger(__name__)
_FORMAT = "infopt-hidden-states-1"
_TENSOR = "hidden_states"
_SUFFIX = ".safetensors"
DEFAULT_BYTES = 2 * 2**30


@runtime_checkable
class _HiddenScores(Scores, Protocol):
    hidden_states: torch.Tensor | None


@runtime_checkable
class _HiddenStateEngine(Protocol):
    def scores_from_hidden(self, hidden: torch.Tensor) -> Scores: ...


class ReferenceScores:
    """A cache directory of hidden states, at most ``max_bytes`` large: the oldest entries go first.

    Never a reason to fail: an entry that cannot be read, or that is not what its name says, is
    computed again and logged, and so is a directory that cannot be written.
    """

    def __init__(self, directory: Path, max_bytes: int = DEFAULT_BYTES) -> None:
        self.directory = directory
        self.max_bytes = max_bytes

    def of(self, engine: Engine, token_ids: Sequence[int]) -> Scores:
        """The engine's scores of a document: from the cache where it has them, else computed and
        kept. The same bits either way. An engine without hidden states, or without a fingerprint
        to know it by, is simply asked to score."""
        if not isinstance(engine, _HiddenStateEngine) or not engine.fingerprint:
            return engine.score(token_ids)
        identity = _identity(engine, token_ids)
        path = self.directory / (_digest(identity) + _SUFFIX)
        hidden = self._read(path, identity, len(token_ids))
        if hidden is not None:
            return engine.scores_from_hidden(hidden.to(engine.device))
        scores = engine.score(token_ids)
        if isinstance(scores, _HiddenScores) and scores.hidden_states is not None:
            self._write(path, identity, scores.hidden_states)
        return scores

    def _read(self, path: Path, identity: dict[str, str], positions: int) -> torch.Tensor | None:
        try:
            content = path.read_bytes()
            hidden: torch.Tensor = safetensors.torch.load(content)[_TENSOR]
        except FileNotFoundError:
            return None
        except (OSError, KeyError, ValueError, safetensors.SafetensorError) as error:
            _LOG.warning("cache entry %s cannot be read (%s); it is computed anew", path, error)
            return None
        if _metadata(content) != identity or hidden.ndim != 2 or len(hidden) != positions:
            _LOG.warning("cache entry %s is not of its document; it is computed anew", path)
            return None
        self._touch(path)
        # A tensor of its own: one inside the file's bytes may lie at an address that makes the
        # matrix product take another path, and give other bits.
        return hidden.clone()

    def _touch(self, path: Path) -> None:
        try:
            os.utime(path)
        except OSError as error:
            _LOG.debug("cache entry %s keeps its old date: %s", path, error)

    def _write(self, path: Path, identity: dict[str, str], hidden: torch.Tensor) -> None:
        tensors = {_TENSOR: hidden.detach().cpu().contiguous()}
        if tensors[_TENSOR].nbytes > self.max_bytes:
            return
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            _replace(path, safetensors.torch.save(tensors, metadata=identity))
            self._evict()
        except OSError as error:
            _LOG.warning("the reference's scores cannot be kept in %s: %s", self.directory, error)

    def _evict(self) -> None:
        """Remove what was used longest ago, until the rest fits."""
        entries = []
        for path in self.directory.glob(f"*{_SUFFIX}"):
            try:
                status = path.stat()
            except FileNotFoundError:
                continue  # another process evicts too
            entries.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= self.max_bytes:
                return
            path.unlink(missing_ok=True)
            total -= size


def _replace(path: Path, content: bytes) -> None:
    """Write a file so that readers find all of it or none of it."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem[:8], suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _identity(engine: Engine, token_ids: Sequence[int]) -> dict[str, str]:
    """All that hidden states depend on, down to their last bit."""
    on_gpu = engine.device.startswith("cuda")
    return {
        "format": _FORMAT,
        "model": engine.fingerprint,
        "dtype": engine.dtype,
        "device": torch.cuda.get_device_name(engine.device) if on_gpu else engine.device,
        "instructions": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "transformers": importlib.metadata.version("transformers"),
        "tokens": hashlib.sha256(json.dumps(list(token_ids)).encode()).hexdigest(),
    }


def _digest(identity: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:40]


def _metadata(content: bytes) -> dict[str, str]:
    """The free-form metadata of a safetensors file that was parsed before."""
    length = int.from_bytes(content[:8], "little")
    metadata: dict[str, str] = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    return metadata
