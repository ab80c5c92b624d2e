"""What a number format costs: the dtype error that every error of logits is set against.

    error ≤ 2·dtype error + floor,  written  error / (dtype error + floor/2) ≤ 2

The dtype error is the error, against an oracle in wider arithmetic, of a plain implementation with
the reference's weights in the candidate's dtype; the floor that of rounding the oracle itself.

Legend: T positions, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ..errors import NonFiniteLogitsError

OUTPUT_FACTOR = 2.0  # c of the rule for outputs
_RULED_OUT = 746.0  # nats below a row's largest logit: from there on e^logit is 0 in float64


@dataclass(frozen=True)
class DtypeError:
    """What the candidate's dtype costs on one prompt."""

    errors: torch.Tensor  # [T] RMS error of the plain implementation at each position
    extremes: torch.Tensor  # [T] its largest error at each position
    floor: float  # RMS error of rounding the oracle to the dtype

    @property
    def overall(self) -> float:
        """What all positions together may err by, before the factor."""
        return float(self.errors.square().mean().sqrt()) + self.floor / OUTPUT_FACTOR

    @property
    def worst(self) -> float:
        """The same of the worst position: for quantities of which a single one is drawn."""
        return float(self.errors.max()) + self.floor / OUTPUT_FACTOR

    @property
    def usual(self) -> torch.Tensor:
        """What each position may err by, before the factor: its distribution, [T]."""
        return self.errors + self.floor / OUTPUT_FACTOR

    def rows(self, start: int, stop: int | None = None) -> DtypeError:
        """The same of the positions start…stop−1."""
        return replace(self, errors=self.errors[start:stop], extremes=self.extremes[start:stop])

    @property
    def usable(self) -> bool:
        """False where the oracle is no finer than the dtype: then nothing is known of its cost."""
        return float(self.errors.max()) > 0


def host_logits(logits: torch.Tensor) -> torch.Tensor:
    """Logits [T, V] in float64 on the CPU, −infinity as float32's lowest number.

    Raises NonFiniteLogitsError for NaN, +infinity, and a row of −infinity alone.
    """
    logits = logits.detach().cpu().double()
    largest = logits.amax(-1)  # NaN where there is one
    if not bool(torch.isfinite(largest).all()):
        row = int((~torch.isfinite(largest)).nonzero()[0])
        raise NonFiniteLogitsError(f"NaN or infinity among the logits at position {row}")
    return logits.clamp(min=torch.finfo(torch.float32).min)


def logit_error(logits: torch.Tensor, exact: torch.Tensor) -> torch.Tensor:
    """How far logits [T, V] are from the exact ones as a softmax sees them, [T, V].

    A softmax does not see a constant that is added to all logits of a row: the difference is given
    without its row's mean, which is the constant that leaves the smallest RMS.
    """
    return torch.sub(*seen_by_softmax(logits, exact))


def seen_by_softmax(logits: torch.Tensor, exact: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both logits [T, V], each row without its mean, and 0 for tokens that both rule out.

    A model rules a token out by −infinity, or by the lowest number of whatever dtype it computes
    in: no softmax tells the two apart. A token that only one of the two rules out stays as it is.
    """
    if float(exact.min()) > float(exact.max()) - _RULED_OUT:
        return logits - logits.mean(-1, keepdim=True), exact - exact.mean(-1, keepdim=True)
    both = _ruled_out(logits) & _ruled_out(exact)
    kept = (~both).sum(-1, keepdim=True)  # at least 1: a row's largest is never ruled out
    means = [rows.masked_fill(both, 0.0).sum(-1, keepdim=True) / kept for rows in (logits, exact)]
    centred = [rows - mean for rows, mean in zip((logits, exact), means, strict=True)]
    return centred[0].masked_fill(both, 0.0), centred[1].masked_fill(both, 0.0)


def _ruled_out(logits: torch.Tensor) -> torch.Tensor:
    return logits < logits.amax(-1, keepdim=True) - _RULED_OUT


def dtype_named(name: str) -> torch.dtype:
    """The floating-point format of an engine's ``dtype``; raises ValueError for any other name."""
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(
            f"{name!r} names no floating-point format; use float32, bfloat16 or float16"
        )
    return dtype


def dtype_error_of(oracle: torch.Tensor, plain: torch.Tensor, dtype: torch.dtype) -> DtypeError:
    """The dtype error of logits [T, V] that a plain implementation of ``dtype`` computed."""
    oracle = host_logits(oracle)
    error = logit_error(host_logits(plain), oracle)
    rounding = logit_error(host_logits(oracle.to(dtype)), oracle)
    return DtypeError(row_rms(error), error.abs().amax(-1), rms(rounding))


def rms(error: torch.Tensor) -> float:
    """Root mean square over everything."""
    return float(error.square().mean().sqrt())


def row_rms(error: torch.Tensor) -> torch.Tensor:
    """Root mean square of each row: [T, V] → [T]."""
    return error.square().mean(-1).sqrt()


def two_runs(dtype_error: DtypeError) -> DtypeError:
    """What two runs may differ by at any position: each by the largest error of the plain one."""
    worst = dtype_error.extremes.max().expand_as(dtype_error.extremes)
    return replace(dtype_error, extremes=2 * worst)
