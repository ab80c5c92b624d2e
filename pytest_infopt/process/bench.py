"""The bench: reference and candidate side by side in one process, measured on request.

`Bench` lives in a worker process (see `worker`) and is the only place where models are held during
a run. Its methods take and return plain data;
`client.BenchClient` is the same interface on pytest's side.
PYTEST_DONT_REWRITE: timings are taken under here.
"""

from __future__ import annotations

import platform
import secrets
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from importlib import import_module
from itertools import cycle, islice
from typing import Any

import torch
import transformers
from infopt_reference.batching import CostModel
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401  imported once, here

from ..corpus import corpus_fingerprint, load_corpus
from ..engines.base import Engine
from ..engines.chat_server import ChatServer
from ..engines.prefix_server import PrefixServer
from ..errors import InvalidComparisonError
from ..measure.batching import (
    generating,
    measure_batch_invariance,
    measure_batching_pair,
    measure_window,
)
from ..measure.dtype_error import dtype_error_of, dtype_named
from ..measure.equivalence import measure_prompt
from ..measure.kv_cache import (
    measure_kv_growth,
    measure_kv_prompt,
    paged_table,
    size_table,
    step_cost_table,
)
from ..measure.latency import SlowedEngine, measure_pair, warm_up
from ..measure.long_context import measure_long_text, sweep_table
from ..measure.memory import measure_memory
from ..measure.prefix_cache import measure_prefix_prompt, shared_prompt_table
from ..measure.quality import measure_document
from ..measure.served_prefix import measure_served_chat, served_table
from ..measure.strategies import compare_strategies, drawn_trace, fitted_cost, policy_of
from ..release import ServerSource
from ..results.sample import Sample
from .model_pair import BenchModels

# transformers imports most of itself when a model is first built: 5 s. Importing one decoder's
# module makes it do so in the fork server, once, and not in every process that comes from there.
import_module("transformers.models.llama.modeling_llama")


