"""The state of one ``pytest --infopt`` run: release, journal, the models in use, results.

One object, made at configure and kept in the pytest config's stash. Under pytest-xdist every worker
has one of its own and the controller has one that only gathers results and writes reports.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from . import __version__
from .client import BenchClient
from .configuration import fingerprint
from .conformance.results import CONFORMANCE, merged
from .errors import ConfigurationError, InfoptError
from .judge.budgets import Budget
from .judge.verdict import Verdict
from .measure.memory import resident_pair
from .measure.samples import Sample
from .metrics import Gate, Rule
from .options import resolve
from .ratchet import Ratchet
from .release import Candidate, ModelSource, Release
from .report.result import GateResult, RunResult
from .store.journal import (
    Journal,
    RunRecords,
    journal_path,
    latest_run,
    new_run_id,
    run_directory,
)
from .worker import Worker

if TYPE_CHECKING:
    from .gate import GateRun

_NOTICEABLE = 1.5  # a slow-down that a runner must tell from none if it is to time anything
SESSION_KEY: pytest.StashKey[InfoptSession] = pytest.StashKey()


@dataclass
class InfoptSession:
    """What the hooks, the fixtures and the gates of one run share.

    ``directory`` is the run's own folder; ``earlier`` holds what a run that is being resumed left
    behind; ``source_arguments`` are the command-line arguments that name the release, for the
    command that reproduces a failure.
    """

    release: Release
    root: Path
    directory: Path
    source_arguments: list[str]
    earlier: RunRecords
    journal: Journal
    ratchet: Ratchet
    worker_id: str = "main"
    results: dict[tuple[str, str], GateResult] = field(default_factory=dict)
    planned: list[tuple[str, str]] = field(default_factory=list)
    description: dict[str, dict[str, Any]] = field(default_factory=dict)
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    _clock: float = field(default_factory=time.monotonic)
    _bench: BenchClient | None = None
    _broken: dict[str, InfoptError] = field(default_factory=dict)
    _distrust: str = ""
    on_progress: Callable[[GateRun, int, int], None] | None = None

    def subjects(self, gate: Gate) -> list[Candidate]:
        """Who is put through this gate: candidates with a budget for it; for the self-check, the
        reference in the candidate's place, where any candidate is timed; for the semantic cache,
        its embedder."""
        if gate is Gate.SEMANTIC_CACHE:
            return self._embedders()
        if gate is not Gate.SELF_CHECK:
            return [c for c in self.release.candidates if c.budgets_of(gate)]
        own = self._reference_as_candidate()
        return [own] if own.budgets else []

    def subject(self, gate: Gate, name: str) -> Candidate:
        return next(c for c in self.subjects(gate) if c.name == name)

    def _embedders(self) -> list[Candidate]:
        plan = self.release.semantic_cache
        if not plan.embedder:
            return []
        source = ModelSource(plan.embedder.replace(":", "."), plan.embedder)
        return [Candidate(source, dict(plan.budgets))]

    def semantic_bench(self) -> Worker:
        """The embedder in a process of its own (`semantic_bench.SemanticBench`)."""
        self.close_bench()  # its memory is not needed meanwhile
        return Worker(
            "pytest_infopt.semantic_bench:SemanticBench",
            self.release.semantic_cache,
            self.release.statistics.seed,
            log=self.directory / "worker-semantic-cache.log",
            timeout_seconds=self.release.statistics.timeout_seconds,
        )

    def _reference_as_candidate(self) -> Candidate:
        """The reference judged by the tightest of the candidates' latency ratios, none looser than
        a slow-down that every runner has to notice."""
        tightest: dict[str, Budget] = {}
        for candidate in self.release.candidates:
            for name, budget in candidate.budgets_of(Gate.LATENCY).items():
                known = tightest.get(name)
                if budget.metric.rule is Rule.SIGN and (
                    known is None or budget.limit < known.limit
                ):
                    tightest[name] = budget
        source = replace(self.release.reference, name=f"{self.release.reference.name} (itself)")
        budgets = {
            name: replace(budget, limit=min(budget.limit, _NOTICEABLE))
            for name, budget in tightest.items()
        }
        return Candidate(source, budgets)

    def budgets_for(self, candidate: Candidate, gate: Gate) -> dict[str, Budget]:
        """The candidate's limits at this gate, each no looser than the committed baseline."""
        if gate is Gate.SELF_CHECK:
            return candidate.budgets
        return {
            name: self.ratchet.tightest(candidate, budget)
            for name, budget in candidate.budgets_of(gate).items()
        }

    def bench(self, candidate: Candidate) -> BenchClient:
        """Both models, loaded; one candidate at a time.

        A candidate that could not be loaded is not tried again: every later gate on it raises the
        same error. A process that died while measuring is replaced.
        """
        if candidate.name in self._broken:
            raise self._broken[candidate.name]
        if (
            self._bench is not None
            and self._bench.candidate == candidate.name
            and self._bench.alive
        ):
            return self._bench
        self.close_bench()
        bench = BenchClient(
            self.release,
            candidate.source,
            root=self.root,
            cache=self.directory.parent.parent / "cache",
            log=self.directory / f"worker-{candidate.name}.log",
        )
        try:
            self.learn(candidate.name, bench.describe())
        except InfoptError as error:
            self._broken[candidate.name] = error
            bench.close()
            raise
        self._bench = bench
        return bench

    def learn(self, candidate: str, description: dict[str, Any]) -> None:
        """Keep what a bench, here or in an xdist worker, says of its models and machine."""
        self.description[candidate] = description
        self.ratchet.describe(candidate, description, self.directory)

    def close_bench(self) -> None:
        if self._bench is not None:
            self._bench.close()
            self._bench = None

    def measure_resident(self, candidate: Candidate, candidate_first: bool) -> Sample:
        """Peak resident memory of a fresh process with the candidate over one with the other."""
        sources = {"candidate": candidate.source, "reference": self.release.reference}
        order = ["candidate", "reference"] if candidate_first else ["reference", "candidate"]
        peaks = {who: self._resident_bytes(sources[who]) for who in order}
        return resident_pair(peaks["reference"], peaks["candidate"], "processes")

    def _resident_bytes(self, source: object) -> int:
        # The worker calls functions of whatever its factory returns: here, of the module itself.
        worker = Worker(
            "importlib:import_module",
            "pytest_infopt.measure.memory",
            log=self.directory / "worker-resident.log",
            timeout_seconds=self.release.statistics.timeout_seconds,
        )
        try:
            plan = self.release.latency
            return int(worker.call("load_and_run", source, plan.prompt_tokens + plan.new_tokens))
        finally:
            worker.close()

    def journalled(self, gate: str, candidate: str, phase: str) -> list[Sample]:
        """Samples of a run that is being resumed, in the order in which they were taken."""
        return self.earlier.samples(gate, candidate, phase)

    def decided_earlier(self, gate: GateRun) -> GateResult | None:
        """The verdict that the run being resumed had already reached; errors are tried again, and
        what was inconclusive goes on from its samples."""
        result = self.earlier.finished().get((gate.gate, gate.candidate.name))
        decided = (Verdict.PASS, Verdict.FAIL)
        return result if result is not None and result.verdict in decided else None

    def progress(self, gate: GateRun, done: int, planned: int) -> None:
        if self.on_progress is not None:
            self.on_progress(gate, done, planned)

    def finish(self, result: GateResult) -> None:
        """Keep an item's result, in memory and in the journal."""
        self.results[(result.gate, result.candidate)] = result
        self.journal.write_item(result)

    def gather(self, result: GateResult) -> None:
        """Keep the result that a report brought; properties of one implementation make one."""
        key = (result.gate, result.candidate)
        earlier = self.results.get(key) if result.gate == CONFORMANCE else None
        self.results[key] = result if earlier is None else merged(earlier, result)

    def timing_distrust(self) -> str:
        """Why this process cannot time, or the empty string."""
        if self.worker_id != "main":
            return (
                "timing shares the cores with other xdist workers; run latency gates with -n0 "
                '(pytest --infopt -k "latency")'
            )
        return self._distrust

    def distrust_timing(self, reason: str) -> None:
        self._distrust = reason

    def close(self) -> None:
        """Give the models' memory back and close the journal."""
        self.close_bench()
        self.journal.close()

    def run_result(self) -> RunResult:
        """Everything known so far, as the reports want it."""
        described = next(iter(self.description.values()), {})
        return RunResult(
            version=__version__,
            started=self.started.isoformat(timespec="seconds"),
            run_id=self.directory.name,
            environment=described.get("environment", {}),
            reference={**asdict(self.release.reference), **described.get("reference", {})},
            candidates=[
                {
                    **asdict(candidate.source),
                    **self.description.get(candidate.name, {}).get("candidate", {}),
                }
                for candidate in self.release.candidates
            ],
            gates=[self.results[key] for key in self.planned if key in self.results]
            + [result for key, result in self.results.items() if key not in self.planned],
            seconds=time.monotonic() - self._clock,
            not_run=[
                *self.release.not_run,
                *(f"{g} of {c}" for g, c in self.planned if (g, c) not in self.results),
            ],
        )


