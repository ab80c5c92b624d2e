"""What no softmax sees: tokens that both models rule out, by −infinity or by their dtype's lowest
number; a constant that is added to all logits of a row."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from infopt_suites.gates.equivalence.logit_errors import measure_prompt
from tiny_models import SAMPLE_IDS, make_model, make_tokenizer
from torch import nn

from pytest_infopt.engines.transformers.engine import TransformersEngine
from pytest_infopt.errors import NonFiniteLogitsError
from pytest_infopt.measure.divergence import compare_scores
from pytest_infopt.measure.dtype_error import (
    OUTPUT_FACTOR,
    dtype_error_of,
    host_logits,
    logit_error,
    seen_by_softmax,
)

SUPPRESSED = [0, 5, 77]


class SuppressingHead(nn.Module):
    """A head that rules tokens out, as models with reserved or padded ids do."""

    def __init__(self, head: nn.Linear, tokens: list[int], lowest: float | None) -> None:
        super().__init__()
        self.head, self.tokens, self.lowest = head, tokens, lowest

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(hidden)
        lowest = torch.finfo(logits.dtype).min if self.lowest is None else self.lowest
        return logits.index_fill(-1, torch.tensor(self.tokens, dtype=torch.int64), lowest)


def engine(
    dtype: torch.dtype, tokens: list[int], lowest: float | None = -torch.inf
) -> TransformersEngine:
    module = copy.deepcopy(make_model("qwen2"))
    module.lm_head = SuppressingHead(module.lm_head, tokens, lowest)
    return TransformersEngine("model", module.to(dtype), make_tokenizer(), dtype=dtype)


def sample(candidate: Any, tokens: list[int], lowest: float | None) -> Any:
    oracle, plain, reference = (
        engine(dtype, tokens, lowest) for dtype in (torch.float64, torch.bfloat16, torch.float32)
    )
    logits = [e.full_logits(SAMPLE_IDS) for e in (oracle, plain)]
    return measure_prompt(candidate, reference, logits[0], logits[1], SAMPLE_IDS, "prompt")


@pytest.mark.parametrize("mine", [-torch.inf, None])
@pytest.mark.parametrize("theirs", [-torch.inf, None])
def test_tokens_that_both_rule_out_cost_nothing(mine: float | None, theirs: float | None) -> None:
    found = sample(engine(torch.bfloat16, SUPPRESSED, mine), SUPPRESSED, theirs).values
    without = sample(engine(torch.bfloat16, [], mine), [], theirs).values
    for name in ("logit_error_ratio", "cached_error_ratio", "batch_error_ratio"):
        assert found[name] == pytest.approx(without[name], rel=0.1)
    for name in ("cosine", "sqnr_db"):
        # Three of 128 tokens are left out of signal and error alike.
        assert found[name] == pytest.approx(without[name], rel=0.01)
    assert found["max_logit_error"] <= without["max_logit_error"]
    assert found["greedy_mismatches"] == 0


@pytest.mark.parametrize("lowest", [-torch.inf, None])
def test_a_token_that_only_one_rules_out_counts(lowest: float | None) -> None:
    candidate = engine(torch.bfloat16, [*SUPPRESSED, 9], lowest)
    assert sample(candidate, SUPPRESSED, lowest).values["logit_error_ratio"] > 1e6
    reference = engine(torch.float32, SUPPRESSED, lowest)
    ids = [9 if token in SUPPRESSED else token for token in SAMPLE_IDS]
    found = compare_scores(reference.score(ids), candidate.score(ids), ids)
    assert float(found.kl.min()) > 1  # the reference gives every token some probability


def test_divergences_do_not_see_what_both_rule_out() -> None:
    ids = [9 if token in SUPPRESSED else token for token in SAMPLE_IDS]
    pair = engine(torch.float32, SUPPRESSED), engine(torch.bfloat16, SUPPRESSED, None)
    found = compare_scores(pair[0].score(ids), pair[1].score(ids), ids)
    assert bool((found.kl < 0.1).all())


def test_what_no_distribution_has_is_still_found() -> None:
    everything = list(range(128))
    with pytest.raises(NonFiniteLogitsError, match="returned infinity at position 0"):
        engine(torch.float32, everything).full_logits(SAMPLE_IDS)
    with pytest.raises(NonFiniteLogitsError, match="returned infinity"):
        engine(torch.float32, SUPPRESSED, torch.inf).full_logits(SAMPLE_IDS)
    with pytest.raises(NonFiniteLogitsError, match="returned NaN"):
        engine(torch.float32, SUPPRESSED, torch.nan).full_logits(SAMPLE_IDS)
    rows = torch.zeros(2, 4)
    rows[1] = -torch.inf
    with pytest.raises(NonFiniteLogitsError, match="position 1"):
        host_logits(rows)


def test_a_logit_is_ruled_out_where_float64_gives_it_no_probability() -> None:
    exact = torch.tensor([[1.0, -740.0, -746.0, -1e30]], dtype=torch.float64)
    assert (exact - exact.max()).exp().ne(0).tolist() == [[True, True, False, False]]
    other = torch.tensor([[2.0, 3.0, -1e9, 0.0]], dtype=torch.float64)
    left, right = seen_by_softmax(other, exact)
    mean = 5.0 / 3
    assert left.tolist() == [[2.0 - mean, 3.0 - mean, 0.0, -mean]]
    assert right[0, 2] == 0
    assert float(right[0, 3]) < -1e29


def test_the_dtype_error_is_that_of_the_tokens_which_remain() -> None:
    torch.manual_seed(0)
    oracle = torch.randn(6, 64, dtype=torch.float64)
    plain = oracle.to(torch.bfloat16)
    expected = dtype_error_of(oracle[:, 3:], plain[:, 3:], torch.bfloat16)
    oracle[:, :3], plain[:, :3] = -torch.inf, torch.finfo(torch.bfloat16).min
    found = dtype_error_of(oracle, plain, torch.bfloat16)
    torch.testing.assert_close(found.extremes, expected.extremes)
    torch.testing.assert_close(found.errors, expected.errors * (61 / 64) ** 0.5)


@given(st.integers(0, 2**32 - 1), st.integers(-(2**20), 2**20), st.booleans())
def test_an_error_is_the_same_whatever_is_added_to_a_row(
    seed: int, constant: int, ruling_out: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits, exact = torch.randn(2, 3, 7, generator=generator, dtype=torch.float64)
    if ruling_out:
        logits[:, 2] = exact[:, 2] = torch.finfo(torch.float32).min
    expected = logit_error(logits, exact)
    logits[1] += constant
    found = logit_error(logits, exact)
    rounding = 4 * (abs(constant) + 8) * torch.finfo(torch.float64).eps
    torch.testing.assert_close(found, expected, rtol=0, atol=rounding)
    others = [column for column in range(7) if column != 2 or not ruling_out]
    assert float(found[:, others].sum(-1).abs().max()) <= 7 * rounding


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("constant", [3.0, -3.0, 0.5])
def test_a_constant_added_to_all_logits_is_no_fault(dtype: torch.dtype, constant: float) -> None:
    oracle, plain, reference, candidate = (
        engine(kind, []) for kind in (torch.float64, dtype, torch.float32, dtype)
    )
    head = candidate.module.lm_head
    head.register_forward_hook(lambda module, args, logits: logits + constant)
    found = measure_prompt(
        candidate,
        reference,
        oracle.full_logits(SAMPLE_IDS),
        plain.full_logits(SAMPLE_IDS),
        SAMPLE_IDS,
        "prompt",
    ).values
    assert found["greedy_mismatches"] == 0
    for name in [name for name in found if name.endswith("ratio")]:
        # Adding rounds once more, at a magnitude that is that of the constant.
        assert found[name] <= OUTPUT_FACTOR, name
