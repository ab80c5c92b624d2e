"""What test_run_worker has a worker process hold."""

import os
import time

from pytest_infopt.process.remote import remote


class Host:
    """Reads, writes, hangs and dies on request."""

    def __init__(self, word: str = "") -> None:
        self.word = word

    @remote
    def pid(self) -> int:
        return os.getpid()

    @remote
    def size(self, path: str) -> int:
        return os.stat(path).st_size

    @remote
    def die(self, signal: int) -> None:
        os.kill(os.getpid(), signal)

    @remote
    def say(self, words: bytes) -> None:
        os.write(2, words)

    @remote
    def exit(self, status: int) -> None:
        os._exit(status)

    @remote
    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def private(self) -> None:
        """Not for other processes."""


class Guest:
    """Made of the host, over there."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._calls = 0

    @remote
    def host_word(self, suffix: str) -> tuple[str, int]:
        self._calls += 1
        return self._host.word + suffix, self._calls
