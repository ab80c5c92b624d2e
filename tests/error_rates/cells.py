"""The cells of the table: what is promised, under which sessions, with the truth at the limit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy import stats

from error_rates import rivals, sessions, traces
from error_rates.sessions import Values

LIMIT = 1.05
DOCUMENTS, PAIRS, CALLS = 256, 300, 120
MOST_PAIRS = 3000  # of [latency], by default
POINTS, ACCURACY = 0.02, 0.75  # that a task may lose, and its share of right answers
Generator = np.random.Generator


@dataclass(frozen=True)
class Cell:
    """A promise under one kind of sessions: shares of PASS and of FAIL, each at most 1 %."""

    metric: str
    sessions: str
    passed: float
    failed: float


@dataclass(frozen=True)
class Compared:
    """Shares of sessions in which a rule errs, or texts that stand beside them."""

    question: str
    sessions: str
    rates: dict[str, float] | dict[str, float | str]


def promises(generator: Generator, count: int) -> Iterator[Cell]:
    """Every metric's promise, its truth at the limit."""
    yield from _documents(generator, count)
    yield from _pairs(generator, count)
    yield from _requests(generator, count)
    yield from _items(count)


def _documents(generator: Generator, count: int) -> Iterator[Cell]:
    kinds: dict[str, Callable[[Generator, int, int], Values]] = {
        "lognormal documents, τ .5": traces.lognormal(0.5, 512),
        "lognormal documents, τ .8": traces.lognormal(0.8, 512),
        "64 tokens a document, τ .8": traces.lognormal(0.8, 64),
        "16 tokens a document, τ .8": traces.lognormal(0.8, 16),
        "1 document in 100 × 100": traces.catastrophes(100, 100),
        "1 document in 200 × 100": traces.catastrophes(200, 100),
        "1 document in 50 × 200": traces.catastrophes(50, 200),
        "8 documents of a source alike, τ .8": traces.clusters(8, 0.8),
    }
    for name, kind in kinds.items():
        documents = kind(generator, count, DOCUMENTS)
        # PASS is about what is counted of a document, FAIL about all of it.
        counted = traces.at_the_limit(documents, traces.CLIP, each="source" in name)
        passed, _ = sessions.mean(counted, 1.0, traces.CLIP)
        _, failed = sessions.mean(traces.at_the_limit(documents), 1.0, traces.CLIP)
        yield Cell("kl_mean", name, passed, failed)
    for tokens, share in ((16, 0.01), (16, 0.1), (64, 0.01)):
        wrong = traces.coarse(tokens, share)(generator, count, DOCUMENTS)
        verdicts = sessions.mean(wrong, share, 3.0, 3 / tokens)
        yield Cell("top1_agreement", f"{tokens} tokens, {100 * share:g} % differ", *verdicts)
    for name, share in (("kl_document_p90", 0.1), ("kl_document_p99", 0.01)):
        rare = np.where(generator.random((count, DOCUMENTS)) < share, 100.0, 0.1)
        verdicts = sessions.one_by_one(name, rare, traces.CLIP)
        yield Cell(name, f"{100 * share:g} % of the documents × 1,000", *verdicts)
    for name, spread in (("normal documents", 0.014), ("Cauchy documents", 0.003)):
        draw = generator.normal if name.startswith("n") else _cauchy(generator)
        ratios = math.log(1.01) + draw(0, spread, (count, DOCUMENTS))
        yield Cell("perplexity_ratio", name, *sessions.log_mean(ratios, 1.01))


def _cauchy(generator: Generator) -> Callable[..., Values]:
    return lambda _, spread, shape: spread * generator.standard_cauchy(shape)


NOISE: dict[str, Callable[[Generator, int, int], Values]] = {
    "independent": traces.independent,
    "Cauchy": traces.heavy_tails,
    "autocorrelation .98": traces.autocorrelated,
    "20 times slower at the end": traces.drift,
    "bursts": traces.bursts,
    "every other slot 8 % slower": traces.synchronised,
    "slots slow, fast, fast, slow": traces.period_of_four,
}


