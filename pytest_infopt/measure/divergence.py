"""How far two models' next-token distributions lie apart, token by token.

With logits a (reference) and b (candidate), p = softmax(a), q = softmax(b):

    KL(p‖q) = Σ p·(log p − log q)                    Kullback and Leibler 1951, in nats
            = Σ e^(a−α)·(a' − b') / A − log A + log B,

where a' = a − α with α = max a, A = Σ e^(a'), and b', B likewise. In this form one exponential per
logit serves both directions and both normalisers, equal logits give exactly 0, and the rounding
of a' or b' enters to second order only: it is the exact divergence of logits moved by one rounding.

Rows are taken a few at a time into preallocated buffers. Sums over the vocabulary are float32
(torch sums in a cascade), everything after them float64; float64 logits are kept in float64.

Legend: N compared positions, R rows of a block, V vocabulary, K = min(5, V). PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from infopt_reference.quantization import ulp

from ..engines.base import Scores
from ..errors import InvalidComparisonError, NonFiniteLogitsError

TOP = 5
# Logits asked of a model at once: enough rows for its matrix product to pay for reading the output
# matrix, and small enough that two models' logits stay far below a whole matrix. glibc serves up to
# 32 MiB from its heap and so gives the same pages again; larger blocks are mapped and zeroed anew.
CHUNK_BYTES = 32 * 2**20
# Rows worked on at once: the two distributions and the scratch row stay in a core's own cache.
BLOCK_BYTES = 2**20
_GROUPS = 64


@dataclass(frozen=True)
class TokenComparison:
    """Per-token quantities of two models on one document; row t is about token t + 1.

    All tensors lie on the CPU. ``gap_ulps`` is the reference's logit gap between its two best
    tokens in ulps of the working dtype. A top-1 tie goes to the lowest token id, as greedy decoding
    would. ``identical`` says that all compared logits were equal. ``kl_off`` is what the mean of
    ``kl`` may be off by, in nats, where the reference's scores are compact.
    """

    kl: torch.Tensor  # [N] float64, ≥ 0; infinite where the candidate rules out what is possible
    kl_reverse: torch.Tensor  # [N]
    reference_nll: torch.Tensor  # [N] −log p(true token)
    candidate_nll: torch.Tensor  # [N]
    confidence: torch.Tensor  # [N] largest reference probability
    gap_ulps: torch.Tensor  # [N]
    top1_agrees: torch.Tensor  # [N] 0 or 1
    top5_overlap: torch.Tensor  # [N] shared share of the K best
    reference_top: torch.Tensor  # [N, K] token ids, the most probable first
    candidate_top: torch.Tensor  # [N, K]
    reference_top_probability: torch.Tensor  # [N, K]
    candidate_top_probability: torch.Tensor  # [N, K]
    identical: bool
    kl_off: float = 0.0

    @property
    def probability_change(self) -> torch.Tensor:
        """Candidate's minus reference's probability of the true token, [N]."""
        return torch.exp(-self.candidate_nll) - torch.exp(-self.reference_nll)


@dataclass(frozen=True)
class _Distribution:
    """One model's rows of a block, before the two are compared."""

    top_ids: torch.Tensor  # [R, K]
    top_logits: torch.Tensor  # [R, K] float64
    log_normaliser: torch.Tensor  # [R] log Σ e^(logit − max)
    nll: torch.Tensor  # [R]

    @property
    def top_probability(self) -> torch.Tensor:
        shifted = self.top_logits - self.top_logits[:, :1]
        return torch.exp(shifted - self.log_normaliser[:, None])


class _Workspace:
    """Three [rows, V] buffers for the blocks of one document."""

    def __init__(self, like: torch.Tensor, dtype: torch.dtype, rows: int) -> None:
        self.rows = rows
        self._buffers = torch.empty(3, rows, like.shape[1], dtype=dtype, device=like.device)

    def load(self, index: int, logits: torch.Tensor) -> torch.Tensor:
        """Logits in the working dtype and on the device, copied only where they are not already."""
        buffer = self.buffer(index, len(logits))
        if logits.dtype == buffer.dtype and logits.device == buffer.device:
            return logits
        return buffer.copy_(logits)

    def buffer(self, index: int, rows: int) -> torch.Tensor:
        return self._buffers[index, :rows]


