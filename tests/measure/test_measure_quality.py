"""Document samples against their definitions, and pooled figures against NumPy."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from infopt_suites.gates.quality.documents import measure_document
from infopt_suites.gates.quality.gate import OF_DOCUMENTS
from infopt_suites.gates.quality.summary import CONFIDENCE_EDGES, percentile, summarise
from measure_fakes import MatrixScores, seeded_ids

from pytest_infopt.measure.divergence import compare_scores
from pytest_infopt.metrics.metric import Rule
from pytest_infopt.results.sample import Sample
from pytest_infopt.strict_json import dumps, loads

VOCABULARY = 120


def decode(token_ids: list[int]) -> str:
    return " ".join(f"t{token}" for token in token_ids)


def document(name: str, count: int, change: float = 0.5) -> tuple[list[int], list[MatrixScores]]:
    ids = seeded_ids(name, count, VOCABULARY)
    generator = torch.Generator().manual_seed(count)
    reference = 5 * torch.randn(count, VOCABULARY, generator=generator)
    noise = change * torch.randn(count, VOCABULARY, generator=generator)
    return ids, [MatrixScores(reference), MatrixScores(reference + noise)]


def measured(name: str, count: int, change: float = 0.5) -> Sample:
    ids, scores = document(name, count, change)
    return measure_document(*scores, name, ids, decode)


def test_every_single_valued_quality_metric_is_filled() -> None:
    sample = measured("a", 30)
    expected = {m.name for m in OF_DOCUMENTS if m.rule is not Rule.EXCEEDANCE}
    assert set(sample.values) == expected
    assert set(sample.tokens) == {"kl", "kl_document"}
    assert sample.tokens["kl_document"] == [sample.values["kl_mean"]]
    assert sample.weight == len(sample.tokens["kl"]) == 29


def test_values_are_the_documents_means() -> None:
    ids, scores = document("b", 25)
    sample = measure_document(*scores, "b", ids, decode)
    tokens = compare_scores(*scores, ids)
    log_p, log_q = (part.matrix[:-1].double().log_softmax(-1) for part in scores)
    true = torch.tensor(ids[1:])[:, None]
    p, q = (part.exp().gather(1, true) for part in (log_p, log_q))
    granted = 1e3 * torch.finfo(torch.float32).eps  # logits up to 25, nats of order 10
    assert sample.values["kl_mean"] == pytest.approx(float(tokens.kl.mean()))
    assert sample.values["kl_max"] == max(sample.tokens["kl"])
    ratio = float((log_p - log_q).gather(1, true).mean())
    assert sample.values["perplexity_ratio"] == pytest.approx(ratio, abs=granted)
    square = float((q - p).square().mean())
    assert sample.values["true_probability_rms"] == pytest.approx(square, abs=granted)
    change = float((q - p).mean())
    assert sample.details["true_probability_change"] == pytest.approx(change, abs=granted)


def test_findings_are_the_worst_tokens_and_name_the_predicted_position() -> None:
    ids, scores = document("c", 40)
    scores[1].matrix[11] = -scores[0].matrix[11]
    sample = measure_document(*scores, "c", ids, decode)
    worst = sample.findings[0]
    assert [f.kl for f in sample.findings] == sorted(sample.tokens["kl"], reverse=True)[:3]
    assert worst.position == 12
    assert worst.true_token == f"t{ids[12]}"
    assert worst.context.endswith(f"t{ids[11]}")
    top = int(scores[0].matrix[11].argmax())
    assert worst.reference_top[0][0] == f"t{top}"
    assert sum(p for _, p in worst.candidate_top) <= 1 + 5 * torch.finfo(torch.float32).eps


def test_buckets_hold_every_token_once_and_split_by_confidence() -> None:
    sample = measured("d", 300)
    buckets = sample.details["buckets"]
    _, scores = document("d", 300)
    confidence = scores[0].matrix[:-1].double().softmax(-1).amax(-1).numpy()
    counts, _ = np.histogram(confidence, CONFIDENCE_EDGES)
    assert [bucket["count"] for bucket in buckets] == counts.tolist()
    pooled = sum(bucket["count"] * bucket.get("kl_mean", 0.0) for bucket in buckets)
    assert pooled == pytest.approx(sum(sample.tokens["kl"]))


def test_identical_models_are_said_to_be_and_have_no_findings() -> None:
    sample = measured("e", 30, change=0.0)
    assert sample.identical
    assert sample.findings == []
    assert sample.values["kl_mean"] == sample.values["kl_max"] == 0
    assert sample.values["top1_agreement"] == 1


def test_a_sample_survives_json() -> None:
    sample = measured("f", 20)
    assert Sample.from_json(json.loads(json.dumps(sample.to_json()))) == sample


def test_an_infinite_divergence_survives_strict_json() -> None:
    ids, scores = document("g", 8)
    scores[1].matrix[:, 3] = -torch.inf
    sample = measure_document(*scores, "g", ids, decode)
    assert sample.values["kl_mean"] == math.inf
    assert Sample.from_json(loads(dumps(sample.to_json()))) == sample


# Pooled figures


@pytest.mark.parametrize("count", range(1, 201))
def test_percentiles_are_numpys_for_every_small_count(count: int) -> None:
    values = np.sort(np.random.default_rng(count).lognormal(size=count))
    for share in (0.0, 0.5, 0.9, 0.95, 0.99, 0.999, 1.0):
        expected = np.quantile(values, share, method="linear")
        # Interpolation of two numbers: one rounding each of difference, product and sum.
        assert percentile(values.tolist(), share) == pytest.approx(expected, rel=8 * 2.0**-53)


@given(st.lists(st.floats(0, allow_nan=False), min_size=1), st.floats(0, 1))
@settings(deadline=None)
def test_a_percentile_lies_between_the_values_even_infinite_ones(
    values: list[float], share: float
) -> None:
    values.sort()
    found = percentile(values, share)
    assert values[0] <= found <= values[-1]


@pytest.mark.parametrize(("values", "share"), [([], 0.5), ([1.0], 1.1), ([1.0], -0.1)])
def test_percentiles_of_nothing_are_refused(values: list[float], share: float) -> None:
    with pytest.raises(ValueError, match="percentile"):
        percentile(values, share)


def test_the_summary_pools_tokens_not_documents() -> None:
    samples = [measured("h", 10, 2.0), measured("i", 200, 0.1)]
    summary = summarise(samples)
    values = np.array(samples[0].tokens["kl"] + samples[1].tokens["kl"])
    assert summary["tokens"] == len(values) == 9 + 199
    assert summary["kl"]["mean"] == pytest.approx(values.mean())
    for name, q in (
        ("p50", 50),
        ("p90", 90),
        ("p95", 95),
        ("p99", 99),
        ("p999", 99.9),
        ("max", 100),
    ):
        assert summary["kl"][name] == pytest.approx(np.percentile(values, q))


def test_pooled_perplexity_is_the_exponential_of_the_mean_over_all_tokens() -> None:
    samples, nlls = [], []
    for name, count in (("j", 12), ("k", 90)):
        ids, scores = document(name, count)
        samples.append(measure_document(*scores, name, ids, decode))
        log_p = scores[0].matrix[:-1].double().log_softmax(-1)
        nlls.append(-log_p.gather(1, torch.tensor(ids[1:])[:, None])[:, 0])
    perplexity = summarise(samples)["perplexity"]
    expected = float(torch.cat(nlls).mean().exp())
    assert perplexity["reference"] == pytest.approx(
        expected, rel=1e3 * torch.finfo(torch.float32).eps
    )
    assert perplexity["ratio"] == pytest.approx(perplexity["candidate"] / perplexity["reference"])


def test_pooled_buckets_are_those_of_one_long_document() -> None:
    samples = [measured("l", 50), measured("m", 70)]
    buckets = summarise(samples)["buckets"]
    assert [(b["from"], b["to"]) for b in buckets] == list(itertools.pairwise(CONFIDENCE_EDGES))
    assert sum(b["count"] for b in buckets) == 49 + 69
    kl = sum(b["count"] * b.get("kl_mean", 0) for b in buckets)
    assert kl == pytest.approx(sum(samples[0].tokens["kl"]) + sum(samples[1].tokens["kl"]))


def test_a_hopeless_perplexity_is_infinite_not_an_error() -> None:
    ids, scores = document("n", 10)
    scores[1].matrix.mul_(1e4)
    summary = summarise([measure_document(*scores, "n", ids, decode)])
    assert summary["perplexity"]["candidate"] == math.inf


def test_no_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one document"):
        summarise([])


def test_summaries_and_samples_need_no_torch() -> None:
    code = (
        "import sys, infopt_suites.gates.quality.summary, pytest_infopt.results.sample;"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
