"""Modules that compute what a transformers module computes, arranged otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A linear layer of these tensors."""
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    made.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    if bias is not None:
        made.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return made


class PartOf(nn.Module):
    """Some outputs of a linear layer that lies elsewhere in the model."""

    def __init__(self, whole: nn.Linear, columns: slice) -> None:
        super().__init__()
        self._whole = (whole,)  # in a tuple: its parameters are the owner's
        self._columns = columns

    @staticmethod
    def fused(parts: Sequence[nn.Linear]) -> nn.Linear:
        """One layer that computes what all of them do, one behind the other."""
        biases = [part.bias for part in parts]
        bias = torch.cat(biases) if all(b is not None for b in biases) else None
        return _linear(torch.cat([part.weight for part in parts]), bias)

    def forward(self, hidden: Tensor) -> Tensor:
        output: Tensor = self._whole[0](hidden)
        return output[..., self._columns]


class FusedGateUp(nn.Module):
    """A gated MLP whose gate and up projection are one layer."""

    def __init__(self, mlp: Any) -> None:
        super().__init__()
        self.gate_up_proj = PartOf.fused([mlp.gate_proj, mlp.up_proj])
        self.down_proj = mlp.down_proj
        self.act_fn = mlp.act_fn

    def forward(self, hidden: Tensor) -> Tensor:
        gate, up = self.gate_up_proj(hidden).chunk(2, dim=-1)
        output: Tensor = self.down_proj(self.act_fn(gate) * up)
        return output


class RenamedMlp(nn.Module):
    """A gated MLP with the names of another library."""

    def __init__(self, mlp: Any) -> None:
        super().__init__()
        self.w1, self.w2, self.w3 = mlp.gate_proj, mlp.down_proj, mlp.up_proj
        self.activation = mlp.act_fn

    def forward(self, hidden: Tensor) -> Tensor:
        output: Tensor = self.w2(self.activation(self.w1(hidden)) * self.w3(hidden))
        return output


class Wrapper(nn.Module):
    """A module around another, as compilers, profilers and adapters put there."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner(*args, **kwargs)


class ByRows(Wrapper):
    """Each row of a batch alone."""

    def forward(self, hidden: Tensor) -> Any:
        return torch.cat([self.inner(row[None]) for row in hidden])


class ByPositions(Wrapper):
    """16 positions at a time."""

    def forward(self, hidden: Tensor) -> Any:
        return torch.cat([self.inner(part) for part in hidden.split(16, dim=1)], dim=1)


class HalvesOfOutputs(nn.Module):
    """A linear layer as two that stand side by side."""

    def __init__(self, whole: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = whole.in_features, whole.out_features
        biases = (None, None) if whole.bias is None else whole.bias.chunk(2)
        weights = whole.weight.chunk(2)
        self.halves = nn.ModuleList(map(_linear, weights, biases))

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.cat([half(hidden) for half in self.halves], dim=-1)


class HalvesOfInputs(nn.Module):
    """A linear layer as the sum of two."""

    def __init__(self, whole: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = whole.in_features, whole.out_features
        first, second = whole.weight.chunk(2, dim=1)
        self.halves = nn.ModuleList([_linear(first, whole.bias), _linear(second, None)])

    def forward(self, hidden: Tensor) -> Tensor:
        parts = hidden.split([half.in_features for half in self.halves], dim=-1)
        first, second = (half(part) for half, part in zip(self.halves, parts, strict=True))
        return first + second  # type: ignore[no-any-return]


class ZeroAdapter(Wrapper):
    """A linear layer with a low-rank adapter whose second matrix is zero."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        dtype = linear.weight.dtype
        self.lora_A = nn.Parameter(torch.ones(4, self.in_features, dtype=dtype), False)
        self.lora_B = nn.Parameter(torch.zeros(self.out_features, 4, dtype=dtype), False)

    def forward(self, hidden: Tensor) -> Any:
        return self.inner(hidden) + hidden @ self.lora_A.T @ self.lora_B.T


class RmsNorm(nn.Module):
    """A norm by torch's own function. Gemma's weight is kept as its distance from 1, of which the
    dtype keeps more digits than of the weight itself: that is kept in float32."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        gemma = "Gemma" in type(norm).__name__  # it multiplies by its weight + 1
        weight = norm.weight.detach().float() + (1 if gemma else 0)
        kept = torch.float32 if gemma else norm.weight.dtype
        self.weight = nn.Parameter(weight.to(kept), requires_grad=False)
        self.eps = norm.eps if hasattr(norm, "eps") else norm.variance_epsilon

    def forward(self, hidden: Tensor) -> Tensor:
        shape = self.weight.shape
        exact = functional.rms_norm(hidden.float(), shape, self.weight.float(), self.eps)
        return exact.to(hidden.dtype)


class Head(nn.Module):
    """An output head that computes in float32 whatever the model's dtype."""

    def __init__(self, head: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = head.in_features, head.out_features
        self.weight, self.bias = head.weight, head.bias

    def forward(self, hidden: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.float()
        return functional.linear(hidden.float(), self.weight.float(), bias)
