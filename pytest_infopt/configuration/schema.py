"""The schema of infopt.toml. Imported only when a file is read: pydantic takes 0.1 s to import.

Keys of models are described here. Those of gates come from the gates' plans, those of corpus and
statistics from the release's own dataclasses. Unknown keys are errors, and values are not converted
("3" is no number).
"""

from __future__ import annotations

import dataclasses
import re
import types
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    create_model,
    field_validator,
)

from ..engines.formats import DTYPE_ALIASES, DTYPES, FORMATS, OWN_LOADER
from ..engines.kv_cache_formats import KV_CACHES
from ..engines.registry import GROUP as ENGINES
from ..gates import registry
from ..gates.plan import setting_of
from ..naming import nearest, registered
from ..options import DEVICES, is_device
from ..release import (
    PROMPT_LOOKUP,
    CorpusSource,
    Diagnosis,
    Draft,
    ModelSource,
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
            raise ValueError(f"unknown {what} {text!r}{nearest(text, known)}")
        return text

    return AfterValidator(check)


def _check_engine(text: str) -> str:
    if text not in (known := registered(ENGINES)):  # now: what is installed may change
        raise ValueError(f"unknown engine {text!r}{nearest(text, known)}")
    return text


def _check_url(text: str) -> str:
    if not re.match(r"https?://[\w\[]", text):
        raise ValueError(f"has to begin with http:// or https://, not {text!r}")
    if re.match(r"https?://[^/]*@", text):  # reports print it
        raise ValueError("holds a user or a password; name the key's variable in api_key_env")
    return text


def _check_text(text: str) -> str:
    if "\0" in text:
        raise ValueError("holds a null character, which no name and no path may")
    return text


def _by_name(topics: Any) -> Any:
    """``topic = target`` as the table that ``topic.name = target`` gives, with the name ""."""
    if not isinstance(topics, dict):
        return topics
    return {key: value if isinstance(value, dict) else {"": value} for key, value in topics.items()}


Text = Annotated[str, Field(min_length=1), AfterValidator(_check_text)]
Device = Annotated[str, AfterValidator(_check_device)]
Quantization = Annotated[str, _one_of("quantization", FORMATS, OWN_LOADER)]
KVCache = Annotated[str, _one_of("kv_cache", KV_CACHES, OWN_LOADER)]
Dtype = Annotated[
    str,
    AfterValidator(lambda text: DTYPE_ALIASES.get(text, text)),
    _one_of("dtype", ("auto", *DTYPES)),
]
Target = Annotated[str, Field(pattern=r"^[\w.]+:[\w.]+$")]
Implementations = Annotated[dict[str, dict[str, Target]], BeforeValidator(_by_name)]


Budgets = dict[str, Any]  # checked metric by metric, see `BudgetResolver`


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
    kv_cache: KVCache | None = Field(
        default=None,
        description="The format of the KV cache: "
        + ", ".join(f"{form.name} ({form.summary})" for form in KV_CACHES.values())
        + "; or a function of your own, module:function, that makes an empty cache of a model's "
        "configuration. None: the model's own.",
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
    url: Annotated[str, AfterValidator(_check_url)] = Field(
        description="Address of the API, such as http://localhost:8000/v1."
    )
    model: str = Field(
        default=ServerSource.model,
        description="The model's name there; none: the only one that the server has.",
    )
    api_key_env: str = Field(
        default=ServerSource.api_key_env,
        description="Environment variable that holds the server's key.",
    )
    command: list[Text] = Field(
        default=[],
        description="What starts the server, word by word, in this file's folder; {port} here and "
        "in url is a free port. None: it is there already.",
    )
    ready_seconds: float = Field(
        default=ServerSource.ready_seconds,
        gt=0,
        allow_inf_nan=False,
        description="Seconds that a started server may take until it answers.",
    )
    timeout_seconds: float = Field(
        default=ServerSource.timeout_seconds,
        gt=0,
        allow_inf_nan=False,
        description="Seconds that a request may take, its repetitions included.",
    )
    body: dict[str, Any] = Field(
        default_factory=dict,
        description="Fields that every request gets besides ours, such as ignore_eos = true.",
    )
    replicas: list[Annotated[str, AfterValidator(_check_url)]] = Field(
        default=[],
        description="More addresses of the same server; workers of pytest-xdist are shared out "
        "among all of them.",
    )

    in_turns: bool = Field(
        default=ServerSource.in_turns,
        description="Whether the servers of reference and candidate are up in turns, so that one "
        "device needs to hold either; both are then started by a command.",
    )

    @field_validator("in_turns")
    @classmethod
    def _is_started(cls, in_turns: bool, others: ValidationInfo) -> bool:
        if in_turns and not others.data.get("command"):
            raise ValueError("takes a command, which starts the server at each of its turns")
        return in_turns

    @field_validator("replicas")
    @classmethod
    def _are_there_already(cls, replicas: list[str], others: ValidationInfo) -> list[str]:
        if replicas and others.data.get("command"):
            raise ValueError("are of a server that is there already; command starts another")
        return replicas


class ServedModelTable(ModelTable):
    server: ServerTable | None = Field(
        default=None,
        description="An OpenAI-compatible server of this model: for engine openai, and for gates "
        "that ask the server of a candidate.",
    )


class DraftTable(ModelTable):
    model: Text | None = Field(
        default=PROMPT_LOOKUP,
        description="The draft: directory, .gguf file or hub id; or prompt-lookup, which proposes "
        "what followed the same n-gram earlier in the text. With a server, the one that it was "
        "started with: it is not loaded here.",
    )
    num_speculative_tokens: int = Field(
        default=Draft.num_speculative_tokens,
        ge=1,
        description="Most tokens drafted for a pass of the candidate. transformers ends a draft "
        "earlier where it is unsure: assistant_confidence_threshold of its generation "
        "configuration.",
    )


class CandidateTable(ServedModelTable):
    draft: DraftTable | None = Field(
        default=None,
        description="Who drafts this candidate's tokens in speculative decoding, which is then "
        "gated.",
    )
    budgets: Budgets = Field(
        default_factory=dict,
        description="Limits of this candidate by metric; they win over [budgets], which wins over "
        'the number format\'s defaults. "off" removes a limit.',
    )


def table_of(dataclass: type[Any]) -> type[Table]:
    """The table whose keys are a dataclass's fields; see `gates.plan.setting`."""
    hints = get_type_hints(dataclass)
    keys: dict[str, Any] = {}
    for field in dataclasses.fields(dataclass):
        known = setting_of(field.metadata)
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        written = _written_type(hints[field.name], known.each)
        checks = [] if known.check is None else [AfterValidator(known.check)]
        described = Field(description=known.description, **known.limits)
        keys[field.name] = (_annotated(written, *checks, described), default)
    made: type[Table] = create_model(f"{dataclass.__name__}Table", __base__=Table, **keys)
    return made


def _written_type(hint: Any, each: Any) -> Any:
    """The type in TOML: lists for tuples, text for paths."""
    if get_origin(hint) is types.UnionType:
        (inner,) = [arg for arg in get_args(hint) if arg is not type(None)]
        return _written_type(inner, each) | None
    if get_origin(hint) is tuple:
        member: Any = _annotated(_written_type(get_args(hint)[0], {}), Field(**each))
        return list[member]
    return Text if hint is Path else hint


def _annotated(kind: Any, *annotations: Any) -> Any:
    return Annotated[(kind, *annotations)]


class ReportTable(Table):
    directory: Text | None = Field(default=None, description="Where reports are written.")


class BaselineTable(Table):
    file: Text | None = Field(default=None, description="File of earlier results to compare with.")


class ReleaseFile(Table):
    """infopt.toml without the gates' own tables; `release_file_model` adds them."""

    reference: ServedModelTable = Field(
        default_factory=ServedModelTable, description="The model that candidates are compared with."
    )
    candidates: dict[str, CandidateTable] = Field(
        default_factory=dict, description="The models under judgement, by name."
    )
    budgets: Budgets = Field(default_factory=dict, description="Limits of all candidates.")
    implementations: Implementations = Field(
        default_factory=dict,
        description='Components for the conformance suites: topic = "module:name", or, to name '
        'several of one topic, topic.NAME = "module:name".',
    )
    report: ReportTable = Field(default_factory=ReportTable, description="Reports.")
    baseline: BaselineTable = Field(default_factory=BaselineTable, description="Baseline.")

    def values_of(self, table: str) -> dict[str, Any]:
        """A table's values as the constructor of its dataclass takes them."""
        written: BaseModel = getattr(self, table)
        return {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in written.model_dump().items()
        }


def release_file_model() -> type[ReleaseFile]:
    """The schema of the whole file, with a table for each plan of the installed gates."""
    tables: dict[str, tuple[type, str]] = {
        plan.table: (plan, _summary(plan)) for plan in registry.plans()
    }
    tables |= {"corpus": (CorpusSource, "What is compared on.")}
    tables |= {"statistics": (Statistics, "Error rates and stopping.")}
    tables |= {"diagnose": (Diagnosis, "Where a candidate that failed is at fault.")}
    keys: dict[str, Any] = {}
    for name, (dataclass, summary) in tables.items():
        table = table_of(dataclass)
        keys[name] = (table, Field(default_factory=table, description=summary))
    made: type[ReleaseFile] = create_model("ReleaseFile", __base__=ReleaseFile, **keys)
    return made


def _summary(plan: type) -> str:
    return (plan.__doc__ or "").strip().partition("\n\n")[0].replace("\n", " ")
