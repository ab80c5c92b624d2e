"""Stored scores: divergences from them against float64 oracles, and stores that are refused."""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import VOCABULARY, make_model, make_tokenizer

from pytest_infopt.corpus import TokenisedDocument
from pytest_infopt.engines.base import Engine
from pytest_infopt.engines.registry import load_engine
from pytest_infopt.engines.stored.compact_scores import BEST, DRAWS, TAIL, compacted, restored
from pytest_infopt.engines.stored.score_folder import ScoreFolder
from pytest_infopt.engines.stored.writing import write_scores
from pytest_infopt.errors import ConfigurationError, InvalidComparisonError, NotSupportedError
from pytest_infopt.measure import compare, compare_scores
from pytest_infopt.release import ModelSource

WIDE = 3000  # so that there is a tail


@dataclass(frozen=True)
class Rows:
    matrix: torch.Tensor

    @property
    def positions(self) -> int:
        return len(self.matrix)

    @property
    def vocabulary(self) -> int:
        return self.matrix.shape[1]

    def logits(self, start: int, stop: int) -> torch.Tensor:
        return self.matrix[start:stop]


def models(seed: int, spread: float, change: float, count: int = 6) -> tuple[list[int], Rows, Rows]:
    generator = torch.Generator().manual_seed(seed)
    reference = spread * torch.randn(count, WIDE, generator=generator)
    noise = change * torch.randn(count, WIDE, generator=generator)
    ids = [random.Random(seed + place).randrange(WIDE) for place in range(count)]
    return ids, Rows(reference), Rows(reference + noise)


def divergences(reference: Rows, candidate: Rows) -> torch.Tensor:
    """KL(reference ‖ candidate) of each predicted row, by its definition in float64."""
    log_p, log_q = (each.matrix[:-1].double().log_softmax(-1) for each in (reference, candidate))
    return (log_p.exp() * (log_p - log_q)).sum(-1)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.2, 6), st.floats(0.001, 2))
def test_compact_divergence_is_within_what_it_says_it_may_be_off_by(
    seed: int, spread: float, change: float
) -> None:
    ids, reference, candidate = models(seed, spread, change)
    found = compare(restored(compacted(reference, ids, seed)), candidate, ids)
    exact = float(divergences(reference, candidate).mean())
    # Three standard errors of 16 draws each, estimated from them: twice that leaves no luck.
    assert abs(float(found.kl.mean()) - exact) <= 2 * found.kl_off
    whole = compare_scores(reference, candidate, ids)
    for name in ("top1_agrees", "top5_overlap", "reference_top", "candidate_top"):
        assert torch.equal(getattr(found, name), getattr(whole, name))
    for name in ("reference_nll", "candidate_nll", "confidence", "reference_top_probability"):
        # float32 sums of 3,000 terms are what the whole comparison computes with
        torch.testing.assert_close(getattr(found, name), getattr(whole, name), rtol=1e-4, atol=1e-5)
    assert not found.identical
    rounding = torch.finfo(torch.float32).eps * WIDE
    assert bool(
        (found.kl_reverse <= whole.kl_reverse * (1 + found.kl_off) + rounding + found.kl_off).all()
    )


def test_the_divergence_is_unbiased_over_the_draws() -> None:
    """Where the tail alone was damaged, which lumping it into one token would not show."""
    ids, reference, _ = models(1, 2.0, 0.0, count=2)
    log_p = reference.matrix[0].double().log_softmax(-1)
    rare = log_p.exp() < 1e-5
    damaged = reference.matrix.clone()
    halves = torch.arange(int(rare.sum())) % 2 == 0
    damaged[:, rare] += torch.where(halves, 2.0, -2.0)
    candidate = Rows(damaged)
    exact = float(divergences(reference, candidate)[0])
    columns = compacted(reference, ids, 0)
    kept = torch.zeros(WIDE, dtype=torch.bool)
    first = restored(columns)
    kept[first.kept_ids[: int(first.counts[0])]] = True
    p, q = log_p.exp(), damaged[0].double().softmax(-1)
    rest = ~kept
    lumped = float(
        (p[kept] * (p[kept] / q[kept]).log()).sum()
        + p[rest].sum() * (p[rest].sum() / q[rest].sum()).log()
    )
    found = [
        float(compare(restored(compacted(reference, ids, seed)), candidate, ids).kl[0])
        for seed in range(300)
    ]
    mean = math.fsum(found) / len(found)
    error = math.sqrt(sum((each - mean) ** 2 for each in found)) / len(found)
    assert abs(mean - exact) < 4 * error  # the seeds are fixed: this is no luck
    assert exact - lumped > 4 * error


