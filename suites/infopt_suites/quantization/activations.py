"""Batches of activations and what quantizers make of them: of which `ActivationQuantizerSuite` is.

Legend: T tokens (all leading axes of x), K features, G groups of a token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Protocol

import torch
from infopt_reference.quantization import Granularity, QuantizationScheme
from torch import Tensor

from ..tally import note_kinds
from .grids import Bounds, Grid, bounds
from .trials import claimed_grid
from .weights import Accepted, WeightCase, row_lengths

Coded = tuple[Tensor, ...]  # codes, scales and, where the scheme has them, zero points

_LARGE = 2.0**64  # large enough to show a square, or a scale that is kept in float16
_OVERFLOWS = 0.625  # of a dtype's largest number: a range of that to both sides overflows


class ActivationQuantizer(Protocol):
    """Rounds activations in one scheme; an attribute ``grid`` (`grids.Grid`) as of a quantizer.

    Per channel of axis 0 means per token: leading axes are flattened. An object may have a method
    ``quantize`` in place of ``__call__``.
    """

    def __call__(self, x: Tensor) -> Tensor | Coded:
        """x [..., K] rounded, in its shape and dtype; or (codes, scales[, zero points]).

        Then an activation is (code - zero point) * scale, codes have the shape of x, and constants
        are in the order of tokens and of groups in a token: 1, T, or T·G of them.
        """


class StaticActivationQuantizer(ActivationQuantizer, Protocol):
    """Capability "static"."""

    def observe(self, x: Tensor) -> None:
        """Calibrate: afterwards calls round by the range of x, whatever they are given."""


class MakeActivationQuantizer(Protocol):
    """The factory that `ActivationQuantizerSuite` asks for."""

    def __call__(self, scheme: QuantizationScheme) -> ActivationQuantizer:
        """A quantizer in that scheme, with no memory of others."""


class ActivationTrial:
    """One batch that was rounded, and what it was rounded by.

    The scheme is that by which scales are stored. ``static``: each quantizer is calibrated on the
    batch before it rounds it.
    """

    def __init__(self, make: MakeActivationQuantizer, case: WeightCase, static: bool) -> None:
        self.make, self.case, self.static = make, case, static
        self.x = case.weight.clone()  # as it was given, whatever the quantizer does to it
        self.rows = self.x.reshape(-1, self.x.shape[-1])  # [T, K]
        self.quantizer = self.fresh()
        self.grid: Grid = claimed_grid(self.quantizer, case.scheme)
        self.scheme = case.scheme
        if self.grid.scale_follows_weight:
            self.scheme = replace(case.scheme, scale_dtype=self.x.dtype)
        self.result = called(self.quantizer, case.weight)
        self.rounded = decoded(self.result, self.x, case.scheme)
        group = "" if case.scheme.group_size is None else str(case.scheme.group_size)
        names = {Granularity.CHANNEL: "token", Granularity.TENSOR: "tensor"}
        shared = group or names[case.scheme.granularity]
        note_kinds(dtypes=case.dtype, **{"group sizes": shared})

    @property
    def rounded_rows(self) -> Tensor:
        """[T, K]"""
        return self.rounded.reshape(self.rows.shape)

    @property
    def allowed(self) -> Bounds:
        """What a sound quantizer may do, [T, K]."""
        return bounds(self.rows, self.scheme, self.grid)

    def fresh(self) -> ActivationQuantizer:
        """A new quantizer, calibrated on the batch where it is a static one."""
        quantizer: Any = self.make(self.case.scheme)
        if self.static:
            quantizer.observe(self.x.clone())
        return quantizer  # type: ignore[no-any-return]  # whatever the implementer's factory makes

    def again(self, x: Tensor, quantizer: ActivationQuantizer | None = None) -> Tensor:
        """Other activations through this quantizer, or another: in their shape and dtype."""
        given = quantizer or self.quantizer
        return decoded(called(given, x), x, self.case.scheme)

    def of(self, x: Tensor) -> ActivationTrial:
        """That of another batch, by a new quantizer."""
        return ActivationTrial(self.make, replace(self.case, weight=x), self.static)


def called(quantizer: Any, x: Tensor) -> Any:
    """What a quantizer gives, by whichever method it has."""
    rounds: Callable[[Tensor], Any] = getattr(quantizer, "quantize", quantizer)
    return rounds(x)


def decoded(result: Any, x: Tensor, scheme: QuantizationScheme) -> Tensor:
    """Rounded activations, of whichever kind of result.

    Raises:
        TypeError: the result is neither a tensor nor two or three of them, or its constants fit
            neither tensor, tokens nor groups.
    """
    if isinstance(result, Tensor):
        return result
    if not isinstance(result, tuple) or len(result) not in (2, 3):
        raise TypeError(
            f"the quantizer gave {type(result).__name__}; give the rounded activations, or "
            "(codes, scales) or (codes, scales, zero points)"
        )
    codes: Tensor = result[0]
    constants: tuple[Tensor, ...] = result[1:]
    rows = x.reshape(-1, x.shape[-1])
    scales, *zeros = (spread(constant, rows, scheme).double() for constant in constants)
    values = codes.to(torch.float64).reshape(rows.shape)
    values = (values - zeros[0] if zeros else values) * scales
    return values.to(x.dtype).view(codes.shape)


def spread(constant: Tensor, rows: Tensor, scheme: QuantizationScheme) -> Tensor:
    """A constant for each activation [T, K], from one a tensor, a token or a group."""
    tokens, features = rows.shape
    size = scheme.group_size or features
    groups = -(-features // size)
    wanted = 1 if scheme.granularity is Granularity.TENSOR else tokens * groups
    if constant.numel() != wanted:
        raise TypeError(
            f"there are {constant.numel()} scales or zero points for {tokens} tokens of "
            f"{features} features; {scheme} has {wanted}"
        )
    if wanted == 1:
        return constant.reshape(1, 1).expand(rows.shape)
    each = constant.reshape(tokens, groups).repeat_interleave(size, dim=1)
    return each[:, :features]


def activation_traps(
    scheme: QuantizationScheme, accepted: Accepted
) -> Iterator[tuple[str, WeightCase]]:
    """Batches as models make them, beside the traps of weights."""
    columns = 2 * row_lengths(scheme, ragged=False)[0] if scheme.group_size else 48
    rank = min(accepted.ranks)
    shape = (*[1] * (rank - 2), 6, columns)
    generator = torch.Generator().manual_seed(10)
    plain = torch.randn(shape, generator=generator, dtype=torch.float64).clamp(-4, 4)
    massive, padded = plain.clone(), plain.clone()
    massive[..., 5] *= 1000
    padded[..., 4:, :] = 0
    for name, x in {
        "one feature a thousand times larger in every token": massive,
        "the last tokens are padding": padded,
        "a single token": plain[..., :1, :].clone(),
    }.items():
        yield name, WeightCase(scheme, x.to(accepted.dtypes[0]))
    ends = plain / 4
    ends[..., 0], ends[..., -1] = 1, -1
    for dtype in accepted.dtypes:
        room = torch.finfo(scheme.scale_dtype).max  # a scale is a fraction of the range
        largest = min(_OVERFLOWS * torch.finfo(dtype).max, _LARGE, room)
        yield f"large magnitudes, {dtype}", WeightCase(scheme, (ends * largest).to(dtype))
