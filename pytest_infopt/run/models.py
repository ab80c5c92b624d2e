"""The models in use: one candidate beside the reference at a time, in a process of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import InfoptError
from ..gates.base import GateSpec
from ..process.client import ModelPairClient
from ..process.server_process import ServerProcesses
from ..release import Candidate, ModelSource, Release


@dataclass
class LoadedModels:
    """Loads what gates ask for.

    ``directory`` is the run's folder, beside whose parent the cache lies. ``learn`` is told what
    each pair says of its models and machine. ``worker`` is pytest-xdist's number of this
    process, None without it.
    """

    release: Release
    root: Path
    directory: Path
    learn: Callable[[str, dict[str, Any]], None]
    worker: int | None = None
    _client: ModelPairClient | None = None
    _broken: dict[str, InfoptError] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._servers = ServerProcesses(
            self.release.directory.absolute(), lambda name: self.directory / f"server-{name}.log"
        )

    def of(self, candidate: Candidate, spec: GateSpec) -> ModelPairClient:
        """The pair of the candidate; it is kept until another candidate is asked for.

        A candidate that could not be loaded is not tried again: every later gate on it raises the
        same error. A process that died while measuring is replaced.
        """
        if candidate.name in self._broken:
            raise self._broken[candidate.name]
        client = self._client
        if client is not None and client.candidate == candidate.name and client.alive:
            return client
        self._close_client()
        if client is None or client.candidate != candidate.name:
            self._servers.keep(self.release.reference.server)
        try:
            client = self._open(candidate, f"worker-{candidate.name}")
        except InfoptError as error:
            self._broken[candidate.name] = error
            raise
        if spec.loads_models:
            try:
                self.learn(candidate.name, client.pair.describe())
            except InfoptError as error:
                self._broken[candidate.name] = error
                client.close()
                raise
        self._client = client
        return client

    @contextmanager
    def fresh(self, candidate: Candidate) -> Iterator[ModelPairClient]:
        """A pair in a process of its own, with nothing loaded, that ends with the block."""
        client = self._open(candidate, "worker-fresh")
        try:
            yield client
        finally:
            client.close()

    def close(self) -> None:
        """Give the models' memory back; end the servers that were started."""
        self._close_client()
        self._servers.keep()

    def _close_client(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def _open(self, candidate: Candidate, log: str) -> ModelPairClient:
        return ModelPairClient(
            replace(self.release, reference=self._served(self.release.reference)),
            self._served(candidate.source),
            root=self.root,
            cache=self.directory.parent.parent / "cache",
            log=self.directory / f"{log}.log",
        )

    def _served(self, source: ModelSource) -> ModelSource:
        """The source with the server that answers, started where the release says how, or the
        worker's own among its replicas."""
        server = self._servers.of(source.server, source.name)
        return replace(source, server=server.share(self.worker) if server else None)
