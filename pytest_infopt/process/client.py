"""pytest's side of a model pair: its process, and typed proxies of what measures there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from ..release import ModelSource, Release
from .remote import RemoteProxy
from .worker import Worker

if TYPE_CHECKING:
    from .model_pair import ModelPair


class ModelPairClient:
    """A `ModelPair` in its own process. Every call may raise WorkerError; see `Worker.call`."""

    def __init__(
        self, release: Release, candidate: ModelSource, *, root: Path, cache: Path, log: Path
    ) -> None:
        self.candidate = candidate.name
        self._arguments = (release, candidate, root, cache)
        self._log = log
        self._timeout = release.statistics.timeout_seconds
        self._worker = self._start()

    def _start(self) -> Worker:
        return Worker(
            "pytest_infopt.process.model_pair:ModelPair",
            *self._arguments,
            log=self._log,
            timeout_seconds=self._timeout,
        )

    @property
    def pair(self) -> ModelPair:
        """The pair itself, of which remote methods can be called."""
        return cast("ModelPair", self.proxy(""))

    def proxy(self, receiver: str) -> RemoteProxy:
        """Whatever "module:class" makes of the pair over there; it outlives a `restart`."""
        return RemoteProxy(lambda *call: self._worker.call(receiver, *call))

    @property
    def alive(self) -> bool:
        return self._worker.alive

    def restart(self) -> None:
        """The same models anew, in a new process."""
        self._worker.close()
        self._worker = self._start()

    def close(self) -> None:
        self._worker.close()
