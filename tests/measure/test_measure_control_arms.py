"""Control arms: what a router's near-ties excuse, and what they do not."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from faults.models import DENSE, tiny
from measure_fakes import ToyTransformer, seeded_ids
from tiny_models import VOCABULARY

from pytest_infopt.engines.transformers.engine import TransformersEngine
from pytest_infopt.measure import (
    OUTPUT_FACTOR,
    DtypeError,
    compare_with_oracle,
    control_arms,
    dtype_error_of,
    host_logits,
    logit_error,
    row_rms,
)
from pytest_infopt.measure.module_calls import rounded_once_more

IDS = seeded_ids("arms", 48, VOCABULARY)


def engine(model: Any, dtype: torch.dtype = torch.float32) -> TransformersEngine:
    return TransformersEngine("tiny", model.to(dtype), dtype=dtype, fingerprint=str(dtype))


class Subject:
    """A model with routers: what its dtype costs on a prompt, and passes that are as sound."""

    def __init__(self) -> None:
        model = tiny("experts", layers=6)
        self.oracle = host_logits(engine(copy.deepcopy(model), torch.float32).full_logits(IDS))
        self.plain = engine(model, torch.bfloat16)
        logits = self.plain.full_logits(IDS)
        self.dtype_error: DtypeError = dtype_error_of(self.oracle, logits, torch.bfloat16)
        self.arms = control_arms(self.plain, IDS)

    def compare(self, logits: torch.Tensor, *, arms: bool = True) -> Any:
        known = self.arms if arms else []
        return compare_with_oracle(
            host_logits(logits), self.oracle, self.dtype_error, torch.bfloat16, lambda: known
        )

    def sound(self, seed: int) -> torch.Tensor:
        """By a kernel that adds in another order: every input of a module has moved by a rounding
        error, every eighth by one unit."""
        generator = torch.Generator().manual_seed(seed)

        def moved(module: Any, args: Any) -> Any:
            hidden = args[0]
            if not hidden.is_floating_point():
                return None
            signs = torch.randint(-8, 9, hidden.shape, generator=generator).clamp(-1, 1)
            signs *= torch.randint(0, 8, hidden.shape, generator=generator) == 0
            unit = torch.finfo(hidden.dtype).eps
            return (hidden * (1 + unit * signs.to(hidden.dtype)), *args[1:])

        modules = [m for m in self.plain.module.modules() if m._parameters]
        handles = [module.register_forward_pre_hook(moved) for module in modules]
        try:
            return self.plain.full_logits(IDS)
        finally:
            for handle in handles:
                handle.remove()


@pytest.fixture(scope="module")
def subject() -> Subject:
    return Subject()


def test_sound_passes_decide_near_ties_otherwise_and_are_legal(subject: Subject) -> None:
    passes = [subject.sound(seed) for seed in range(20)]
    assert not all(subject.compare(logits, arms=False).is_rounding for logits in passes)
    assert all(subject.compare(logits).is_rounding for logits in passes)


def test_a_note_says_that_arms_were_asked(subject: Subject) -> None:
    found = [subject.compare(subject.sound(seed)) for seed in range(20)]
    assert {bool(each.note) for each in found} == {True, False}
    assert not subject.compare(subject.oracle).note


def test_what_no_near_tie_turns_over_is_a_mismatch(subject: Subject) -> None:
    """A token that no arm comes to, where no arm moves a logit as far."""
    reach = torch.stack([logit_error(a, subject.oracle).abs().amax(-1) for a in subject.arms])
    best = subject.oracle.topk(2, dim=-1)
    gap = best.values[:, 0] - best.values[:, 1]
    row = int((gap - reach.amax(0)).argmax())
    assert gap[row] > reach.amax(0)[row]
    logits = subject.oracle.clone()
    logits[row, best.indices[row, 1]] = best.values[row, 0] + 0.1
    assert subject.compare(logits).mismatches.illegal == [row]


@pytest.mark.parametrize("times", [8.0, 16.0])
def test_what_the_usual_row_errs_by_is_no_near_tie(subject: Subject, times: float) -> None:
    noise = torch.randn(subject.oracle.shape, generator=torch.Generator().manual_seed(0)).double()
    usual = float(subject.dtype_error.usual.median())
    assert subject.compare(subject.oracle + times * usual * noise).ratio > OUTPUT_FACTOR


def test_errors_of_all_rows_are_no_near_ties_even_where_their_mean_is_an_arms(
    subject: Subject,
) -> None:
    errors = [logit_error(arm, subject.oracle) for arm in subject.arms]
    worst = max(float(error.square().mean().sqrt()) for error in errors)
    usual = float(torch.cat([row_rms(error) for error in errors]).median())
    noise = torch.randn(subject.oracle.shape, generator=torch.Generator().manual_seed(0)).double()
    size = 0.95 * worst
    assert size > 1.5 * usual
    assert subject.compare(subject.oracle + size * noise).ratio > OUTPUT_FACTOR


def test_a_dense_model_has_no_arms() -> None:
    assert control_arms(engine(tiny(DENSE, layers=2), torch.bfloat16), IDS) == []


def test_an_engine_without_modules_has_no_arms() -> None:
    assert control_arms(ToyTransformer(torch.bfloat16), IDS[:20]) == []


def test_arms_differ_and_leave_the_model_as_it_was(subject: Subject) -> None:
    before = subject.plain.full_logits(IDS)
    assert not any(torch.equal(subject.arms[0], arm) for arm in subject.arms[1:])
    again = control_arms(subject.plain, IDS)
    assert all(torch.equal(*pair) for pair in zip(subject.arms, again, strict=True))
    assert torch.equal(subject.plain.full_logits(IDS), before)


def test_a_usual_row_of_an_arm_errs_about_twice_as_much_as_the_dtype_makes_it() -> None:
    """In a model without routers, where nothing else adds to it."""
    model = tiny(DENSE, layers=6)
    oracle = host_logits(engine(copy.deepcopy(model), torch.float32).full_logits(IDS))
    plain = engine(model, torch.bfloat16)
    usual = dtype_error_of(oracle, plain.full_logits(IDS), torch.bfloat16).usual.median()
    with rounded_once_more(plain.module, seed=0):
        arm = row_rms(logit_error(host_logits(plain.full_logits(IDS)), oracle)).median()
    assert 1.5 < float(arm / usual) < 3.0
