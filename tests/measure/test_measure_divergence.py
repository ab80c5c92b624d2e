"""Divergences against float64 formulas, scipy, and the laws that they obey."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from measure_fakes import MatrixScores, seeded_ids

from pytest_infopt.errors import InvalidComparisonError, NonFiniteLogitsError
from pytest_infopt.measure.divergence import TokenComparison, compare_scores, most_probable

EPS = torch.finfo(torch.float32).eps


def compare(
    reference: torch.Tensor,
    candidate: torch.Tensor,
    ids: list[int] | None = None,
    **options: object,
) -> TokenComparison:
    ids = ids or seeded_ids("targets", len(reference), reference.shape[1])
    return compare_scores(MatrixScores(reference), MatrixScores(candidate), ids, **options)


def random_pair(
    rows: int, vocabulary: int, change: float = 0.3, seed: int = 0
) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first = 4 * torch.randn(rows, vocabulary, generator=generator)
    return [first, first + change * torch.randn(rows, vocabulary, generator=generator)]


def tolerance(*logits: torch.Tensor) -> float:
    """Absolute error granted to a float32 divergence or likelihood.

    A logit less the largest is rounded by eps·range; that perturbation and the sums' own rounding,
    at most eps·log2(V) each in a cascade, reach the result with a factor of order 1.
    """
    spread = max(float((part.amax(-1) - part.amin(-1)).max()) for part in logits)
    return EPS * (spread + 4 * math.log2(logits[0].shape[1]))


@pytest.mark.parametrize("vocabulary", [2, 5, 64, 383, 384, 385, 1000, 5003])
def test_divergences_equal_scipys_entropy(vocabulary: int) -> None:
    reference, candidate = random_pair(7, vocabulary)
    result = compare(reference, candidate)
    p = scipy.special.softmax(reference[:-1].double().numpy(), axis=-1)
    q = scipy.special.softmax(candidate[:-1].double().numpy(), axis=-1)
    granted = tolerance(reference, candidate)
    np.testing.assert_allclose(result.kl, scipy.stats.entropy(p, q, axis=-1), atol=granted, rtol=0)
    np.testing.assert_allclose(
        result.kl_reverse, scipy.stats.entropy(q, p, axis=-1), atol=granted, rtol=0
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_quantities_equal_the_plain_float64_formulas(dtype: torch.dtype) -> None:
    reference, candidate = (part.to(dtype) for part in random_pair(33, 700))
    ids = seeded_ids("document", 33, 700)
    result = compare(reference, candidate, ids, dtype=dtype)
    log_p, log_q = (part[:-1].double().log_softmax(-1) for part in (reference, candidate))
    true = torch.tensor(ids[1:])[:, None]
    granted = tolerance(reference.float(), candidate.float())
    for found, expected in [
        (result.reference_nll, -log_p.gather(1, true)[:, 0]),
        (result.candidate_nll, -log_q.gather(1, true)[:, 0]),
        (result.confidence, log_p.exp().amax(-1)),
        (result.probability_change, (log_q.exp() - log_p.exp()).gather(1, true)[:, 0]),
        (result.reference_top_probability, log_p.exp().topk(5, -1).values),
    ]:
        torch.testing.assert_close(found, expected, atol=granted, rtol=0)
    best_p, best_q = (part[:-1].float().numpy().argmax(-1) for part in (reference, candidate))
    np.testing.assert_array_equal(result.top1_agrees, (best_p == best_q).astype(float))


def test_overlap_counts_shared_tokens_of_the_five_best() -> None:
    reference = torch.tensor([[9.0, 8, 7, 6, 5, 0, 0, 0], [0.0] * 8])
    candidate = torch.tensor([[9.0, 8, 7, 0, 0, 6, 5, 0], [0.0] * 8])
    result = compare(reference, candidate, [0, 0])
    assert result.top5_overlap.tolist() == [3 / 5]
    assert result.reference_top[0].tolist() == [0, 1, 2, 3, 4]
    assert result.candidate_top[0].tolist() == [0, 1, 2, 5, 6]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("best", [1.0, 1.5, 2.0, 3.0, 17.25, 100.0])
def test_the_gap_counts_steps_of_the_working_format(best: float, dtype: torch.dtype) -> None:
    """The next number below the middle of a binade is one ulp away: nextafter is the oracle."""
    top = torch.tensor(best * 1.25, dtype=dtype)
    second = top
    for _ in range(3):
        second = torch.nextafter(second, torch.tensor(-torch.inf, dtype=dtype))
    reference = torch.stack([torch.stack([second, top, torch.zeros((), dtype=dtype)])] * 2)
    assert compare(reference, reference, [0, 0], dtype=dtype).gap_ulps.tolist() == [3.0]


extreme_logits = st.floats(width=32, allow_nan=False, allow_infinity=False) | st.floats(
    -50, 50, width=32
)


@st.composite
def pairs_of_rows(draw: st.DrawFn, elements: st.SearchStrategy[float]) -> list[torch.Tensor]:
    vocabulary = draw(st.integers(2, 9))
    row = st.lists(elements, min_size=vocabulary, max_size=vocabulary)
    return [torch.tensor([draw(row)] * 2, dtype=torch.float32) for _ in range(2)]


@given(pairs_of_rows(extreme_logits))
@settings(deadline=None)
def test_divergences_are_never_negative_nor_nan(pair: list[torch.Tensor]) -> None:
    result = compare(*pair, [0, 0])
    for values in (result.kl, result.kl_reverse, result.reference_nll, result.candidate_nll):
        assert bool((values >= 0).all()), values


@given(pairs_of_rows(st.floats(-80, 80, width=32)))
@settings(deadline=None)
def test_divergences_of_any_small_row_equal_the_float64_formula(pair: list[torch.Tensor]) -> None:
    reference, candidate = pair
    result = compare(reference, candidate, [0, 0])
    log_p, log_q = (part[:1].double().log_softmax(-1) for part in pair)
    expected = (log_p.exp() * (log_p - log_q)).sum(-1)
    # Logits of different sign are subtracted: the moment is as large as the range, so is its error.
    granted = 4 * tolerance(reference, candidate)
    torch.testing.assert_close(result.kl, expected, atol=granted, rtol=4 * EPS)


@given(pairs_of_rows(extreme_logits))
@settings(deadline=None)
def test_equal_logits_have_exactly_no_divergence(pair: list[torch.Tensor]) -> None:
    result = compare(pair[0], pair[0].clone(), [0, 0])
    assert result.identical
    assert result.kl.tolist() == result.kl_reverse.tolist() == [0.0]
    assert result.top1_agrees.tolist() == result.top5_overlap.tolist() == [1.0]
    assert result.probability_change.tolist() == [0.0]


def test_one_changed_bit_is_not_identical() -> None:
    reference, _ = random_pair(9, 400)
    candidate = reference.clone()
    candidate[4, 17] = torch.nextafter(candidate[4, 17], torch.tensor(torch.inf))
    assert not compare(reference, candidate).identical
    last_row = reference.clone()
    last_row[-1] += 1  # predicts nothing in this document
    assert compare(reference, last_row).identical


@pytest.mark.parametrize("chunk_bytes", [1, 4 * 700, 4 * 700 * 7, 4 * 700 * 1000])
def test_chunking_changes_nothing(chunk_bytes: int) -> None:
    reference, candidate = random_pair(40, 700)
    whole, parts = (
        compare(reference, candidate),
        compare(reference, candidate, chunk_bytes=chunk_bytes),
    )
    for name, values in vars(whole).items():
        if isinstance(values, torch.Tensor):
            assert torch.equal(values, getattr(parts, name)), name


def test_every_row_is_asked_for_once_and_in_bounded_chunks() -> None:
    reference, candidate = (MatrixScores(part) for part in random_pair(40, 700))
    compare_scores(reference, candidate, seeded_ids("rows", 40, 700), chunk_bytes=4 * 700 * 7)
    assert reference.asked == candidate.asked
    assert [row for start, stop in reference.asked for row in range(start, stop)] == list(range(39))
    assert all(stop - start <= 7 for start, stop in reference.asked)


def test_a_permuted_vocabulary_gives_the_same_figures() -> None:
    reference, candidate = random_pair(12, 900)
    ids = seeded_ids("permuted", 12, 900)
    order = torch.randperm(900, generator=torch.Generator().manual_seed(3))
    place = order.argsort()
    moved = compare(reference[:, order], candidate[:, order], [int(place[i]) for i in ids])
    plain = compare(reference, candidate, ids)
    granted = tolerance(reference, candidate)
    for name in ("kl", "kl_reverse", "reference_nll", "candidate_nll", "confidence"):
        torch.testing.assert_close(getattr(moved, name), getattr(plain, name), atol=granted, rtol=0)
    assert torch.equal(order[moved.reference_top], plain.reference_top)
    assert torch.equal(moved.top5_overlap, plain.top5_overlap)


def test_swapping_the_models_swaps_the_divergences() -> None:
    reference, candidate = random_pair(12, 300)
    there, back = compare(reference, candidate), compare(candidate, reference)
    granted = tolerance(reference, candidate)
    torch.testing.assert_close(there.kl, back.kl_reverse, atol=granted, rtol=0)


def test_tokens_that_both_models_rule_out_count_nothing() -> None:
    reference, candidate = random_pair(6, 50)
    kept = compare(reference[:, :40], candidate[:, :40], [0] * 6)
    reference[:, 40:] = candidate[:, 40:] = -torch.inf
    masked = compare(reference, candidate, [0] * 6)
    granted = tolerance(reference[:, :40], candidate[:, :40])
    torch.testing.assert_close(masked.kl, kept.kl, atol=granted, rtol=0)
    torch.testing.assert_close(masked.kl_reverse, kept.kl_reverse, atol=granted, rtol=0)


def test_ruling_out_what_is_possible_is_infinitely_far() -> None:
    reference, candidate = random_pair(3, 50)
    candidate[:, 7] = -torch.inf
    result = compare(reference, candidate, [0, 7, 7])
    assert result.kl.tolist() == [torch.inf] * 2
    assert bool(torch.isfinite(result.kl_reverse).all())
    assert result.candidate_nll.tolist() == [torch.inf] * 2
    assert bool(torch.isfinite(result.probability_change).all())


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("whose", [0, 1])
@pytest.mark.parametrize("column", [0, 333, 699])
def test_logits_that_are_no_numbers_are_refused(value: float, whose: int, column: int) -> None:
    pair = random_pair(30, 700)
    pair[whose][21, column] = value
    with pytest.raises(NonFiniteLogitsError, match=r"position 21"):
        compare(*pair)


def test_a_row_that_rules_out_everything_is_refused() -> None:
    reference, candidate = random_pair(5, 40)
    candidate[2] = -torch.inf
    with pytest.raises(NonFiniteLogitsError, match=r"candidate.*position 2"):
        compare(reference, candidate)


def test_vocabularies_of_other_sizes_are_both_named() -> None:
    reference, candidate = random_pair(5, 40)
    with pytest.raises(InvalidComparisonError, match=r"40.*39.*padded"):
        compare_scores(MatrixScores(reference), MatrixScores(candidate[:, :39]), [1] * 5)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1], "1 tokens predicts nothing"),
        ([1] * 9, "5 positions.*9"),
        ([0, 40], "0…40"),
        ([-1, 2], "-1…2"),
    ],
)
def test_documents_that_do_not_fit_are_refused(ids: list[int], message: str) -> None:
    reference, candidate = random_pair(5, 40)
    with pytest.raises(InvalidComparisonError, match=message):
        compare_scores(MatrixScores(reference), MatrixScores(candidate), ids)


@given(st.integers(0, 2**32 - 1), st.sampled_from([3, 6, 300, 384, 385, 447, 448, 1000]))
@settings(deadline=None, max_examples=40)
def test_most_probable_is_topk(seed: int, vocabulary: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, vocabulary, generator=generator)
    values, ids = most_probable(logits)
    expected = logits.topk(min(5, vocabulary), -1)
    assert torch.equal(values, expected.values)
    assert torch.equal(logits.gather(1, ids), values)


def test_a_tie_goes_to_the_lowest_id_as_in_greedy_decoding() -> None:
    logits = torch.zeros(1, 900)
    logits[0, [801, 30, 455]] = 2.0
    logits[0, 17] = 1.0
    values, ids = most_probable(logits)
    assert ids[0, :4].tolist() == [30, 455, 801, 17]
    assert values[0, :4].tolist() == [2.0, 2.0, 2.0, 1.0]


def test_float64_logits_are_compared_in_float64() -> None:
    """A divergence of 1e-16 is far below what float32 could tell from none."""
    reference = random_pair(4, 60)[0].double()
    candidate = reference.clone()
    candidate[:, 3] += 1e-6
    p = reference[:-1].softmax(-1)[:, 3]
    second_order = p * (1 - p) * 1e-12 / 2
    result = compare(reference, candidate)
    # Relative: third-order terms are 1e-6, rounding is eps·range over the divergence.
    rounding = float(torch.finfo(torch.float64).eps * 40)
    torch.testing.assert_close(result.kl, second_order, atol=rounding, rtol=1e-5)
    assert not result.identical
