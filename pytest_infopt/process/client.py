"""pytest's side of a bench: the same calls, answered by the process that holds the models."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from ..release import ModelSource, Release, ServerSource
from ..results.sample import Sample
from .worker import Worker


class BenchClient:
    """A `bench.Bench` in a worker process. Every call may raise WorkerError; see `Worker.call`."""

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
            "pytest_infopt.process.bench:Bench",
            *self._arguments,
            log=self._log,
            timeout_seconds=self._timeout,
        )

    @property
    def alive(self) -> bool:
        return self._worker.alive

    def restart(self) -> None:
        """The same models anew, in a new process."""
        self._worker.close()
        self._worker = self._start()

    def close(self) -> None:
        self._worker.close()

    def describe(self) -> dict[str, Any]:
        return cast("dict[str, Any]", self._worker.call("describe"))

    def documents(self) -> list[str]:
        return cast("list[str]", self._worker.call("documents"))

    def measure_document(self, document_id: str) -> Sample:
        return cast(Sample, self._worker.call("measure_document", document_id))

    def measure_prompt(self, index: int) -> Sample:
        return cast(Sample, self._worker.call("measure_prompt", index))

    def warm_up(self) -> None:
        self._worker.call("warm_up")

    def slow_candidate(self, factor: float) -> None:
        self._worker.call("slow_candidate", factor)

    def measure_pair(self, index: int, candidate_first: bool) -> Sample:
        return cast(Sample, self._worker.call("measure_pair", index, candidate_first))

    def measure_memory(self) -> tuple[Sample, Sample]:
        return cast("tuple[Sample, Sample]", self._worker.call("measure_memory"))

    def measure_kv_prompt(self, index: int) -> Sample:
        return cast(Sample, self._worker.call("measure_kv_prompt", index))

    def measure_kv_growth(self) -> Sample:
        return cast(Sample, self._worker.call("measure_kv_growth"))

    def measure_prefix_prompt(self, index: int) -> Sample:
        return cast(Sample, self._worker.call("measure_prefix_prompt", index))

    def shared_prompt_table(self) -> dict[str, Any]:
        return cast("dict[str, Any]", self._worker.call("shared_prompt_table"))

    def measure_long_text(self, index: int) -> Sample:
        return cast(Sample, self._worker.call("measure_long_text", index))

    def long_context_table(self, samples: list[Sample]) -> dict[str, Any]:
        return cast("dict[str, Any]", self._worker.call("long_context_table", samples))

    def measure_served_chat(self, server: ServerSource, index: int) -> Sample:
        return cast(Sample, self._worker.call("measure_served_chat", server, index))

    def served_table(self, samples: list[Sample]) -> dict[str, Any]:
        return cast("dict[str, Any]", self._worker.call("served_table", samples))

    def measure_batch_invariance(self, index: int) -> Sample:
        return cast(Sample, self._worker.call("measure_batch_invariance", index))

    def measure_batching_pair(self, index: int, batched_first: bool) -> Sample:
        return cast(Sample, self._worker.call("measure_batching_pair", index, batched_first))

    def measure_window(self) -> Sample:
        return cast(Sample, self._worker.call("measure_window"))

    def strategies_table(self) -> dict[str, Any]:
        return cast("dict[str, Any]", self._worker.call("strategies_table"))
