"""Measuring on the transformers engine: a tiny Llama, sound and with planted faults."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from infopt_suites.gates.equivalence.logit_errors import measure_prompt
from infopt_suites.gates.memory.footprint import measure_memory
from measure_fakes import seeded_ids
from tiny_models import cache_in
from transformers import LlamaConfig, LlamaForCausalLM

from pytest_infopt.engines.transformers.engine import TransformersEngine
from pytest_infopt.measure.divergence import compare_scores
from pytest_infopt.measure.dtype_error import OUTPUT_FACTOR
from pytest_infopt.measure.timing import measure_pair
from pytest_infopt.results.sample import Sample
from pytest_infopt.store.scores import ReferenceScores

VOCABULARY = 128
IDS = seeded_ids("llama", 24, VOCABULARY)
CONSISTENCY = ("causality_error_ratio", "cached_error_ratio", "batch_error_ratio")


@pytest.fixture(scope="module")
def module() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,  # the usual 0.02 makes attention too even for faults to matter
    )
    return LlamaForCausalLM(config).eval()


class WithoutWords(TransformersEngine):
    """The engine without a tokenizer: findings show ids."""

    def decode(self, token_ids: Any) -> str:
        return str(list(token_ids))


def engine(module: LlamaForCausalLM, dtype: torch.dtype = torch.float32) -> WithoutWords:
    own = copy.deepcopy(module).to(dtype)
    return WithoutWords("llama", own, dtype=dtype, fingerprint=f"llama {dtype}")


def measure(module: LlamaForCausalLM, candidate: TransformersEngine) -> Sample:
    dtype = getattr(torch, candidate.dtype)
    oracle = engine(module, torch.float64).full_logits(IDS)
    dtype_error = engine(module, dtype).full_logits(IDS)
    return measure_prompt(candidate, engine(module), oracle, dtype_error, IDS, "prompt")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_sound_llama_is_legal(module: LlamaForCausalLM, dtype: torch.dtype) -> None:
    values = measure(module, engine(module, dtype)).values
    for name in ("logit_error_ratio", *CONSISTENCY):
        assert values[name] <= OUTPUT_FACTOR, name
    assert values["greedy_mismatches"] == 0


def positions_start_anew(inputs: dict[str, Any]) -> None:
    """Each decode step restarts at position 0 (transformers#15751)."""
    cache = cache_in(inputs)
    if cache is not None and cache.get_seq_length():
        inputs["position_ids"] = torch.arange(inputs["input_ids"].shape[1])[None]


def padding_is_seen(inputs: dict[str, Any]) -> None:
    """The mask says that padding is text. (Dropping it is no fault: transformers then reads the
    repeated position 0 of the padding as packed sequences, and masks them from each other.)"""
    if "attention_mask" in inputs:
        inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"])


def mask_looks_ahead(inputs: dict[str, Any]) -> None:
    """Every token sees the next one."""
    count = inputs["input_ids"].shape[1]
    if inputs.get("attention_mask") is None and count > 1:
        dtype = torch.get_default_dtype()
        hidden = torch.ones(count, count, dtype=torch.bool).triu(2)
        mask = torch.zeros(count, count, dtype=dtype).masked_fill(hidden, torch.finfo(dtype).min)
        inputs["attention_mask"] = mask[None, None]


@pytest.mark.parametrize(
    ("fault", "metric"),
    [
        (positions_start_anew, "cached_error_ratio"),
        (padding_is_seen, "batch_error_ratio"),
        (mask_looks_ahead, "causality_error_ratio"),
    ],
)
def test_a_planted_fault_is_found(
    module: LlamaForCausalLM, fault: Callable[[dict[str, Any]], None], metric: str
) -> None:
    broken = copy.deepcopy(module)
    plain = broken.forward

    def forward(**inputs: Any) -> Any:
        fault(inputs)
        return plain(**inputs)

    candidate = WithoutWords("broken", broken, dtype=torch.float32, fingerprint="broken")
    broken.forward = forward
    values = measure(module, candidate).values
    assert values[metric] > 100 * OUTPUT_FACTOR


def test_cached_scores_are_the_computed_ones_bit_for_bit(
    module: LlamaForCausalLM, tmp_path: Path
) -> None:
    reference = engine(module)
    cache = ReferenceScores(tmp_path)
    cache.of(reference, IDS)
    kept = cache.of(reference, IDS)
    assert len(list(tmp_path.iterdir())) == 1
    result = compare_scores(reference.score(IDS), kept, IDS)
    assert result.identical
    assert float(result.kl.max()) == 0


def test_scores_agree_with_the_models_own_loss(module: LlamaForCausalLM) -> None:
    """transformers' own cross entropy is another implementation of the mean NLL."""
    scores = engine(module).score(IDS)
    ids = torch.tensor([IDS])
    with torch.no_grad():
        loss = float(module(input_ids=ids, labels=ids).loss)
    found = float(compare_scores(scores, scores, IDS).reference_nll.mean())
    assert found == pytest.approx(loss, rel=VOCABULARY * torch.finfo(torch.float32).eps)


def test_a_pair_and_the_memory_of_a_real_engine(module: LlamaForCausalLM) -> None:
    reference, candidate = engine(module), engine(module)
    sample = measure_pair(reference, candidate, IDS, 5, True, "pair")
    assert sample.weight == 5
    assert len(sample.tokens["itl"]) == 4
    assert sample.details["same_tokens"]
    memory = measure_memory(candidate, tokens=20, batch=2)
    parameters = sum(p.nbytes for p in module.parameters())
    assert memory.values["weight_bytes"] == parameters
    assert memory.values["kv_bytes_per_token"] == 2 * 2 * 2 * 16 * 4  # k and v·layers·heads·dim·4
    assert memory.values["kv_prediction_error"] == 0
