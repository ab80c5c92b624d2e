"""The models of a bench: reference and candidate, loaded when needed, and what they are given.

What both gates and reports need of the reference in other dtypes (oracle, dtype error, tails of
long texts) is computed once and kept on disk.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch

from ..corpus import TokenisedDocument, load_corpus, shuffled, tokenise
from ..engines.base import InProcessEngine as TransformersEngine
from ..engines.transformers.load import load_transformers as load_engine
from ..errors import InvalidComparisonError
from ..measure.long_context import tail_logits
from ..release import ModelSource, Release
from ..store.scores import ReferenceScores


class BenchModels:
    """Holds ``release.reference`` and ``candidate``; loads each when it is first needed.

    ``cache`` is the directory for the reference's scores, shared by all candidates of a run.
    """

    def __init__(self, release: Release, candidate: ModelSource, root: Path, cache: Path) -> None:
        self.release = release
        self.source = candidate
        self.root = root
        self._cache = cache
        # A loader of one's own lies beside the configuration, which pytest need not have imported.
        sys.path.insert(0, str(root))

    @cached_property
    def reference(self) -> TransformersEngine:
        return load_engine(self.release.reference)

    @cached_property
    def candidate(self) -> TransformersEngine:
        return load_engine(self.source)

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

    @cached_property
    def document_lengths(self) -> list[int]:
        """Tokens of the release's documents as they are, before any cut."""
        texts = {d.id: d.text for d in load_corpus(self.release.corpus, self.root)}
        return [len(self.reference.encode(texts[name])) for name in self.documents_by_id]

    @cached_property
    def long_texts(self) -> list[list[int]]:
        plan = self.release.long_context
        return [self.text_of(length, i) for length in plan.lengths for i in range(plan.texts)]

    def tails(self, dtype: str) -> list[torch.Tensor]:
        """The last logits of each long text by the reference's weights in a dtype: [S, V] each."""
        plan = self.release.long_context

        def compute() -> list[torch.Tensor]:
            with self._reference_in(dtype) as engine:
                return [
                    tail_logits(engine, text, min(plan.tail, len(text) - 1))
                    for text in self.long_texts
                ]

        what = f"last {plan.tail} logits"
        return self.scores.logits(self.reference, dtype, self.long_texts, compute, what=what)

    @cached_property
    def documents_by_id(self) -> dict[str, TokenisedDocument]:
        window = min(self.reference.context_window, self.candidate.context_window)
        by_id = {d.id: d for d in load_corpus(self.release.corpus, self.root)}
        order = shuffled(by_id, self.release.statistics.seed)
        documents = [by_id[name] for name in order]  # max_documents cuts a random sample
        corpus = tokenise(documents, self.reference.encode, self.release.corpus, window)
        return {document.id: document for document in corpus.documents}

    @cached_property
    def scores(self) -> ReferenceScores:
        return ReferenceScores(self._cache)

    @cached_property
    def prompts(self) -> list[list[int]]:
        plan = self.release.equivalence
        documents = [d for d in self.documents_by_id.values() if len(d.token_ids) >= plan.tokens]
        if len(documents) < plan.prompts:
            documents = list(self.documents_by_id.values())
        return [list(d.token_ids[: plan.tokens]) for d in documents[: plan.prompts]]

    def request(self, index: int) -> list[int]:
        """The index-th prompt to time: the corpus read round and round."""
        length = self.release.latency.prompt_tokens
        stream = self.token_stream
        start = index * length % max(1, len(stream) - length)
        return stream[start : start + length]

    @cached_property
    def token_stream(self) -> list[int]:
        return [token for document in self.documents_by_id.values() for token in document.token_ids]

    @cached_property
    def oracle(self) -> list[torch.Tensor]:
        """The reference's weights in the widest dtype that fits: [T, V] each, float64."""
        return self._logits_in(self.widest_dtype)

    @cached_property
    def widest_dtype(self) -> str:
        dtype = self.release.equivalence.oracle
        return _widest_dtype(self.reference) if dtype == "auto" else dtype

    @cached_property
    def dtype_error(self) -> list[torch.Tensor]:
        """The reference's weights in the candidate's dtype: what that dtype alone costs."""
        return self._logits_in(self.candidate.dtype)

    def _logits_in(self, dtype: str) -> list[torch.Tensor]:
        if dtype == self.reference.dtype:
            return [self.reference.full_logits(prompt).double() for prompt in self.prompts]
        return self.scores.logits(
            self.reference, dtype, self.prompts, lambda: self._compute_logits(dtype)
        )

    def _compute_logits(self, dtype: str) -> list[torch.Tensor]:
        with self._reference_in(dtype) as engine:
            return [engine.full_logits(prompt).double() for prompt in self.prompts]

    @contextmanager
    def _reference_in(self, dtype: str) -> Iterator[TransformersEngine]:
        """The reference's weights in another dtype, loaded for as long as it takes."""
        if dtype == self.reference.dtype:
            yield self.reference
            return
        engine = load_engine(replace(self.release.reference, dtype=dtype))
        try:
            yield engine
        finally:
            engine.close()


def _widest_dtype(reference: TransformersEngine) -> str:
    """float64 where the machine can hold the reference a second time at eight bytes a weight."""
    weights = reference.memory().weight_bytes
    if torch.device(reference.device).type == "cuda":
        free = torch.cuda.mem_get_info()[0]
    else:
        free = _free_host_bytes()
    per_weight = torch.finfo(getattr(torch, reference.dtype)).bits // 8
    return "float64" if weights / per_weight * 8 < free / 2 else "float32"


def _free_host_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0
