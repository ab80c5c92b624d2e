"""A server that the release starts: ready before it is asked, its log kept, gone with the run.

A shell stands between pytest and the server and holds the reading end of a pipe. When pytest is
gone, however it went, the pipe ends, and the shell kills the server's whole process group, itself
included. Runs in pytest's own process, or in that of the models, and imports neither torch nor
transformers.
"""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ..errors import ModelLoadError
from ..release import ServerSource

# The watcher reads the pipe as descriptor 3: a background job's own input is not the shell's.
_WATCH = 'exec 3<&0; "$@" </dev/null & server=$!; { read -r _ <&3; kill -9 0; } & wait $server'
_POLL_SECONDS = 0.2
_GONE_SECONDS = 60.0  # that a killed process may take to give its device back
_LAST_WORDS = 2000  # characters of the server's log that a message quotes
_PORT = "{port}"


class ServerProcess:
    """The server of ``declared.command``, started in ``folder``; ``source`` says where it is.

    Making one waits until it answers. Raises ModelLoadError, with its last words, where it ends
    before, or does not answer within ``declared.ready_seconds``.
    """

    def __init__(self, declared: ServerSource, log: Path, folder: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        port, self._log, self._command = str(free_port()), log, declared.command
        self.source = replace(declared, url=declared.url.replace(_PORT, port), command=())
        words = [word.replace(_PORT, port) for word in declared.command]
        with log.open("ab") as output:
            self._shell = subprocess.Popen(
                ["/bin/sh", "-c", _WATCH, "sh", *words],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                start_new_session=True,
            )
        try:
            self._wait(declared.ready_seconds)
        except BaseException:  # Ctrl-C, too: nobody else knows of it yet
            self.close()
            raise

    @property
    def alive(self) -> bool:
        """False once the server ended or was closed."""
        return self._shell.poll() is None

    def close(self) -> None:
        """End the server and all that it started, and wait until it is gone."""
        self._shell.communicate()  # closes the pipe, waits for the shell
        until = time.monotonic() + _GONE_SECONDS
        while _threads_of(self._shell.pid) and time.monotonic() < until:
            time.sleep(_POLL_SECONDS / 10)

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not _answers(self.source.url):
            if not self.alive:
                raise self._failed(f"ended with status {self._shell.returncode}")
            if time.monotonic() > until:
                raise self._failed(
                    f"did not answer at {self.source.url} within {seconds:g} s "
                    "(server.ready_seconds)"
                )
            time.sleep(_POLL_SECONDS)
        if not self.alive:  # what answers is somebody else
            raise self._failed(
                f"ended with status {self._shell.returncode}, and another server answers at "
                f"{self.source.url}"
            )

    def _failed(self, how: str) -> ModelLoadError:
        words = self._log.read_text(errors="replace")[-_LAST_WORDS:].strip()
        return ModelLoadError(
            f"the server started by {' '.join(self._command)!r} {how}; its last words, of "
            f"{self._log}:\n{words}"
        )


class ServerProcesses:
    """The servers that a run has started, each once; ``log`` makes a log's place of a name."""

    def __init__(self, folder: Path, log: Callable[[str], Path]) -> None:
        self._folder = folder
        self._log = log
        self._running: dict[tuple[str, tuple[str, ...]], ServerProcess] = {}
        self._in_turns: dict[tuple[str, tuple[str, ...]], ServerSource] = {}

    def of(self, declared: ServerSource | None, name: str) -> ServerSource | None:
        """The server that answers: as declared, or started for the model of that name. One that
        takes turns is not started; it learns where."""
        if declared is None or not declared.command:
            return declared
        key = (declared.url, declared.command)
        if declared.in_turns:
            if key not in self._in_turns:
                self._in_turns[key] = self._placed(declared, name)
            return self._in_turns[key]
        if key in self._running and not self._running[key].alive:
            self._running.pop(key).close()
        if key not in self._running:
            self._running[key] = ServerProcess(declared, self._log(name), self._folder)
        source = self._running[key].source
        return replace(declared, url=source.url, command=())

    def _placed(self, declared: ServerSource, name: str) -> ServerSource:
        """With a port that is its own, however often it is started."""
        port = str(free_port())
        return replace(
            declared,
            url=declared.url.replace(_PORT, port),
            command=tuple(word.replace(_PORT, port) for word in declared.command),
            folder=str(self._folder),
            log=str(self._log(name).absolute()),
        )

    def keep(self, declared: ServerSource | None = None) -> None:
        """End every server but one."""
        kept = None if declared is None else (declared.url, declared.command)
        for key in [key for key in self._running if key != kept]:
            self._running.pop(key).close()


def _answers(url: str) -> bool:
    """Whether a server is there and ready: by its health, or, where it tells none, by its list of
    models."""
    import httpx2  # 0.1 s, and most runs start no server

    for path in (f"{url.rstrip('/').removesuffix('/v1')}/health", f"{url.rstrip('/')}/models"):
        try:
            status = httpx2.get(path, timeout=10).status_code
        except httpx2.HTTPError:
            return False
        if status not in (404, 405):
            return status < 500
    return True


def _threads_of(group: int) -> int:
    """How many threads of a process group still run, where the system lists them in /proc. A killed
    one takes a moment; its files and its device are free when the last one has ended."""
    count = 0
    for listed in Path("/proc").glob("[0-9]*/task/[0-9]*/stat"):
        try:
            state, _, own, *_ = listed.read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        count += int(own) == group and state not in ("Z", "X")
    return count


def free_port() -> int:
    """A port of loopback that nobody listens at now."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])
