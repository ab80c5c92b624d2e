"""What a quantized weight looks like: bits, grid, granularity, storage. Data only, no arithmetic.

A scheme states everything from which a reader (or a conformance suite) derives sizes and error
bounds. `PRESETS` names the schemes that people ask for; a further one, of a new number format or a
known one, is one more entry in `FORMATS_AND_PLACES`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import torch

from .affine import AsymmetricFormat, SymmetricFormat
from .checks import unknown_name
from .codebook import FP4, NF4
from .float8 import E4M3FN, E5M2
from .number_format import NumberFormat

SCALE_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Granularity(StrEnum):
    """Which weights share a scale."""

    TENSOR = "tensor"  # all of them
    CHANNEL = "channel"  # those with the same index on ``axis``
    GROUP = "group"  # ``group_size`` neighbours on the last axis; the last group may be shorter


_CHANNELS = {"granularity": Granularity.CHANNEL}
_GROUPS = {"granularity": Granularity.GROUP, "group_size": 64}
_HALF_SCALES = {"scale_dtype": torch.float16}  # as in the checkpoints of GPTQ and AWQ

# The number format of each scheme with a name, and the other fields of that scheme.
# int4 and int3 use the zero-point grid: a group of 64 weights is rarely centred, so 2^b levels over
# the range that it spans are finer than 2^b − 1 levels over ± its maximum. For normal weights the
# step shrinks by 16 % (4 bit) and 23 % (3 bit), worth 1.5 dB and 2.2 dB of SQNR, for a byte of zero
# point a group.
FORMATS_AND_PLACES: dict[str, tuple[NumberFormat, dict[str, Any]]] = {
    "int8": (SymmetricFormat(8), _CHANNELS),
    "int4": (AsymmetricFormat(4), _GROUPS | _HALF_SCALES),
    "int3": (AsymmetricFormat(3), _GROUPS | _HALF_SCALES),
    "nf4": (NF4, _GROUPS),
    "nf4-double": (NF4, _GROUPS | {"double_quantization": True}),
    "fp4": (FP4, _GROUPS),
    "fp8": (E4M3FN, _CHANNELS),
    "fp8-e5m2": (E5M2, _CHANNELS),
}

# What a scheme's ``codebook`` may name: formats whose levels are not equally spaced. All have
# unsigned codes and, as their levels are symmetric around 0, no zero point.
NAMED_FORMATS = {form.name: form for form, _ in FORMATS_AND_PLACES.values() if form.name}


@dataclass(frozen=True)
class QuantizationScheme:
    """A number format for weights.

    Args:
        bits: of a code, 2…8.
        symmetric: absmax grid around 0; False is the zero-point grid. A code book needs True.
        granularity: which weights share a scale.
        axis: the channel axis (negative counts from the end), for CHANNEL alone.
        group_size: neighbours on the last axis that share a scale, for GROUP alone.
        codebook: name of a format with levels of its own, a table or FP8
            (a name in `NAMED_FORMATS`); None for equal steps.
        scale_dtype: how scales are stored. A narrow type costs range: `scales.store_scales`.
        double_quantization: a code book's scales are themselves kept in 8 bit
            (`double_quantization`).
        packed: codes share bytes, ceil(n·bits/8) of them; False keeps one code a byte.

    Raises:
        ValueError: a field is out of range or contradicts another.
    """

    bits: int
    symmetric: bool = True
    granularity: Granularity = Granularity.TENSOR
    axis: int = 0
    group_size: int | None = None
    codebook: str | None = None
    scale_dtype: torch.dtype = torch.float32
    double_quantization: bool = False
    packed: bool = True

    def __post_init__(self) -> None:
        if type(self.bits) is not int or not 2 <= self.bits <= 8:
            raise ValueError(f"bits is {self.bits!r}; give an integer from 2 to 8")
        if self.scale_dtype not in SCALE_DTYPES:
            raise ValueError(f"scale_dtype is {self.scale_dtype}; give one of {SCALE_DTYPES}")
        self._check_granularity()
        self._check_codebook()

    def _check_granularity(self) -> None:
        # A plain string is accepted (as in a configuration file), an unknown one names the choices.
        try:
            object.__setattr__(self, "granularity", Granularity(self.granularity))
        except ValueError:
            choices = ", ".join(Granularity)
            raise ValueError(
                f"granularity is {self.granularity!r}; give one of {choices}"
            ) from None
        if self.granularity is Granularity.GROUP:
            if type(self.group_size) is not int or self.group_size < 1:
                raise ValueError(
                    f"group_size is {self.group_size!r}; groups need a size of 1 or more"
                )
        elif self.group_size is not None:
            raise ValueError(f"group_size {self.group_size} has no meaning per {self.granularity}")
        if self.granularity is not Granularity.CHANNEL and self.axis != 0:
            raise ValueError(f"axis {self.axis} has no meaning per {self.granularity}")

    def _check_codebook(self) -> None:
        if self.codebook is None:
            if self.double_quantization:
                raise ValueError("double_quantization is for code books; name one, or turn it off")
            return
        if self.codebook not in NAMED_FORMATS:
            raise ValueError(f"codebook is {self.codebook!r}; give one of {sorted(NAMED_FORMATS)}")
        expected = NAMED_FORMATS[self.codebook].bits
        if self.bits != expected:
            raise ValueError(
                f"bits is {self.bits}; code book {self.codebook} has {expected}-bit codes"
            )
        if not self.symmetric:
            raise ValueError("a code book has no zero point; leave symmetric at True")
        if self.double_quantization and self.scale_dtype is not torch.float32:
            raise ValueError(
                f"scale_dtype is {self.scale_dtype}; double quantization decodes scales to float32"
            )

    @property
    def stored_bits(self) -> int:
        """Bits that a code takes in memory."""
        return self.bits if self.packed else 8

    def __str__(self) -> str:
        grid = self.codebook or ("symmetric" if self.symmetric else "asymmetric")
        places = {
            Granularity.TENSOR: "per tensor",
            Granularity.CHANNEL: f"per channel of axis {self.axis}",
            Granularity.GROUP: f"groups of {self.group_size}",
        }
        scales = "8 bit" if self.double_quantization else str(self.scale_dtype).split(".")[1]
        packing = "" if self.packed else ", unpacked"
        return f"{self.bits}-bit {grid}, {places[self.granularity]}, scales {scales}{packing}"


def number_format(scheme: QuantizationScheme) -> NumberFormat:
    """The format that a scheme's bits, symmetry and code book name."""
    if scheme.codebook is not None:
        return NAMED_FORMATS[scheme.codebook]
    if scheme.symmetric:
        return SymmetricFormat(scheme.bits)
    return AsymmetricFormat(scheme.bits)


PRESETS: dict[str, QuantizationScheme] = {
    name: QuantizationScheme(
        bits=form.bits,
        symmetric=not isinstance(form, AsymmetricFormat),
        codebook=form.name,
        **place,
    )
    for name, (form, place) in FORMATS_AND_PLACES.items()
}


def preset(name: str, **changes: Any) -> QuantizationScheme:
    """The named scheme of `PRESETS`, with fields replaced: ``preset("int4", group_size=128)``.

    Raises:
        ValueError: there is no such preset (the nearest is named), or a change is invalid.
    """
    if name not in PRESETS:
        raise unknown_name("preset", name, PRESETS)
    return replace(PRESETS[name], **changes)
