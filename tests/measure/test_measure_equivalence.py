"""Equivalence on a toy transformer: sound ones stay legal in every dtype, planted faults do not."""

from __future__ import annotations

import math

import pytest
import torch
from infopt_suites.gates.equivalence.logit_errors import measure_prompt
from measure_fakes import ToyTransformer, seeded_ids

from pytest_infopt.engines.base import Capability
from pytest_infopt.errors import InvalidComparisonError, NonFiniteLogitsError
from pytest_infopt.gates.registry import gate_named
from pytest_infopt.measure.dtype_error import OUTPUT_FACTOR
from pytest_infopt.results.sample import Sample

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
PROMPT = seeded_ids("a prompt", 21, ToyTransformer.vocabulary)
CONSISTENCY = (
    "causality_error_ratio",
    "cached_error_ratio",
    "batch_error_ratio",
    "served_error_ratio",
)


def measure(candidate: ToyTransformer, ids: list[int] = PROMPT) -> Sample:
    dtype = getattr(torch, candidate.dtype)
    oracle = ToyTransformer(torch.float64).full_logits(ids)
    dtype_error = ToyTransformer(dtype).full_logits(ids)
    return measure_prompt(candidate, ToyTransformer(torch.float32), oracle, dtype_error, ids, "p")


def centred(rows: torch.Tensor) -> torch.Tensor:
    """Without what no softmax sees."""
    return rows - rows.mean(-1, keepdim=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("text", ["one", "two", "three", "four"])
def test_a_sound_candidate_is_legal_on_every_metric(dtype: torch.dtype, text: str) -> None:
    sample = measure(ToyTransformer(dtype), seeded_ids(text, 24, ToyTransformer.vocabulary))
    assert set(sample.values) == {metric.name for metric in gate_named("equivalence").metrics}
    for name in ("logit_error_ratio", *CONSISTENCY):
        assert sample.values[name] <= OUTPUT_FACTOR, name
    assert sample.values["greedy_mismatches"] == 0
    assert sample.findings == []


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("fault", "metric"),
    [
        ("mask_ahead", "causality_error_ratio"),
        ("stale_cache", "cached_error_ratio"),
        ("padding_moves_positions", "batch_error_ratio"),
        ("padding_is_seen", "batch_error_ratio"),
        ("last_is_shifted", "served_error_ratio"),
        ("right_padding_is_first", "served_error_ratio"),
        ("eager_has_no_scale", "served_error_ratio"),
        ("compiled_is_another", "served_error_ratio"),
    ],
)
def test_a_planted_fault_is_far_outside(dtype: torch.dtype, fault: str, metric: str) -> None:
    values = measure(ToyTransformer(dtype, fault)).values
    assert values[metric] > 2 * OUTPUT_FACTOR
    sound = {name: values[name] for name in CONSISTENCY if name != metric}
    if fault != "mask_ahead":  # which moves what the cache gives too: it sees no token ahead
        assert max(sound.values()) <= OUTPUT_FACTOR


@pytest.mark.parametrize("dtype", DTYPES)
def test_damaged_weights_are_an_error_of_the_logits_but_not_of_the_cache(
    dtype: torch.dtype,
) -> None:
    values = measure(ToyTransformer(dtype, damage=0.2)).values
    assert values["logit_error_ratio"] > 2 * OUTPUT_FACTOR
    assert max(values[name] for name in CONSISTENCY) <= OUTPUT_FACTOR


def test_distances_follow_their_definitions() -> None:
    candidate = ToyTransformer(torch.float32, damage=0.1)
    oracle = centred(ToyTransformer(torch.float64).full_logits(PROMPT))
    found = centred(candidate.full_logits(PROMPT).double())
    error = found - oracle
    values = measure(candidate).values
    sqnr = 10 * math.log10(float((oracle**2).sum() / (error**2).sum()))
    assert values["sqnr_db"] == pytest.approx(sqnr)
    assert values["max_logit_error"] == float(error.abs().max())
    cosines = (found * oracle).sum(-1) / (found.norm(dim=-1) * oracle.norm(dim=-1))
    assert values["cosine"] == pytest.approx(float(cosines.min()))


