"""A process of its own for models, so that a crash, a hang or an out-of-memory kill stays theirs.

`Worker` starts a process, builds an object there, its host, and calls remote methods of the host
and of other objects made of it, one at a time. The process
comes from a fork server which has imported torch and transformers once (where the platform has
fork), so a fresh one costs milliseconds and begins with the same resident memory every time. This
module runs in pytest's own process and imports neither torch nor transformers.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

from .. import errors
from ..errors import InfoptError, WorkerError
from ..naming import import_named
from .remote import call_remote

# How OpenMP's threads wait; the count (of GNU's library, which torch brings) is about 20 µs.
_WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}
_LAST_WORDS = 2000  # characters of the worker's log that a crash message quotes


@dataclass(frozen=True)
class _Raised:
    """An exception on its way home: its text, since not every exception can be pickled."""

    kind: str
    message: str
    trace: str


class Worker:
    """A process holding a host, made there by ``factory`` ("module:name") from ``args``.

    What the process prints goes to ``log``. ``timeout_seconds`` bounds each call: a longer one is
    taken for a hang and the process is killed. Errors of this package (`InfoptError`) raised there
    are raised here under their own type; every other one becomes a `WorkerError`.
    """

    def __init__(self, factory: str, *args: Any, log: Path, timeout_seconds: float) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log
        self._timeout = timeout_seconds
        context = _context()
        self._connection, theirs = context.Pipe()
        # BaseContext has no Process attribute for type checkers; every concrete context has.
        self._process = context.Process(  # type: ignore[attr-defined]
            target=_serve, args=(theirs, factory, args, str(log)), daemon=True
        )
        self._process.start()
        theirs.close()

    @property
    def alive(self) -> bool:
        """False once the process died, hung, or was closed."""
        return bool(self._process.is_alive()) and not self._connection.closed

    def call(self, receiver: str, method: str, *args: Any) -> Any:
        """The method's result, computed over there.

        ``receiver`` is "" for the host, else "module:class" of an object that is made of the host
        when it is first called. The method has to be marked as remote (`process.remote`).
        Raises the InfoptError that the method raised, or WorkerError when it raised anything else,
        when the process died, or when no answer came in time.
        """
        try:
            self._connection.send((receiver, method, args))
            if not self._connection.poll(self._timeout):
                self.kill()
                raise WorkerError(
                    f"{method} did not answer within {self._timeout:g} s and was killed; raise "
                    f"statistics.timeout_seconds if it is slow rather than hanging"
                )
            answer = self._connection.recv()
        except (EOFError, OSError) as error:
            raise WorkerError(f"{method}: {self._obituary()}") from error
        except BaseException:  # Ctrl-C, a timeout: no later call may take this one's answer
            self.kill()
            raise
        if isinstance(answer, _Raised):
            raise _exception(answer)
        return answer

    def close(self) -> None:
        """End the process; its memory goes back to the system."""
        with contextlib.suppress(OSError):
            self._connection.send(None)
        self._process.join(5)
        self.kill()

    def kill(self) -> None:
        """End the process at once."""
        if self._process.is_alive():
            self._process.kill()
        self._process.join()
        self._connection.close()

    def _obituary(self) -> str:
        self._process.join(5)
        code = self._process.exitcode
        self._connection.close()
        if code is not None and code < 0:
            cause = f"the model's process was killed by {signal.Signals(-code).name}"
            if -code == signal.SIGKILL:
                cause += " (out of memory? the kernel's log says)"
        else:
            cause = f"the model's process ended with status {code}"
        words = self._log.read_text(errors="replace")[-_LAST_WORDS:].strip()
        return f"{cause}; its last words:\n{words}" if words else cause


def _context() -> BaseContext:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest_infopt.process.model_pair"])
    with _threads_that_sleep():
        forkserver.ensure_running()
    return context


@contextlib.contextmanager
def _threads_that_sleep() -> Iterator[None]:
    """Let OpenMP threads wait asleep after a moment, unless the user chose otherwise.

    OpenMP's threads spin at every barrier; on cores shared with other jobs they spin away the time
    slice of the thread they wait for. A decode step of a 135M model with two threads on two busy
    cores took 850 ms spinning, 130 ms sleeping. Threads that sleep at once are late at the next
    barrier: on two free cores, 64 tokens through its int4 copy took 407 ms, and 269 ms with the
    moment's spinning.
    """
    chosen = {name for name in _WAITING if name in os.environ}
    if not chosen:
        os.environ.update(_WAITING)
    try:
        yield
    finally:
        if not chosen:
            for name in _WAITING:
                del os.environ[name]


def _exception(raised: _Raised) -> InfoptError:
    kind = getattr(errors, raised.kind, None)
    if isinstance(kind, type) and issubclass(kind, InfoptError):
        return kind(raised.message)
    return WorkerError(f"{raised.kind}: {raised.message}\n{raised.trace}")


def _serve(connection: Connection, factory: str, args: tuple[Any, ...], log: str) -> None:
    """The process's main: answer calls until the other side hangs up."""
    # Ctrl-C reaches the whole process group; pytest's own process decides what happens then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _print_to(log)
    objects: dict[str, Any] = {}
    while True:
        try:
            request = connection.recv()
        except (EOFError, OSError):
            return
        if request is None:
            return
        receiver, method, arguments = request
        try:
            if "" not in objects:
                objects[""] = _make(factory, *args)
            if receiver not in objects:
                objects[receiver] = _make(receiver, objects[""])
            answer = call_remote(objects[receiver], method, arguments)
        except Exception as error:
            trace = "".join(traceback.format_exception(error)[-6:])
            answer = _Raised(type(error).__name__, str(error), trace)
        connection.send(answer)


def _make(target: str, *args: Any) -> Any:
    made: Any = import_named(target)
    return made(*args)


def _print_to(log: str) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.close(descriptor)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
