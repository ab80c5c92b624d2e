"""A small smoother of SmoothQuant's and one of AWQ's kind, and the same with faults that shipped.

Legend: N tokens, K features of the activation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

AREA = "1 calibrated quantizers"
MAXIMUM = {"capabilities": {"norms", "linear-producers", "fused-producers"}}
MEAN = {"capabilities": {"norms", "linear-producers", "mean-statistic"}}


class SmallSmoother:
    """s = max|x|^½ / max|w|^½, both from 1e-5 on."""

    @torch.no_grad()
    def smooth(self, producer: nn.Module, consumers: Sequence[nn.Linear], inputs: Tensor) -> None:
        tokens = inputs.reshape(-1, inputs.shape[-1]).double()
        scales = self.scales(tokens, consumers)  # [K]
        self.divide(producer, scales)
        self.multiply(consumers, scales)

    def scales(self, tokens: Tensor, consumers: Sequence[nn.Linear]) -> Tensor:
        largest = torch.stack([layer.weight.abs().amax(dim=0) for layer in consumers]).amax(dim=0)
        return (self.limited(self.statistic(tokens)) / self.limited(largest.double())).sqrt()

    def statistic(self, tokens: Tensor) -> Tensor:
        return tokens.abs().amax(dim=0)

    def limited(self, values: Tensor) -> Tensor:
        return values.clamp(min=1e-5)

    def divide(self, producer: nn.Module, scales: Tensor) -> None:
        rows = self.rows(scales)
        weight = producer.weight
        assert isinstance(weight, Tensor)
        columns = scales if weight.ndim == 1 else scales[:, None]
        weight.data[rows] = (weight.data[rows].double() / columns).to(weight.dtype)
        self.divide_bias(getattr(producer, "bias", None), rows, scales)

    def rows(self, scales: Tensor) -> slice:
        """Those of a fused producer that are read."""
        return slice(-len(scales), None)

    def divide_bias(self, bias: Tensor | None, rows: slice, scales: Tensor) -> None:
        if bias is not None:
            bias.data[rows] = (bias.data[rows].double() / scales).to(bias.dtype)

    def multiply(self, consumers: Sequence[nn.Linear], scales: Tensor) -> None:
        for layer in consumers:
            layer.weight.data = (layer.weight.data.double() * scales).to(layer.weight.dtype)


class SmallMeanSmoother(SmallSmoother):
    """s = mean|x|^½, normalised; without the search."""

    def scales(self, tokens: Tensor, consumers: Sequence[nn.Linear]) -> Tensor:
        scales = self.limited(self.statistic(tokens)).sqrt()
        return scales / (scales.max() * scales.min()).sqrt()

    def statistic(self, tokens: Tensor) -> Tensor:
        return tokens.abs().mean(dim=0)


class FirstConsumerOnly(SmallSmoother):
    """Q22 (llm-compressor#1455): the other layers behind the norm get no scales."""

    def multiply(self, consumers: Sequence[nn.Linear], scales: Tensor) -> None:
        super().multiply(consumers[:1], scales)


class FirstRowsOfFusedProducer(SmallSmoother):
    """Q22 (llm-compressor#1451): of a fused q, k and v the rows of q are scaled, v is read."""

    def rows(self, scales: Tensor) -> slice:
        return slice(0, len(scales))


class ProducersBiasForgotten(SmallSmoother):
    """Q22: the norm's, or the layer's, bias is not divided."""

    def divide_bias(self, bias: Tensor | None, rows: slice, scales: Tensor) -> None:
        pass


class NoLowerLimit(SmallSmoother):
    """Q23 (sparseml#1872): a dead feature's scale is 0, and its inverse infinite."""

    def limited(self, values: Tensor) -> Tensor:
        return values


class DeadFeaturesWipedOut(SmallSmoother):
    """Q23, mended too simply: infinite and undefined weights are replaced by 0."""

    def limited(self, values: Tensor) -> Tensor:
        return values

    def smooth(self, producer: nn.Module, consumers: Sequence[nn.Linear], inputs: Tensor) -> None:
        super().smooth(producer, consumers, inputs)
        for module in (producer, *consumers):
            for parameter in module.parameters():
                parameter.data.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)


class MaximumForMean(SmallMeanSmoother):
    """Q21 (keras#23478): one token's |x| in place of the mean."""

    def statistic(self, tokens: Tensor) -> Tensor:
        return tokens.abs().amax(dim=0)


