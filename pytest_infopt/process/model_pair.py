"""Reference and candidate side by side in one process: loaded when needed, and what they read.

A `ModelPair` lives in a worker process (see `worker`), the only place where models are held during
a run. Gates measure with classes of their own that are made of the pair there. What several of
them need of the reference in other dtypes is computed once and kept on disk.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401  imported once, here

from ..corpus import corpus_fingerprint, load_corpus
from ..engines.base import Capability, Engine, WeighedEngine, WholeLogitsEngine, able
from ..engines.registry import load_engine
from ..engines.weight_precision import Precision, observed_precision, precision_of
from ..errors import InfoptError, ModelLoadError
from ..measure.dtype_error import dtype_named
from ..measure.length_effect import Difference, length_effect
from ..measure.repeated_pass import RepeatedPass
from ..release import ModelSource, Release
from ..results.sample import Sample
from ..store.scores import ReferenceScores
from .comparable import keep_vocabulary, make_comparable
from .pair_texts import PairTexts
from .prompt_set import CHOSEN_FROM, PromptPlan, PromptSet, by_gap, closest_choice
from .remote import remote

# transformers imports most of itself when a model is first built: 5 s. Importing one decoder's
# module makes it do so in the fork server, once, and not in every process that comes from there.
import_module("transformers.models.llama.modeling_llama")


_FINER = 2.0**-8  # of the candidate's rounding: what an oracle may err by and not show


class ModelPair(PairTexts):
    """Holds ``release.reference`` and ``candidate``; loads each when it is first needed.

    ``cache`` is the directory for the reference's scores, shared by all candidates of a run. What a
    gate needs of an engine, it asks for with `engines.base.able`.
    """

    def __init__(self, release: Release, candidate: ModelSource, root: Path, cache: Path) -> None:
        super().__init__(release, candidate, root)
        self._cache = cache
        self.oracle_note = ""  # why the oracle is coarser than asked for
        self._prompt_sets: dict[PromptPlan, PromptSet] = {}
        self._length_effects: dict[PromptPlan, Difference] = {}
        # A loader of one's own lies beside the configuration, which pytest need not have imported.
        sys.path[:0] = [str(root), str(release.directory.absolute())]

    @remote
    def describe(self) -> dict[str, Any]:
        """Both models and the machine, after checking that they can be compared at all.

        Raises InvalidComparisonError on another tokenizer or vocabulary, ModelLoadError where the
        reference is not causal.
        """
        notes = make_comparable(self.reference, self.candidate)
        if Capability.FULL_LOGITS in self.candidate.capabilities:
            with suppress(InfoptError):  # a model that cannot make a pass fails where one is judged
                self.first_pass  # noqa: B018  before any gate has used the candidate
        return {
            "environment": _environment(self.reference, self.candidate),
            "reference": _identity(self.reference),
            "candidate": _identity(self.candidate),
            "precision": asdict(self.precision),
            "parameters": self._parameters,
            "notes": notes,
            "corpus": corpus_fingerprint(load_corpus(self.release.corpus, self.root)),
        }

    @cached_property
    def first_pass(self) -> RepeatedPass:
        """A pass of the candidate over fixed tokens, made when it was new."""
        return RepeatedPass(able(self.candidate, WholeLogitsEngine))

    @property
    def precision(self) -> Precision:
        """The precision of the candidate's weights, as loaded where it was not known before."""
        planned = precision_of(self.source, self.release.reference)
        engines = (self.candidate, self.reference)
        if planned.known or any(Capability.MEMORY not in e.capabilities for e in engines):
            return planned
        stored = (able(engine, WeighedEngine).stored_weights() for engine in engines)
        return observed_precision(planned, *stored)

    @property
    def _parameters(self) -> int | None:
        """About how many the reference has, where its engine can tell."""
        if Capability.MEMORY not in self.reference.capabilities:
            return None
        return able(self.reference, WeighedEngine).stored_weights().floats

    def prompt_set(self, plan: PromptPlan) -> PromptSet:
        """Prompts, with the reference's logits in other dtypes. Made once for each plan."""
        if plan not in self._prompt_sets:
            prompts = self._chosen_prompts(plan.prompts, plan.tokens)
            self._prompt_sets[plan] = PromptSet(
                prompts,
                oracle=self.oracle_logits(plan.oracle, lambda d: self.logits_in(d, prompts)),
                plain=self.logits_in(self.candidate.dtype, prompts),
            )
        return self._prompt_sets[plan]

    def _chosen_prompts(self, count: int, tokens: int) -> list[list[int]]:
        """Prompts with and without near-ties of the reference."""
        several = self.prompts_of(count, tokens, most=CHOSEN_FROM * count)
        if len(several) == count:
            return several

        def compute() -> list[torch.Tensor]:
            engine = able(self.reference, WholeLogitsEngine)
            return [torch.tensor(closest_choice(engine.full_logits(ids))) for ids in several]

        gaps = self.scores.logits(
            self.reference, self.reference.dtype, several, compute, what="closest choices"
        )
        return by_gap(several, [float(gap) for gap in gaps], count)

    def length_effect(self, plan: PromptPlan) -> Difference:
        """What the length of a plain pass changes in the logits of `plain` on the plan's prompts.
        Measured once for each plan."""
        if plan not in self._length_effects:
            prompts = self.prompt_set(plan)
            engine = able(self.plain, WholeLogitsEngine)
            self._length_effects[plan] = length_effect(
                engine, prompts.prompts, prompts.oracle, prompts.plain
            )
        return self._length_effects[plan]

    # The reference's weights in other dtypes

    @cached_property
    def scores(self) -> ReferenceScores:
        return ReferenceScores(self._cache)

    def logits_in(self, dtype: str, prompts: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """The logits [T, V] of each prompt by the reference's weights in a dtype, in float64."""

        def compute() -> list[torch.Tensor]:
            with self.reference_in(dtype) as engine:
                whole = able(engine, WholeLogitsEngine)
                return [whole.full_logits(prompt).double() for prompt in prompts]

        if dtype == self.reference.dtype:
            return compute()
        return self.scores.logits(self.reference, dtype, prompts, compute)

    @cached_property
    def plain(self) -> Engine:
        """The reference's weights in the candidate's dtype, kept once it is asked for: the control
        of comparisons of the candidate with itself."""
        if self.candidate.dtype == self.reference.dtype:
            return self.reference
        return load_engine(replace(self.release.reference, dtype=self.candidate.dtype))

    @contextmanager
    def reference_in(self, dtype: str) -> Iterator[Engine]:
        """The reference's weights in another dtype, loaded for as long as it takes."""
        if dtype == self.reference.dtype:
            yield self.reference
            return
        engine = load_engine(replace(self.release.reference, dtype=dtype))
        try:
            keep_vocabulary(engine, self.reference.vocabulary)
            yield engine
        finally:
            engine.close()

    def oracle_logits(
        self, oracle: str, compute: Callable[[str], list[torch.Tensor]]
    ) -> list[torch.Tensor]:
        """What ``compute`` makes of the oracle's dtype; for "auto", float32 where the reference's
        layers cannot compute in float64, which `oracle_note` then says."""
        dtype = self.widest_dtype(oracle)
        try:
            return compute(dtype)
        except ModelLoadError as error:
            if oracle != "auto" or dtype != "float64":
                raise
            self.oracle_note = f"the oracle computes in float32, since in float64: {error}"
            return compute("float32")

    def noted(self, sample: Sample) -> Sample:
        """The sample, with a note where its oracle is coarser than asked for."""
        if not self.oracle_note:
            return sample
        notes = [*sample.details.get("notes", ()), self.oracle_note]
        return replace(sample, details={**sample.details, "notes": notes})

    def widest_dtype(self, oracle: str) -> str:
        """The oracle's dtype. For "auto", the reference's own where its rounding is nothing beside
        the candidate's; else float64 where the machine is known to hold the reference a second time
        at eight bytes a weight, else float32."""
        if oracle != "auto":
            return oracle
        if self.oracle_note:
            return "float32"
        own, theirs = (
            torch.finfo(dtype_named(e.dtype)).eps for e in (self.reference, self.candidate)
        )
        if own <= _FINER * theirs:
            return self.reference.dtype
        reference = self.reference
        if Capability.MEMORY not in reference.capabilities:
            return "float32"
        weights = able(reference, WeighedEngine).memory().weight_bytes
        if torch.device(reference.device).type == "cuda":
            free = torch.cuda.mem_get_info()[0]
        else:
            free = _free_host_bytes()
        per_weight = torch.finfo(getattr(torch, reference.dtype)).bits // 8
        return "float64" if weights / per_weight * 8 < free / 2 else "float32"


def _identity(engine: Engine) -> dict[str, Any]:
    return {
        "name": engine.name,
        "fingerprint": engine.fingerprint,
        "tokenizer": engine.tokenizer_fingerprint,
        "dtype": engine.dtype,
        "device": engine.device,
        "vocabulary": engine.vocabulary,
        "capabilities": sorted(str(c) for c in engine.capabilities),
    }


def _environment(reference: Engine, candidate: Engine) -> dict[str, Any]:
    # A reference that computes nothing here is on no device.
    here = reference if Capability.MODULES in reference.capabilities else candidate
    device = here.device
    accelerator = torch.cuda.get_device_name(device) if device.startswith("cuda") else None
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # a str of its own class, which xdist cannot send
        "transformers": transformers.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "system": platform.system(),
        "device": accelerator or "cpu",
    }


def _free_host_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0
