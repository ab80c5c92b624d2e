"""The bench: reference and candidate side by side in one process, measured on request.

`Bench` lives in a worker process (see `worker`) and is the only place where models are held during
a run. Its methods take and return plain data;
`client.BenchClient` is the same interface on pytest's side.
PYTEST_DONT_REWRITE: timings are taken under here.
"""

from __future__ import annotations

import platform
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from importlib import import_module
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
import transformers
from infopt_reference.batching import CostModel
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401  imported once, here

from .corpus import TokenisedDocument, corpus_fingerprint, load_corpus, shuffled, tokenise
from .engines.chat_server import ChatServer
from .engines.loaders import load_engine
from .engines.prefix_server import PrefixServer
from .engines.transformers import TransformersEngine
from .errors import InvalidComparisonError
from .measure.batching import (
    generating,
    measure_batch_invariance,
    measure_batching_pair,
    measure_window,
)
from .measure.equivalence import measure_prompt
from .measure.kv_cache import (
    measure_kv_growth,
    measure_kv_prompt,
    paged_table,
    size_table,
    step_cost_table,
)
from .measure.latency import SlowedEngine, measure_pair, warm_up
from .measure.long_context import measure_long_text, sweep_table, tail_logits
from .measure.memory import measure_memory
from .measure.prefix_cache import measure_prefix_prompt, shared_prompt_table
from .measure.quality import measure_document
from .measure.samples import Sample
from .measure.served_prefix import measure_served_chat, served_table
from .measure.strategies import Workload, compare_strategies, drawn_trace, fitted_cost
from .measure.yardstick import dtype_named, yardstick_of
from .release import ModelSource, Release, ServerSource
from .store.scores import ReferenceScores

# transformers imports most of itself when a model is first built: 5 s. Importing one decoder's
# module makes it do so in the fork server, once, and not in every process that comes from there.
import_module("transformers.models.llama.modeling_llama")


