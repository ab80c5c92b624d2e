"""The state of one ``pytest --infopt`` run: release, journal, the models in use, results.

One object, made at configure and kept in the pytest config's stash. Under pytest-xdist every worker
has one of its own and the controller has one that only gathers results and writes reports.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ..conformance.results import CONFORMANCE, merged
from ..engines.files.size import parameters_of
from ..engines.weight_precision import Precision
from ..errors import ConfigurationError
from ..gates.base import GateSpec
from ..gates.limits import candidate_limits, not_applicable_lines
from ..metrics.budget import Budget
from ..release import Candidate, Release
from ..report.message import failure_message
from ..results.gate_result import GateResult
from ..results.run_result import RunResult
from ..results.verdict import Verdict, combine
from ..store.journal import Journal, RunRecords
from ..store.lock import RunLock
from ..version import __version__
from .baseline_policy import BaselinePolicy
from .models import LoadedModels
from .noise_policy import NoisePolicy

if TYPE_CHECKING:
    from .scope import Scope

SESSION_KEY: pytest.StashKey[InfoptSession] = pytest.StashKey()
Progress = Callable[[str, int, int, Sequence[str], float], None]


@dataclass
class InfoptSession:
    """What the hooks, the fixtures and the gates of one run share.

    ``directory`` is the run's own folder; ``earlier`` holds what a run that is being resumed left
    behind; ``source_arguments`` are the command-line arguments that name the release, for the
    command that reproduces a failure; ``kept`` is what gates keep for all candidates, by gate and
    name. ``distrust`` says why this runner cannot time, if it cannot. ``scope`` is what was asked
    for, ``fingerprint`` of which release; ``faults`` what broke beside the gates.
    """

    release: Release
    root: Path
    directory: Path
    source_arguments: list[str]
    earlier: RunRecords
    journal: Journal
    baselines: BaselinePolicy
    scope: Scope
    fingerprint: str
    noise: NoisePolicy
    worker_id: str = "main"
    results: dict[tuple[str, str], GateResult] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    descriptions: dict[str, dict[str, Any]] = field(default_factory=dict)
    kept: dict[tuple[str, str], object] = field(default_factory=dict)
    distrust: str = ""
    diagnosing_seconds: float = 0.0  # spent on looking for causes
    on_progress: Progress | None = None
    _lock: RunLock | None = None
    _started: datetime = field(default_factory=lambda: datetime.now(UTC))
    _clock: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        alone = self.worker_id == "main"
        worker = None if alone else int(self.worker_id.removeprefix("gw"))
        self.models = LoadedModels(self.release, self.root, self.directory, self.learn, worker)

    def begin(self) -> None:
        """Take the run's folder, and write the first line of the journal.

        Raises ConfigurationError where that cannot be done.
        """
        if self.worker_id == "main":
            self._lock = RunLock(self.directory)
        self.earlier = RunRecords.read(self.directory)  # now that nobody else writes to it
        self.journal.write_run(self.fingerprint, self.release.statistics.seed, __version__)
        if self.journal.failure:
            raise ConfigurationError(self.journal.failure)

    def budgets_for(self, candidate: Candidate, spec: GateSpec) -> dict[str, Budget]:
        """The candidate's limits at this gate, each no looser than the committed baseline."""
        if not spec.follows_baselines:
            return candidate.budgets
        return {
            name: self.baselines.tightest(candidate, budget)
            for name, budget in spec.limits_among(self.budgets_of(candidate)).items()
        }

    def budgets_of(self, candidate: Candidate) -> dict[str, Budget]:
        """All of a candidate's limits; where its precision, or the reference's size, shows once the
        models are loaded, the defaults are then those of what was seen."""
        release, seen = self.release, self.descriptions.get(candidate.name)
        own = candidate in release.candidates and candidate.has_defaults
        if seen is None or not own:
            return candidate.budgets
        return candidate_limits(
            release.plans,
            candidate.source,
            release.reference,
            Precision(**seen["precision"]),
            candidate.written,
            served=candidate.server is not None,
            drafted=candidate.draft is not None,
            parameters=parameters_of(release.reference) or seen["parameters"],
        )

    def learn(self, candidate: str, description: dict[str, Any]) -> None:
        """Keep what a pair, here or in an xdist worker, says of its models and machine."""
        self.descriptions[candidate] = description
        date = self._started.date().isoformat()
        self.baselines.describe(candidate, description, self.directory.name, date)

    def show_progress(
        self, what: str, done: int, planned: int, waiting: Sequence[str], deadline: float
    ) -> None:
        if self.on_progress is not None:
            self.on_progress(what, done, planned, waiting, max(0.0, deadline - time.monotonic()))

    def finish(self, result: GateResult) -> None:
        """Keep an item's result, in memory and in the journal."""
        self.results[(result.gate, result.candidate)] = result
        self.journal.write_item(result)

    def conclude(self, result: GateResult) -> None:
        """Keep the result; end the pytest item with it."""
        __tracebackhide__ = True
        self.finish(result)
        self.end_item(result)

    def end_item(self, result: GateResult) -> None:
        """Fail the pytest item, or skip it where nothing was shown, unless the result passed or the
        policy lets it be."""
        __tracebackhide__ = True
        policy = self.release.statistics.policy
        if result.verdict is Verdict.INCONCLUSIVE and policy != "fail":
            if policy != "warn":
                pytest.skip(failure_message(result))
        elif result.verdict is not Verdict.PASS:
            pytest.fail(failure_message(result), pytrace=False)

    def command_for(self, spec: GateSpec, candidate: Candidate) -> str:
        """The shell command that runs this gate on this candidate again."""
        where = f"{spec.procedure}::test_{spec.word}[{candidate.name}]"
        seed = f"--infopt-seed={self.release.statistics.seed}"
        words = ["pytest", "--infopt", *self.source_arguments, seed, "--pyargs", where]
        return shlex.join(words)

    def gather(self, result: GateResult) -> None:
        """Keep the result that a report brought; properties of one implementation make one.

        A gate has one verdict in a run. Where it was run again or by two workers, the worse counts.
        """
        key = (result.gate, result.candidate)
        earlier = self.results.get(key)
        if earlier is not None and result.gate == CONFORMANCE:
            self.results[key] = merged(earlier, result)
        elif earlier is None or combine([earlier.verdict, result.verdict]) is not earlier.verdict:
            self.results[key] = result

    def timing_distrust(self) -> str:
        """Why this process cannot time, or the empty string."""
        if self.worker_id != "main":
            return (
                "timing shares the cores with other xdist workers; run the gates on time with -n0"
            )
        return self.distrust

    def close(self) -> None:
        """Give the models' memory back and close the journal."""
        self.models.close()
        self.journal.close()

    def end(self) -> None:
        """Give the run's folder free, after the reports."""
        if self._lock is not None:
            self._lock.release()

    def known_faults(self) -> list[str]:
        """What broke beside the gates, in this process and in the workers that have ended."""
        return [*self.faults, *filter(None, [self.journal.failure])]

    def run_result(self) -> RunResult:
        """Everything known so far, as the reports want it."""
        described = next(iter(self.descriptions.values()), {})
        broken = self.scope.broken(self.results)
        results = {**self.results, **{(g.gate, g.candidate): g for g in broken.gates}}
        order = [key for key in self.scope.planned if key in results]
        return RunResult(
            version=__version__,
            started=self._started.isoformat(timespec="seconds"),
            run_id=self.directory.name,
            environment=described.get("environment", {}),
            reference={**asdict(self.release.reference), **described.get("reference", {})},
            candidates=[
                {
                    **asdict(candidate.source),
                    **self.descriptions.get(candidate.name, {}).get("candidate", {}),
                }
                for candidate in self.release.candidates
            ],
            gates=[results[key] for key in dict.fromkeys([*order, *results])],
            seconds=time.monotonic() - self._clock,
            not_run=[*self.scope.unfinished(results), *self.baselines.unused(self.release)],
            left_out=[*self.release.not_run, *self.scope.left_out()],
            not_applicable=list(not_applicable_lines(self.release)),
            failed_tests=broken.tests,
            faults=[*broken.faults, *self.known_faults()],
            corpus=described.get("corpus", ""),
        )