def open_session(config: pytest.Config, release: Release) -> InfoptSession:
    """The state of the run that ``config`` starts or resumes.

    Raises ConfigurationError when the run to resume is not there or gated another release.
    """
    worker = getattr(config, "workerinput", {})
    directory = _run_directory(config, release, worker)
    worker_id = worker.get("workerid", "main")
    earlier = RunRecords.read(directory)
    gated = fingerprint(release, config.rootpath)
    _check_same_release(earlier, gated, directory)
    ratchet = Ratchet.of(config, release)  # may refuse, so before anything is opened
    journal = Journal(journal_path(directory, worker_id))
    journal.write_run(gated, release.statistics.seed, __version__)
    return InfoptSession(
        release=release,
        root=config.rootpath,
        directory=directory,
        source_arguments=_source_arguments(config),
        earlier=earlier,
        journal=journal,
        ratchet=ratchet,
        worker_id=worker_id,
    )


def _run_directory(config: pytest.Config, release: Release, worker: dict[str, Any]) -> Path:
    if "infopt_directory" in worker:  # an xdist worker writes where the controller does
        return Path(worker["infopt_directory"])
    base = release.report_dir or config.rootpath / ".infopt"
    resumed = resolve(config, "resume")
    if resumed is None:
        return run_directory(base, new_run_id())
    found = latest_run(base) if resumed == "latest" else run_directory(base, resumed)
    if found is None or not found.is_dir():
        raise ConfigurationError(f"--infopt-resume={resumed}: no such run below {base / 'runs'}")
    return found


def _check_same_release(earlier: RunRecords, gated: str, directory: Path) -> None:
    before = earlier.run
    if before is not None and before["fingerprint"] != gated:
        raise ConfigurationError(
            f"--infopt-resume: {directory.name} gated another release (models, corpus, budgets, "
            f"seed or statistics have changed since); start a new run"
        )


def _source_arguments(config: pytest.Config) -> list[str]:
    """The command line's own words on what is gated, as they were given."""
    words = [str(word) for word in config.invocation_params.args]
    kept: list[str] = []
    for index, word in enumerate(words):
        name, equals, _ = word.partition("=")
        if name in ("--infopt-config", "--infopt-reference", "--infopt-candidate"):
            kept += [word] if equals else words[index : index + 2]
    return kept
