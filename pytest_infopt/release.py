"""A release: one reference, its candidates, the corpus and the budgets. The configuration's result.

Plain data: `configuration` makes it from infopt.toml or the command line, everything else reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from .gates.plan import Plan, one_of, setting
from .metrics.budget import Budget

AnyPlan = TypeVar("AnyPlan", bound=Plan)


@dataclass(frozen=True)
class ServerSource:
    """A server that speaks OpenAI's API: its ``/v1`` address, the model's name there ("": the only
    one that it has), and the environment variable that holds its key.

    ``command`` starts it; ``{port}`` in it and in ``url`` is a free port. Without a command the
    server is there already. ``body`` are fields that every request gets besides ours. ``replicas``
    are more addresses of the same server; ``asked_too`` those of them that one process asks.
    ``in_turns`` says that it is up only while it is asked, since another server needs its device;
    it is then started in ``folder``, and its output goes to ``log``.
    """

    url: str
    model: str = ""
    api_key_env: str = ""
    command: tuple[str, ...] = ()
    ready_seconds: float = 600.0
    timeout_seconds: float = 300.0
    body: dict[str, Any] = field(default_factory=dict)
    replicas: tuple[str, ...] = ()
    asked_too: tuple[str, ...] = ()
    in_turns: bool = False
    folder: str = ""
    log: str = ""

    @property
    def addresses(self) -> tuple[str, ...]:
        """All of them, the first one first."""
        return (self.url, *self.replicas)

    def share(self, worker: int | None) -> ServerSource:
        """The server as a process asks it: pytest-xdist's worker of that number at an address of
        its own, as far as there are enough; a process that is alone at all of them."""
        if worker is None:
            return replace(self, asked_too=self.replicas)
        there = self.addresses
        own = there[worker % len(there)]
        return replace(self, url=own, replicas=tuple(url for url in there if url != own))


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from and how it is loaded.

    ``model`` is a directory, a hub id, or ``embedded:smollm2``. ``engine`` names what computes with
    it (`engines.registry`), ``quantization`` one of `engines.formats` ("none", "int8", "nf4",
    "bitsandbytes-nf4", …) with its ``options``. ``server`` is who serves it, where one does.
    ``kv_cache`` is the format of its KV cache (`engines.kv_cache_formats`), None for the model's.
    """

    name: str
    model: str
    quantization: str = "none"
    dtype: str = "auto"
    device: str = "auto"
    gguf_file: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    local_files_only: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    engine: str = "transformers"
    server: ServerSource | None = None
    kv_cache: str | None = None

    @property
    def in_turns(self) -> bool:
        """Whether its server is up only while it is asked."""
        return self.server is not None and self.server.in_turns

    @property
    def replicas(self) -> list[ModelSource]:
        """The source at each of the other addresses that this process asks."""
        if self.server is None:
            return []
        others = (replace(self.server, url=url) for url in self.server.asked_too)
        return [replace(self, server=server) for server in others]


PROMPT_LOOKUP = "prompt-lookup"


@dataclass(frozen=True)
class Draft:
    """Who drafts a candidate's tokens in speculative decoding: another model, or None for n-grams
    that the text has had before (prompt lookup); and how many for each pass of the candidate."""

    model: ModelSource | None
    num_speculative_tokens: int = 5

    @property
    def name(self) -> str:
        return PROMPT_LOOKUP if self.model is None else self.model.model


@dataclass(frozen=True)
class Candidate:
    """A model under judgement and the limits it has to keep, by metric name.

    ``draft`` is who drafts its tokens, where the release says so.
    ``written`` are the limits that somebody wrote, None for a default that was switched off; the
    other budgets are defaults, which a candidate may do without: ``has_defaults``.
    """

    source: ModelSource
    budgets: dict[str, Budget]
    written: Mapping[str, Budget | None] = field(default_factory=dict)
    draft: Draft | None = None
    has_defaults: bool = True

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def server(self) -> ServerSource | None:
        """Who serves it, where the release says so: the prefix cache gated is then its."""
        return self.source.server


@dataclass(frozen=True)
class Implementation:
    """A component that the conformance suite of its topic is run on.

    ``target`` is "module:name"; ``name`` is what reports call it, the target itself unless the file
    says otherwise; ``origin`` is where it was written, for messages, and ``directory`` that file's
    folder, which modules may lie in.
    """

    topic: str
    name: str
    target: str
    origin: str = ""
    directory: Path = Path()

    @property
    def title(self) -> str:
        """Topic and name: unique within a release."""
        return f"{self.topic} {self.name}"


