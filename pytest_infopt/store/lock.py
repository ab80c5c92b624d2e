"""A run's folder belongs to one process at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from ..errors import ConfigurationError

_NAME = "lock"


class RunLock:
    """Held from the first measurement to the last report; the system frees it when the process
    dies, however it does."""

    def __init__(self, directory: Path) -> None:
        """Make the folder and take it.

        Raises ConfigurationError where it cannot be made, or while another process holds it.
        """
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._stream = (directory / _NAME).open("a+")
        except OSError as error:
            raise ConfigurationError(
                f"{directory} cannot be written: {error.strerror or error}; name another folder "
                "with --infopt-report-dir"
            ) from error
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._stream.seek(0)
            holder = self._stream.read().strip() or "?"
            self._stream.close()
            raise ConfigurationError(
                f"run {directory.name} is under way (process {holder}); wait until it has ended"
            ) from error
        self._stream.truncate(0)
        self._stream.write(f"{os.getpid()}\n")
        self._stream.flush()

    def release(self) -> None:
        self._stream.close()
