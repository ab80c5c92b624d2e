"""What the length of a plain pass changes, and what a candidate is held to where it does."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from infopt_suites.gates.equivalence.logit_errors import measure_prompt
from measure_fakes import ToyTransformer, seeded_ids

from pytest_infopt.measure import OUTPUT_FACTOR, Difference, length_effect

PROMPT = seeded_ids("lengths", 21, ToyTransformer.vocabulary)
ROW, STEP = 3, 0.5  # where a near-tie is decided, and what that changes in every logit


class Undecided(ToyTransformer):
    """Adds a step to the logits of one row in passes of fewer than ``whole`` tokens."""

    def __init__(self, whole: int) -> None:
        super().__init__(torch.float32)
        self._whole = whole

    def full_logits(self, token_ids: Sequence[int]) -> torch.Tensor:
        logits = super().full_logits(token_ids)
        if ROW < len(token_ids) < self._whole:
            logits[ROW] += STEP * torch.tensor([1.0, -1.0]).repeat(self.vocabulary // 2)
        return logits


def effect_of(engine: ToyTransformer) -> Difference:
    oracle = ToyTransformer(torch.float64).full_logits(PROMPT)
    plain = ToyTransformer(torch.float32).full_logits(PROMPT)
    return length_effect(engine, [PROMPT], [oracle], [plain])


def test_a_sound_model_changes_by_rounding() -> None:
    assert effect_of(ToyTransformer(torch.float32)).is_rounding


def test_a_near_tie_that_the_length_decides_is_measured() -> None:
    effect = effect_of(Undecided(len(PROMPT)))
    assert not effect.is_rounding
    assert effect.largest == pytest.approx(STEP, rel=1e-3)
    # The quarter of 21 tokens is the shortest beginning with that row: one row of five.
    exact = ToyTransformer(torch.float64).full_logits(PROMPT)
    error = ToyTransformer(torch.float32).full_logits(PROMPT).double() - exact
    unit = float(error.square().mean(-1).sqrt().max())
    assert effect.ratio <= STEP / math.sqrt(ROW + 2) / (2 * unit)
    assert effect.ratio > STEP / math.sqrt(ROW + 2) / (2 * unit) / 2  # the floor's share


def test_a_prompt_whose_dtype_error_is_unknown_tells_nothing() -> None:
    plain = ToyTransformer(torch.float32).full_logits(PROMPT)
    assert length_effect(Undecided(len(PROMPT)), [PROMPT], [plain], [plain]) == Difference()


@pytest.mark.parametrize(
    ("fault", "metric", "charged"),
    [
        ("stale_cache", "cached_error_ratio", True),
        ("padding_is_seen", "batch_error_ratio", True),
        ("mask_ahead", "causality_error_ratio", False),  # compared at one length
    ],
)
def test_equivalence_charges_lengths_only_where_lengths_differ(
    fault: str, metric: str, charged: bool
) -> None:
    oracle = ToyTransformer(torch.float64).full_logits(PROMPT)
    plain = ToyTransformer(torch.float32)
    candidate = ToyTransformer(torch.float32, fault)

    def value(effect: Difference) -> float:
        found = measure_prompt(
            candidate,
            plain,
            oracle,
            plain.full_logits(PROMPT),
            PROMPT,
            "p",
            lambda: plain,
            lambda: effect,
        )
        return found.values[metric]

    before = value(Difference())
    assert before > OUTPUT_FACTOR
    effect = Difference(before, 1.0, rows=(before,) * len(PROMPT))
    assert value(effect) == pytest.approx(1.0 if charged else before)
