"""Equivalence and quality gates against planted faults, and against candidates that are sound."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from default_limits import default_budgets
from gates import (
    ATTENTION,
    MODEL_MUTANTS,
    QUANTIZER_MUTANTS,
    QUANTIZERS,
    ModelMutant,
    QuantizerMutant,
    apply_quantizer,
    padding_shifts_positions,
)
from infopt_reference.quantization import preset, quantize_model
from infopt_suites.gates.equivalence.logit_errors import measure_prompt
from infopt_suites.gates.quality.documents import measure_document
from tiny_models import VOCABULARY, make_model, make_tokenizer

from pytest_infopt.engines.base import Scores
from pytest_infopt.engines.transformers.engine import TransformersEngine
from pytest_infopt.gates.registry import gate_named, metrics
from pytest_infopt.judge.gate_judge import GateJudge
from pytest_infopt.metrics.budget import Budget
from pytest_infopt.release import ModelSource, Statistics
from pytest_infopt.results.sample import Sample
from pytest_infopt.results.verdict import Judgement, Verdict
from pytest_infopt.run.judging import take

PROMPTS, DOCUMENTS, TOKENS = 2, 32, 32
JUDGED, CALIBRATION = slice(DOCUMENTS), slice(DOCUMENTS, None)
SOUND_MULTIPLE = 2  # of a sound quantizer's KL: room for the documents' differences
TOKENIZER = make_tokenizer()
Judgements = dict[str, Judgement]


# Models and texts


class Reference:
    """A float32 model with its texts and what they score: computed once, whoever is compared."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.engine = engine(module)
        self.prompts = written_by(module, PROMPTS, seed=1)

    @functools.cached_property
    def documents(self) -> list[tuple[list[int], Scores]]:
        texts = written_by(self.module, 2 * DOCUMENTS, seed=2)
        return [(ids, self.engine.score(ids)) for ids in texts]

    @functools.cached_property
    def oracle(self) -> list[torch.Tensor]:
        return self.logits_in(torch.float64)

    def logits_in(self, dtype: torch.dtype) -> list[torch.Tensor]:
        own = engine(copied(self.module, dtype), dtype)
        return [own.full_logits(ids) for ids in self.prompts]


@functools.cache
def original(architecture: str) -> Reference:
    return Reference(make_model(architecture))


def copied(module: Any, dtype: torch.dtype = torch.float32) -> Any:
    return copy.deepcopy(module).to(dtype)


def engine(module: Any, dtype: torch.dtype = torch.float32) -> TransformersEngine:
    return TransformersEngine("tiny", module, TOKENIZER, dtype=dtype)