def test_the_ratio_is_the_rule_twice_the_dtype_error_plus_the_floor() -> None:
    """An error of exactly 2·dtype error + floor is the last legal one."""
    oracle = ToyTransformer(torch.float64).full_logits(PROMPT)
    plain = ToyTransformer(torch.bfloat16).full_logits(PROMPT)
    dtype_error = float(centred(plain.double() - oracle).square().mean().sqrt())
    floor = float(centred(oracle.bfloat16().double() - oracle).square().mean().sqrt())
    candidate = ToyTransformer(torch.bfloat16)
    signs = torch.tensor([1.0, -1.0]).repeat(ToyTransformer.vocabulary // 2)  # of mean 0
    wrong = oracle + (2 * dtype_error + floor) * signs
    candidate.full_logits = lambda ids: wrong[: len(ids)]  # type: ignore[method-assign]
    candidate.capabilities = frozenset({Capability.FULL_LOGITS})
    sample = measure_prompt(candidate, candidate, oracle, plain, PROMPT, "p")
    assert sample.values["logit_error_ratio"] == pytest.approx(OUTPUT_FACTOR)


def test_the_reference_itself_is_identical_and_another_dtype_is_not() -> None:
    assert measure(ToyTransformer(torch.float32)).identical
    assert not measure(ToyTransformer(torch.bfloat16)).identical


def shifted(gap: float, dtype: torch.dtype = torch.bfloat16) -> Sample:
    """A candidate that prefers token 1 where the oracle prefers token 0 by ``gap``, at row 2."""
    oracle = torch.zeros(4, 8, dtype=torch.float64)
    oracle[:, 0] = 16.0
    oracle[:, 1] = 16.0 - gap
    flipped = oracle.clone()
    flipped[2, 1] = 16.0 + gap
    candidate = ToyTransformer(dtype)
    candidate.full_logits = lambda ids: flipped[: len(ids)].to(dtype)  # type: ignore[method-assign]
    return measure_prompt(candidate, candidate, oracle, oracle.to(dtype), [3, 4, 5, 6], "p")


def test_a_mismatch_within_two_ulps_is_a_near_tie() -> None:
    ulp = 2.0**-3  # bfloat16 has 8 significant bits: 16 = 2^4 is spaced 2^(4-7)
    near, far = shifted(2 * ulp), shifted(3 * ulp)
    assert near.values["greedy_mismatches"] == 0
    assert near.details["near_ties"] == 1
    assert near.findings == []
    assert far.values["greedy_mismatches"] == 1
    finding = far.findings[0]
    assert finding.position == 3
    assert finding.gap_ulps == 3.0
    assert (finding.reference_top[0][0], finding.candidate_top[0][0]) == ("<0>", "<1>")
    assert finding.true_token == "<6>"


def test_a_mismatch_within_twice_the_plain_implementations_error_is_a_near_tie() -> None:
    oracle = torch.zeros(3, ToyTransformer.vocabulary, dtype=torch.float64)
    oracle[:, 0] = 1.0
    plain = oracle.clone()
    plain[1, 7] += 0.6
    flipped = oracle.clone()
    flipped[1:, 1] = 2.0
    candidate = ToyTransformer(torch.float32)
    candidate.full_logits = lambda ids: flipped[: len(ids)]  # type: ignore[method-assign]
    sample = measure_prompt(candidate, candidate, oracle, plain, [1, 2, 3], "p")
    assert sample.details["near_ties"] == 1  # row 1, where the plain one errs by 0.6
    assert sample.values["greedy_mismatches"] == 1  # row 2, where it does not err
    assert sample.findings[0].position == 3
    assert sample.findings[0].true_token == ""  # nothing follows the prompt


def test_an_oracle_no_finer_than_the_dtype_leaves_the_ratios_out() -> None:
    candidate = ToyTransformer(torch.float32)
    logits = candidate.full_logits(PROMPT)
    sample = measure_prompt(candidate, candidate, logits.double(), logits, PROMPT, "p")
    assert not [name for name in sample.values if name.endswith("_ratio")]
    assert "float64" in sample.details["left_out"]["error ratios"]
    assert sample.values["sqnr_db"] == math.inf
    assert sample.values["cosine"] == 1.0


def test_what_an_engine_cannot_do_is_left_out_with_a_reason() -> None:
    candidate = ToyTransformer(torch.float32)
    candidate.capabilities = frozenset({Capability.FULL_LOGITS})
    sample = measure(candidate)
    assert "cached_error_ratio" not in sample.values
    assert "no cache" in sample.details["left_out"]["cached_error_ratio"]


def test_a_prompt_of_one_token_has_no_consistency_to_check() -> None:
    sample = measure(ToyTransformer(torch.bfloat16), [5])
    assert "consistency" in sample.details["left_out"]
    assert "logit_error_ratio" in sample.values


def test_two_tokens_are_enough_for_all() -> None:
    sample = measure(ToyTransformer(torch.float32), [5, 6])
    assert set(sample.values) == {metric.name for metric in gate_named("equivalence").metrics}


def test_a_candidate_with_another_vocabulary_is_refused() -> None:
    candidate = ToyTransformer(torch.float32)
    oracle = torch.zeros(len(PROMPT), 50, dtype=torch.float64)
    with pytest.raises(InvalidComparisonError, match=r"21, 96.*21, 50"):
        measure_prompt(candidate, candidate, oracle, oracle, PROMPT, "p")


def test_a_candidate_that_returns_nan_is_refused() -> None:
    candidate = ToyTransformer(torch.float32)
    candidate.out[3] = torch.nan
    with pytest.raises(NonFiniteLogitsError, match="position 0"):
        measure(candidate)
