"""A release: one reference, its candidates, the corpus and the budgets. The configuration's result.

Plain data: `config` makes it from infopt.toml or the command line, everything else reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .metrics.budget import Budget
from .metrics.metric import Gate


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from and how it is loaded.

    ``model`` is a directory, a hub id, or ``embedded:smollm2``. ``engine`` names what computes with
    it (`engines.registry`), ``quantization`` one of `engines.formats` ("none", "int8", "nf4",
    "bitsandbytes-nf4", …) with its ``options``.
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


@dataclass(frozen=True)
class ServerSource:
    """A server that serves a candidate by OpenAI's chat completions: its ``/v1`` address, the
    model's name there, and the environment variable that holds its key."""

    url: str
    model: str = ""
    api_key_env: str = ""


@dataclass(frozen=True)
class Candidate:
    """A model under judgement and the limits it has to keep, by metric name.

    ``server`` is who serves it, where the release says so: the prefix cache gated is then its.
    """

    source: ModelSource
    budgets: dict[str, Budget]
    server: ServerSource | None = None

    @property
    def name(self) -> str:
        return self.source.name

    def budgets_of(self, gate: Gate) -> dict[str, Budget]:
        return {name: b for name, b in self.budgets.items() if b.metric.gate is gate}


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


@dataclass(frozen=True)
class CorpusSource:
    """Which documents models are compared on: files (text, or JSONL with a ``text`` field), or none
    for the embedded corpus. Longer documents are cut at ``max_tokens``."""

    files: tuple[Path, ...] = ()
    max_documents: int = 256
    max_tokens: int = 512
    min_tokens: int = 16


@dataclass(frozen=True)
class LatencyPlan:
    """The timed request: prompt length, generated tokens, warm-up calls per side, most pairs."""

    prompt_tokens: int = 64
    new_tokens: int = 16
    warmup: int = 3
    max_pairs: int = 3000


@dataclass(frozen=True)
class EquivalencePlan:
    """How many prompts the equivalence gate runs, and how long they are."""

    prompts: int = 4
    tokens: int = 48
    oracle: str = "auto"  # float64, float32, or auto: float64 where it fits into memory


@dataclass(frozen=True)
class CachePlan:
    """What the cache gates run.

    Outputs are compared on the first ``prompts`` of the equivalence gate's prompts. The KV cache is
    weighed, and its steps are timed, at ``lengths`` (tokens) and ``batch_sizes``. The prefix cache
    serves ``requests`` questions of ``question_tokens`` behind one system prompt of
    ``system_tokens``, in blocks of ``block_size``.
    """

    prompts: int = 4
    lengths: tuple[int, ...] = (64, 128, 256, 512)
    batch_sizes: tuple[int, ...] = (1, 4)
    system_tokens: int = 256
    question_tokens: int = 32
    requests: int = 8
    block_size: int = 16


@dataclass(frozen=True)
class LongContextPlan:
    """The sweep: ``texts`` texts of each of ``lengths`` tokens, compared on their last ``tail``.

    Without lengths there is no such gate.
    """

    lengths: tuple[int, ...] = ()
    texts: int = 1
    tail: int = 32


@dataclass(frozen=True)
class BatchingPlan:
    """Batches of ``batch_sizes`` rows are compared with each row alone; a dynamic batcher of
    ``max_batch_size`` and ``max_wait`` seconds with one request at a time, on requests of
    ``prompt_tokens``; and the strategies on a trace of ``requests`` requests that asks for ``load``
    times what one at a time serves. Without batch sizes there is no such gate.
    """

    batch_sizes: tuple[int, ...] = ()
    max_batch_size: int = 8
    max_wait: float = 0.01
    prompt_tokens: int = 32
    new_tokens: int = 16
    requests: int = 24
    load: float = 2.0
    max_pairs: int = 30


SEMANTIC_ALPHA = 0.05  # its limit is held against the lower 95 % bound of precision


@dataclass(frozen=True)
class SemanticCachePlan:
    """The embedder and threshold of a semantic cache, judged on pairs of questions.

    ``embedder`` is "minilm" or "module:name" (``directory``: where that is looked for); without one
    there is no such gate. ``pairs`` is a JSONL file of pairs, None for the shipped ones. The stream
    has ``queries`` queries; what a hit saves of each is in tokens, and prices of a million.
    """

    embedder: str = ""
    threshold: float = 0.95
    stream_thresholds: tuple[float, ...] = (0.92, 0.95)
    pairs: Path | None = None
    queries: int = 2000
    prompt_tokens: int = 500
    completion_tokens: int = 250
    prompt_price: float = 0.0
    completion_price: float = 0.0
    directory: Path = Path()
    budgets: Mapping[str, Budget] = field(default_factory=dict)


@dataclass(frozen=True)
class Statistics:
    """Error rates and stopping: see the judge package.

    ``alpha_pass`` bounds P(PASS | truth at the limit) of each metric, ``alpha_fail`` P(any FAIL |
    truth at the limit) of all metrics of one candidate together.
    """

    alpha_pass: float = 0.01
    alpha_fail: float = 0.01
    budget_seconds: float = 30.0
    seed: int = 0
    policy: str = "block"  # what INCONCLUSIVE does: block, warn
    timeout_seconds: float = 900.0


@dataclass(frozen=True)
class Release:
    """Everything that one ``pytest --infopt`` run gates.

    ``not_run`` lists what the configuration names and this machine cannot run, each with its
    reason. ``report_dir`` and ``baseline`` are None where nobody named a place. A release of
    implementations alone has no candidates; its reference is there for tests that ask for one.
    """

    reference: ModelSource
    candidates: tuple[Candidate, ...]
    corpus: CorpusSource = CorpusSource()
    latency: LatencyPlan = LatencyPlan()
    equivalence: EquivalencePlan = EquivalencePlan()
    caches: CachePlan = CachePlan()
    long_context: LongContextPlan = LongContextPlan()
    batching: BatchingPlan = BatchingPlan()
    semantic_cache: SemanticCachePlan = SemanticCachePlan()
    statistics: Statistics = Statistics()
    implementations: tuple[Implementation, ...] = ()
    origin: str = "embedded default"
    not_run: tuple[str, ...] = ()
    report_dir: Path | None = None
    baseline: Path | None = None

    @property
    def cache_prompts(self) -> int:
        """Prompts of the cache gates: their own share of the equivalence gate's."""
        return min(self.caches.prompts, self.equivalence.prompts)
