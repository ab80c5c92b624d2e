"""A release gate, stated once: its metrics, its plans, its limits, what it needs and who is judged.

A gate is a folder with three files:

    gate.py              GATE = GateSpec(package=__package__, name="recall", …); imports no torch
    measure.py           a class that runs in the models' process; its `remote` methods measure
    test_gate_recall.py  the procedure: a pytest test that asks for the fixture ``infopt_gate``

and one line of the package's entry points, ``infopt.gates``: ``recall = "package.gate:GATE"``.
Schema, fingerprint, plan lines, default budgets and the table of metrics are made from the spec.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from ..engines.base import Capability, missing
from ..engines.formats import format_of
from ..engines.registry import engine_named
from ..engines.weight_precision import Precision
from ..errors import ConfigurationError
from ..metrics.budget import Budget
from ..metrics.metric import Metric
from ..release import Candidate, ModelSource, Release
from .plan import Plan


class Cause(StrEnum):
    """Where the cause of a FAIL is looked for: a method of `diagnose.measure.DiagnoseMeasure`."""

    WEIGHTS = "weights"  # the candidate's modules against the reference's
    CACHE = "cache"  # its passes through the KV cache against its plain ones
    ROUTES = "routes"  # its passes alone against those in a batch, padded, by other paths


@dataclass(frozen=True)
class BudgetContext:
    """What default budgets may depend on.

    ``budgets`` are the limits that gates of a lower order have on this candidate, ``written`` those
    that somebody wrote for any gate, None for a default that was switched off; ``served`` says that
    a server serves it, ``drafted`` that its tokens are drafted; ``parameters`` is about how
    many the reference has, None if unknown.
    """

    candidate: ModelSource
    reference: ModelSource
    precision: Precision
    budgets: Mapping[str, Budget] = field(default_factory=dict)
    served: bool = False
    drafted: bool = False
    parameters: int | None = None
    written: Mapping[str, Budget | None] = field(default_factory=dict)

    @property
    def meant_to_serve(self) -> bool:
        """Whether the candidate's implementation is: our reference quantizers are not."""
        return format_of(self.candidate.quantization).serves

    @property
    def in_turns(self) -> bool:
        """Whether the servers of candidate and reference are never up together."""
        return self.candidate.in_turns and self.reference.in_turns

    @property
    def couples_rows(self) -> bool:
        """Whether a row's outputs depend on its neighbours by the candidate's format."""
        return format_of(self.candidate.quantization).couples_rows


class Unable(NamedTuple):
    """An engine that a gate cannot be run on, and what it lacks: "full logits, batches"."""

    engine: str
    lacks: str


def no_budgets(context: BudgetContext) -> Mapping[str, float]:
    """The defaults of a gate that limits nothing by itself."""
    return {}


def _no_document(release: Release) -> int:
    return 0


def _nothing(release: Release) -> Sequence[str]:
    return ()


def _by_nobody(source: ModelSource) -> bool:
    return False


def _nothing_named(candidate: Candidate) -> str:
    return ""


def _unknown(release: Release, of_the_corpus: int | None) -> int | None:
    return None


def _sampled(release: Release) -> bool:
    return False