def compare_scores(
    reference: Scores,
    candidate: Scores,
    token_ids: Sequence[int],
    dtype: torch.dtype = torch.float32,
    chunk_bytes: int = CHUNK_BYTES,
) -> TokenComparison:
    """Compare two models' teacher-forced predictions of ``token_ids[1:]``.

    ``dtype`` is the working format whose ulps measure the reference's top-2 gap. ``chunk_bytes``
    bounds one model's logits in float32. Raises InvalidComparisonError for vocabularies or lengths
    that differ, NonFiniteLogitsError for NaN, +infinity, or a row of −infinity alone. A single
    −infinity is a token ruled out: it counts 0 to the divergence from that model, and makes the
    divergence to it infinite where the other model gives the token any probability.
    """
    check_comparable(reference, candidate, token_ids)
    targets = torch.tensor(list(token_ids[1:]))
    columns = _empty_columns(len(targets), min(TOP, reference.vocabulary))
    identical = True
    with torch.no_grad():
        for start, block in _chunks(reference, candidate, targets, dtype, chunk_bytes):
            identical &= bool(block.pop("identical"))
            for name, values in block.items():
                columns[name][start : start + len(values)] = values
    return TokenComparison(**columns, identical=identical)


def _empty_columns(count: int, top: int) -> dict[str, Any]:
    """Room for all results before the first block.

    A small result that is allocated between two chunks of logits sits in the first one's freed
    memory, so that glibc has to find new memory for the second: the heap would grow by each chunk.
    """
    columns: dict[str, Any] = {
        field.name: torch.empty(count, dtype=torch.float64)
        for field in fields(TokenComparison)
        if field.name not in ("identical", "kl_off")
    }
    for name in ("reference_top", "candidate_top"):
        columns[name] = torch.empty(count, top, dtype=torch.int64)
        columns[f"{name}_probability"] = torch.empty(count, top, dtype=torch.float64)
    return columns


def check_comparable(reference: Scores, candidate: Scores, token_ids: Sequence[int]) -> None:
    if reference.vocabulary != candidate.vocabulary:
        raise InvalidComparisonError(
            f"the reference's vocabulary has {reference.vocabulary} entries, the candidate's "
            f"{candidate.vocabulary}: their distributions cannot be compared. If one is padded, "
            "load both with the same output size (resize_token_embeddings)"
        )
    if len(token_ids) < 2:
        raise InvalidComparisonError(
            f"a document of {len(token_ids)} tokens predicts nothing; give at least 2"
        )
    for name, scores in (("reference", reference), ("candidate", candidate)):
        if scores.positions < len(token_ids) - 1:
            raise InvalidComparisonError(
                f"the {name} scored {scores.positions} positions of a document of "
                f"{len(token_ids)} tokens"
            )
    if not 0 <= min(token_ids) <= max(token_ids) < reference.vocabulary:
        raise InvalidComparisonError(
            f"token ids {min(token_ids)}…{max(token_ids)} do not fit a vocabulary of "
            f"{reference.vocabulary}: the text was tokenized by another tokenizer"
        )