BEGINNINGS = ("tokenizer", "chat", "nothing")


@dataclass(frozen=True)
class CorpusSource:
    """Which documents models are compared on: files (text, or JSONL with a ``text`` field), or none
    for the embedded corpus. Longer documents are cut at ``max_tokens``."""

    files: tuple[Path, ...] = setting(
        (),
        "Globs, relative to this file, of .txt and .md files (one document each) and .jsonl files "
        "(a text field, an optional id field). None: the embedded corpus.",
    )
    max_documents: int = setting(256, "Most documents compared.", ge=1)
    max_tokens: int = setting(512, "Documents are cut to this many tokens.", ge=2)
    population: bool = setting(
        False,
        "The documents are all there is: limits are about their own mean, which takes every one "
        "and no statistics. Else they stand for texts like them.",
    )
    min_tokens: int = setting(16, "Shorter documents are left out.", ge=2)
    begins_with: str = setting(
        "tokenizer",
        "What stands before a document's own tokens: the special tokens that the tokenizer puts "
        "there, its chat template with the document as a user's message (chat), or nothing.",
        check=one_of("beginning", *BEGINNINGS),
    )


def _policy(text: str) -> str:
    from .options import POLICIES  # brings pytest, which the models' process does without

    return one_of("policy", *POLICIES)(text)


_RATE: Any = {"gt": 0, "le": 0.2}
_SECONDS: Any = {"gt": 0, "allow_inf_nan": False}


@dataclass(frozen=True)
class Statistics:
    """Error rates and stopping: see the judge package.

    ``alpha_pass`` bounds P(PASS | truth at the limit) of each metric, ``alpha_fail`` P(any FAIL |
    truth at the limit) of all metrics of one candidate together.
    """

    alpha_pass: float = setting(
        0.01, "Bound on P(PASS | truth at the limit), each metric.", **_RATE
    )
    alpha_fail: float = setting(
        0.01, "Bound on P(any FAIL | truth at the limit), all metrics of a candidate.", **_RATE
    )
    budget_seconds: float | None = setting(
        None, "Measuring time of a gate; where none is given, each gate's own.", **_SECONDS
    )
    stop_when_decided: bool = setting(
        True,
        "Whether a gate ends as soon as every limit is decided. If not, it measures until its "
        "samples or its time are used up: intervals are narrower, error rates the same.",
    )
    seed: int = setting(0, "Seed of document order, prompts and pair order.", ge=0)
    policy: str = setting("block", "What INCONCLUSIVE does.", check=_policy)
    timeout_seconds: float = setting(
        900.0,
        "Seconds without a sign of life after which a candidate counts as hung.",
        **_SECONDS,
    )


@dataclass(frozen=True)
class Diagnosis:
    """How long a run that fails looks for the cause, and on which texts."""

    seconds: float = setting(
        75.0,
        "Seconds in a run for finding where a candidate that failed is at fault; 0: none.",
        ge=0,
        allow_inf_nan=False,
    )
    texts: int = setting(3, "Texts on which modules are compared after a FAIL.", ge=1)
    tokens: int = setting(32, "Length of each, where no finding lies further behind.", ge=2)


@dataclass(frozen=True)
class Release:
    """Everything that one ``pytest --infopt`` run gates.

    ``plans`` are the settings of the installed gates, one of each kind; ``budgets`` the limits of
    gates that judge no candidate, by gate. ``directory`` is the configuration's folder. ``not_run``
    lists what the configuration names and this machine cannot run, each with its reason.
    ``report_dir`` and ``baseline`` are None where nobody named a place. A release of
    implementations alone has no candidates; its reference is there for tests that ask for one.
    """

    reference: ModelSource
    candidates: tuple[Candidate, ...]
    corpus: CorpusSource = CorpusSource()
    plans: tuple[Plan, ...] = ()
    budgets: Mapping[str, Mapping[str, Budget]] = field(default_factory=dict)
    statistics: Statistics = Statistics()
    diagnosis: Diagnosis = Diagnosis()
    implementations: tuple[Implementation, ...] = ()
    origin: str = "embedded default"
    directory: Path = Path()
    not_run: tuple[str, ...] = ()
    report_dir: Path | None = None
    baseline: Path | None = None

    def plan(self, kind: type[AnyPlan]) -> AnyPlan:
        """The plan of that class; its defaults where the release has none."""
        return next((plan for plan in self.plans if isinstance(plan, kind)), kind())