@dataclass(frozen=True, eq=False)
class GateSpec:
    """A gate. Only ``package``, ``name``, ``summary`` and ``metrics`` must be given.

    Args:
        package: the package that holds ``measure`` and ``test_gate_NAME``; write ``__package__``.
        name: what users call it, lower case, words joined by hyphens.
        summary: one sentence for documentation and plan.
        metrics: what it measures, in the order in which reports print it.
        order: gates run, and are printed, in this order; ours take 10, 20, … 100.
        samples: what one independent unit is called, in the plural.
        plans: the tables of infopt.toml that it reads. Gates may share a plan.
        switch: a plan and its field; without a value there, the release does not ask for the gate.
        wanted_by: candidates that ask for it by themselves, whatever the switch.
        requires: what the engines of reference and candidate must offer.
        unnamed: what a candidate has to name for this gate and does not; "" where it does.
        default_budgets: the limits by metric where nobody wrote any, in the metric's unit; on
            bytes, as a share of the reference's.
        subjects: who is judged: by default, candidates with a budget on one of the metrics.
        per_release: its limits are the release's own ([budgets]), not a candidate's.
        most_samples: the most samples that a release can give, None where nothing is known;
            ``documents`` is how many the corpus has.
        sample_tokens: how many values a sample holds, where that bears on the fewest that can
            pass; ``document_tokens`` is about how many a document has.
        identical_outputs_pass: outputs with the reference's bits pass, however few.
        loads_models: the measure needs reference and candidate, compared before it starts.
        follows_baselines: a committed baseline may tighten its limits.
        alpha: takes the place of both error rates of the release.
        causes: where the cause of a metric's FAIL is looked for, by metric; nowhere by default.
        fewest_documents: the fewest documents of the corpus without which it cannot be run.
        imports: what the release has the gate import, as "module:name".
        population: whether the release declares that its samples are all there is: their own mean
            is then judged, without statistics.
        announced: what the plan says of a release beside limits, a sentence each.
        budget_seconds: its measuring time where the release grants none.
    """

    package: str
    name: str
    summary: str
    metrics: tuple[Metric, ...]
    order: int = 1000
    samples: str = "samples"
    plans: tuple[type[Plan], ...] = ()
    switch: tuple[type[Plan], str] | None = None
    wanted_by: Callable[[ModelSource], bool] = _by_nobody
    requires: frozenset[Capability] = frozenset()
    unnamed: Callable[[Candidate], str] = _nothing_named
    default_budgets: Callable[[BudgetContext], Mapping[str, float]] = no_budgets
    subjects: Callable[[Release], Sequence[Candidate]] | None = None
    per_release: bool = False
    most_samples: Callable[[Release, int | None], int | None] = _unknown
    sample_tokens: Callable[[Release, int | None], int | None] = _unknown
    identical_outputs_pass: bool = False
    loads_models: bool = True
    follows_baselines: bool = True
    alpha: float | None = None
    causes: Mapping[str, Cause] = field(default_factory=dict)
    fewest_documents: Callable[[Release], int] = _no_document
    imports: Callable[[Release], Sequence[str]] = _nothing
    population: Callable[[Release], bool] = _sampled
    announced: Callable[[Release], Sequence[str]] = _nothing
    budget_seconds: float = 120.0

    @property
    def word(self) -> str:
        """The name as Python spells it."""
        return self.name.replace("-", "_")

    @property
    def measure_target(self) -> str:
        """Where the measure's class is, as "module:class"."""
        camel = "".join(part.capitalize() for part in self.name.split("-"))
        return f"{self.package}.measure:{camel}Measure"

    @property
    def procedure(self) -> str:
        """The module of the gate's test, as ``pytest --pyargs`` takes it."""
        return f"{self.package}.test_gate_{self.word}"

    @property
    def node_id(self) -> str:
        """The beginning of its items' ids, wherever the package is installed."""
        return f"{self.procedure.replace('.', '/')}.py"

    @cached_property
    def procedure_file(self) -> Path:
        """The file of the gate's test. Raises ConfigurationError where there is none."""
        spec = importlib.util.find_spec(self.procedure)
        if spec is None or spec.origin is None:
            raise ConfigurationError(
                f"gate {self.name!r}: its package {self.package} has no module "
                f"test_gate_{self.word}; write the gate's procedure there"
            )
        return Path(spec.origin)

    @cached_property
    def metric_names(self) -> frozenset[str]:
        return frozenset(metric.name for metric in self.metrics)

    def asked_for(self, plans: Iterable[Plan], candidate: ModelSource | None = None) -> bool:
        """Whether a release with these plans sets what switches the gate on, or the candidate asks
        for it by itself."""
        if self.switch is None or (candidate is not None and self.wanted_by(candidate)):
            return True
        kind, name = self.switch
        return any(getattr(plan, name) for plan in plans if isinstance(plan, kind))

    def limits_among(self, budgets: Mapping[str, Budget]) -> dict[str, Budget]:
        """Those of the budgets that limit a metric of this gate."""
        return {name: budget for name, budget in budgets.items() if name in self.metric_names}

    def judged(self, release: Release) -> Sequence[Candidate]:
        """The candidates, or what takes their place, that go through this gate."""
        if self.subjects is not None:
            return self.subjects(release)
        return [c for c in release.candidates if self.limits_among(c.budgets)]

    def lacks(self, candidate: Candidate, reference: ModelSource) -> str:
        """Why candidate and reference cannot go through the gate; "" where they can."""
        if problem := self.unnamed(candidate):
            return problem
        unable = self.unable(candidate.source, reference)
        return f"engine {unable.engine!r} lacks: {unable.lacks}" if unable else ""

    def unable(self, candidate: ModelSource, reference: ModelSource) -> Unable | None:
        """The engine of the two that cannot be asked what the gate asks; None where both can."""
        for source in (candidate, reference):
            engine = engine_named(source.engine)
            if lacks := missing(engine.offers(source), self.requires):
                title = f"{engine.name} with kv_cache" if source.kv_cache else engine.name
                return Unable(title, lacks)
        return None

    @property
    def comes_by_itself(self) -> bool:
        """Whether default limits alone bring it: no setting switches it on, and candidates name
        nothing for it."""
        return self.switch is None and self.unnamed is _nothing_named

    def too_few(self, release: Release, documents: int | None) -> str:
        """Why a corpus of so many documents is too small for the gate; "" where it is not, or where
        nobody knows."""
        needed = self.fewest_documents(release)
        if documents is None or documents >= needed:
            return ""
        return (
            f"it takes {needed} documents, one for each prompt, and the corpus has {documents}; "
            "add files to [corpus], or ask for fewer prompts"
        )