class Bench(BenchModels):
    """What is measured of the two models: a method for each kind of sample or table."""

    def describe(self) -> dict[str, Any]:
        """Both models and the machine, after checking that they can be compared at all.

        Raises InvalidComparisonError on another tokenizer or vocabulary.
        """
        self._check_comparable()
        return {
            "environment": _environment(self.reference.device),
            "reference": _identity(self.reference),
            "candidate": _identity(self.candidate),
            "corpus": corpus_fingerprint(load_corpus(self.release.corpus, self.root)),
        }

    def documents(self) -> list[str]:
        """Ids of the documents in the order of measuring: random, decided by the seed."""
        return list(self.documents_by_id)

    def measure_document(self, document_id: str) -> Sample:
        """Quality on one document."""
        document = self.documents_by_id[document_id]
        return measure_document(
            self.scores.of(self.reference, document.token_ids),
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
            self.oracle[index],
            self.dtype_error[index],
            self.prompts[index],
            f"prompt-{index}",
        )

    def warm_up(self) -> None:
        """Untimed calls on the shapes to be timed, both models."""
        plan = self.release.latency
        for engine in (self.reference, self.candidate):
            warm_up(engine, self.request(0), plan.new_tokens, plan.warmup)

    def slow_candidate(self, factor: float) -> None:
        """Make the candidate do ``factor`` times its work: a regression that the gate must see."""
        self.candidate = SlowedEngine(self.candidate, factor)

    def measure_pair(self, index: int, candidate_first: bool) -> Sample:
        """One request to each model, timed."""
        return measure_pair(
            self.reference,
            self.candidate,
            self.request(index),
            self.release.latency.new_tokens,
            candidate_first,
            f"pair-{index}",
        )

    def measure_memory(self) -> tuple[Sample, Sample]:
        """What reference and candidate weigh: two samples."""
        plan = self.release.latency
        tokens = plan.prompt_tokens + plan.new_tokens
        reference = measure_memory(self.reference, tokens, batch=2)
        return reference, measure_memory(self.candidate, tokens, batch=2)

    def measure_kv_prompt(self, index: int) -> Sample:
        """Every way through the candidate's KV cache on the index-th prompt of equivalence."""
        return measure_kv_prompt(
            self.candidate,
            self.oracle[index],
            self.dtype_error[index],
            self.prompts[index],
            f"prompt-{index}",
        )

    def measure_kv_growth(self) -> Sample:
        """Sizes and step costs of the candidate's KV cache; its tables are in the details."""
        plan, window = self.release.caches, self.candidate.context_window
        lengths = [n for n in plan.lengths if n <= window] or [window]
        growth = measure_kv_growth(self.candidate, lengths, plan.batch_sizes)
        documents = [min(n, window) for n in self.document_lengths]
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
            self.oracle[index],
            self.dtype_error[index],
            self.prompts[index],
            f"prompt-{index}",
        )

    def shared_prompt_table(self) -> dict[str, Any]:
        """What a prefix cache saves of requests that share a system prompt."""
        plan = self.release.caches
        window = self.candidate.context_window
        question_tokens = min(plan.question_tokens, window // 2)
        text = cycle(self.token_stream)
        system = list(islice(text, min(plan.system_tokens, window - question_tokens)))
        questions = [list(islice(text, question_tokens)) for _ in range(plan.requests)]
        table = shared_prompt_table(self._prefix_server, system, questions, plan.block_size)
        return table.to_json()

    def measure_long_text(self, index: int) -> Sample:
        """The end of the index-th text of the long-context sweep."""
        tokens = self.long_texts[index]
        return measure_long_text(
            self.candidate,
            self.tails(self.reference.dtype)[index],
            self.tails(self.widest_dtype)[index],
            self.tails(self.candidate.dtype)[index],
            tokens,
            f"text-{index}-of-{len(tokens)}",
        )

    def long_context_table(self, samples: list[Sample]) -> dict[str, Any]:
        """The sweep's samples as a table."""
        return sweep_table(samples, self.release.long_context.tail).to_json()

    def measure_served_chat(self, server: ServerSource, index: int) -> Sample:
        """The index-th chat behind a system prompt that the server has never seen, cold and warm.

        Its text is the corpus's; a number drawn by this process stands before it.
        """
        plan, text = self.release.caches, cycle(self.token_stream)
        words = islice(text, index * plan.question_tokens, None)
        question = self.candidate.decode(list(islice(words, plan.question_tokens)))
        system = self.candidate.decode(list(islice(words, plan.system_tokens)))
        return measure_served_chat(
            ChatServer(server, self.release.statistics.timeout_seconds),
            self.candidate,
            [
                {"role": "system", "content": f"{secrets.token_hex(8)} {system}"},
                {"role": "user", "content": question},
            ],
            dtype_error_of(
                self.oracle[0].double(), self.dtype_error[0], dtype_named(self.candidate.dtype)
            ),
            self.release.latency.new_tokens,
            f"chat-{index}",
        )

    def served_table(self, samples: list[Sample]) -> dict[str, Any]:
        """The server's chats as a table."""
        return served_table(samples).to_json()

    def measure_batch_invariance(self, index: int) -> Sample:
        """The index-th prompt of equivalence in batches of every size, against alone."""
        prompt = self.prompts[index]
        others = [p for i, p in enumerate(self.prompts) if i != index]
        return measure_batch_invariance(
            self.candidate,
            self.oracle[index],
            self.dtype_error[index],
            prompt,
            [*others, prompt[: max(1, len(prompt) // 2)]],  # of another length
            f"prompt-{index}",
            self.release.batching.batch_sizes,
        )

    def measure_batching_pair(self, index: int, batched_first: bool) -> Sample:
        """Two full batches of requests through a dynamic batcher, and one by one."""
        plan = self.release.batching
        text = islice(cycle(self.token_stream), index, None)
        requests: list[tuple[Sequence[int], int]] = [
            (list(islice(text, plan.prompt_tokens)), 1) for _ in range(2 * plan.max_batch_size)
        ]
        return measure_batching_pair(
            generating(self.candidate),
            requests,
            policy_of(plan),
            batched_first,
            f"pair-{index}",
        )

    def measure_window(self) -> Sample:
        """What the batcher's window adds to the trace's requests, simulated."""
        plan, (cost, _) = self.release.batching, self._cost
        trace = drawn_trace(cost, plan, self.release.statistics.seed)
        return measure_window(trace, cost, policy_of(plan), "window")

    def strategies_table(self) -> dict[str, Any]:
        """None, static, dynamic and continuous batching on one trace, simulated and measured."""
        plan, seed = self.release.batching, self.release.statistics.seed
        return compare_strategies(self.candidate, plan, seed, *self._cost).to_json()

    @cached_property
    def _cost(self) -> tuple[CostModel, float]:
        return fitted_cost(self.candidate, self.release.batching)

    def _prefix_server(self, num_blocks: int, block_size: int) -> PrefixServer:
        try:
            return PrefixServer(self.candidate, num_blocks, block_size)
        except ValueError as error:
            raise InvalidComparisonError(f"prefix cache of {self.source.name}: {error}") from error

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