@torch.no_grad()
def written_by(module: Any, count: int, seed: int) -> list[list[int]]:
    """Texts [count, TOKENS] drawn from the model itself, whose perplexity then means something."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(VOCABULARY, (count, 1), generator=generator)
    for _ in range(TOKENS - 1):
        probabilities = module(input_ids=ids, use_cache=False).logits[:, -1].softmax(-1)
        ids = torch.cat([ids, torch.multinomial(probabilities, 1, generator=generator)], dim=1)
    texts: list[list[int]] = ids.tolist()
    return texts


# The two gates, as the plugin runs them


def budgets(gate: str, dtype: str = "float32", quantization: str = "none") -> dict[str, Budget]:
    reference = ModelSource("reference", "embedded:tiny", dtype="float32")
    candidate = ModelSource("tiny", "embedded:tiny", quantization, dtype)
    found = default_budgets(candidate, reference)
    return gate_named(gate).limits_among(found)


def judged(gate: str, samples: list[Sample], limits: Mapping[str, Budget]) -> Judgements:
    statistics = Statistics()
    judge = GateJudge(
        gate_named(gate).metrics,
        limits,
        alpha_pass=statistics.alpha_pass,
        alpha_fail=statistics.alpha_fail,
        planned=len(samples),
        identical_outputs_pass=gate_named(gate).identical_outputs_pass,
    )
    for sample in samples:
        take(judge, sample)
    return {judgement.metric: judgement for judgement in judge.judgements(exhausted=True)}


def equivalence(
    reference: Reference, candidate: TransformersEngine, quantization: str = "none"
) -> Judgements:
    dtype_error = reference.logits_in(getattr(torch, candidate.dtype))
    samples = [
        measure_prompt(candidate, reference.engine, exact, plain, ids, "prompt")
        for exact, plain, ids in zip(reference.oracle, dtype_error, reference.prompts, strict=True)
    ]
    limits = budgets("equivalence", candidate.dtype, quantization)
    return judged("equivalence", samples, limits)


def compared(
    reference: Reference, candidate: TransformersEngine, part: slice = JUDGED
) -> list[Sample]:
    dtype = getattr(torch, candidate.dtype)
    decode = reference.engine.decode
    return [
        measure_document(scores, candidate.score(ids), "document", ids, decode, dtype)
        for ids, scores in reference.documents[part]
    ]


def divergence_limit(reference: Reference, sound: TransformersEngine) -> dict[str, Budget]:
    """A budget from a sound quantizer, measured on other documents than those judged."""
    values = [sample.values["kl_mean"] for sample in compared(reference, sound, CALIBRATION)]
    limit = SOUND_MULTIPLE * sum(values) / len(values)
    return {"kl_mean": Budget(metrics()["kl_mean"], limit, origin="sound quantizer")}


def failed(judgements: Judgements) -> set[str]:
    return {name for name, j in judgements.items() if j.verdict is Verdict.FAIL}


# Mutants


@pytest.mark.parametrize("mutant", MODEL_MUTANTS, ids=lambda mutant: mutant.name)
def test_a_damaged_model_is_killed(mutant: ModelMutant, counted: Any) -> None:
    counted("mutant", mutant.area)
    reference = original(mutant.architecture)
    damaged = copied(reference.module)
    mutant.damage(damaged)
    candidate = engine(damaged)
    if isinstance(mutant.expected, str):
        assert mutant.expected in failed(equivalence(reference, candidate))
        return
    with pytest.raises(mutant.expected):
        equivalence(reference, candidate)
    with pytest.raises(mutant.expected):
        compared(reference, candidate)


@functools.cache
def prepared(prepare: Callable[[Any], None] | None) -> Reference:
    if prepare is None:
        return original("llama")
    module = copied(original("llama").module)
    prepare(module)
    return Reference(module)


def quantized(
    reference: Reference, quantizer: Callable[[torch.Tensor], torch.Tensor], layers: tuple[str, ...]
) -> TransformersEngine:
    module = copied(reference.module)
    apply_quantizer(module, quantizer, layers)
    return engine(module)


@pytest.mark.parametrize("mutant", QUANTIZER_MUTANTS, ids=lambda mutant: mutant.name)
def test_a_faulty_quantizer_is_killed(mutant: QuantizerMutant, counted: Any) -> None:
    counted("mutant", QUANTIZERS)
    reference = prepared(mutant.prepare)
    limits = divergence_limit(reference, quantized(reference, mutant.sound, mutant.layers))
    samples = compared(reference, quantized(reference, mutant.faulty, mutant.layers))
    assert failed(judged("quality", samples, limits)) == {"kl_mean"}


# Sound candidates


@pytest.mark.parametrize("mutant", QUANTIZER_MUTANTS, ids=lambda mutant: mutant.name)
def test_the_sound_twin_of_a_faulty_quantizer_does_not_fail(
    mutant: QuantizerMutant, counted: Any
) -> None:
    counted("sound", QUANTIZERS)
    reference = prepared(mutant.prepare)
    sound = quantized(reference, mutant.sound, mutant.layers)
    limits = divergence_limit(reference, sound)
    samples = compared(reference, sound)
    assert not failed(judged("quality", samples, limits))


@pytest.mark.parametrize("name", ["int8", "int4", "nf4"])
def test_a_sound_quantized_model_does_not_fail(name: str, counted: Any) -> None:
    counted("sound", QUANTIZERS)
    reference = original("llama")
    module = copied(reference.module)
    quantize_model(module, preset(name))
    candidate = engine(module)
    assert not failed(equivalence(reference, candidate, name))
    limits = divergence_limit(reference, candidate)
    samples = compared(reference, candidate)
    assert not failed(judged("quality", samples, limits))


def eager(module: Any) -> None:
    module.set_attn_implementation("eager")


def as_it_is(module: Any) -> None:
    """The model itself."""


@pytest.mark.parametrize(
    ("architecture", "dtype"),
    [
        *(("llama", dtype) for dtype in ("float32", "bfloat16", "float16", "float64")),
        *((other, dtype) for other in ("gpt2", "gemma2") for dtype in ("float32", "bfloat16")),
    ],
)
def test_the_model_itself_does_not_fail(architecture: str, dtype: str, counted: Any) -> None:
    counted("sound", ATTENTION)
    assert not lossless_failures(architecture, dtype, as_it_is)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("change", [eager, padding_shifts_positions])
def test_a_change_that_keeps_the_function_does_not_fail(
    change: Callable[[Any], None], dtype: str, counted: Any
) -> None:
    """Another order of sums; rotary positions that count the padding, as only distances matter."""
    counted("sound", ATTENTION)
    assert not lossless_failures("llama", dtype, change)


def lossless_failures(architecture: str, dtype: str, change: Callable[[Any], None]) -> set[str]:
    """Metrics of both gates that FAIL under the default budgets."""
    reference = original(architecture)
    module = copied(reference.module, getattr(torch, dtype))
    change(module)
    candidate = engine(module, getattr(torch, dtype))
    samples = compared(reference, candidate)
    quality = judged("quality", samples, budgets("quality", dtype))
    return failed(equivalence(reference, candidate)) | failed(quality)
