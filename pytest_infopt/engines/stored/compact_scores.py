"""Compact scores: of each position the most probable tokens, and a sample of the others.

Kept are the fewest tokens that leave at most `TAIL` of the probability: on English text 2,100 of a
vocabulary of 49,152, on average. What the others (the tail) add to KL(reference ‖ candidate) is
P·E[ln p/q], P their probability and the mean over tokens drawn by p. `DRAWS` tokens are drawn once,
when the scores are written, and kept with their p. The mean over them is unbiased, so that nothing
falls short on average; lumping the tail into one token would always fall short.

Shapes: T positions, V vocabulary, K kept tokens of all positions, D draws, B the best tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch

from ...errors import NotSupportedError
from ..base import Scores

TAIL = 0.005  # of the probability, at most
DRAWS = 16
BEST = 5  # kept in full precision
_STEPS = 2**16 - 1
_BLOCK_BYTES = 2**26


@dataclass(frozen=True)
class CompactScores:
    """`engines.base.Scores` without whole rows; `measure.compact_divergence` compares with them.

    ``kept_ids`` ascend within a position. ``kept`` is ln p, of the best tokens exact and of the
    others in 2¹⁶ steps, and sums with ``tail`` to a probability of 1.
    """

    vocabulary: int
    counts: torch.Tensor  # [T] kept tokens of each position
    kept_ids: torch.Tensor  # [K]
    kept: torch.Tensor  # [K] float64
    tail: torch.Tensor  # [T] float64, the probability of what is not kept
    drawn_ids: torch.Tensor  # [T, D]
    drawn: torch.Tensor  # [T, D] ln p
    best_ids: torch.Tensor  # [T, B] the most probable first
    best_logits: torch.Tensor  # [T, B] float64
    log_normaliser: torch.Tensor  # [T] ln Σ e^logit
    true: torch.Tensor  # [T − 1] ln p of the document's next token
    step: float  # between two codes of ``kept``, nats

    @property
    def positions(self) -> int:
        return len(self.counts)

    def logits(self, start: int, stop: int) -> torch.Tensor:
        raise NotSupportedError(
            "compact scores hold no whole rows of logits; write the store with "
            "`infopt scores --exact`"
        )

    def to(self, device: str) -> CompactScores:
        """The same on another device."""
        moved: dict[str, Any] = {
            field.name: value.to(device)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), torch.Tensor)
        }
        return replace(self, **moved)


def compacted(scores: Scores, token_ids: list[int], seed: int) -> dict[str, np.ndarray[Any, Any]]:
    """What is kept of a document's scores; ``seed`` draws the tail's sample."""
    generator = torch.Generator().manual_seed(seed)
    rows = max(1, _BLOCK_BYTES // (8 * scores.vocabulary))
    blocks = []
    for start in range(0, scores.positions, rows):
        stop = min(start + rows, scores.positions)
        targets = torch.tensor(token_ids[start + 1 : stop + 1])
        blocks.append(_block(scores.logits(start, stop).cpu(), targets, generator))
    columns = {name: torch.cat([block[name] for block in blocks]).numpy() for name in blocks[0]}
    kept, counts = columns.pop("kept"), columns["counts"]
    step = max(float(-kept.min()), 1.0) / _STEPS
    codes = np.rint(-kept / step).astype(np.uint16)
    firsts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    ids = columns.pop("kept_ids")
    gaps = np.diff(ids, prepend=0)
    gaps[firsts] = ids[firsts]
    return {
        **columns,
        "step": np.array(step),
        "vocabulary": np.array(scores.vocabulary),
        **_planes("gaps", gaps.astype(np.uint32)),
        **_planes("codes", codes),
    }


def restored(columns: Mapping[str, np.ndarray[Any, Any]]) -> CompactScores:
    """The scores of what `compacted` kept."""
    counts = torch.from_numpy(columns["counts"]).long()
    step, best_ids = float(columns["step"]), torch.from_numpy(columns["best_ids"]).long()
    firsts = counts.cumsum(0) - counts
    ids = torch.from_numpy(_joined("gaps", columns, np.uint32).astype(np.int64)).cumsum(0)
    before = torch.where(firsts > 0, ids[(firsts - 1).clamp(min=0)], 0)
    ids -= before.repeat_interleave(counts)
    kept = -step * torch.from_numpy(_joined("codes", columns, np.uint16).astype(np.float64))
    logits = torch.from_numpy(columns["best_logits"]).double()
    normaliser = torch.from_numpy(columns["log_normaliser"]).double()
    tail = torch.from_numpy(columns["tail"]).double()
    rows = torch.arange(len(counts)).repeat_interleave(counts)
    exact = (ids[:, None] == best_ids[rows]).nonzero()
    best = (logits - normaliser[:, None])[rows[exact[:, 0]], exact[:, 1]]
    kept[exact[:, 0]] = best
    return CompactScores(
        vocabulary=int(columns["vocabulary"]),
        counts=counts,
        kept_ids=ids,
        kept=_normalised(kept, rows, exact[:, 0], tail),
        tail=tail,
        drawn_ids=torch.from_numpy(columns["drawn_ids"]).long(),
        drawn=torch.from_numpy(columns["drawn"]).double(),
        best_ids=best_ids,
        best_logits=logits,
        log_normaliser=normaliser,
        true=torch.from_numpy(columns["true"]).double(),
        step=step,
    )


def _normalised(
    kept: torch.Tensor, rows: torch.Tensor, exact: torch.Tensor, tail: torch.Tensor
) -> torch.Tensor:
    """Let the rounded tokens sum to what the exact ones leave them: rounding then costs KL in the
    second order alone."""
    rounded = torch.ones(len(kept), dtype=torch.bool)
    rounded[exact] = False
    mass = kept.exp()
    of_exact = torch.zeros_like(tail).index_add_(0, rows[exact], mass[exact])
    of_rounded = torch.zeros_like(tail).index_add_(0, rows[rounded], mass[rounded])
    factor = ((1 - tail - of_exact).clamp(min=0) / of_rounded).log()
    sound = factor.isfinite() & (factor.abs() < 1)  # of a mass that rounding leaves nothing of, no
    return torch.where(rounded, kept + torch.where(sound, factor, 0.0)[rows], kept)


def _block(
    logits: torch.Tensor, targets: torch.Tensor, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    log_normaliser = logits.double().logsumexp(-1)
    log_p = logits.double() - log_normaliser[:, None]
    enough = min(BEST, log_p.shape[1])
    # NumPy sorts rows twenty times as fast as torch does.
    rising = torch.from_numpy(np.sort(log_p.float().numpy(), axis=-1))  # [R, V]
    below = rising.double().exp().cumsum(-1)
    dropped = (below <= TAIL).sum(-1).clamp(max=log_p.shape[1] - enough)
    keeps = log_p.float() >= rising.gather(1, dropped[:, None])
    keeps &= log_p.isfinite()  # a token that is ruled out adds nothing
    rest = torch.where(keeps, 0.0, log_p.exp())  # [R, V]
    tail = rest.sum(-1)
    rest[tail == 0, 0] = 1.0  # something to draw; its weight is 0
    drawn = torch.multinomial(rest, DRAWS, replacement=True, generator=generator)
    best = log_p.topk(enough, -1).indices.sort(-1).values  # of equal ones the lowest id leads
    order = log_p.gather(1, best).sort(dim=-1, descending=True, stable=True).indices
    best = best.gather(1, order)
    return {
        "counts": keeps.sum(-1).int(),
        "kept_ids": keeps.nonzero()[:, 1].int(),
        "kept": log_p[keeps],
        "tail": tail,
        "drawn_ids": drawn.int(),
        "drawn": log_p.gather(1, drawn).float(),
        "best_ids": best.int(),
        "best_logits": logits.double().gather(1, best),
        "log_normaliser": log_normaliser,
        "true": log_p[: len(targets)].gather(1, targets[:, None])[:, 0],
    }


def _planes(name: str, numbers: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """The numbers' bytes, the lowest of all first: alike bytes side by side compress."""
    size = numbers.dtype.itemsize
    planes = numbers.astype(numbers.dtype.newbyteorder("<")).view(np.uint8).reshape(-1, size)
    return {f"{name}{place}": np.ascontiguousarray(planes[:, place]) for place in range(size)}


def _joined(
    name: str, columns: Mapping[str, np.ndarray[Any, Any]], kind: type[np.unsignedinteger[Any]]
) -> np.ndarray[Any, Any]:
    size = np.dtype(kind).itemsize
    planes = np.stack([columns[f"{name}{place}"] for place in range(size)], axis=1)
    return planes.reshape(-1).view(np.dtype(kind).newbyteorder("<"))