def ratios(noise: Values, generator: Generator) -> Values:
    """The noise of pairs in an order that a coin draws: log ratios, [sessions, pairs]."""
    first = np.where(generator.random(noise.shape[:2]) < 0.5, 1.0, -1.0)
    return first * (noise[..., 0] - noise[..., 1])


def _pairs(generator: Generator, count: int) -> Iterator[Cell]:
    for metric, rule in (("tpot_ratio", sessions.sign), ("tpot_mean_ratio", sessions.log_mean)):
        for name, kind in NOISE.items():
            noise = kind(generator, count, PAIRS)
            yield Cell(metric, name, *rule(math.log(LIMIT) + ratios(noise, generator), LIMIT))
        settled = carry_over(generator, count, settled=True)
        yield Cell(metric, "slows the other's next request by 10 %", *rule(settled, LIMIT))


def carry_over(generator: Generator, count: int, *, settled: bool, slower: float = LIMIT) -> Values:
    """Log ratios of a candidate that makes the reference's next request 10 % slower. ``settled``:
    each timed request follows one of the same model that does not count."""
    first = generator.random((count, PAIRS)) < 0.5  # the candidate
    noise = generator.normal(0, 0.05, (count, PAIRS, 2))
    after_candidate = np.ones((count, PAIRS), bool)  # the reference as second of its pair
    after_candidate[:, 1:] = first[:, 1:] | ~first[:, :-1]
    slowed = 0.0 if settled else math.log(1.1) * after_candidate
    return math.log(slower) + noise[..., 1] - noise[..., 0] - slowed


def _requests(generator: Generator, count: int) -> Iterator[Cell]:
    for name, quantile, requests in (("ttft_p95", 0.95, 400), ("ttft_p99", 0.99, 1000)):
        limit = float(math.exp(stats.norm.ppf(quantile)))
        for correlation in (0.0, 0.9, 0.99):
            values = np.exp(traces.gaussian(correlation)(generator, count, requests))
            kind = f"autocorrelation {correlation:g}" if correlation else "independent"
            yield Cell(name, f"{kind}, {requests}", *sessions.one_by_one(name, values, limit))


def answers(items: int, lost: float, gained: float, count: int) -> tuple[Values, Values]:
    """Right answers of reference and candidate, [sessions, items]: such shares of all items are
    right for one of them alone, and three in four for the reference.

    Drawn by a generator of their own: what is simulated behind them stays as it was."""
    generator = np.random.default_rng([items, round(1e4 * lost), round(1e4 * gained)])
    place = generator.random((count, items))
    reference = (place < ACCURACY).astype(float)
    candidate = ((place >= lost) & (place < ACCURACY + gained)).astype(float)
    return reference, candidate


def _items(count: int) -> Iterator[Cell]:
    for items, lost, gained in ((1319, 0.04, 0.02), (1319, 0.02, 0.0), (200, 0.02, 0.0)):
        reference, candidate = answers(items, lost, gained, count)
        name = f"{items:,} items, {100 * (lost + gained):g} % differ"
        yield Cell("task_accuracy_loss", name, *sessions.paired(reference - candidate, POINTS))