def test_what_is_kept_leaves_the_tail_that_is_promised() -> None:
    ids, reference, _ = models(2, 3.0, 0.0)
    scores = restored(compacted(reference, ids, 0))
    p = reference.matrix.double().softmax(-1)
    first = 0
    for row, count in enumerate(scores.counts.tolist()):
        chosen = scores.kept_ids[first : first + count]
        assert torch.equal(chosen, chosen.unique())  # ascending, none twice
        assert float(1 - p[row, chosen].sum()) <= TAIL
        least = p[row, chosen].min()
        assert float(1 - p[row, chosen].sum() + least) > TAIL or count == BEST  # one fewer is more
        assert math.isclose(
            float(scores.kept[first : first + count].exp().sum() + scores.tail[row]), 1
        )
        first += count
    assert scores.drawn_ids.shape == (len(ids), DRAWS)


def test_tokens_that_the_reference_rules_out_cost_nothing_and_others_are_infinite() -> None:
    ids, reference, candidate = models(3, 1.0, 0.1)
    ids = [0] * len(ids)
    ruled = reference.matrix.clone()
    ruled[:, 1500:] = -math.inf
    exact = float(compare_scores(Rows(ruled), candidate, ids).kl.mean())
    found = compare(restored(compacted(Rows(ruled), ids, 0)), candidate, ids)
    assert abs(float(found.kl.mean()) - exact) <= 2 * found.kl_off
    theirs = candidate.matrix.clone()
    theirs[:, reference.matrix[0].argmax()] = -math.inf
    broken = compare(restored(compacted(reference, ids, 0)), Rows(theirs), ids)
    assert math.isinf(float(broken.kl[0]))


