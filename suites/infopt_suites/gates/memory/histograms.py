"""Weights before and after an optimisation, and their errors, as histograms.

A layer's weights are what it computes with, however its library keeps them: unit vectors go
through the reference's layer and the candidate's, and what comes out for zeros is taken off. Some
columns of each matrix stand for all of it, and its own standard deviation is the unit, so that
matrices of all sizes have one axis.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from infopt_reference.weight_matrices import WeightMatrix, select_weight_matrices
from torch import nn

from pytest_infopt import MeasuredTable, Plot

COLUMNS = 32  # of a matrix, evenly spaced
_WIDEST = 4.0  # standard deviations; what is further out counts at the edge
_BINS = 41
_EDGES = [10 ** (step / 2) for step in range(-12, 3)]  # of errors, in standard deviations
_SHARE = "share of weights"


@torch.no_grad()
def weight_histograms(
    reference: nn.Module, candidate: nn.Module, skip: Iterable[str], dtype: torch.dtype
) -> list[MeasuredTable]:
    """Both tables; none where no layer of the candidate takes the unit vectors in its ``dtype``.

    Raises ValueError where the reference has no matrix that can be optimised.
    """
    before, after = torch.zeros(_BINS), torch.zeros(_BINS)
    errors, layers = [0] * (len(_EDGES) + 1), 0
    for theirs, ours in _pairs(reference, candidate, skip, dtype):
        unit = theirs.std().clamp_min(torch.finfo(torch.float32).tiny)
        for counts, weights in ((before, theirs), (after, ours)):
            inside = (weights / unit).clamp(-_WIDEST, _WIDEST)
            counts += torch.histc(inside, _BINS, -_WIDEST, _WIDEST)
        found = torch.bucketize((ours - theirs).abs() / unit, torch.tensor(_EDGES), right=True)
        for place, count in enumerate(torch.bincount(found.flatten(), minlength=len(errors))):
            errors[place] += int(count)
        layers += 1
    if not layers:
        return []
    note = f"{COLUMNS} columns of each of {layers} matrices, as the layers compute with them"
    return [_weights_table(before, after, note), _errors_table(errors)]


def _pairs(
    reference: nn.Module, candidate: nn.Module, skip: Iterable[str], dtype: torch.dtype
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Some columns of each layer's matrix, the reference's and the candidate's."""
    for matrix in select_weight_matrices(reference, skip).chosen.values():
        if not matrix.is_layer:
            continue
        try:
            ours = _columns(candidate.get_submodule(matrix.path), matrix, dtype)
        except (AttributeError, RuntimeError, TypeError, ValueError):
            continue  # a layer of other modules, or one that takes its inputs otherwise
        theirs = _columns(matrix.module, matrix, matrix.parameter.dtype)
        if ours.isfinite().all():
            yield theirs, ours


def _columns(layer: nn.Module, matrix: WeightMatrix, dtype: torch.dtype) -> torch.Tensor:
    """[columns, out] in float32, on the CPU."""
    device, inputs = matrix.parameter.device, matrix.weight.shape[-1]
    chosen = torch.linspace(0, inputs - 1, min(COLUMNS, inputs)).round().long()
    vectors = torch.zeros(1, len(chosen) + 1, inputs, device=device, dtype=dtype)
    vectors[0, torch.arange(len(chosen)), chosen] = 1
    outputs: torch.Tensor = layer(vectors)[0].float().cpu()
    return outputs[:-1] - outputs[-1]  # the last vector is zero: what comes is the bias


def _weights_table(before: torch.Tensor, after: torch.Tensor, note: str) -> MeasuredTable:
    width = 2 * _WIDEST / _BINS
    shares = [(counts / counts.sum()).tolist() for counts in (before, after)]
    rows = tuple(
        (round((place + 0.5) * width - _WIDEST, 3), *pair)
        for place, pair in enumerate(zip(*shares, strict=True))
    )
    columns = ("weight, standard deviations of its matrix", "reference", "candidate")
    return MeasuredTable(
        "weights before and after", columns, rows, (note,), Plot(columns[0], columns[1:], _SHARE)
    )


def _errors_table(errors: list[int]) -> MeasuredTable:
    starts = [0.0, *_EDGES]
    filled = [place for place, count in enumerate(errors) if count]
    rows = tuple(
        (f"{starts[place]:.1g}", errors[place] / sum(errors))
        for place in range(filled[0], filled[-1] + 1)
    )
    columns = ("error from, standard deviations", _SHARE)
    plot = Plot(columns[0], columns[1:], _SHARE, "bar", ordered=True)
    return MeasuredTable("errors of the weights", columns, rows, plot=plot)
