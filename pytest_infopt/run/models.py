"""The models in use: one candidate beside the reference at a time, in a process of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InfoptError
from ..gates.base import GateSpec
from ..process.client import ModelPairClient
from ..release import Candidate, Release


@dataclass
class LoadedModels:
    """Loads what gates ask for.

    ``directory`` is the run's folder, beside whose parent the cache lies. ``learn`` is told what
    each pair says of its models and machine.
    """

    release: Release
    root: Path
    directory: Path
    learn: Callable[[str, dict[str, Any]], None]
    _client: ModelPairClient | None = None
    _broken: dict[str, InfoptError] = field(default_factory=dict)

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
        self.close()
        client = self._open(candidate, f"worker-{candidate.name}")
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
        """Give the models' memory back."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def _open(self, candidate: Candidate, log: str) -> ModelPairClient:
        return ModelPairClient(
            self.release,
            candidate.source,
            root=self.root,
            cache=self.directory.parent.parent / "cache",
            log=self.directory / f"{log}.log",
        )
