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
_INFINITE = (math.inf,) * 7
_MAD = 1.4826  # makes the median absolute deviation the standard deviation of a normal one


@dataclass(frozen=True)
class OutputErrors:
    """Figures of one module on one batch; 0 throughout where the outputs have the same bits.

    ``slope`` is the median over output channels of ⟨e, y⟩/⟨y, y⟩, y the reference's and e the
    difference: −1 for a dead module, .05 where all is 1.05 times as large. ``rest`` is the median
    of ⟨e, y + e⟩/⟨y, y⟩, the slope but for what is cut off: that is orthogonal to what is left.
    Beside each stands its standard error over channels. ``error`` is ‖e‖/‖y‖, ``channel_error``
    and ``token_error`` the same of the worst channel and token; a token's is taken of what tokens
    weigh as a rule where its own output is small.
    """

    slope: float = 0.0
    slope_error: float = 0.0
    rest: float = 0.0
    rest_error: float = 0.0
    error: float = 0.0
    channel_error: float = 0.0
    token_error: float = 0.0
    channel: int = 0
    token: int = 0
    channels: torch.Tensor | None = field(default=None, repr=False, compare=False)  # [O]

    @property
    def identical(self) -> bool:
        return self.error == 0


class ExactOutput:
    """A reference's output [..., O] on inputs [..., I], that others are measured against.

    Rows in which the reference itself has NaN or infinity are left out.
    """

    def __init__(self, reference: torch.Tensor, inputs: torch.Tensor | None = None) -> None:
        self._reference = reference
        y = _rows(reference)
        x = y if inputs is None else _rows(inputs)
        x = x if len(x) == len(y) else y
        # A sum is finite where all that it adds is, and takes one pass without copies.
        finite = (y.sum(-1) + x.sum(-1)).isfinite()  # [N]
        lengths = x.norm(dim=-1, keepdim=True)
        usable = finite[:, None] & (lengths > 0)
        self._finite = finite
        self._share = torch.where(usable, 1 / lengths, torch.zeros_like(lengths))  # [N, 1]
        self._y = self._shared(y)

    @torch.no_grad()
    def errors(self, output: torch.Tensor) -> OutputErrors:
        """The figures of an output [..., O] on the same inputs."""
        if torch.equal(output, self._reference.to(output.dtype)):
            return OutputErrors()
        e = self._shared(_rows(output).to(self._y.device)).sub_(self._y)
        sums = e.sum(-1)
        if not bool(sums.isfinite().all()):
            token = int((~sums.isfinite()).nonzero()[0])
            return replace(OutputErrors(*_INFINITE), token=token)
        return _figures(e, self._y, int(self._finite.sum()))

    def _shared(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows [N, O] for inputs of length 1, those left out as zeros."""
        shared = rows * self._share
        if not bool(self._finite.all()):
            shared[~self._finite] = 0
        return shared


def _rows(values: torch.Tensor) -> torch.Tensor:
    return values.detach().reshape(-1, values.shape[-1]).float()


def _figures(e: torch.Tensor, y: torch.Tensor, count: int) -> OutputErrors:
    own, errors = (torch.linalg.vector_norm(v, dim=0).square() for v in (y, e))  # [O]
    heard = own > 0
    slopes = (torch.linalg.vecdot(e, y, dim=0)[heard] / own[heard]).double()
    slope, rest = _median(slopes), _median(slopes + (errors[heard] / own[heard]).double())
    whole = float(own.sum().sqrt()) or 1.0
    channels = (errors / own.clamp(min=float(own.mean()) * 1e-6)).sqrt()
    tokens, lengths = e.norm(dim=-1), y.norm(dim=-1).clamp(min=1e-30)  # [N]
    tokens = torch.minimum(tokens * math.sqrt(max(1, count)) / whole, tokens / lengths)
    return OutputErrors(
        *slope,
        *rest,
        error=float(errors.sum().sqrt()) / whole,
        channel_error=float(channels.max()),
        token_error=float(tokens.max()),
        channel=int(channels.argmax()),
        token=int(tokens.argmax()),
        channels=channels.cpu(),
    )


def _median(values: torch.Tensor) -> tuple[float, float]:
    """A median and its standard error; 0 for no values."""
    if not len(values):
        return 0.0, 0.0
    middle = values.median()
    spread = _MAD * float((values - middle).abs().median())
    return float(middle), _MEDIAN_ERROR * spread / math.sqrt(len(values))
