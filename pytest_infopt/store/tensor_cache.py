"""A directory of tensors that were expensive to compute, each file named by all it depends on."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from pathlib import Path

import safetensors
import safetensors.torch
import torch

_LOG = logging.getLogger(__name__)
_SUFFIX = ".safetensors"
DEFAULT_BYTES = 2 * 2**30


class TensorCache:
    """Safetensors files, together at most ``max_bytes`` large: the oldest go first.

    An entry is known by its ``identity``, which holds everything that could change a bit of it.
    Never a reason to fail: an entry that cannot be read, or that is not what its name says, is a
    miss and is logged, and so is a directory that cannot be written.
    """

    def __init__(self, directory: Path, max_bytes: int = DEFAULT_BYTES) -> None:
        self.directory = directory
        self.max_bytes = max_bytes

    def read(self, identity: dict[str, str]) -> dict[str, torch.Tensor] | None:
        """The entry's tensors by name, on the CPU, or None."""
        path = self._path(identity)
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                known = file.metadata() == identity
                # Tensors of their own: one inside the file's bytes may lie at an address that makes
                # the matrix product take another path, and give other bits.
                names = file.keys() if known else []
                tensors = {name: file.get_tensor(name).clone() for name in names}
        except FileNotFoundError:
            return None
        except (OSError, safetensors.SafetensorError) as error:
            _LOG.warning("cache entry %s cannot be read (%s); it is computed anew", path, error)
            return None
        if not known:
            _LOG.warning("cache entry %s is not what its name says; it is computed anew", path)
            return None
        self._touch(path)
        return tensors

    def write(self, identity: dict[str, str], tensors: dict[str, torch.Tensor]) -> None:
        """Keep the tensors, unless they alone are larger than the cache may be."""
        host = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        if sum(tensor.nbytes for tensor in host.values()) > self.max_bytes:
            return
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            _replace(self._path(identity), safetensors.torch.save(host, metadata=identity))
            self._evict()
        except OSError as error:
            _LOG.warning("tensors cannot be kept in %s: %s", self.directory, error)

    def _path(self, identity: dict[str, str]) -> Path:
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        return self.directory / (digest[:40] + _SUFFIX)

    def _touch(self, path: Path) -> None:
        try:
            os.utime(path)
        except OSError as error:
            _LOG.debug("cache entry %s keeps its old date: %s", path, error)

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