def test_a_vocabulary_without_a_tail_is_kept_whole() -> None:
    matrix = torch.tensor([[3.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    found = compare(restored(compacted(Rows(matrix), [0, 1], 0)), Rows(matrix.flip(1)), [0, 1])
    exact = compare_scores(Rows(matrix), Rows(matrix.flip(1)), [0, 1])
    torch.testing.assert_close(found.kl, exact.kl)
    torch.testing.assert_close(found.kl_reverse, exact.kl_reverse)


# Folders


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference")
    make_model("llama").save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> Iterator[Engine]:
    engine = load_engine(ModelSource("reference", str(checkpoint), dtype="float32"))
    yield engine
    engine.close()


IDS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3]


def written(folder: Path, engine: Any, source: ModelSource, *, exact: bool) -> ScoreFolder:
    documents = [TokenisedDocument("d", IDS)]
    return write_scores(
        folder, engine, source, documents, exact=exact, corpus="c0ffee", begins_with="tokenizer"
    )


def stored(checkpoint: Path, folder: Path, **more: Any) -> ModelSource:
    return ModelSource(
        "reference",
        str(checkpoint),
        engine="stored-scores",
        options={"scores": str(folder)},
        **{"dtype": "float32", **more},
    )


@pytest.mark.parametrize("exact", [True, False], ids=["exact", "compact"])
def test_a_store_gives_the_models_own_scores(
    tmp_path: Path, checkpoint: Path, reference: Any, exact: bool
) -> None:
    source = ModelSource("reference", str(checkpoint), dtype="float32")
    kept = written(tmp_path / "scores", reference, source, exact=exact)
    engine: Any = load_engine(stored(checkpoint, tmp_path / "scores"))
    assert (engine.vocabulary, engine.tokenizer_fingerprint) == (
        reference.vocabulary,
        reference.tokenizer_fingerprint,
    )
    own, again = reference.score(IDS), engine.score(IDS)
    # A limit of the product's: STATISTICS, exact scores give KL to 1e-5 nats.
    assert float(compare(again, own, IDS).kl.max()) <= 1e-5
    if exact:
        assert kept.origin.kind == "hidden-states"
        assert engine.fingerprint == reference.fingerprint
        assert compare_scores(own, again, IDS).kl.max() <= 1e-5
    else:
        assert engine.fingerprint != reference.fingerprint
        with pytest.raises(NotSupportedError, match="--exact"):
            again.logits(0, 1)


def test_logits_are_kept_where_a_head_is_more_than_a_matrix(
    tmp_path: Path, checkpoint: Path
) -> None:
    source = ModelSource("reference", str(checkpoint), dtype="bfloat16")
    engine: Any = load_engine(source)
    kept = written(tmp_path / "scores", engine, source, exact=True)
    assert kept.origin.kind == "logits"
    again: Any = load_engine(stored(checkpoint, tmp_path / "scores", dtype="bfloat16"))
    rows = again.score(IDS).logits(0, len(IDS))
    assert rows.dtype == torch.bfloat16
    assert torch.equal(rows, engine.score(IDS).logits(0, len(IDS)))


def test_what_does_not_belong_to_the_store_is_refused_with_the_reason(
    tmp_path: Path, checkpoint: Path, reference: Any
) -> None:
    folder = tmp_path / "scores"
    source = ModelSource("reference", str(checkpoint), dtype="float32")
    written(folder, reference, source, exact=False)
    with pytest.raises(InvalidComparisonError, match="dtype 'float32' in the store, 'bfloat16'"):
        load_engine(stored(checkpoint, folder, dtype="bfloat16"))
    with pytest.raises(InvalidComparisonError, match="configuration"):
        load_engine(stored(checkpoint, folder, quantization="int8"))
    other = tmp_path / "other"
    shutil.copytree(checkpoint, other)
    make_tokenizer(VOCABULARY - 1).save_pretrained(other)
    with pytest.raises(InvalidComparisonError, match="tokenizer fingerprint"):
        load_engine(stored(other, folder))
    config = json.loads((checkpoint / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "rope_theta": 5.0}))
    with pytest.raises(InvalidComparisonError, match="configuration"):
        load_engine(stored(other, folder))
    engine: Any = load_engine(stored(checkpoint, folder))
    with pytest.raises(InvalidComparisonError, match=r"not among its 1.*corpus c0ffee"):
        engine.score(IDS[:-1])
    with pytest.raises(ConfigurationError, match=r"options\.scores"):
        load_engine(replace(stored(checkpoint, folder), options={}))
    with pytest.raises(InvalidComparisonError, match="holds no stored scores"):
        load_engine(stored(checkpoint, tmp_path / "nothing"))
    with pytest.raises(ConfigurationError, match="not empty"):
        written(folder, reference, source, exact=False)


@pytest.mark.parametrize("damage", ["byte", "gone", "manifest"])
def test_a_damaged_store_is_refused(
    tmp_path: Path, checkpoint: Path, reference: Any, damage: str
) -> None:
    folder = tmp_path / "scores"
    source = ModelSource("reference", str(checkpoint), dtype="float32")
    written(folder, reference, source, exact=False)
    (file,) = folder.glob("*.npz")
    if damage == "byte":
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(bytes(content))
    elif damage == "gone":
        file.unlink()
    else:
        (folder / "manifest.json").write_text("{}")
    with pytest.raises(InvalidComparisonError, match=r"not as it was written|is damaged"):
        load_engine(stored(checkpoint, folder)).score(IDS)  # type: ignore[attr-defined]
