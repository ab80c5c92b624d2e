"""The page's table of one wrong replica among 64, against a simulation of runs."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from scipy import stats

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "parallel.md"
REPLICAS, SESSIONS, CHANCE = 64, 4000, 1e-4
SHARES = (1.0, 0.25)  # of its prompts to which the wrong replica gives a wrong answer
Spread = Callable[[random.Random, int], list[int]]  # which replica each prompt reaches


def at_random(chance: random.Random, prompts: int) -> list[int]:
    return [chance.randrange(REPLICAS) for _ in range(prompts)]


def in_turns(chance: random.Random, prompts: int) -> list[int]:
    first = chance.randrange(REPLICAS)
    return [(first + place) % REPLICAS for place in range(prompts)]


def to_one(chance: random.Random, prompts: int) -> list[int]:
    return [chance.randrange(REPLICAS)] * prompts


def each_alone(chance: random.Random, prompts: int) -> list[int]:
    return [replica for replica in range(REPLICAS) for _ in range(prompts)]


SPREADS: dict[str, Spread] = {
    "at random": at_random,
    "in turns": in_turns,
    "by connection: all to one": to_one,
    "each replica a candidate of its own": each_alone,
}
ROW = re.compile(r"^\| ([a-z: ]+) \| (\d+) \| (\d+) % \| (\d+) % \|$", re.MULTILINE)
ROWS = ROW.findall(PAGE.read_text(encoding="utf-8"))


def noticed(spread: Spread, prompts: int, share: float, seed: int) -> bool:
    """Whether a run meets a wrong answer of the replica 0."""
    chance = random.Random(f"{seed}:{prompts}:{share}")
    met = spread(chance, prompts).count(0)
    return any(chance.random() < share for _ in range(met))


def test_the_table_has_every_spread() -> None:
    assert {name for name, *_ in ROWS} == SPREADS.keys()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]}-{row[1]}")
def test_a_wrong_replica_is_noticed_as_often_as_the_page_says(row: tuple[str, ...]) -> None:
    """Within rounding to a whole percent, and what so many sessions vary by."""
    name, prompts, *told = row
    for percent, share in zip(told, SHARES, strict=True):
        found = sum(noticed(SPREADS[name], int(prompts), share, seed) for seed in range(SESSIONS))
        interval = stats.binomtest(found, SESSIONS).proportion_ci(1 - CHANCE)
        assert interval.low - 0.005 <= int(percent) / 100 <= interval.high + 0.005
