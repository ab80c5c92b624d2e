"""How far a module's output is from its reference's on the same input, in numbers that siblings
share.

Each token's output is divided by the length of its input first: a few tokens of a text (the first,
as a rule) are hundreds of times as long as the others and would decide every figure.

Legend: N tokens of all rows, I inputs, O output channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch

_MEDIAN_ERROR = math.sqrt(math.pi / 2)  # a median's standard error over a mean's
_INFINITE = (math.inf,) * 6
_MAD = 1.4826  # makes the median absolute deviation the standard deviation of a normal one


@dataclass(frozen=True)
class OutputErrors:
    """Figures of one module on one batch; 0 throughout where the outputs have the same bits.

    ``slope`` is the median over output channels of ⟨e, y⟩/⟨y, y⟩, y the reference's and e the
    difference: −1 for a dead module, .05 where all is 1.05 times as large. ``slope_error`` is its
    standard error over channels. ``error`` is ‖e‖/‖y‖. ``weight_error`` is what the weights would
    have to be off by, as a share of their size, in random directions: √I·‖e‖/(‖x‖·‖W‖); the error
    itself where there are no weights to compare with. The worst channel's and token's figures are
    the smaller of the two: an error of either form alone may come of what the input is like.
    """

    slope: float = 0.0
    slope_error: float = 0.0
    error: float = 0.0
    weight_error: float = 0.0
    channel_error: float = 0.0
    token_error: float = 0.0
    channel: int = 0
    token: int = 0
    channels: torch.Tensor | None = field(default=None, repr=False, compare=False)  # [O]

    @property
    def identical(self) -> bool:
        return self.error == 0


@torch.no_grad()
def output_errors(
    output: torch.Tensor,
    reference: torch.Tensor,
    inputs: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
) -> OutputErrors:
    """The figures of an output [..., O] against the reference's on inputs [..., I].

    ``weight`` [O, I] is the reference's, where the module multiplies by it. Rows in which the
    reference itself has NaN or infinity are left out.
    """
    if torch.equal(output, reference.to(output.dtype)):
        return OutputErrors()
    y = reference.reshape(-1, reference.shape[-1]).float()
    other = output.reshape(-1, reference.shape[-1]).to(y.device).float()
    x = y if inputs is None else inputs.reshape(-1, inputs.shape[-1]).float()
    x = x if len(x) == len(y) else y
    finite = y.isfinite().all(-1) & x.isfinite().all(-1)
    lengths = x.norm(dim=-1, keepdim=True)
    share = torch.where(finite[:, None] & (lengths > 0), 1 / lengths, torch.zeros_like(lengths))
    y = torch.where(finite[:, None], y, torch.zeros_like(y)) * share
    e = torch.where(finite[:, None], other * share - y, torch.zeros_like(y))
    if not bool(e.isfinite().all()):
        token = int((~e.isfinite()).any(-1).nonzero()[0])
        return replace(OutputErrors(*_INFINITE), token=token)
    return _figures(e, y, x.shape[-1], weight, int(finite.sum()))


def _figures(
    e: torch.Tensor, y: torch.Tensor, width: int, weight: torch.Tensor | None, count: int
) -> OutputErrors:
    own, errors = y.square().sum(0), e.square().sum(0)  # [O]
    heard = own > 0
    slopes = ((e * y).sum(0)[heard] / own[heard]).double()
    slope = float(slopes.median()) if len(slopes) else 0.0
    spread = _MAD * float((slopes - slope).abs().median()) if len(slopes) else 0.0
    whole = float(own.sum().sqrt())
    if not whole:
        whole = 1.0
    tokens, lengths = e.norm(dim=-1), y.norm(dim=-1).clamp(min=1e-30)  # [N]
    if weight is None:
        channels = (errors / own.clamp(min=float(own.mean()) * 1e-6)).sqrt()
        size, per_token = whole, whole / math.sqrt(max(1, count))
    else:
        rows = weight.float().norm(dim=-1)
        rows = rows.clamp(min=float(rows.mean()) * 1e-3)
        rows = rows.to(errors.device)
        channels = (errors / max(1, count)).sqrt() * math.sqrt(width) / rows
        channels = torch.minimum(channels, (errors / own.clamp(min=1e-30)).sqrt())
        per_token = float(rows.norm()) / math.sqrt(width)
        size = per_token * math.sqrt(max(1, count))
    tokens = torch.minimum(tokens / per_token, tokens / lengths)
    return OutputErrors(
        slope=slope,
        slope_error=_MEDIAN_ERROR * spread / math.sqrt(max(1, len(slopes))),
        error=float(errors.sum().sqrt()) / whole,
        weight_error=float(errors.sum().sqrt()) / size,
        channel_error=float(channels.max()),
        token_error=float(tokens.max()),
        channel=int(channels.argmax()),
        token=int(tokens.argmax()),
        channels=channels.cpu(),
    )
