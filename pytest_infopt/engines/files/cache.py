"""The user's cache of checkpoints that take long to make: one directory each, made once.

``$INFOPT_CACHE``, else ``$XDG_CACHE_HOME/pytest-infopt``, else ``~/.cache/pytest-infopt``.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ...errors import ModelLoadError
from .checkpoints import check_checkpoint


def cache_directory() -> Path:
    """Where converted and quantized models are kept between runs."""
    if chosen := os.environ.get("INFOPT_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "pytest-infopt"


def built_once(target: Path, build: Callable[[Path], None]) -> Path:
    """The checkpoint directory ``target``, filled now by ``build(directory)`` if it never was.

    Written to a directory beside it and renamed, so a killed build leaves nothing that could be
    taken for a checkpoint; a lock lets the second of two processes wait for the first's work.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target.parent / f"{target.name}.lock"):
        if not _is_whole(target):
            _build_into(target, build)
    return target


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file's lock inside the block; waits for it."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released with the file, also when the process dies
        yield


def _build_into(target: Path, build: Callable[[Path], None]) -> None:
    scratch = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=target.parent))
    try:
        build(scratch)
        if target.exists():  # damaged: _is_whole said no
            shutil.rmtree(target)
        os.replace(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _is_whole(directory: Path) -> bool:
    try:
        check_checkpoint(directory)
    except ModelLoadError:
        return False
    return True
