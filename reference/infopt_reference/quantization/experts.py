"""Calibrated quantization of experts: each matrix of a stack for the tokens that it is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from ..weight_matrices import WeightMatrix
from .calibration import HessianStatistics
from .checks import naming
from .layerwise import CalibratedModule
from .packed_weight import decode_on_access
from .quantized import QuantizedTensor, joined, quantize
from .scheme import QuantizationScheme


def quantize_experts(
    block: CalibratedModule,
    stacks: Mapping[str, WeightMatrix],
    scheme: QuantizationScheme,
    method: Callable[[Tensor, Tensor, QuantizationScheme], QuantizedTensor],
) -> dict[str, str]:
    """Quantizes stacks of experts in place, for the inputs that each was given.

    Args:
        block: where they lie.
        stacks: by name within the block.
        scheme: one whose rows share no constants.
        method: of a weight [out, in], the second moments of its inputs, and the scheme.

    Returns:
        For each stack that was quantized, which experts were only rounded to nearest, since no
        token chose them: "" where all were reached. A stack whose module multiplies by all matrices
        at once is left as it is, and not named.
    """
    done: dict[str, str] = {}
    found = block.observe_experts(
        stacks, lambda matrix: HessianStatistics(matrix.in_features, matrix.weight.device)
    )
    for name, matrix in stacks.items():
        statistics, parts = found[name], []
        if not statistics:
            continue
        for expert, weight in enumerate(matrix.weight.detach()):
            with naming(f"{name}[{expert}]"):
                if expert in statistics:
                    parts.append(method(weight, statistics[expert].hessian, scheme))
                else:
                    parts.append(quantize(weight, scheme))
        decode_on_access(matrix, joined(parts))
        missed = [expert for expert in range(len(parts)) if expert not in statistics]
        done[name] = f"no calibration token chose experts {missed}" if missed else ""
    return done
