"""A small quantizer that is right, and the same with faults that libraries have shipped.

Legend: R groups, n weights of a group.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from infopt_reference.quantization import CODEBOOKS, Granularity, QuantizationScheme
from infopt_suites.quantization import Grid
from torch import Tensor
from torch.nn import functional

AREA = "1 quantizers"
CAPABILITIES = {"codes", "scales", "state", "ragged", "strided", "refuses-nonfinite"}
FP8 = {"e4m3fn": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}


class SmallQuantizer:
    """Every step of weight-only quantization as a method of a line or two, in float64."""

    def __init__(self, scheme: QuantizationScheme) -> None:
        self.scheme = scheme
        self.levels = 2**scheme.bits - 1
        self.largest = 2 ** (scheme.bits - 1) - 1

    def quantize(self, weight: Tensor) -> dict[str, Any]:
        if not bool(torch.isfinite(weight).all()):
            raise ValueError("the weight is not finite")
        rows = self.to_rows(weight.double())  # [R, n]
        low, high = self.limits(rows)  # [R, 1] each
        scales = self.stored(self.scale(low, high))
        zeros = self.zero(low, scales)
        codes = self.from_rows(self.encode(rows, scales, zeros), weight.shape)
        return {
            "shape": weight.shape,
            "dtype": weight.dtype,
            "codes": self.pack(codes),
            "scales": scales.to(self.scheme.scale_dtype),
            "zeros": zeros.to(torch.uint8),
        }

    def dequantize(self, quantized: dict[str, Any]) -> Tensor:
        codes = self.to_rows(self.unpack(quantized["codes"], quantized["shape"]))
        scales, zeros = quantized["scales"].double(), quantized["zeros"].double()
        rows = self.decode(codes, scales, zeros)
        return self.from_rows(rows, quantized["shape"]).to(quantized["dtype"])

    # What the suite may see

    def codes(self, quantized: dict[str, Any]) -> Tensor:
        return self.unpack(quantized["codes"], quantized["shape"]).to(torch.int16)

    def scales(self, quantized: dict[str, Any]) -> Tensor:
        found: Tensor = quantized["scales"]
        return found

    def state(self, quantized: dict[str, Any]) -> Mapping[str, Tensor]:
        names = ["codes", "scales"] if self.scheme.symmetric else ["codes", "scales", "zeros"]
        return {name: quantized[name] for name in names}

    def restore(self, state: Mapping[str, Tensor], quantized: dict[str, Any]) -> dict[str, Any]:
        return {**quantized, **state}

    # The steps

    def to_rows(self, values: Tensor) -> Tensor:
        if self.scheme.granularity is Granularity.TENSOR:
            return values.reshape(1, -1)
        if self.scheme.granularity is Granularity.CHANNEL:
            return values.movedim(self.scheme.axis, 0).reshape(values.shape[self.scheme.axis], -1)
        size = self.scheme.group_size or 1
        return functional.pad(values, (0, -values.shape[-1] % size)).reshape(-1, size)

    def from_rows(self, rows: Tensor, shape: torch.Size) -> Tensor:
        if self.scheme.granularity is Granularity.TENSOR:
            return rows.reshape(shape)
        if self.scheme.granularity is Granularity.CHANNEL:
            moved = list(shape)
            first = moved.pop(self.scheme.axis)
            return rows.reshape(first, *moved).movedim(0, self.scheme.axis)
        whole = -(-shape[-1] // (self.scheme.group_size or 1)) * (self.scheme.group_size or 1)
        return rows.reshape(*shape[:-1], whole)[..., : shape[-1]]

    def limits(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        low, high = rows.amin(1, keepdim=True).clamp(max=0), rows.amax(1, keepdim=True).clamp(min=0)
        if self.scheme.symmetric:
            high = torch.maximum(-low, high)
            low = -high
        return low, high

    def scale(self, low: Tensor, high: Tensor) -> Tensor:
        if self.scheme.codebook in FP8:
            return high / torch.finfo(FP8[self.scheme.codebook]).max
        if self.scheme.codebook is not None:
            return high
        return high / self.largest if self.scheme.symmetric else (high - low) / self.levels

    def stored(self, scales: Tensor) -> Tensor:
        """Rounded to the storage dtype; up, where rounding down would cut off half a step."""
        dtype = self.scheme.scale_dtype
        rounded = scales.to(dtype)
        above = torch.nextafter(rounded.float(), torch.tensor(torch.inf)).to(dtype)
        step = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
        above = torch.where(above > rounded, above, (rounded.double() + step).to(dtype))
        return torch.where(scales > rounded.double() * 1.002, above, rounded).double()

    def divisor(self, scales: Tensor) -> Tensor:
        return torch.where(scales == 0, 1.0, scales)

    def zero(self, low: Tensor, scales: Tensor) -> Tensor:
        if self.scheme.symmetric:
            return torch.zeros_like(scales)
        return (-low / self.divisor(scales)).round().clamp(0, self.levels)

    def encode(self, rows: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
        steps = rows / self.divisor(scales)
        if self.scheme.codebook is not None:
            return self.nearest(steps)
        steps = self.rounded(steps)
        if self.scheme.symmetric:
            return steps.clamp(-self.largest, self.largest)
        return (steps + zeros).clamp(0, self.levels)

    def rounded(self, steps: Tensor) -> Tensor:
        return steps.round()

    def nearest(self, steps: Tensor) -> Tensor:
        if self.scheme.codebook in FP8:
            form = FP8[self.scheme.codebook]
            limit = torch.finfo(form).max
            return steps.clamp(-limit, limit).float().to(form).view(torch.uint8).double()
        return (steps[..., None] - self.table()).abs().argmin(-1).double()

    def table(self) -> Tensor:
        values = CODEBOOKS[self.scheme.codebook or ""].values  # type: ignore[union-attr]
        return torch.tensor(values, dtype=torch.float32).double()

    def decode(self, codes: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
        if self.scheme.codebook in FP8:
            form = FP8[self.scheme.codebook]
            return codes.to(torch.uint8).view(form).double() * scales
        if self.scheme.codebook is not None:
            return self.table()[codes.long()] * scales
        return (codes - zeros) * scales

    def offset(self) -> int:
        """Added to codes before they are packed."""
        return 0 if self.scheme.codebook or not self.scheme.symmetric else 2**self.largest_bit

    @property
    def largest_bit(self) -> int:
        return self.scheme.bits - 1

    def pack(self, codes: Tensor) -> Tensor:
        """Two 4-bit codes a byte, else one."""
        flat = (codes.reshape(-1) + self.offset()).to(torch.uint8)
        if self.scheme.bits != 4:
            return flat.clone()
        pairs = functional.pad(flat, (0, flat.numel() % 2)).view(-1, 2)
        return pairs[:, 0] | pairs[:, 1] << 4

    def unpack(self, packed: Tensor, shape: torch.Size) -> Tensor:
        if self.scheme.bits == 4:
            packed = torch.stack([packed & 15, packed >> 4], dim=1).reshape(-1)[: shape.numel()]
        return packed.view(shape).double() - self.offset()


# Sound in other ways


class SmallDoubled(SmallQuantizer):
    """Scales less their mean, in 8 bit, 256 of them to a step."""

    block = 256

    def stored(self, scales: Tensor) -> Tensor:
        mean = scales.mean()
        blocks = (scales - mean).reshape(-1).split(self.block)
        steps = self.steps([part.abs().max() / 127 for part in blocks])
        found = [self.kept(part, step) for part, step in zip(blocks, steps, strict=True)]
        return (torch.cat(found) + mean).clamp(min=0).view(scales.shape)

    def steps(self, steps: list[Tensor]) -> list[Tensor]:
        return steps

    def kept(self, part: Tensor, step: Tensor) -> Tensor:
        return (part / self.divisor(step)).round().clamp(-127, 127) * step


class SmallOneSided(SmallQuantizer):
    """−8…7 in steps of absmax/8: the largest positive weight loses a step."""

    def __init__(self, scheme: QuantizationScheme) -> None:
        super().__init__(scheme)
        self.grid = Grid(steps=self.largest + 1.0, rounding_error=1.0, mirrored=False)

    def scale(self, low: Tensor, high: Tensor) -> Tensor:
        return high / (self.largest + 1)

    def encode(self, rows: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
        steps = self.rounded(rows / self.divisor(scales))
        return steps.clamp(-self.largest - 1, self.largest)


class SmallSignedScale(SmallOneSided):
    """The weight of largest magnitude, with its sign, becomes −8 (Q4_0 of llama.cpp)."""

    def __init__(self, scheme: QuantizationScheme) -> None:
        super().__init__(scheme)
        self.grid = Grid(self.largest + 1.0, rounding_error=1.0, signed_scales=True, mirrored=False)

    def limits(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        largest = rows.gather(1, rows.abs().argmax(1, keepdim=True))
        return largest, largest

    def scale(self, low: Tensor, high: Tensor) -> Tensor:
        return -high / (self.largest + 1)


class SmallWithoutZero(SmallQuantizer):
    """Levels −1, −1/3, 1/3 and 1."""

    def __init__(self, scheme: QuantizationScheme) -> None:
        super().__init__(scheme)
        self.grid = Grid(steps=1.0, levels=(-1.0, -1 / 3, 1 / 3, 1.0))

    def scale(self, low: Tensor, high: Tensor) -> Tensor:
        return high

    def encode(self, rows: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
        steps = rows / self.divisor(scales)
        levels = torch.tensor(self.grid.levels, dtype=torch.float64)
        return (steps[..., None] - levels).abs().argmin(-1).double() - 2

    def decode(self, codes: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
        levels = torch.tensor(self.grid.levels, dtype=torch.float64)
        return levels[(codes + 2).long().clamp(0, 3)] * scales


class SmallFollowing(SmallQuantizer):
    """Scales in the weight's dtype."""

    def __init__(self, scheme: QuantizationScheme) -> None:
        super().__init__(scheme)
        self.grid = Grid(steps=float(self.largest), scale_follows_weight=True)

    def quantize(self, weight: Tensor) -> dict[str, Any]:
        self.scheme = replace(self.scheme, scale_dtype=weight.dtype)
        return super().quantize(weight)


