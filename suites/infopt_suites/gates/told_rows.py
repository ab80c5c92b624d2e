"""Rows: the log-probabilities of one position's next tokens, as far as they are known, by id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from pytest_infopt import ModelPair
from pytest_infopt.engines.base import Engine, ScoringEngine, TopScoresEngine, able

Row = Mapping[int, float]
_CHUNK = 64  # positions of which logits are held at once


def positions_of(tokens: int, most: int | None) -> list[int]:
    """The positions of a document that predict its next token: all, or ``most`` of them, evenly
    spread."""
    count = tokens - 1
    if most is None or most >= count:
        return list(range(count))
    return sorted({(2 * index + 1) * count // (2 * most) for index in range(most)})


def told_rows(engine: TopScoresEngine, ids: Sequence[int], positions: Sequence[int]) -> list[Row]:
    """What a server tells of each of the positions."""
    return list(engine.top_scores(ids, positions))


def whole_rows(
    pair: ModelPair,
    engine: Engine,
    ids: Sequence[int],
    positions: Sequence[int],
    told: Sequence[Row],
) -> list[Row]:
    """Of each position, what an engine that sees whole distributions finds of the tokens that are
    told there, and of its own most probable one."""
    scoring = able(engine, ScoringEngine)
    scores = pair.scores.of(scoring, ids) if engine is pair.reference else scoring.score(ids)
    wanted, rows = dict(zip(positions, told, strict=True)), list[Row]()
    for start in range(0, max(positions) + 1, _CHUNK):
        inside = [t for t in positions if start <= t < start + _CHUNK]
        if not inside:
            continue
        logits = scores.logits(start, min(start + _CHUNK, len(ids)))
        log_p = torch.log_softmax(logits.double(), -1)
        for position in inside:
            row = log_p[position - start]
            tokens = sorted({*wanted[position], int(row.argmax())})
            rows.append(dict(zip(tokens, row[tokens].tolist(), strict=True)))
    return rows