class DoesNothing(SmallSmoother):
    """Unlisted: scales are normalised feature by feature, to 1."""

    def scales(self, tokens: Tensor, consumers: Sequence[nn.Linear]) -> Tensor:
        scales = super().scales(tokens, consumers)
        return scales / scales


class Inverted(SmallSmoother):
    """Unlisted: multiplied where to divide; the function holds, large features grow."""

    def scales(self, tokens: Tensor, consumers: Sequence[nn.Linear]) -> Tensor:
        return 1 / super().scales(tokens, consumers)


class ReciprocalInHalf(SmallSmoother):
    """Unlisted: 1/s in float16, s in float64."""

    def divide(self, producer: nn.Module, scales: Tensor) -> None:
        super().divide(producer, 1 / (1 / scales).half().double())


class ConsumersBiasScaled(SmallSmoother):
    """Unlisted: the consumer's bias does not read the activation, and is scaled with it."""

    def multiply(self, consumers: Sequence[nn.Linear], scales: Tensor) -> None:
        super().multiply(consumers, scales)
        for layer in consumers:
            if layer.bias is not None:
                layer.bias.data *= scales[0].to(layer.bias.dtype)


class RowsForColumns(SmallSmoother):
    """Unlisted: a square consumer is scaled along its outputs."""

    def multiply(self, consumers: Sequence[nn.Linear], scales: Tensor) -> None:
        for layer in consumers:
            if layer.out_features == layer.in_features:
                layer.weight.data *= scales[:, None].to(layer.weight.dtype)
            else:
                super().multiply([layer], scales)


class NewParameters(SmallSmoother):
    """Unlisted: weights are replaced; optimizers and tied layers keep the old ones."""

    def multiply(self, consumers: Sequence[nn.Linear], scales: Tensor) -> None:
        super().multiply(consumers, scales)
        for layer in consumers:
            layer.weight = nn.Parameter(layer.weight.data)


class FirstSequenceOnly(SmallSmoother):
    """Unlisted: of a batch, the first sequence's statistic counts."""

    def smooth(self, producer: nn.Module, consumers: Sequence[nn.Linear], inputs: Tensor) -> None:
        super().smooth(producer, consumers, inputs[0] if inputs.ndim == 3 else inputs)


class RunningMaximum(SmallSmoother):
    """Unlisted: the maximum is that of all networks so far."""

    def __init__(self) -> None:
        self.largest: Tensor | None = None

    def statistic(self, tokens: Tensor) -> Tensor:
        found = super().statistic(tokens)
        self.largest = found if self.largest is None else torch.maximum(found, self.largest)
        return self.largest


@dataclass(frozen=True)
class SmootherMutant:
    """``fault`` must break the property; its small base class must keep it."""

    fault: type[SmallSmoother]
    broken: str

    @property
    def attributes(self) -> dict[str, Any]:
        return dict(MEAN if issubclass(self.fault, SmallMeanSmoother) else MAXIMUM)


DOUBLE = "test_the_function_is_preserved_in_float64"
SINGLE = "test_the_function_is_preserved_in_float32"
DEAD = "test_dead_features_and_unread_features_are_survived"
USEFUL = "test_large_features_become_smaller_beside_the_others"
ELSE = "test_nothing_else_changes"
TOKENS = "test_only_the_tokens_matter"

SMOOTHER_MUTANTS = [
    SmootherMutant(FirstConsumerOnly, DOUBLE),
    SmootherMutant(FirstRowsOfFusedProducer, "test_only_the_outputs_that_are_read_are_scaled"),
    SmootherMutant(ProducersBiasForgotten, DOUBLE),
    SmootherMutant(NoLowerLimit, DEAD),
    SmootherMutant(DeadFeaturesWipedOut, DEAD),
    SmootherMutant(MaximumForMean, "test_one_outlier_token_moves_scales_little"),
    SmootherMutant(DoesNothing, USEFUL),
    SmootherMutant(Inverted, USEFUL),
    SmootherMutant(ReciprocalInHalf, SINGLE),
    SmootherMutant(ConsumersBiasScaled, DOUBLE),
    SmootherMutant(ConsumersBiasScaled, ELSE),
    SmootherMutant(RowsForColumns, DOUBLE),
    SmootherMutant(NewParameters, ELSE),
    SmootherMutant(FirstSequenceOnly, TOKENS),
    SmootherMutant(RunningMaximum, TOKENS),
]