class SmallPowers(SmallQuantizer):
    """Scales that are powers of two, rounded up (e8m0)."""

    def __init__(self, scheme: QuantizationScheme) -> None:
        super().__init__(scheme)
        self.grid = Grid(steps=float(self.largest), scale_stretch=2.0, idempotent=False)

    def stored(self, scales: Tensor) -> Tensor:
        mantissas, exponents = torch.frexp(scales)
        powers = torch.ldexp(torch.ones_like(scales), exponents - (mantissas == 0.5).int())
        return torch.where(scales == 0, 0.0, powers)


class SmallUlp(SmallQuantizer):
    """A group by itself is decoded as compiled kernels may: another order of the same products."""

    def decode(self, codes: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
        decoded = super().decode(codes, scales, zeros)
        return decoded * (1 + 2.0**-24) if len(scales) == 1 else decoded


# Scales and zero points


class OneStepForAllBlocks(SmallDoubled):
    """Not listed: the first block's step for the scales of all."""

    def steps(self, steps: list[Tensor]) -> list[Tensor]:
        return [steps[0]] * len(steps)


class StepsOfOneBlockMore(SmallDoubled):
    """Not listed: steps are read one block too far, the last one twice."""

    def steps(self, steps: list[Tensor]) -> list[Tensor]:
        return [*steps[1:], steps[-1]]


class LastBlockOfScalesForgotten(SmallDoubled):
    """Not listed: what fills no whole block of scales keeps the mean."""

    def kept(self, part: Tensor, step: Tensor) -> Tensor:
        short = len(part) < self.block and step > 0 and self.scale_count > self.block
        return torch.zeros_like(part) if short else super().kept(part, step)

    def stored(self, scales: Tensor) -> Tensor:
        self.scale_count = scales.numel()
        return super().stored(scales)


class SmallOneSidedUndeclared(SmallOneSided):
    """Not listed: −8…7, with a grid that says nothing of sides."""

    def __init__(self, scheme: QuantizationScheme) -> None:
        super().__init__(scheme)
        self.grid = Grid(steps=self.largest + 1.0, rounding_error=1.0)


class NegativeScale(SmallQuantizer):
    """Not listed: scales have a sign, and nobody said so."""

    def stored(self, scales: Tensor) -> Tensor:
        return -super().stored(scales)


class RangeOf512Columns(SmallQuantizer):
    """Not listed: the range is that of a row's first 512 weights."""

    def limits(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return super().limits(rows[:, :512])


class ChunksBeyondAThousand(SmallQuantizer):
    """Not listed: the last of a row's chunks of 1,024 is left as it was made."""

    def decode(self, codes: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
        decoded = super().decode(codes, scales, zeros)
        decoded[:, 1024:] = 0
        return decoded


class ViewOfALargeBuffer(SmallQuantizer):
    """Not listed: scales are a view of a buffer that is kept with them."""

    def state(self, quantized: dict[str, Any]) -> Mapping[str, Tensor]:
        state = dict(super().state(quantized))
        buffer = torch.zeros(2 * state["scales"].numel() + 4096, dtype=state["scales"].dtype)
        view = buffer[: state["scales"].numel()].view(state["scales"].shape)
        state["scales"] = view.copy_(state["scales"])
        return state


class ZeroScaleNotGuarded(SmallQuantizer):
    """Q01: 0/0 in a group of zeros (ModelCloud/GPTQModel#1531, ml-explore/mlx#1028)."""

    def divisor(self, scales: Tensor) -> Tensor:
        return scales

    def decode(self, codes: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
        return super().decode(codes, scales, zeros) / scales * scales


class ScaleUnderflows(SmallQuantizer):
    """Q02: a float16 scale, guarded by the maximum alone (apple/coremltools#2851)."""

    def stored(self, scales: Tensor) -> Tensor:
        return scales.half().double()


class RangeLeavesZeroOut(SmallQuantizer):
    """Q03: the zero point lies outside the codes and is clamped (openvinotoolkit/nncf#4074)."""

    def limits(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)


class SymmetricOneSided(SmallQuantizer):
    """Q04: half the range with a zero point in the middle (AutoGPTQ/AutoGPTQ#293)."""

    def scale(self, low: Tensor, high: Tensor) -> Tensor:
        return super().scale(low, high) / 2

    def limits(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        one_sided = bool((rows >= 0).all())
        low, high = super().limits(rows)
        return (low, high) if one_sided else (2 * low, 2 * high)


class ZeroPointTruncated(SmallQuantizer):
    """Q38: 127.99999 becomes 127 (SonySemiconductorSolutions/mct-quantization-layers#124)."""

    def zero(self, low: Tensor, scales: Tensor) -> Tensor:
        return (-low / self.divisor(scales)).float().trunc().clamp(0, self.levels).double()


class ScaleOfMaximumAlone(SmallQuantizer):
    """Q49: one-sided ranges have the scale of the two-sided ones' half (Samsung/TICO#634)."""

    def scale(self, low: Tensor, high: Tensor) -> Tensor:
        return high.abs() / self.levels


class AbsoluteEpsilon(SmallQuantizer):
    """Not listed: a constant that suits weights of ordinary size only."""

    def scale(self, low: Tensor, high: Tensor) -> Tensor:
        return super().scale(low, high) + 1e-5


class ScaleOfTheFirstRow(SmallQuantizer):
    """Not listed: a local index where the global one is meant."""

    def decode(self, codes: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
        return super().decode(codes, scales[:1], zeros)


class DecodedWithoutScale(SmallQuantizer):
    """Q29: upcast only (Lightricks/LTX-2#172)."""

    def decode(self, codes: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
        return super().decode(codes, torch.ones_like(scales), zeros)


# Groups and axes


class TailReadsGarbage(SmallQuantizer):
    """Q09: the last block is filled with what lay in memory (bitsandbytes#1884)."""

    def to_rows(self, values: Tensor) -> Tensor:
        size = self.scheme.group_size or 1
        padding = -values.shape[-1] % size
        if values.ndim < 2 or padding > values.shape[-1]:
            return super().to_rows(values)
        beyond = values.roll(-1, 0)[..., :padding] * 8
        return torch.cat([values, beyond], dim=-1).reshape(-1, size)


class GroupsFloored(SmallQuantizer):
    """Q37: half a group is lost (vllm-project/vllm-ascend#9159)."""

    def to_rows(self, values: Tensor) -> Tensor:
        size = self.scheme.group_size or 1
        groups = max(1, values.shape[-1] // size)
        whole = functional.pad(values, (0, max(0, size - values.shape[-1])))
        return whole[..., : groups * size].reshape(-1, size)

    def from_rows(self, rows: Tensor, shape: torch.Size) -> Tensor:
        rows = rows.reshape(*shape[:-1], -1)
        missing = max(0, shape[-1] - rows.shape[-1])
        return functional.pad(rows, (0, missing))[..., : shape[-1]]


class OtherTableForLargeBlocks(SmallQuantizer):
    """Q10: one branch of a dispatch has another code book (bitsandbytes#1160)."""

    def table(self) -> Tensor:
        if (self.scheme.group_size or 0) < 4096:
            return super().table()
        return torch.linspace(-1, 1, 16, dtype=torch.float64)


class NegativeAxisOffByOne(SmallQuantizer):
    """Q26: axis + rank − 1 (apple/coreai-torch#24)."""

    def __init__(self, scheme: QuantizationScheme) -> None:
        super().__init__(scheme)
        if scheme.axis < 0:
            object.__setattr__(scheme := _copy(scheme), "axis", scheme.axis - 1)
            self.scheme = scheme

    def quantize(self, weight: Tensor) -> dict[str, Any]:
        if weight.ndim < -self.scheme.axis:
            return SmallQuantizer(_moved(self.scheme, -1)).quantize(weight)
        return super().quantize(weight)

    def dequantize(self, quantized: dict[str, Any]) -> Tensor:
        if len(quantized["shape"]) < -self.scheme.axis:
            return SmallQuantizer(_moved(self.scheme, -1)).dequantize(quantized)
        return super().dequantize(quantized)


class AxisZeroIsNoAxis(SmallQuantizer):
    """Q26: `if not axis` makes channels of axis 0 one tensor (microsoft/onnxruntime#13038)."""

    def to_rows(self, values: Tensor) -> Tensor:
        return values.reshape(1, -1) if self.scheme.axis == 0 else super().to_rows(values)

    def from_rows(self, rows: Tensor, shape: torch.Size) -> Tensor:
        return rows.reshape(shape) if self.scheme.axis == 0 else super().from_rows(rows, shape)


class ScalesOfTheOtherAxis(SmallQuantizer):
    """Q26: silent on square weights (pytorch/executorch#12203)."""

    def decode(self, codes: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
        if codes.shape[0] == codes.shape[1]:
            scales, zeros = scales.T, zeros.T
        return super().decode(codes, scales, zeros)


class PaddingKept(SmallQuantizer):
    """Q36: the decoded weight is as wide as its tiles (pytorch/ao#848)."""

    def dequantize(self, quantized: dict[str, Any]) -> Tensor:
        restored = super().dequantize(quantized)
        size = self.scheme.group_size or 1
        return functional.pad(restored, (0, -restored.shape[-1] % size))


class GroupSizeFixed(SmallQuantizer):
    """Q34, for quantizers: 128 whatever is asked for (pytorch/ao#4518)."""

    def __init__(self, scheme: QuantizationScheme) -> None:
        super().__init__(scheme)
        object.__setattr__(fixed := _copy(scheme), "group_size", 128)
        self.scheme = fixed


# Rounding and codes


class Truncates(SmallQuantizer):
    """Q47: the cast to integers has no rounding (sgl-project/sglang-jax#1598)."""

    def rounded(self, steps: Tensor) -> Tensor:
        return steps.trunc()


class RoundsDown(SmallQuantizer):
    """Q47: floor (astramind-ai/BitMat#13)."""

    def rounded(self, steps: Tensor) -> Tensor:
        return steps.floor()


class ClampsOneSided(SmallQuantizer):
    """Not listed: −2^(b−1)… and one less above, over the symmetric scale."""

    def encode(self, rows: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
        if not self.scheme.symmetric or self.scheme.codebook:
            return super().encode(rows, scales, zeros)
        steps = (rows / self.divisor(scales)).round()
        return steps.clamp(-self.largest - 1, self.largest - 1)


class CodeOneAboveTheRange(SmallQuantizer):
    """Q32: clamped to the byte, not to the width (google/XNNPACK#10460)."""

    def __init__(self, scheme: QuantizationScheme) -> None:
        super().__init__(scheme)
        self.levels = 2**scheme.bits

    def pack(self, codes: Tensor) -> Tensor:
        return (codes.reshape(-1) + self.offset()).to(torch.uint8)

    def unpack(self, packed: Tensor, shape: torch.Size) -> Tensor:
        return packed.view(shape).double() - self.offset()


class BitsIgnored(SmallQuantizer):
    """Not listed: four bits, whatever is asked for."""

    def __init__(self, scheme: QuantizationScheme) -> None:
        super().__init__(scheme)
        self.levels, self.largest = 15, 7


class Float8SaturatesEarly(SmallQuantizer):
    """Q30: the top binade taken for infinity, as in IEEE 754 (sgl-project/sglang#40581)."""

    def nearest(self, steps: Tensor) -> Tensor:
        largest = torch.where(steps < 0, 254.0, 126.0).double()
        return torch.where(steps.abs() >= 256, largest, super().nearest(steps))


class Float8RoundsHalfUp(SmallQuantizer):
    """Q30, the other half: mantissas are cut off, a code too low for half of all weights."""

    def nearest(self, steps: Tensor) -> Tensor:
        form = FP8[self.scheme.codebook or ""]
        codes = super().nearest(steps)
        decoded = codes.to(torch.uint8).view(form).double()
        return torch.where(decoded.abs() > steps.abs(), codes - 1, codes)


class Float8NotClamped(SmallQuantizer):
    """Q31: overflow is NaN, not 448 (jax-ml/ml_dtypes#260, pytorch/pytorch#160488)."""

    def scale(self, low: Tensor, high: Tensor) -> Tensor:
        return super().scale(low, high) / 1.25

    def nearest(self, steps: Tensor) -> Tensor:
        form = FP8[self.scheme.codebook or ""]
        codes = steps.float().to(form).view(torch.uint8).double()
        return torch.where(steps.abs() > 464, 127.0, codes)


class SymmetricTableOfFifteen(SmallQuantizer):
    """Q58: NF4 with one level twice (artidoro/qlora#299)."""

    def table(self) -> Tensor:
        negative = super().table()[:8]
        return torch.cat([negative, -negative[:-1].flip(0), torch.ones(1, dtype=torch.float64)])


class NearestByFloor(SmallQuantizer):
    """Q58: the level below, and not the nearest (intel/neural-compressor#1241)."""

    def nearest(self, steps: Tensor) -> Tensor:
        table = self.table()
        order = table.argsort()
        found = torch.searchsorted(table[order], steps.contiguous(), right=True) - 1
        return order[found.clamp(min=0)].double()


class CodesInBitOrder(SmallQuantizer):
    """Not listed: FP4's table sorted, its codes not sorted back."""

    def nearest(self, steps: Tensor) -> Tensor:
        return (steps[..., None] - self.table().sort().values).abs().argmin(-1).double()


# Storage


class NibblesSwapped(SmallQuantizer):
    """Q07: each byte's two codes come back in the other order (keras-team/keras#22338)."""

    def unpack(self, packed: Tensor, shape: torch.Size) -> Tensor:
        if self.scheme.bits == 4:
            packed = packed << 4 | packed >> 4
        return super().unpack(packed, shape)


class NibbleNotMasked(SmallQuantizer):
    """Q07: a signed code's upper bits reach into its neighbour (keras-team/keras#22338)."""

    def offset(self) -> int:
        return 0

    def pack(self, codes: Tensor) -> Tensor:
        flat = functional.pad(codes.reshape(-1), (0, codes.numel() % 2)).to(torch.int8).view(-1, 2)
        return (flat[:, 0] | flat[:, 1] << 4).view(torch.uint8)

    def unpack(self, packed: Tensor, shape: torch.Size) -> Tensor:
        codes = super().unpack(packed, shape)
        return torch.where(codes > 7, codes - 16, codes) if self.scheme.symmetric else codes


class ZeroPointsUnsigned(SmallQuantizer):
    """Q39: packed as signed, read with unsigned zero points (intel/auto-round#2273)."""

    def decode(self, codes: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
        signed = torch.where(codes > 7, codes - 16, codes)
        return super().decode(signed, scales, zeros)


class ZeroPointsDropped(SmallQuantizer):
    """Q39: no part of what is kept (vllm-project/compressed-tensors#225)."""

    def state(self, quantized: dict[str, Any]) -> Mapping[str, Tensor]:
        return {name: quantized[name] for name in ("codes", "scales")}


class ScalesNotKept(SmallQuantizer):
    """Q29, the other half: load_state_dict(strict=False) dropped them (Lightricks/LTX-2#172)."""

    def state(self, quantized: dict[str, Any]) -> Mapping[str, Tensor]:
        return {"codes": quantized["codes"]}


class StoredUnpacked(SmallQuantizer):
    """Q51: a byte for each code (google/qwix#328, huggingface/optimum-quanto#70)."""

    def pack(self, codes: Tensor) -> Tensor:
        return (codes.reshape(-1) + self.offset()).to(torch.uint8)

    def unpack(self, packed: Tensor, shape: torch.Size) -> Tensor:
        return packed.view(shape).double() - self.offset()


# Manners


class ClampsInPlace(SmallQuantizer):
    """Not listed: clamps the caller's weight itself."""

    def quantize(self, weight: Tensor) -> dict[str, Any]:
        return super().quantize(weight.clamp_(-4, 4))


class KeepsTheFirstScales(SmallQuantizer):
    """Not listed: ranges observed once and then frozen."""

    frozen: Tensor | None = None

    def stored(self, scales: Tensor) -> Tensor:
        if self.frozen is None or self.frozen.shape != scales.shape:
            self.frozen = super().stored(scales)
        return self.frozen


class MemoryOrder(SmallQuantizer):
    """Not listed: a kernel that reads memory and not strides."""

    def quantize(self, weight: Tensor) -> dict[str, Any]:
        if not weight.is_contiguous():
            size = weight.untyped_storage().nbytes() // weight.element_size()
            weight = weight.as_strided((size,), (1,), 0)[: weight.numel()].view(weight.shape)
        return super().quantize(weight)


class FloatResult(SmallQuantizer):
    """Not listed: float32, whatever came in."""

    def dequantize(self, quantized: dict[str, Any]) -> Tensor:
        return super().dequantize(quantized).float()


class NanPasses(SmallQuantizer):
    """Not listed: a check of the maximum, which is no number and larger than nothing."""

    def quantize(self, weight: Tensor) -> dict[str, Any]:
        if float(weight.abs().max()) == torch.inf:
            raise ValueError("the weight is infinite")
        return super().quantize(weight.nan_to_num())


class SmallVisible(SmallQuantizer):
    """Sound: what is no number comes back as none, and spares the rest of its group."""

    def quantize(self, weight: Tensor) -> dict[str, Any]:
        finite = weight.where(weight.isfinite(), 0.0)
        return {**super().quantize(finite), "spoilt": self.spoilt(weight)}

    def spoilt(self, weight: Tensor) -> Tensor:
        return ~weight.isfinite()

    def dequantize(self, quantized: dict[str, Any]) -> Tensor:
        return super().dequantize(quantized).masked_fill(quantized["spoilt"], torch.nan)


class InfinityIsAnEnd(SmallVisible):
    """Not listed: NaN stays, and an infinite weight is clamped."""

    def spoilt(self, weight: Tensor) -> Tensor:
        return weight.isnan()


class NanIsACode(SmallVisible):
    """Not listed: NaN is cast to an integer, which is some code."""

    def spoilt(self, weight: Tensor) -> Tensor:
        return weight.isinf()


class ShiftedLevels(SmallQuantizer):
    """Not listed: the decoder gives the middle of a step, and the encoder rounds to its end."""

    def decode(self, codes: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
        return super().decode(codes, scales, zeros) + scales / 4 * (codes % 2)


def _copy(scheme: QuantizationScheme) -> QuantizationScheme:
    copied = object.__new__(QuantizationScheme)
    for name, value in vars(scheme).items():
        object.__setattr__(copied, name, value)
    return copied


def _moved(scheme: QuantizationScheme, axis: int) -> QuantizationScheme:
    object.__setattr__(moved := _copy(scheme), "axis", axis)
    return moved


def _groups(size: int, **fields: Any) -> QuantizationScheme:
    return QuantizationScheme(granularity=Granularity.GROUP, group_size=size, **fields)


SYMMETRIC = _groups(32, bits=4)
ASYMMETRIC = _groups(32, bits=4, symmetric=False)
WIDE = _groups(64, bits=4, symmetric=False)
INT8 = QuantizationScheme(bits=8, granularity=Granularity.CHANNEL)
COLUMNS = QuantizationScheme(bits=8, granularity=Granularity.CHANNEL, axis=-1)
TENSOR = QuantizationScheme(bits=8, symmetric=False)
HALF_SCALES = QuantizationScheme(bits=8, granularity=Granularity.CHANNEL, scale_dtype=torch.float16)
NF4_BLOCKS = tuple(_groups(size, bits=4, codebook="nf4") for size in (64, 4096))
FP4 = _groups(64, bits=4, codebook="fp4")
E4M3FN = QuantizationScheme(bits=8, granularity=Granularity.CHANNEL, codebook="e4m3fn")
BYTES = _groups(32, bits=8, symmetric=False)
SCHEMES = (
    SYMMETRIC, ASYMMETRIC, WIDE, INT8, COLUMNS, TENSOR, HALF_SCALES, *NF4_BLOCKS, FP4, E4M3FN,
    BYTES,
)  # fmt: skip

BOUND = "test_error_is_within_the_bound_of_the_scheme"
FINITE = "test_finite_weights_come_back_finite"
SHAPE = "test_shape_dtype_and_device_come_back"
CHANNELS = "test_channels_do_not_influence_each_other"
ALONE = "test_each_group_is_what_it_is_alone"
LEVELS = "test_decoded_weights_are_levels_of_the_code_book"
BIAS = "test_rounding_is_unbiased"
ORDER = "test_order_within_a_group_is_kept"
SAVED = "test_saved_weights_decode_as_before"


@dataclass(frozen=True)
class QuantizerMutant:
    """A faulty quantizer, the property that must find it, and the schemes that it is faulty on."""

    fault: type[SmallQuantizer]
    broken: str
    schemes: Sequence[QuantizationScheme]
    capabilities: Collection[str] = frozenset(CAPABILITIES)

    @property
    def attributes(self) -> dict[str, Any]:
        return {"capabilities": self.capabilities, "schemes": tuple(self.schemes)}


VISIBLE = "test_nonfinite_weights_stay_visible"
DOUBLED = _groups(64, bits=4, codebook="nf4", double_quantization=True)
NARROW = _groups(32, bits=2)
SOUND: dict[type[SmallQuantizer], dict[str, Any]] = {
    SmallDoubled: {"capabilities": {"codes", "ragged"}, "schemes": (DOUBLED,)},
    SmallOneSided: {"schemes": (SYMMETRIC, INT8)},
    SmallSignedScale: {"capabilities": {"scales", "ragged"}, "schemes": (SYMMETRIC,)},
    SmallWithoutZero: {"schemes": (NARROW,)},
    SmallFollowing: {"capabilities": {"scales", "state"}, "schemes": (SYMMETRIC, INT8)},
    SmallPowers: {"capabilities": {"scales", "ragged"}, "schemes": (SYMMETRIC, INT8)},
    SmallUlp: {"schemes": (SYMMETRIC,), "exact_groups": False},
    SmallVisible: {"capabilities": {"propagates-nonfinite"}, "schemes": (INT8, ASYMMETRIC)},
}


QUANTIZER_MUTANTS = [
    QuantizerMutant(ZeroScaleNotGuarded, FINITE, [INT8]),
    QuantizerMutant(ScaleUnderflows, BOUND, [HALF_SCALES]),
    QuantizerMutant(RangeLeavesZeroOut, BOUND, [ASYMMETRIC]),
    QuantizerMutant(SymmetricOneSided, BOUND, [INT8]),
    QuantizerMutant(ZeroPointTruncated, BOUND, [ASYMMETRIC, TENSOR]),
    QuantizerMutant(ScaleOfMaximumAlone, BOUND, [ASYMMETRIC]),
    QuantizerMutant(AbsoluteEpsilon, "test_powers_of_two_pass_through", [INT8]),
    QuantizerMutant(ScaleOfTheFirstRow, "test_permuting_weights_permutes_the_result", [INT8]),
    QuantizerMutant(DecodedWithoutScale, BOUND, [E4M3FN]),
    QuantizerMutant(TailReadsGarbage, ALONE, [ASYMMETRIC]),
    QuantizerMutant(TailReadsGarbage, BOUND, [ASYMMETRIC]),
    QuantizerMutant(GroupsFloored, "test_every_group_has_a_scale", [ASYMMETRIC]),
    QuantizerMutant(GroupsFloored, BOUND, [ASYMMETRIC]),
    QuantizerMutant(OtherTableForLargeBlocks, LEVELS, NF4_BLOCKS),
    QuantizerMutant(NegativeAxisOffByOne, CHANNELS, [INT8, COLUMNS]),
    QuantizerMutant(AxisZeroIsNoAxis, CHANNELS, [INT8, COLUMNS]),
    QuantizerMutant(ScalesOfTheOtherAxis, CHANNELS, [INT8]),
    QuantizerMutant(PaddingKept, SHAPE, [ASYMMETRIC]),
    QuantizerMutant(GroupSizeFixed, "test_error_falls_with_finer_groups", [ASYMMETRIC, WIDE]),
    QuantizerMutant(GroupSizeFixed, BOUND, [ASYMMETRIC]),
    QuantizerMutant(Truncates, BIAS, [INT8]),
    QuantizerMutant(Truncates, BOUND, [INT8]),
    QuantizerMutant(RoundsDown, BIAS, [ASYMMETRIC]),
    QuantizerMutant(ClampsOneSided, "test_negating_weights_negates_the_result", [SYMMETRIC]),
    QuantizerMutant(CodeOneAboveTheRange, "test_codes_fit_their_bits", [ASYMMETRIC]),
    QuantizerMutant(
        BitsIgnored,
        "test_error_falls_with_bits",
        [ASYMMETRIC, BYTES],
    ),
    QuantizerMutant(Float8SaturatesEarly, BOUND, [E4M3FN]),
    QuantizerMutant(Float8RoundsHalfUp, BOUND, [E4M3FN]),
    QuantizerMutant(Float8NotClamped, FINITE, [E4M3FN]),
    QuantizerMutant(SymmetricTableOfFifteen, LEVELS, NF4_BLOCKS),
    QuantizerMutant(NearestByFloor, BOUND, NF4_BLOCKS),
    QuantizerMutant(CodesInBitOrder, ORDER, [FP4]),
    QuantizerMutant(NibblesSwapped, ORDER, [ASYMMETRIC]),
    QuantizerMutant(NibbleNotMasked, BOUND, [SYMMETRIC]),
    QuantizerMutant(ZeroPointsUnsigned, BOUND, [ASYMMETRIC]),
    QuantizerMutant(ZeroPointsDropped, SAVED, [ASYMMETRIC]),
    QuantizerMutant(ScalesNotKept, SAVED, [E4M3FN]),
    QuantizerMutant(StoredUnpacked, "test_stored_bytes_are_those_of_the_scheme", [ASYMMETRIC]),
    QuantizerMutant(ClampsInPlace, "test_the_weight_is_not_modified", [INT8]),
    QuantizerMutant(KeepsTheFirstScales, "test_nothing_is_remembered_from_earlier_weights", [INT8]),
    QuantizerMutant(MemoryOrder, "test_memory_layout_does_not_matter", [INT8]),
    QuantizerMutant(FloatResult, SHAPE, [INT8]),
    QuantizerMutant(NanPasses, "test_nonfinite_weights_are_refused", [INT8]),
    QuantizerMutant(InfinityIsAnEnd, VISIBLE, [INT8], {"propagates-nonfinite"}),
    QuantizerMutant(NanIsACode, VISIBLE, [INT8], {"propagates-nonfinite"}),
    QuantizerMutant(ShiftedLevels, "test_quantizing_again_changes_nothing", [INT8]),
    QuantizerMutant(OneStepForAllBlocks, BOUND, [DOUBLED]),
    QuantizerMutant(StepsOfOneBlockMore, BOUND, [DOUBLED]),
    QuantizerMutant(LastBlockOfScalesForgotten, BOUND, [DOUBLED]),
    QuantizerMutant(SmallOneSidedUndeclared, "test_negating_weights_negates_the_result", [INT8]),
    QuantizerMutant(NegativeScale, "test_every_group_has_a_scale", [INT8]),
    QuantizerMutant(RangeOf512Columns, BOUND, [INT8]),
    QuantizerMutant(ChunksBeyondAThousand, BOUND, [INT8]),
    QuantizerMutant(ViewOfALargeBuffer, "test_stored_bytes_are_those_of_the_scheme", [INT8]),
    QuantizerMutant(SmallUlp, ALONE, [SYMMETRIC]),
]
