"""Budgets: what may be written, what is refused, and how numbers are shown."""

import dataclasses
import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pytest_infopt.errors import ConfigurationError
from pytest_infopt.gates.registry import metrics
from pytest_infopt.metrics.budget import Budget, format_value, parse_budget
from pytest_infopt.metrics.metric import Unit

EXAMPLE = {
    Unit.NATS: metrics()["kl_mean"],
    Unit.SHARE: metrics()["top1_agreement"],
    Unit.RATIO: metrics()["ttft_ratio"],
    Unit.SECONDS: metrics()["ttft_p95"],
    Unit.BYTES: metrics()["weight_bytes"],
    Unit.DECIBEL: metrics()["sqnr_db"],
    Unit.COUNT: metrics()["greedy_mismatches"],
    Unit.NUMBER: metrics()["cosine"],
}

WRITTEN = [
    (Unit.NATS, 0.05, 0.05),
    (Unit.NATS, "0.01 nats", 0.01),
    (Unit.NATS, 0, 0),
    (Unit.NATS, "1e-3", 0.001),
    (Unit.SHARE, 0.99, 0.99),
    (Unit.SHARE, "99 %", 0.99),
    (Unit.SHARE, "99.9%", 0.999),
    (Unit.SHARE, 1, 1),
    (Unit.RATIO, 1.05, 1.05),
    (Unit.RATIO, "1.05x", 1.05),
    (Unit.RATIO, "+5 %", 1.05),
    (Unit.RATIO, "-10%", 0.9),
    (Unit.SECONDS, "200 ms", 0.2),
    (Unit.SECONDS, "1.2 s", 1.2),
    (Unit.SECONDS, "350 us", 0.00035),
    (Unit.SECONDS, "350µs", 0.00035),
    (Unit.SECONDS, "2 min", 120),
    (Unit.BYTES, "250 MiB", 250 * 2**20),
    (Unit.BYTES, "1 GB", 10**9),
    (Unit.BYTES, "1.5kB", 1500),
    (Unit.BYTES, 12345, 12345),
    (Unit.BYTES, 0, 0),
    (Unit.DECIBEL, "40 dB", 40),
    (Unit.DECIBEL, -3, -3),
    (Unit.COUNT, 3, 3),
    (Unit.COUNT, "0", 0),
    (Unit.NUMBER, 0.999, 0.999),
]


@pytest.mark.parametrize(("unit", "text", "limit"), WRITTEN)
def test_every_way_to_write_a_limit(unit: Unit, text: str | float, limit: float) -> None:
    budget = parse_budget(EXAMPLE[unit], text, "infopt.toml:7")
    assert budget.limit == limit
    assert not budget.relative
    assert budget.origin == "infopt.toml:7"


def test_bytes_relative_to_the_reference() -> None:
    budget = parse_budget(EXAMPLE[Unit.BYTES], "0.3x", "here")
    assert (budget.limit, budget.relative) == (0.3, True)
    assert budget.describe() == "≤ 0.3x of the reference's"


REFUSED = [
    (Unit.NATS, "5 ms"),
    (Unit.NATS, -0.1),
    (Unit.NATS, math.nan),
    (Unit.NATS, math.inf),
    (Unit.NATS, "nan"),
    (Unit.NATS, ""),
    (Unit.NATS, "0.1 0.2"),
    (Unit.NATS, True),
    (Unit.SHARE, 1.01),
    (Unit.SHARE, 99),
    (Unit.SHARE, "101 %"),
    (Unit.SHARE, -0.5),
    (Unit.SHARE, 0),  # at least 0 %: nothing could break it
    (Unit.SHARE, "0.99x"),
    (Unit.RATIO, 0),
    (Unit.RATIO, -1.05),
    (Unit.RATIO, "5 %"),  # 0.05, 1.05 or 0.95? the sign says
    (Unit.RATIO, "-100 %"),
    (Unit.RATIO, "5 ms"),
    (Unit.SECONDS, "200 Ms"),
    (Unit.SECONDS, "0 s"),
    (Unit.SECONDS, "200 MiB"),
    (Unit.BYTES, "250 ms"),
    (Unit.BYTES, -1),
    (Unit.BYTES, "0x"),
    (Unit.BYTES, "30 %"),
    (Unit.DECIBEL, "40 %"),
    (Unit.COUNT, 1.5),
    (Unit.COUNT, -1),
    (Unit.NUMBER, "0.9 s"),
    (Unit.NUMBER, math.inf),
]


