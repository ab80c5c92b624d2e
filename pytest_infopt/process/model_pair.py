"""Reference and candidate side by side in one process: loaded when needed, and what they read.

A `ModelPair` lives in a worker process (see `worker`), the only place where models are held during
a run. Gates measure with classes of their own that are made of the pair there. What several of
them need of the reference in other dtypes is computed once and kept on disk.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401  imported once, here

from ..corpus import TokenisedDocument, corpus_fingerprint, load_corpus, shuffled, tokenise
from ..engines.base import Capability, Engine, WeighedEngine, WholeLogitsEngine, able
from ..engines.registry import load_engine
from ..engines.weight_precision import Precision, observed_precision, precision_of
from ..errors import InvalidComparisonError, ModelLoadError, NoChatTemplateError
from ..release import ModelSource, Release
from ..results.sample import Sample
from ..store.scores import ReferenceScores
from .causality import check_causality
from .prompt_set import PromptPlan, PromptSet
from .remote import remote

# transformers imports most of itself when a model is first built: 5 s. Importing one decoder's
# module makes it do so in the fork server, once, and not in every process that comes from there.
import_module("transformers.models.llama.modeling_llama")


class ModelPair:
    """Holds ``release.reference`` and ``candidate``; loads each when it is first needed.

    ``cache`` is the directory for the reference's scores, shared by all candidates of a run. What a
    gate needs of an engine, it asks for with `engines.base.able`.
    """

    def __init__(self, release: Release, candidate: ModelSource, root: Path, cache: Path) -> None:
        self.release = release
        self.source = candidate
        self.root = root
        self._cache = cache
        self.oracle_note = ""  # why the oracle is coarser than asked for
        self._prompt_sets: dict[PromptPlan, PromptSet] = {}
        # A loader of one's own lies beside the configuration, which pytest need not have imported.
        sys.path[:0] = [str(root), str(release.directory.absolute())]

    @cached_property
    def reference(self) -> Engine:
        return load_engine(self.release.reference)

    @cached_property
    def candidate(self) -> Engine:
        return load_engine(self.source)

    @remote
    def describe(self) -> dict[str, Any]:
        """Both models and the machine, after checking that they can be compared at all.

        Raises InvalidComparisonError on another tokenizer or vocabulary, ModelLoadError where the
        reference is not causal.
        """
        _check_comparable(self.reference, self.candidate)
        return {
            "environment": _environment(self.reference.device),
            "reference": _identity(self.reference),
            "candidate": _identity(self.candidate),
            "precision": asdict(self.precision),
            "parameters": self._parameters,
            "corpus": corpus_fingerprint(load_corpus(self.release.corpus, self.root)),
        }

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

    # Texts

    @cached_property
    def documents_by_id(self) -> dict[str, TokenisedDocument]:
        """The release's documents in the order of measuring: random, decided by the seed."""
        window = min(self.reference.context_window, self.candidate.context_window)
        by_id = {d.id: d for d in load_corpus(self.release.corpus, self.root)}
        order = shuffled(by_id, self.release.statistics.seed)
        documents = [by_id[name] for name in order]  # max_documents cuts a random sample
        corpus = tokenise(documents, self.reference.encode, self.release.corpus, window)
        return {document.id: document for document in corpus.documents}

    @cached_property
    def document_lengths(self) -> list[int]:
        """Tokens of the release's documents as they are, before any cut."""
        texts = {d.id: d.text for d in load_corpus(self.release.corpus, self.root)}
        begins_with = self.release.corpus.begins_with
        return [
            len(self.reference.encode(texts[name], begins_with)) for name in self.documents_by_id
        ]

    @cached_property
    def token_stream(self) -> list[int]:
        """All documents, joined."""
        return [token for document in self.documents_by_id.values() for token in document.token_ids]

    def text_of(self, count: int, index: int) -> list[int]:
        """The index-th stretch of ``count`` tokens of the corpus, its documents joined."""
        stream = self.token_stream
        if count > len(stream):
            raise InvalidComparisonError(
                f"a text of {count} tokens: the corpus has {len(stream)} in documents cut to "
                f"{self.release.corpus.max_tokens}; add files, or raise corpus.max_tokens"
            )
        start = index * count % (len(stream) - count + 1)
        return stream[start : start + count]

    def request(self, length: int, index: int) -> list[int]:
        """The index-th prompt of ``length`` tokens to time: the corpus read round and round."""
        stream = self.token_stream
        start = index * length % max(1, len(stream) - length)
        return stream[start : start + length]

    def prompt_set(self, plan: PromptPlan) -> PromptSet:
        """The first documents that are long enough, cut to the plan's length, or, where there are
        too few, any; with the reference's logits in other dtypes. Every second one is a chat, where
        the reference has a template. Made once for each plan.

        Raises InvalidComparisonError where the corpus has fewer documents than prompts.
        """
        if plan not in self._prompt_sets:
            documents = list(self.documents_by_id.values())
            if len(documents) < plan.prompts:
                raise InvalidComparisonError(
                    f"{plan.prompts} prompts, each of another document: the corpus has "
                    f"{len(documents)} of corpus.min_tokens = {self.release.corpus.min_tokens} "
                    "tokens or more; add files, or ask for fewer prompts"
                )
            long_enough = [d for d in documents if len(d.token_ids) >= plan.tokens]
            chosen = documents if len(long_enough) < plan.prompts else long_enough
            prompts = [
                self._chat_of(document, plan.tokens) if index % 2 else document.token_ids
                for index, document in enumerate(chosen[: plan.prompts])
            ]
            prompts = [list(token_ids[: plan.tokens]) for token_ids in prompts]
            self._prompt_sets[plan] = PromptSet(
                prompts,
                oracle=self.oracle_logits(plan.oracle, lambda d: self.logits_in(d, prompts)),
                plain=self.logits_in(self.candidate.dtype, prompts),
            )
        return self._prompt_sets[plan]

    def _chat_of(self, document: TokenisedDocument, tokens: int) -> list[int]:
        """The document's beginning as a chat of about ``tokens`` tokens: what serving puts around a
        text is computed, too. The document itself where there is no template, or no room in it."""
        reference = self.reference
        try:
            room = tokens - len(reference.encode("", "chat"))
        except NoChatTemplateError:
            return document.token_ids
        text = reference.decode(document.token_ids[: max(1, room)])
        return reference.encode(text, "chat")

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
        """The oracle's dtype; for "auto", float64 where the machine is known to hold the reference
        a second time at eight bytes a weight, else float32."""
        if oracle != "auto":
            return oracle
        if self.oracle_note:
            return "float32"
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


def _check_comparable(reference: Engine, candidate: Engine) -> None:
    if Capability.FULL_LOGITS in reference.capabilities:
        check_causality(able(reference, WholeLogitsEngine))
    if reference.vocabulary != candidate.vocabulary:
        raise InvalidComparisonError(
            f"vocabulary: reference {reference.name!r} has {reference.vocabulary} entries, "
            f"candidate {candidate.name!r} {candidate.vocabulary}; their distributions "
            f"cannot be compared. Gate a candidate made from this reference"
        )
    if reference.tokenizer_fingerprint != candidate.tokenizer_fingerprint:
        raise InvalidComparisonError(
            f"tokenizer: reference {reference.name!r} "
            f"({reference.tokenizer_fingerprint[:12]}) and candidate {candidate.name!r} "
            f"({candidate.tokenizer_fingerprint[:12]}) map text to ids differently; copy the "
            f"reference's tokenizer files into the candidate's directory"
        )


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


def _environment(device: str) -> dict[str, Any]:
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