def _chunks(
    reference: Scores,
    candidate: Scores,
    targets: torch.Tensor,
    dtype: torch.dtype,
    chunk_bytes: int,
) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
    """First position and columns of chunk after chunk."""
    row_bytes = 4 * reference.vocabulary
    chunk_rows = min(max(1, chunk_bytes // row_bytes), len(targets))
    workspace = None
    for start in range(0, len(targets), chunk_rows):
        stop = min(start + chunk_rows, len(targets))
        first, second = reference.logits(start, stop), candidate.logits(start, stop)
        if workspace is None:
            # A GPU wants few large kernels, a core wants its operands in its own cache.
            on_host = first.device.type == "cpu"
            block_rows = max(1, BLOCK_BYTES // row_bytes) if on_host else chunk_rows
            workspace = _Workspace(first, _working_dtype(first, second), block_rows)
        yield start, _compare_chunk(first, second, targets[start:stop], workspace, dtype, start)


def _working_dtype(*logits: torch.Tensor) -> torch.dtype:
    return torch.float64 if any(part.dtype == torch.float64 for part in logits) else torch.float32


def _compare_chunk(
    reference: torch.Tensor,
    candidate: torch.Tensor,
    targets: torch.Tensor,
    workspace: _Workspace,
    dtype: torch.dtype,
    position: int,
) -> dict[str, torch.Tensor]:
    identical, parts = True, []
    for start in range(0, len(targets), workspace.rows):
        rows = slice(start, start + workspace.rows)
        equal, part = _reduce_block(reference[rows], candidate[rows], targets[rows], workspace)
        identical &= equal
        parts.append(part)
    a_top, a_ids, a_true, b_top, b_ids, b_true, moments = (
        torch.cat(part) for part in zip(*parts, strict=True)
    )
    check_finite("reference", a_top, position)
    check_finite("candidate", b_top, position)
    a_normaliser, b_normaliser, a_moment, b_moment = moments.double().unbind(-1)
    p = _distribution(a_top, a_ids, a_true, a_normaliser)
    q = _distribution(b_top, b_ids, b_true, b_normaliser)
    shift = q.log_normaliser - p.log_normaliser
    divergences = torch.stack([shift - a_moment / a_normaliser, b_moment / b_normaliser - shift])
    divergences.clamp_(min=0)
    # A NaN comes of −infinity − −infinity or 0·infinity: tokens that a model rules out.
    for row in divergences.isnan().any(dim=0).nonzero().flatten().tolist():
        divergences[:, row] = _exact_divergences(reference[row], candidate[row], position + row)
    return _columns(p, q, divergences, dtype) | {"identical": torch.tensor(identical)}


def _reduce_block(
    reference: torch.Tensor,
    candidate: torch.Tensor,
    targets: torch.Tensor,
    workspace: _Workspace,
) -> tuple[bool, tuple[torch.Tensor, ...]]:
    """Whether the logits are equal, and for each model its largest logits [R, K], their ids and the
    true token's logit less the largest [R, 1], then the four sums of `_moments` [R, 4]."""
    a, b = workspace.load(0, reference), workspace.load(1, candidate)
    equal = torch.equal(a, b)
    a_top, a_ids = _largest(a, TOP)
    b_top, b_ids = _largest(b, TOP)
    a = torch.sub(a, a_top[:, :1], out=workspace.buffer(0, len(a)))
    b = torch.sub(b, b_top[:, :1], out=workspace.buffer(1, len(b)))
    index = targets.to(a.device)[:, None]
    a_true, b_true = a.gather(1, index), b.gather(1, index)
    moments = _moments(a, b, workspace.buffer(2, len(a)))
    return equal, (a_top, a_ids, a_true, b_top, b_ids, b_true, moments)


def _moments(a: torch.Tensor, b: torch.Tensor, scratch: torch.Tensor) -> torch.Tensor:
    """Σ e^a, Σ e^b, Σ e^a·(b − a), Σ e^b·(b − a) of each row, [R, 4]; overwrites its arguments."""
    torch.exp(b, out=scratch)
    b_normaliser = scratch.sum(-1)
    difference = b.sub_(a)
    b_moment = scratch.mul_(difference).sum(-1)
    a_normaliser = a.exp_().sum(-1)
    a_moment = a.mul_(difference).sum(-1)
    return torch.stack([a_normaliser, b_normaliser, a_moment, b_moment], dim=-1)


def _distribution(
    top_logits: torch.Tensor, ids: torch.Tensor, true_logit: torch.Tensor, normaliser: torch.Tensor
) -> _Distribution:
    log_normaliser = normaliser.log()
    nll = log_normaliser - true_logit[:, 0].double()
    return _Distribution(_ties_by_id(top_logits, ids), top_logits.double(), log_normaliser, nll)


def _columns(
    p: _Distribution, q: _Distribution, divergences: torch.Tensor, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    best, second = p.top_logits[:, 0], p.top_logits[:, min(1, p.top_logits.shape[1] - 1)]
    shared = (p.top_ids[:, :, None] == q.top_ids[:, None, :]).any(-1)  # [R, K]
    columns = {
        "kl": divergences[0],
        "kl_reverse": divergences[1],
        "reference_nll": p.nll,
        "candidate_nll": q.nll,
        "confidence": torch.exp(-p.log_normaliser),
        "gap_ulps": (best - second) / ulp(best, dtype),
        "top1_agrees": (p.top_ids[:, 0] == q.top_ids[:, 0]).double(),
        "top5_overlap": shared.double().mean(-1),
        "reference_top": p.top_ids,
        "candidate_top": q.top_ids,
        "reference_top_probability": p.top_probability,
        "candidate_top_probability": q.top_probability,
    }
    return {name: column.cpu() for name, column in columns.items()}


def check_finite(name: str, top_logits: torch.Tensor, position: int) -> None:
    largest = top_logits[:, 0]
    if not bool(torch.isfinite(largest).all()):
        row = int((~torch.isfinite(largest)).nonzero()[0])
        raise NonFiniteLogitsError(
            f"the {name}'s largest logit at position {position + row} is {float(largest[row])}; "
            "logits must be finite (a half-precision overflow? load it in bfloat16 or float32)"
        )


def _exact_divergences(
    reference: torch.Tensor, candidate: torch.Tensor, position: int
) -> torch.Tensor:
    """Both divergences of one row [V] in float64, 0·log 0 = 0 and p·log(p/0) = infinity, [2]."""
    log_p = torch.log_softmax(reference.double(), -1)
    log_q = torch.log_softmax(candidate.to(reference.device).double(), -1)
    if bool(log_p.isnan().any() | log_q.isnan().any()):
        raise NonFiniteLogitsError(
            f"NaN among the logits at position {position}; logits must be finite"
        )
    zero = torch.zeros((), dtype=torch.float64, device=log_p.device)
    forward = torch.where(log_p.isneginf(), zero, log_p.exp() * (log_p - log_q)).sum()
    backward = torch.where(log_q.isneginf(), zero, log_q.exp() * (log_q - log_p)).sum()
    return torch.stack([forward, backward]).clamp_(min=0)


def most_probable(logits: torch.Tensor, count: int = TOP) -> tuple[torch.Tensor, torch.Tensor]:
    """The ``count`` largest logits of each row and their ids, [R, K], the largest first.

    Of tied largest logits the lowest id leads, as in greedy decoding.
    """
    values, ids = _largest(logits, count)
    return values, _ties_by_id(values, ids)


def _largest(logits: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """torch.topk, several times faster on wide rows.

    The k largest lie in at most k groups, whose maxima are among the k largest group maxima.
    """
    rows, vocabulary = logits.shape
    width = vocabulary // _GROUPS
    if width <= count:
        values, ids = logits.topk(min(count, vocabulary), -1)
        return values, ids
    # Entry (g, j) of the view is id g·width + j: groups run down its columns, so amax vectorises.
    maxima = logits[:, : width * _GROUPS].view(rows, _GROUPS, width).amax(1)
    groups = maxima.topk(count, -1).indices
    members = torch.arange(0, width * _GROUPS, width, device=logits.device)
    ids = (members[None, :, None] + groups[:, None, :]).reshape(rows, -1)  # [R, _GROUPS·K]
    rest = torch.arange(width * _GROUPS, vocabulary, device=logits.device).expand(rows, -1)
    ids = torch.cat([ids, rest], dim=1)
    values, places = logits.gather(1, ids).topk(count, -1)
    return values, ids.gather(1, places)


def _ties_by_id(values: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """The ids with those of the largest value in ascending order, the others in their place."""
    tied = values == values[:, :1]
    order = torch.where(tied, ids, ids.amax(-1, keepdim=True) + 1).argsort(stable=True, dim=-1)
    return ids.gather(1, order)