@pytest.mark.parametrize(("unit", "text"), REFUSED)
def test_a_refusal_names_origin_value_metric_and_an_example(unit: Unit, text: str | float) -> None:
    metric = EXAMPLE[unit]
    with pytest.raises(ConfigurationError) as caught:
        parse_budget(metric, text, "infopt.toml:12")
    message = str(caught.value)
    assert message.startswith("infopt.toml:12: ")
    assert repr(text) in message
    assert metric.name in message
    assert "such as" in message


@pytest.mark.parametrize("metric", metrics().values(), ids=lambda metric: metric.name)
def test_the_example_in_a_refusal_is_itself_accepted(metric: object) -> None:
    assert isinstance(metric, type(metrics()["kl_mean"]))
    with pytest.raises(ConfigurationError) as caught:
        parse_budget(metric, "1 furlong", "here")
    for example in str(caught.value).split("such as ")[1:]:
        word = example.split('"')[1] if example.startswith('"') else example.split(" ")[0]
        assert parse_budget(metric, word.strip(","), "here").metric is metric


@given(st.sampled_from(list(metrics().values())), st.floats(1e-9, 1e12))
def test_what_is_described_can_be_written(metric: object, limit: float) -> None:
    assert isinstance(metric, type(metrics()["kl_mean"]))
    assume(metric.unit is not Unit.SHARE or limit < 1)
    assume(metric.equal is None or limit > metric.equal + 1e-4)  # six digits must show the excess
    limit = float(round(limit)) if metric.unit is Unit.COUNT else limit
    text = Budget(metric, limit).describe()[2:]
    if metric.unit is not Unit.COUNT and "e" not in text:
        again = parse_budget(metric, text, "here").limit
        # Six significant digits are shown, of a percentage at least.
        assert again == pytest.approx(limit, rel=0.5e-5)


@pytest.mark.parametrize(
    ("name", "limit", "text"),
    [
        ("kl_mean", 0.05, "≤ 0.05 nats"),
        ("top1_agreement", 0.99, "≥ 99 %"),
        ("ttft_ratio", 1.05, "≤ 1.05x"),
        ("perplexity_ratio", 1.005, "≤ 1.005x"),
        ("ttft_p95", 0.2, "≤ 200 ms"),
        ("weight_bytes", 250 * 2**20, "≤ 250 MiB"),
        ("kv_prediction_error", 0, "≤ 0 B"),
        ("greedy_mismatches", 0, "≤ 0"),
        ("sqnr_db", 40, "≥ 40 dB"),
    ],
)
def test_descriptions(name: str, limit: float, text: str) -> None:
    assert Budget(metrics()[name], limit).describe() == text


@pytest.mark.parametrize(
    ("unit", "value", "text"),
    [
        (Unit.NATS, 0.0123456, "0.0123 nats"),
        (Unit.SHARE, 0.5, "50 %"),
        (Unit.SHARE, 0.98765, "98.77 %"),
        (Unit.SHARE, 0.99962, "99.962 %"),
        (Unit.SHARE, 1.0, "100 %"),
        (Unit.RATIO, 1.00342, "1.003x"),
        (Unit.SECONDS, 0.0123456, "12.3 ms"),
        (Unit.SECONDS, 3.2e-5, "32 µs"),
        (Unit.SECONDS, 0.0, "0 s"),
        (Unit.BYTES, 123_456_789, "117.7 MiB"),
        (Unit.BYTES, -512, "-512 B"),
        (Unit.BYTES, 0, "0 B"),
        (Unit.COUNT, 1234, "1234"),
        (Unit.NUMBER, 0.99998763, "0.9999876"),
        (Unit.DECIBEL, 41.239, "41.2 dB"),
        (Unit.NATS, math.inf, "∞"),
        (Unit.NATS, math.nan, "not a number"),
    ],
)
def test_values_are_short_and_keep_their_unit(unit: Unit, value: float, text: str) -> None:
    assert format_value(EXAMPLE[unit], value) == text


@given(st.floats(0.5, 1, exclude_max=True))
def test_a_share_below_one_never_reads_as_all(share: float) -> None:
    assume(1 - share > 1e-12)
    assert format_value(EXAMPLE[Unit.SHARE], share) != "100 %"


def test_budgets_are_plain_data() -> None:
    budget = parse_budget(EXAMPLE[Unit.NATS], 0.05, "here")
    assert dataclasses.replace(budget, limit=0.1).describe() == "≤ 0.1 nats"