def comparisons(generator: Generator, count: int) -> Iterator[Compared]:
    """The same sessions under our rule and under others'."""
    for name, kind in NOISE.items():
        yield Compared("FAIL, unchanged code", name, _unchanged(kind, generator, count))
    tokens = np.exp(generator.normal(0, traces.TOKEN_SIGMA, (count, 50, 64)))
    tokens *= np.exp(generator.normal(0, 0.8, (count, 50, 1)))
    tokens /= math.exp(traces.TOKEN_SIGMA**2 / 2 + 0.8**2 / 2)
    yield Compared(
        "PASS, mean KL at the limit",
        "50 documents of 64 tokens, τ .8",
        {
            "infopt": sessions.mean(tokens.mean(2), 1.0, traces.CLIP)[0],
            "llama.cpp": float(rivals.llama_cpp(tokens.reshape(count, -1), 1.0).mean()),
        },
    )
    yield from _by_name(generator, count)
    yield from _tasks(generator, count)
    late = generator.random((count, 6000)) < 0.1
    yield Compared(
        "PASS, p90 at the limit",
        "independent, up to 6,000",
        {
            "infopt": sessions.one_by_one("ttft_p90", np.where(late[:, :1000], 2.0, 0.5), 1.0)[0],
            "MLPerf": rivals.mlperf(late, 0.9),
        },
    )
    yield from _orders(generator, count)
    yield from _files(generator, count)
    yield from _decided(generator, count)


def _orders(generator: Generator, count: int) -> Iterator[Compared]:
    """Why a coin draws the order of each pair: fixed orders meet noise of the same period, in the
    worse of its two phases."""
    for name in ("every other slot 8 % slower", "slots slow, fast, fast, slow"):
        noise = NOISE[name](generator, count, PAIRS)
        gap = noise[..., 0] - noise[..., 1]
        alternating = np.where(np.arange(PAIRS) % 2, -1.0, 1.0)
        orders = {"coin": ratios(noise, generator), "ABAB": gap, "ABBA": alternating * gap}
        yield Compared(
            "FAIL, unchanged code, by the order of pairs",
            name,
            {order: max(_worst(x)[1], _worst(-x)[1]) for order, x in orders.items()},
        )


def _worst(x: Values) -> sessions.Verdicts:
    """The larger shares of both rules on ratios."""
    one, two = sessions.sign(x, LIMIT), sessions.log_mean(x, LIMIT)
    return max(one[0], two[0]), max(one[1], two[1])


FILES, FILE_LIMIT = 10, 1.10


def _files(generator: Generator, count: int) -> Iterator[Compared]:
    """Files of sessions that differ by 8 %, and by 4 % within: ours alternate and are a session
    each; inference-doctor's are all from one session of either side, as its users have them."""
    for question, slower, which in (
        ("FAIL, unchanged code, 10 result files of each, limit 1.10", 1.0, 1),
        ("PASS, 20 % slower, 10 result files of each, limit 1.10", 1.2, 0),
    ):
        own = generator.normal(0, math.hypot(0.08, 0.04), (count, FILES, 2))
        blocks = math.log(slower) + own[..., 1] - own[..., 0]
        sides = generator.normal(0, 0.08, (2, count, 1))
        reference, candidate = sides + generator.normal(0, 0.04, (2, count, FILES))
        medians = np.exp(reference), slower * np.exp(candidate)
        welch = rivals.inference_doctor(*medians, FILE_LIMIT)
        rates = {
            "recorded_ttft_ratio": sessions.sign(blocks, FILE_LIMIT)[which],
            "inference-doctor": float(welch[which].mean()),
        }
        yield Compared(question, "sessions differ by 8 %", rates)


def _decided(generator: Generator, count: int) -> Iterator[Compared]:
    """What the promises cost: sessions that end with the right verdict."""
    for name in ("independent", "autocorrelation .98", "bursts"):
        noise = NOISE[name](generator, count, MOST_PAIRS)
        x = math.log(1.1) + ratios(noise, generator)
        seconds = np.exp(noise.reshape(count, -1)[:, : 2 * CALLS].clip(-20, 20))
        slow = 1.1 * seconds[:, CALLS:]
        rates = {f"infopt, {n:,} pairs": _worst(x[:, :n])[1] for n in (PAIRS, MOST_PAIRS)}
        rates |= {n: float(r(seconds[:, :CALLS], slow).mean()) for n, r in rivals.TIMING.items()}
        yield Compared("FAIL, 10 % slower, limit 1.05", name, rates)
    for times, which in ((0.5, 0), (2.0, 1)):
        documents = times * traces.at_the_limit(traces.lognormal(0.5, 512)(generator, count, 256))
        rates = {
            f"{most} documents": sessions.mean(documents[:, :most], 1.0, traces.CLIP)[which]
            for most in (20, 50, 100)
        }
        verdict = "FAIL" if which else "PASS"
        yield Compared(
            f"{verdict}, KL at {times:g} × the limit, τ .5", "within so many documents", rates
        )