class Bench:
    """Holds ``release.reference`` and ``candidate``; loads each when it is first needed.

    ``cache`` is the directory for the reference's scores, shared by all candidates of a run.
    """

    def __init__(self, release: Release, candidate: ModelSource, root: Path, cache: Path) -> None:
        self._release = release
        self._source = candidate
        self._root = root
        self._cache = cache
        # A loader of one's own lies beside the configuration, which pytest need not have imported.
        sys.path.insert(0, str(root))

    @cached_property
    def reference(self) -> TransformersEngine:
        return load_engine(self._release.reference)

    @cached_property
    def candidate(self) -> TransformersEngine:
        return load_engine(self._source)

    def describe(self) -> dict[str, Any]:
        """Both models and the machine, after checking that they can be compared at all.

        Raises InvalidComparisonError on another tokenizer or vocabulary.
        """
        self._check_comparable()
        return {
            "environment": _environment(self.reference.device),
            "reference": _identity(self.reference),
            "candidate": _identity(self.candidate),
            "corpus": corpus_fingerprint(load_corpus(self._release.corpus, self._root)),
        }

    def documents(self) -> list[str]:
        """Ids of the documents in the order of measuring: random, decided by the seed."""
        return list(self._documents)

    def measure_document(self, document_id: str) -> Sample:
        """Quality on one document."""
        document = self._documents[document_id]
        return measure_document(
            self._scores.of(self.reference, document.token_ids),
            self.candidate.score(document.token_ids),
            document.id,
            document.token_ids,
            self.reference.decode,
            getattr(torch, self.candidate.dtype),
        )

    def measure_prompt(self, index: int) -> Sample:
        """Equivalence on the index-th prompt."""
        return measure_prompt(
            self.candidate,
            self.reference,
            self._oracle[index],
            self._yardstick[index],
            self._prompts[index],
            f"prompt-{index}",
        )

    def warm_up(self) -> None:
        """Untimed calls on the shapes to be timed, both models."""
        plan = self._release.latency
        for engine in (self.reference, self.candidate):
            warm_up(engine, self._request(0), plan.new_tokens, plan.warmup)

    def slow_candidate(self, factor: float) -> None:
        """Make the candidate do ``factor`` times its work: a regression that the gate must see."""
        self.candidate = SlowedEngine(self.candidate, factor)  # type: ignore[assignment]

    def measure_pair(self, index: int, candidate_first: bool) -> Sample:
        """One request to each model, timed."""
        return measure_pair(
            self.reference,
            self.candidate,
            self._request(index),
            self._release.latency.new_tokens,
            candidate_first,
            f"pair-{index}",
        )

    def measure_memory(self) -> tuple[Sample, Sample]:
        """What reference and candidate weigh: two samples."""
        plan = self._release.latency
        tokens = plan.prompt_tokens + plan.new_tokens
        reference = measure_memory(self.reference, tokens, batch=2)
        return reference, measure_memory(self.candidate, tokens, batch=2)

    def measure_kv_prompt(self, index: int) -> Sample:
        """Every way through the candidate's KV cache on the index-th prompt of equivalence."""
        return measure_kv_prompt(
            self.candidate,
            self._oracle[index],
            self._yardstick[index],
            self._prompts[index],
            f"prompt-{index}",
        )

    def measure_kv_growth(self) -> Sample:
        """Sizes and step costs of the candidate's KV cache; its tables are in the details."""
        plan, window = self._release.caches, self.candidate.context_window
        lengths = [n for n in plan.lengths if n <= window] or [window]
        growth = measure_kv_growth(self.candidate, lengths, plan.batch_sizes)
        documents = [min(n, window) for n in self._document_lengths]
        tables = [
            step_cost_table(growth),
            size_table(growth),
            paged_table(self.candidate.predicted_kv_bytes(1), documents, max(documents)),
        ]
        return replace(growth, details={"tables": [table.to_json() for table in tables]})

    def measure_prefix_prompt(self, index: int) -> Sample:
        """The index-th prompt of equivalence behind a prefix cache, from cold to evicted."""
        return measure_prefix_prompt(
            self.candidate,
            self._prefix_server,
            self._oracle[index],
            self._yardstick[index],
            self._prompts[index],
            f"prompt-{index}",
        )

    def shared_prompt_table(self) -> dict[str, Any]:
        """What a prefix cache saves of requests that share a system prompt."""
        plan = self._release.caches
        window = self.candidate.context_window
        question_tokens = min(plan.question_tokens, window // 2)
        text = cycle(self._token_stream)
        system = list(islice(text, min(plan.system_tokens, window - question_tokens)))
        questions = [list(islice(text, question_tokens)) for _ in range(plan.requests)]
        table = shared_prompt_table(self._prefix_server, system, questions, plan.block_size)
        return table.to_json()

    def measure_long_text(self, index: int) -> Sample:
        """The end of the index-th text of the long-context sweep."""
        tokens = self._long_texts[index]
        return measure_long_text(
            self.candidate,
            self._tails(self.reference.dtype)[index],
            self._tails(self._widest_dtype)[index],
            self._tails(self.candidate.dtype)[index],
            tokens,
            f"text-{index}-of-{len(tokens)}",
        )

    def long_context_table(self, samples: list[Sample]) -> dict[str, Any]:
        """The sweep's samples as a table."""
        return sweep_table(samples, self._release.long_context.tail).to_json()

    def measure_served_chat(self, server: ServerSource, index: int) -> Sample:
        """The index-th chat behind a system prompt that the server has never seen, cold and warm.

        Its text is the corpus's; a number drawn by this process stands before it.
        """
        plan, text = self._release.caches, cycle(self._token_stream)
        words = islice(text, index * plan.question_tokens, None)
        question = self.candidate.decode(list(islice(words, plan.question_tokens)))
        system = self.candidate.decode(list(islice(words, plan.system_tokens)))
        return measure_served_chat(
            ChatServer(server, self._release.statistics.timeout_seconds),
            self.candidate,
            [
                {"role": "system", "content": f"{secrets.token_hex(8)} {system}"},
                {"role": "user", "content": question},
            ],
            yardstick_of(
                self._oracle[0].double(), self._yardstick[0], dtype_named(self.candidate.dtype)
            ),
            self._release.latency.new_tokens,
            f"chat-{index}",
        )

    def served_table(self, samples: list[Sample]) -> dict[str, Any]:
        """The server's chats as a table."""
        return served_table(samples).to_json()

    def measure_batch_invariance(self, index: int) -> Sample:
        """The index-th prompt of equivalence in batches of every size, against alone."""
        prompt = self._prompts[index]
        others = [p for i, p in enumerate(self._prompts) if i != index]
        return measure_batch_invariance(
            self.candidate,
            self._oracle[index],
            self._yardstick[index],
            prompt,
            [*others, prompt[: max(1, len(prompt) // 2)]],  # of another length
            f"prompt-{index}",
            self._release.batching.batch_sizes,
        )

    def measure_batching_pair(self, index: int, batched_first: bool) -> Sample:
        """Two full batches of requests through a dynamic batcher, and one by one."""
        plan = self._release.batching
        text = islice(cycle(self._token_stream), index, None)
        requests = [
            (list(islice(text, plan.prompt_tokens)), 1) for _ in range(2 * plan.max_batch_size)
        ]
        return measure_batching_pair(
            generating(self.candidate),
            requests,
            self._workload.policy,
            batched_first,
            f"pair-{index}",
        )

    def measure_window(self) -> Sample:
        """What the batcher's window adds to the trace's requests, simulated."""
        cost, _ = self._cost
        trace = drawn_trace(cost, self._workload)
        return measure_window(trace, cost, self._workload.policy, "window")

    def strategies_table(self) -> dict[str, Any]:
        """None, static, dynamic and continuous batching on one trace, simulated and measured."""
        return compare_strategies(self.candidate, self._workload, *self._cost).to_json()

    @property
    def _workload(self) -> Workload:
        plan = self._release.batching
        return Workload(
            requests=plan.requests,
            prompt_tokens=plan.prompt_tokens,
            new_tokens=plan.new_tokens,
            load=plan.load,
            max_batch_size=plan.max_batch_size,
            max_wait=plan.max_wait,
            seed=self._release.statistics.seed,
        )

    @cached_property
    def _cost(self) -> tuple[CostModel, float]:
        return fitted_cost(self.candidate, self._workload)

    def _prefix_server(self, num_blocks: int, block_size: int) -> PrefixServer:
        try:
            return PrefixServer(self.candidate, num_blocks, block_size)
        except ValueError as error:
            raise InvalidComparisonError(f"prefix cache of {self._source.name}: {error}") from error

    def _text(self, count: int, index: int) -> list[int]:
        """The index-th stretch of ``count`` tokens of the corpus, its documents joined."""
        stream = self._token_stream
        if count > len(stream):
            raise InvalidComparisonError(
                f"a text of {count} tokens: the corpus has {len(stream)} in documents cut to "
                f"{self._release.corpus.max_tokens}; add files, or raise corpus.max_tokens"
            )
        start = index * count % (len(stream) - count + 1)
        return stream[start : start + count]

    @cached_property
    def _document_lengths(self) -> list[int]:
        """Tokens of the release's documents as they are, before any cut."""
        texts = {d.id: d.text for d in load_corpus(self._release.corpus, self._root)}
        return [len(self.reference.encode(texts[name])) for name in self._documents]

    @cached_property
    def _long_texts(self) -> list[list[int]]:
        plan = self._release.long_context
        return [self._text(length, i) for length in plan.lengths for i in range(plan.texts)]

    def _tails(self, dtype: str) -> list[torch.Tensor]:
        """The last logits of each long text by the reference's weights in a dtype: [S, V] each."""
        plan = self._release.long_context

        def compute() -> list[torch.Tensor]:
            with self._reference_in(dtype) as engine:
                return [
                    tail_logits(engine, text, min(plan.tail, len(text) - 1))
                    for text in self._long_texts
                ]

        what = f"last {plan.tail} logits"
        return self._scores.logits(self.reference, dtype, self._long_texts, compute, what=what)

    def _check_comparable(self) -> None:
        reference, candidate = self.reference, self.candidate
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

    @cached_property
    def _documents(self) -> dict[str, TokenisedDocument]:
        window = min(self.reference.context_window, self.candidate.context_window)
        by_id = {d.id: d for d in load_corpus(self._release.corpus, self._root)}
        order = shuffled(by_id, self._release.statistics.seed)
        documents = [by_id[name] for name in order]  # max_documents cuts a random sample
        corpus = tokenise(documents, self.reference.encode, self._release.corpus, window)
        return {document.id: document for document in corpus.documents}

    @cached_property
    def _scores(self) -> ReferenceScores:
        return ReferenceScores(self._cache)

    @cached_property
    def _prompts(self) -> list[list[int]]:
        plan = self._release.equivalence
        documents = [d for d in self._documents.values() if len(d.token_ids) >= plan.tokens]
        if len(documents) < plan.prompts:
            documents = list(self._documents.values())
        return [list(d.token_ids[: plan.tokens]) for d in documents[: plan.prompts]]

    def _request(self, index: int) -> list[int]:
        """The index-th prompt to time: the corpus read round and round."""
        length = self._release.latency.prompt_tokens
        stream = self._token_stream
        start = index * length % max(1, len(stream) - length)
        return stream[start : start + length]

    @cached_property
    def _token_stream(self) -> list[int]:
        return [token for document in self._documents.values() for token in document.token_ids]

    @cached_property
    def _oracle(self) -> list[torch.Tensor]:
        """The reference's weights in the widest dtype that fits: [T, V] each, float64."""
        return self._logits_in(self._widest_dtype)

    @cached_property
    def _widest_dtype(self) -> str:
        dtype = self._release.equivalence.oracle
        return _widest_dtype(self.reference) if dtype == "auto" else dtype

    @cached_property
    def _yardstick(self) -> list[torch.Tensor]:
        """The reference's weights in the candidate's dtype: what that dtype alone costs."""
        return self._logits_in(self.candidate.dtype)

    def _logits_in(self, dtype: str) -> list[torch.Tensor]:
        if dtype == self.reference.dtype:
            return [self.reference.full_logits(prompt).double() for prompt in self._prompts]
        return self._scores.logits(
            self.reference, dtype, self._prompts, lambda: self._compute_logits(dtype)
        )

    def _compute_logits(self, dtype: str) -> list[torch.Tensor]:
        with self._reference_in(dtype) as engine:
            return [engine.full_logits(prompt).double() for prompt in self._prompts]

    @contextmanager
    def _reference_in(self, dtype: str) -> Iterator[TransformersEngine]:
        """The reference's weights in another dtype, loaded for as long as it takes."""
        if dtype == self.reference.dtype:
            yield self.reference
            return
        engine = load_engine(replace(self._release.reference, dtype=dtype))
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


def _identity(engine: TransformersEngine) -> dict[str, Any]:
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
