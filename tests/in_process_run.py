"""The gates on one tiny model and its copies, in this process: the procedures, budgets and judge of
a real run, without workers and reports."""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest
from tiny_models import VOCABULARY, make_tokenizer

from pytest_infopt.configuration import load_release
from pytest_infopt.engines.loaders import LoadRequest
from pytest_infopt.errors import InfoptError, InvalidComparisonError, NotSupportedError
from pytest_infopt.gates import registry
from pytest_infopt.gates.base import GateSpec
from pytest_infopt.process.model_pair import ModelPair
from pytest_infopt.release import Candidate, ModelSource, Release
from pytest_infopt.results.gate_result import GateResult
from pytest_infopt.run.baseline_policy import BaselinePolicy
from pytest_infopt.run.gate_run import GateRun
from pytest_infopt.run.noise_policy import NoisePolicy
from pytest_infopt.run.scope import Scope
from pytest_infopt.run.session import InfoptSession
from pytest_infopt.store.journal import Journal, RunRecords
from pytest_infopt.store.noise_floor import NoiseFloors

COPIES = ("float32", "bfloat16", "int8", "nf4")
GATES = (
    "equivalence",
    "kv-cache",
    "long-context",
    "batching",
    "prefix-cache",
    "memory",
    "quality",
    "modules",
    "stability",
)
# Routers of random models are near ties, so that what a copy loses in quality is not what the
# formats' default limits are made for; those on logits, caches, batches and bytes are the defaults.
_RELEASE = """
reference = {model = "reference", dtype = "float32"}
[corpus]
files = ["*.txt"]
max_tokens = 24
[equivalence]
prompts = 2
tokens = 20
[caches]
prompts = 2
lengths = [12, 40]
batch_sizes = [1, 3]
system_tokens = 24
question_tokens = 8
requests = 2
block_size = 4
[latency]
prompt_tokens = 16
new_tokens = 4
[batching]
batch_sizes = [1, 4]
max_batch_size = 2
requests = 4
prompt_tokens = 8
new_tokens = 4
[long_context]
lengths = [16, 32]
tail = 8
[modules]
tokens = 24
[stability]
repeats = 2
[budgets]
kl_mean = "off"
kl_p99 = "off"
top1_agreement = 0.3
perplexity_ratio = 3.0
long_context_kl = 2.0
[candidates.float32]
dtype = "float32"
[candidates.bfloat16]
dtype = "bfloat16"
[candidates.int8]
quantization = "int8"
[candidates.nf4]
quantization = "nf4"
"""


def write_release(folder: Path, model: Any, release: str = _RELEASE) -> None:
    """A checkpoint of the model, documents of random words, and an infopt.toml."""
    model.save_pretrained(folder / "reference")
    make_tokenizer().save_pretrained(folder / "reference")
    words = random.Random(1)
    for index in range(30):
        text = " ".join(f"w{words.randrange(VOCABULARY)}" for _ in range(24))
        (folder / f"{index}.txt").write_text(text, encoding="utf-8")
    (folder / "infopt.toml").write_text(release, encoding="utf-8")


@dataclass(frozen=True)
class Outcome:
    """What a gate came to: a verdict, "NOT RUN" or "ERROR"; and why, where it is no PASS."""

    verdict: str
    reason: str = ""
    result: GateResult | None = field(default=None, compare=False)


Damage = Callable[[ModelPair], None]
MakePair = Callable[[Release, ModelSource, Path, Path], ModelPair]


class _Models:
    """A pair in this process, in place of `run.models.LoadedModels`."""

    def __init__(self, session: InfoptSession, damage: Damage, make_pair: MakePair) -> None:
        self._session, self._damage, self._make_pair = session, damage, make_pair
        self._pair: ModelPair | None = None
        self._measures: dict[str, Any] = {}
        self._broken: InfoptError | None = None

    def of(self, candidate: Candidate, spec: GateSpec) -> Self:
        if self._pair is None or self._pair.source.name != candidate.name:
            session = self._session
            cache = session.directory / "cache"
            self._pair = self._make_pair(session.release, candidate.source, session.root, cache)
            self._measures, self._broken = {}, None
            try:
                session.learn(candidate.name, self._pair.describe())
                self._damage(self._pair)
            except InfoptError as error:
                self._broken = error
        if self._broken is not None:
            raise self._broken
        return self

    def proxy(self, target: str) -> Any:
        if target not in self._measures:
            module, _, name = target.partition(":")
            self._measures[target] = getattr(importlib.import_module(module), name)(self._pair)
        return self._measures[target]

    @contextmanager
    def fresh(self, candidate: Candidate) -> Iterator[Self]:
        yield self


def run_gates(
    folder: Path,
    copies: tuple[str, ...] = COPIES,
    gates: tuple[str, ...] = GATES,
    damage: Damage = lambda pair: None,
    make_pair: MakePair | None = None,
) -> dict[tuple[str, str], Outcome]:
    """Outcomes by copy and gate of the release that `write_release` wrote into ``folder``.

    ``damage`` may change the candidate once it is loaded; ``make_pair`` may hand out models that
    are loaded already, with a tokenizer of their own.
    """
    release = load_release(folder)
    directory = folder / ".infopt" / "runs" / "run"
    journal = Journal(directory / "journal.jsonl")
    baselines = BaselinePolicy()
    session = InfoptSession(
        release=release,
        root=folder,
        directory=directory,
        source_arguments=[],
        earlier=RunRecords(),
        journal=journal,
        noise=NoisePolicy(NoiseFloors(folder / "noise-floor.json"), baselines),
        baselines=baselines,
        scope=Scope(release, []),
        fingerprint="",
    )
    session.models = _Models(session, damage, make_pair or ModelPair)  # type: ignore[assignment]
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # the reference's path is relative to it
        if make_pair is None:
            # Some families' own tokenizer classes do not read one that splits at spaces.
            patch.setattr(LoadRequest, "tokenizer", lambda request: make_tokenizer())
        for candidate in release.candidates:
            for name in gates if candidate.name in copies else ():
                spec = registry.gate_named(name)
                found[candidate.name, name] = _outcome(GateRun(spec, candidate, session), session)
    session.close = lambda: None  # type: ignore[method-assign]
    journal.close()
    return found


def _outcome(gate: GateRun[Any], session: InfoptSession) -> Outcome:
    """As `run.hooks` tells a verdict from a broken measurement."""
    procedure = getattr(importlib.import_module(gate.spec.procedure), f"test_{gate.spec.word}")
    try:
        procedure(gate)
    except (pytest.fail.Exception, pytest.skip.Exception):
        pass  # a verdict
    except NotSupportedError as error:
        return Outcome("NOT RUN", str(error))
    except InvalidComparisonError as error:
        return Outcome("INCONCLUSIVE", str(error))
    except Exception as error:
        return Outcome("ERROR", f"{type(error).__name__}: {error}")
    return _of_result(session.results[gate.spec.name, gate.candidate.name])


def _of_result(result: GateResult) -> Outcome:
    wrong = [
        f"{j.metric}: {j.reason}" for j in result.judgements if j.verdict and j.verdict != "PASS"
    ]
    told = ("formula unknown", "the reference's own")
    notes = [note for note in result.notes if any(words in note for words in told)]
    return Outcome(str(result.verdict), "; ".join([*wrong, *notes]), result)
