"""What the noise floor is measured with, in the process of the models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from pytest_infopt import Engine, ModelPair, Sample, remote
from pytest_infopt.engines.base import BatchEngine, Capability, Scores, ScoringEngine, able
from pytest_infopt.engines.registry import load_engine
from pytest_infopt.measure import compare

from ..timing_measure import TimingMeasure

INSTANCE, THREADS, BATCH = "instance", "number of threads", "batch size"
DTYPE = "dtype"


@dataclass(frozen=True)
class Rows:
    """`Scores` of logits [T, V]."""

    matrix: torch.Tensor

    @property
    def positions(self) -> int:
        return len(self.matrix)

    @property
    def vocabulary(self) -> int:
        return self.matrix.shape[1]

    def logits(self, start: int, stop: int) -> torch.Tensor:
        return self.matrix[start:stop]


class MarginsMeasure:
    """The candidate is the reference, loaded once more."""

    def __init__(self, pair: ModelPair) -> None:
        self._pair = pair
        self._other: Engine | None = None  # the reference in another dtype

    @remote
    def times(self) -> bool:
        """Whether the reference can be timed."""
        return Capability.STREAM in self._pair.reference.capabilities

    @remote
    def warm_up(self) -> None:
        """Untimed requests to both."""
        self._timing.warm_up()

    @remote
    def pair(self, index: int, second_first: bool) -> Sample:
        """A request to each of the two instances."""
        return self._timing.pair(index, second_first)

    @remote
    def documents(self, count: int) -> list[str]:
        """The first documents, in the order of measuring."""
        return list(self._pair.documents_by_id)[:count]

    @remote
    def arms(self, dtypes: list[str]) -> list[str]:
        """What can be changed: the instance, the threads, the batch, the dtype."""
        found = [INSTANCE]
        if torch.device(self._pair.candidate.device).type == "cpu":
            found.append(THREADS)
        if Capability.BATCHES in self._pair.candidate.capabilities:
            found.append(BATCH)
        if Capability.MODULES in self._pair.candidate.capabilities:
            found += [f"{DTYPE} {name}" for name in dtypes if name != self._pair.reference.dtype]
        return found

    @remote
    def document(self, arm: str, name: str) -> Sample:
        """What changing that alone changes in the scores of a document."""
        pair = self._pair
        token_ids = pair.documents_by_id[name].token_ids
        reference = able(pair.reference, ScoringEngine).score(token_ids)
        with self._scores(arm, token_ids) as scores:
            found = compare(reference, scores, token_ids)
        return Sample(
            unit=name,
            weight=len(found.kl),
            values={
                "kl_mean": float(found.kl.mean()),
                "top1_agreement": float(found.top1_agrees.mean()),
                "perplexity_ratio": float((found.candidate_nll - found.reference_nll).mean()),
            },
        )

    @cached_property
    def _timing(self) -> TimingMeasure:
        return TimingMeasure(self._pair)

    def _in_dtype(self, dtype: str) -> ScoringEngine:
        """The reference in another dtype, kept until another is asked for."""
        if self._other is not None and self._other.dtype != dtype:
            self._other.close()
            self._other = None
        if self._other is None:
            self._other = load_engine(replace(self._pair.release.reference, dtype=dtype))
        return able(self._other, ScoringEngine)

    @contextmanager
    def _scores(self, arm: str, token_ids: list[int]) -> Iterator[Scores]:
        candidate = self._pair.candidate
        if arm == THREADS:
            with _other_threads():
                yield able(candidate, ScoringEngine).score(token_ids)
        elif arm == BATCH:
            others = [d.token_ids for d in self._pair.documents_by_id.values()][:2]
            yield Rows(able(candidate, BatchEngine).batch_logits([token_ids, *others])[0])
        elif arm.startswith(DTYPE):
            yield self._in_dtype(arm.removeprefix(f"{DTYPE} ")).score(token_ids)
        else:
            yield able(candidate, ScoringEngine).score(token_ids)


@contextmanager
def _other_threads() -> Iterator[None]:
    """Another number of threads than before: one, or two where it was one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if before > 1 else 2)
    try:
        yield
    finally:
        torch.set_num_threads(before)