def _by_name(generator: Generator, count: int) -> Iterator[Compared]:
    """What a PASS of one metric does not say, and one of the metric beside it does."""
    for every, times, mean in ((100, 100.0, 1.0), (50, 200.0, 2.0)):
        rows = traces.catastrophes(every, times)(generator, count, 1000)
        rows = mean * traces.at_the_limit(rows)
        yield Compared(
            "PASS, rare catastrophes",
            f"1 document in {every} × {times:g}, plain mean at {mean:g} × the limit",
            {
                "kl_mean": sessions.mean(rows[:, :DOCUMENTS], 1.0, traces.CLIP)[0],
                "kl_document_p99, 1,000 documents": sessions.one_by_one(
                    "kl_document_p99", rows[: count // 4], traces.CLIP
                )[0],
            },
        )
    slow = np.where(generator.random((count, 2 * PAIRS)) < 0.4, math.log(2), 0.0)
    slow += generator.normal(0, 0.05, slow.shape)
    hurts = carry_over(generator, count, settled=False, slower=1.08)
    for name, x in (
        ("twice as slow on 40 % of requests", slow),
        ("8 % slower, and slows the other's next request, no settling request", hurts),
    ):
        rates = {
            "tpot_ratio": sessions.sign(x, LIMIT)[0],
            "tpot_mean_ratio": sessions.log_mean(x, LIMIT)[0],
        }
        yield Compared("PASS, ratios beyond the limit 1.05", name, rates)


def _unchanged(
    kind: Callable[[Generator, int, int], Values], generator: Generator, count: int
) -> dict[str, float]:
    noise = kind(generator, count, PAIRS)
    x = ratios(noise, generator)
    seconds = np.exp(noise.reshape(count, -1).clip(-20, 20))
    sides = seconds[:, :CALLS], seconds[:, CALLS : 2 * CALLS]  # all of one, then all of the other
    ours = max(sessions.sign(x, LIMIT)[1], sessions.log_mean(x, LIMIT)[1])
    return {"infopt": ours} | {n: float(r(*sides).mean()) for n, r in rivals.TIMING.items()}


def _tasks(generator: Generator, count: int) -> Iterator[Compared]:
    for items in (10, 30):
        right = (generator.random((count, items)) < ACCURACY).astype(float)
        left = right * (generator.random(right.shape) >= 0.05 / ACCURACY)
        rates = {"infopt": sessions.paired(right - left, POINTS)[0], **_passed(right, left)}
        yield Compared("PASS, 5 points lost, 2 allowed", f"{items} items", rates)
    for lost, question in ((0.0, "nothing lost"), (POINTS, "2 points lost")):
        for differ in (0.06, 0.02):
            right, left = answers(1319, (differ + lost) / 2, (differ - lost) / 2, count)
            passed, failed = sessions.paired(right - left, POINTS)
            others = {f"{name} PASS": rate for name, rate in _passed(right, left).items()}
            rates = {"infopt PASS": passed, "infopt FAIL": failed, **others}
            name = f"1,319 items, {100 * differ:g} % differ"
            yield Compared(f"{question}, 2 allowed", name, rates)


def _passed(right: Values, left: Values) -> dict[str, float]:
    """Shares of sessions that other tools' rules let pass."""
    return {
        "lm-eval": float(rivals.lm_eval(right, left, POINTS).mean()),
        "nel gate": float(rivals.nel_gate(right, left, POINTS).mean()),
    }
