"""The simulator, the closed form and the decoder's own counts say the same."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from infopt_reference.decoding import (
    FunctionScorer,
    LogitsPipeline,
    ModelDrafter,
    PassCosts,
    SpeculativeDecoder,
    SpeculativeStatistics,
    StoppingRules,
    best_lookahead,
    expected_speed_up,
    expected_tokens,
    implied_acceptance,
    measure_costs,
    simulate,
)

TOKENS = 20_000
COSTS = PassCosts(target=lambda tokens: 1.0 + 0.02 * tokens, draft=0.1)


def unchanging(weights):
    """A model whose next token depends on nothing: drafts are accepted each by itself."""
    logits = torch.tensor(weights, dtype=torch.float64).log()
    return FunctionScorer(lambda row: logits.expand(len(row), -1), len(weights))


@pytest.mark.parametrize("lookahead", [0, 1, 4])
@pytest.mark.parametrize("acceptance", [0.0, 0.3, 0.8, 1.0])
def test_simulation_agrees_with_the_closed_form(acceptance, lookahead):
    found = simulate(acceptance, lookahead, TOKENS, COSTS)
    closed = (
        lookahead + 1 if acceptance == 1 else (1 - acceptance ** (lookahead + 1)) / (1 - acceptance)
    )
    assert expected_tokens(acceptance, lookahead) == pytest.approx(closed)
    passes = found.statistics.target_passes
    # A pass emits between 1 and k + 1 tokens; the last one has an end.
    spread = 5 * lookahead / 2 / math.sqrt(passes) + (lookahead + 1) / passes
    assert abs(found.statistics.tokens_per_pass - closed) <= spread
    speed_up = expected_speed_up(
        acceptance, lookahead, 0.1 / 1.02, (1.02 + 0.02 * lookahead) / 1.02
    )
    assert found.speed_up == pytest.approx(speed_up, rel=spread / closed + 1e-3)


@pytest.mark.parametrize("lookahead", [1, 3])
def test_the_decoders_counts_agree_with_both(lookahead):
    p, q = [0.5, 0.3, 0.15, 0.05], [0.2, 0.3, 0.1, 0.4]
    acceptance = sum(map(min, p, q))
    made = SpeculativeDecoder(
        unchanging(p),
        ModelDrafter(unchanging(q), 4),
        lookahead,
        LogitsPipeline(),
        StoppingRules(60),
    )
    rows = made.decode([[0]] * 200, range(200))
    counted = sum((row.statistics for row in rows), SpeculativeStatistics())
    simulated = [simulate(acceptance, lookahead, 60, COSTS, seed).statistics for seed in range(200)]
    expected = sum(simulated, SpeculativeStatistics())
    assert counted.emitted == expected.emitted == 200 * 60
    spread = 5 * lookahead / 2 / math.sqrt(counted.target_passes)
    closed = expected_tokens(acceptance, lookahead)
    assert abs(counted.tokens_per_pass - expected.tokens_per_pass) <= 2 * spread
    assert abs(counted.tokens_per_pass - closed) <= spread + (lookahead + 1) / 60


@given(st.floats(0, 1), st.integers(1, 12))
def test_acceptance_is_found_from_tokens_a_pass(acceptance, lookahead):
    found = implied_acceptance(expected_tokens(acceptance, lookahead), lookahead)
    emitted = expected_tokens(acceptance, lookahead)
    assert expected_tokens(found, lookahead) == pytest.approx(emitted, rel=1e-9)
    if acceptance > 0.01:  # near 0, emitted hardly depends on it in float64
        assert found == pytest.approx(acceptance, abs=1e-6)


class Counted:
    """A scorer that keeps which rows it was asked for, and whose passes take a told CPU time."""

    vocab_size = 2

    def __init__(self, clock, seconds):
        self.clock, self.seconds, self.asked = clock, seconds, []

    def score(self, rows, counts):
        self.asked.append((rows, counts))
        self.clock[0] += self.seconds(sum(counts))
        return torch.zeros(sum(counts), 2)

    def select(self, rows):
        raise AssertionError("no row ends")


def test_costs_are_those_of_passes_of_each_size(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.process_time", lambda: clock[0])
    target, draft = Counted(clock, lambda n: 1 + n / 8), Counted(clock, lambda n: 0.25)
    found = measure_costs(target, draft, [3, 4], 2, LogitsPipeline(), rounds=3)
    assert [found.target(size) for size in (1, 2, 3)] == [1.125, 1.25, 1.375]
    assert found.draft == 0.25
    # Each pass is over the row's last token and those behind it: all before it is known by then.
    assert {(tuple(row), count) for (row,), (count,) in target.asked} == {
        ((3, 4), 1),
        ((3, 4, 4), 2),
        ((3, 4, 4, 4), 3),
    }
    assert {(tuple(row), count) for (row,), (count,) in draft.asked} == {((3, 4), 1)}


def test_the_best_lookahead_is_the_best_of_all():
    for acceptance, cost in ((0.8, 0.1), (0.3, 0.5), (0.99, 0.01)):
        best = best_lookahead(acceptance, cost, most=30)
        all_of_them = [expected_speed_up(acceptance, k, cost) for k in range(31)]
        assert all_of_them[best] == max(all_of_them)
    assert best_lookahead(0.3, 0.5) == 0


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match=r"acceptance is 1\.5"):
        simulate(1.5, 1, 1, COSTS)
    with pytest.raises(ValueError, match="num_tokens 0"):
        simulate(0.5, 1, 0, COSTS)
    for tokens, lookahead in ((0.9, 2), (3.1, 2), (1.0, 0)):
        with pytest.raises(ValueError, match=f"tokens_per_pass is {tokens}"):
            implied_acceptance(tokens, lookahead)
    scorer = unchanging([0.5, 0.5])
    for lookahead, rounds in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match=f"rounds {rounds}"):
            measure_costs(scorer, scorer, [0], lookahead, LogitsPipeline(), rounds)
    assert math.isnan(SpeculativeStatistics().acceptance_rate)
    assert math.isnan(SpeculativeStatistics().tokens_per_pass)
