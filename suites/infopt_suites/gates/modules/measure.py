"""What the modules gate measures in the process of the models."""

from __future__ import annotations

import time
from typing import Any

from pytest_infopt import ModelPair, Sample, remote
from pytest_infopt.engines.base import ModuleEngine, able
from pytest_infopt.engines.formats import format_of
from pytest_infopt.measure import dtype_named
from pytest_infopt.measure.modules import Models, ModuleComparison, batch_inputs

from .gate import ModulesPlan


class ModulesMeasure:
    def __init__(self, pair: ModelPair) -> None:
        self._pair = pair
        self._plan = pair.release.plan(ModulesPlan)

    @remote
    def modules(self) -> Sample:
        """Every module of the candidate on one batch."""
        started = time.perf_counter()
        reference, candidate, plain = (
            able(engine, ModuleEngine)
            for engine in (self._pair.reference, self._pair.candidate, self._pair.plain)
        )
        models = Models(
            reference=reference.module,
            candidate=candidate.module,
            plain=plain.module,
            inputs=self._inputs(reference),
            dtype=dtype_named(candidate.cache_dtype),
            vocabulary=min(reference.vocabulary, candidate.vocabulary),
            decode=reference.decode,
            couples_rows=format_of(self._pair.source.quantization).couples_rows,
        )
        found = ModuleComparison(models, self._plan.false_accusations)
        return Sample(
            unit="modules",
            weight=len(found.leaves.leaves),
            values=found.values(),
            details={
                "undecided": found.undecided,
                "notes": found.notes(),
                "accused": [accusation.to_json() for accusation in found.accused],
                "excused": [accusation.to_json() for accusation in found.excused],
                "constants": [str(constant) for constant in found.constants],
                "compared_share": found.paired.compared_share,
                "false_accusation_rate": self._plan.false_accusations,
            },
            seconds=time.perf_counter() - started,
        )

    def _inputs(self, engine: ModuleEngine) -> dict[str, Any]:
        """A batch of texts, the first shorter than the others."""
        tokens = min(self._plan.tokens, engine.context_window)
        prompts = self._pair.prompts_of(self._plan.rows, tokens)
        prompts[0] = prompts[0][: max(1, len(prompts[0]) * 5 // 8)]
        return batch_inputs(engine, prompts)
