"""What the equivalence gate measures in the process of the models."""

from __future__ import annotations

from pytest_infopt import ModelPair, Sample, remote
from pytest_infopt.engines.base import WholeLogitsEngine, able
from pytest_infopt.measure import control_arms

from ..plans import EquivalencePlan
from .logit_errors import measure_prompt
from .prompt_passes import EquivalenceEngine


class EquivalenceMeasure:
    def __init__(self, pair: ModelPair) -> None:
        self._pair = pair

    @remote
    def prompt(self, index: int) -> Sample:
        """Equivalence on the index-th prompt."""
        pair = self._pair
        plan = pair.release.plan(EquivalencePlan)
        prompts = pair.prompt_set(plan)
        lossless = pair.precision.lossless  # nothing else is held to the oracle
        sample = measure_prompt(
            able(pair.candidate, EquivalenceEngine),
            able(pair.reference, WholeLogitsEngine),
            prompts.oracle[index],
            prompts.plain[index],
            prompts.prompts[index],
            f"prompt-{index}",
            lambda: able(pair.plain, EquivalenceEngine),
            lambda: pair.length_effect(plan),
            lambda: control_arms(pair.plain, prompts.prompts[index]) if lossless else [],
            padded_ends=index % 2 == 0,
        )
        return pair.noted(sample)
