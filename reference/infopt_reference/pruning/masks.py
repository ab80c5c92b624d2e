"""Masks: which weights stay, given a score for each; the highest scores do.

unstructured_mask  the round(sparsity · n) lowest scores go, of all n, or of each row on its own.
global_masks       one ranking over several tensors.
n_m_mask           N of each M neighbours along the last axis stay (2:4 is what GPUs speed up).

Contract. Masks are bool, True = kept. Counts are exact, ties or not: among equal scores the ones
with the lower index stay (row-major; over several tensors, the earlier tensor). The number to
remove is rounded half to even from the float64 product, so sparsity 0 removes nothing and 1 all.
M must divide the last axis: hardware has no layout for a shorter last group, and any rule for it
would miss N:M. Scores are not modified; NaN and infinity raise.

For magnitude pruning the scores are |w|: `magnitude_scores`. `wanda` has others.

Source: Han et al. 2015, arXiv:1506.02626 (magnitude); Zhou et al. 2021, arXiv:2102.04010, and
Mishra et al. 2021, arXiv:2104.08378 (N:M).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..quantization.checks import require_finite


def magnitude_scores(weight: Tensor) -> Tensor:
    """|w|, without a gradient."""
    return weight.detach().abs()


def unstructured_mask(scores: Tensor, sparsity: float, *, per_row: bool = False) -> Tensor:
    """Removes the lowest scores, wherever they are.

    Args:
        scores: of any shape.
        sparsity: the share to remove, 0…1, of all scores, or of each row.
        per_row: whether every row of the last axis loses the same number.

    Raises:
        ValueError: sparsity is out of range, scores are empty or not finite, or a scalar has rows.
    """
    check_sparsity(sparsity)
    _check_scores(scores)
    if per_row and not scores.ndim:
        raise ValueError("a scalar has no rows; leave per_row at False")
    rows = scores.reshape(-1, scores.shape[-1]) if per_row else scores.reshape(1, -1)  # [R, n]
    kept = rows.shape[1] - removed_count(sparsity, rows.shape[1])
    return _keep_highest(rows, kept).view(scores.shape)


def global_masks(scores: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    """Removes the lowest scores of all tensors together: some lose more than others.

    Raises:
        ValueError: as `unstructured_mask` does, or there are no tensors, or they have several
            dtypes or devices.
    """
    if not scores:
        raise ValueError("no scores are given; a global ranking needs at least one tensor")
    for name, tensor in scores.items():
        _check_scores(tensor, f"scores of {name}")
    kinds = {f"{tensor.dtype} on {tensor.device}" for tensor in scores.values()}
    if len(kinds) > 1:
        raise ValueError(f"scores are {', '.join(sorted(kinds))}; one ranking needs one kind")
    flat = unstructured_mask(torch.cat([t.reshape(-1) for t in scores.values()]), sparsity)
    parts = torch.split(flat, [tensor.numel() for tensor in scores.values()])
    # Clones: a part is a view, and whoever kept one mask would keep the memory of all.
    return {
        name: part.view(tensor.shape).clone()
        for (name, tensor), part in zip(scores.items(), parts, strict=True)
    }


def n_m_mask(scores: Tensor, pattern: tuple[int, int]) -> Tensor:
    """Keeps exactly N of each M neighbours on the last axis, the highest scores.

    Args:
        scores: [..., K]; M divides K.
        pattern: (N, M).

    Raises:
        ValueError: the pattern is none, M does not divide K, or scores are empty or not finite.
    """
    kept, group = check_pattern(pattern)
    _check_scores(scores)
    if not scores.ndim or scores.shape[-1] % group:
        raise ValueError(
            f"scores have shape {tuple(scores.shape)}; {kept}:{group} needs a last axis that "
            f"{group} divides: skip this layer, or prune it by sparsity"
        )
    return _keep_highest(scores.reshape(-1, group), kept).view(scores.shape)


def removed_count(sparsity: float, count: int) -> int:
    """How many of ``count`` weights a sparsity removes: round(sparsity · count), half to even."""
    return round(sparsity * count)


def check_sparsity(sparsity: float) -> None:
    """Raises ValueError for a sparsity outside 0…1, NaN included."""
    if not 0 <= sparsity <= 1:
        raise ValueError(f"sparsity is {sparsity}; give the share to remove, 0 to 1")


def check_pattern(pattern: tuple[int, int]) -> tuple[int, int]:
    """The pattern (N, M); ValueError unless they are integers with 0 < N ≤ M."""
    kept, group = pattern
    if type(kept) is not int or type(group) is not int or not 0 < kept <= group:
        raise ValueError(f"the pattern is {kept}:{group}; give integers N:M with 0 < N ≤ M")
    return kept, group


def _keep_highest(rows: Tensor, count: int) -> Tensor:
    """In each row [R, n] the ``count`` highest scores, ties to the lower index: bool [R, n]."""
    # topk and unstable sorts would leave it to the device which of equal scores stay.
    order = rows.sort(dim=1, descending=True, stable=True).indices
    return torch.zeros_like(rows, dtype=torch.bool).scatter_(1, order[:, :count], True)


def _check_scores(scores: Tensor, name: str = "scores") -> None:
    if not scores.numel():
        raise ValueError(f"{name} are empty, shape {tuple(scores.shape)}; skip this tensor")
    require_finite(scores, name)
