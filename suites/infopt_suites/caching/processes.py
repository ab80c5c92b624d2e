"""A cache of the same namespace in another process."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import IO, Any

from .protocol import Answer, Request
from .requests import reply
from .trial import Trial

OF_ANOTHER = "kept by another process"

_CHILD = """
import pickle, sys
sys.path[:] = pickle.load(sys.stdin.buffer)
from infopt_suites.caching.other_process import answer_pipe
answer_pipe()
"""


def found_by_another(make: Any, trial: Trial, asked: Sequence[Request]) -> list[Any]:
    """What a cache in another process finds for these requests."""
    with _child(make, trial, asked, keep=None) as child:
        found: list[Any] = json.loads(_line(child))
        return found


@contextmanager
def keeping_in_another(
    make: Any, trial: Trial, asked: Sequence[Request]
) -> Iterator[Callable[[], bool]]:
    """Another process keeps an answer to each of these requests meanwhile: `OF_ANOTHER`.

    The value tells whether it is at work.
    """
    with _child(make, trial, asked, keep=reply(OF_ANOTHER)) as child:
        _line(child)  # it is ready
        _stdin(child).write(b"\n")
        _stdin(child).flush()
        yield lambda: child.poll() is None


@contextmanager
def _child(
    make: Any, trial: Trial, asked: Sequence[Request], *, keep: Answer | None
) -> Iterator[subprocess.Popen[bytes]]:
    """The process, until it has ended; AssertionError where it failed."""
    spec = replace(trial.spec, directory=trial.spec.directory / trial.spec.namespace)
    try:
        work = pickle.dumps(sys.path) + pickle.dumps((make, spec, [*map(dict, asked)], keep))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise AssertionError(
            'the capability "processes" needs a factory that pickle finds by its name, '
            f"such as a class of a module: {error}"
        ) from error
    # Strings hash differently there, whatever this process was started with.
    environment = {**os.environ, "PYTHONHASHSEED": "1" if hash("a") % 2 else "2"}
    pipe = subprocess.PIPE
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD], stdin=pipe, stdout=pipe, stderr=pipe, env=environment
    )
    try:
        _stdin(child).write(work)
        _stdin(child).flush()
        yield child
        _, errors = child.communicate()
        _require_success(child, errors)
    finally:
        child.kill()
        child.communicate()


def _stdin(child: subprocess.Popen[bytes]) -> IO[bytes]:
    assert child.stdin is not None
    return child.stdin


def _line(child: subprocess.Popen[bytes]) -> bytes:
    assert child.stdout is not None
    line = child.stdout.readline()
    if not line:
        _, errors = child.communicate()
        _require_success(child, errors)
    return line


def _require_success(child: subprocess.Popen[bytes], errors: bytes) -> None:
    assert child.returncode == 0, f"the other process failed: {errors.decode()[-2000:]}"
