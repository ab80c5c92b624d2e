"""Rows: the log-probabilities of one position's next tokens, as far as they are known, by id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from pytest_infopt import ModelPair
from pytest_infopt.engines.base import (
    CountedEngine,
    Engine,
    ScoringEngine,
    TopScoresEngine,
    able,
)

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


def answer_rows(
    engine: CountedEngine,
    ids: Sequence[int],
    positions: Sequence[int],
    *,
    tokens_alone: bool = False,
) -> list[Row]:
    """What a server that completes chats only tells of successive positions, of which the first is
    the end of a chat: the rows of its own answer, as far as that is the text's, and the first one
    behind which it is not. ``tokens_alone``: each row has the server's token, as certain."""
    start = positions[0] + 1
    answer = engine.counted_answer(ids[:start], len(positions))
    pairs = enumerate(zip(answer.token_ids, ids[start:], strict=False))
    same = next((place for place, (own, token) in pairs if own != token), len(positions))
    rows = [{token: 0.0} for token in answer.token_ids] if tokens_alone else answer.rows
    return list(rows[: same + 1])


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
