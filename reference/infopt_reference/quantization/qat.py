"""Quantization-aware training: a short loop that wins back quality lost to rounding.

loss = mean over tokens of KL(p_float ‖ p_quantized): the model before quantization is the teacher
of its own quantized self, so that any text does, without labels, and nothing but the damage of the
rounding is trained away. Forward passes see the rounded weights (`fake_quantization`), Adam moves
the float weights behind them until they round elsewhere.

Contract. Deterministic: eval mode (no dropout), batches in the given order and then from the start
again. Only the float weights behind fake-quantized ones move, without weight decay. The learning
rate falls linearly to 0, since rounded weights that still jump at the end are noise. A padded
position is neither teacher nor student.

Memory: the teacher is a copy of the model; Adam keeps two numbers a weight. Left out: labels, mixed
precision, accumulation, checkpoints.

Sources: Jacob et al. 2018, arXiv:1712.05877, section 3; Liu et al. 2023, "LLM-QAT",
arXiv:2305.17888, section 2.1 (the model's own outputs as targets).
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..weight_matrices import DEFAULT_SKIP, evaluating
from .fake_quantization import prepare_qat, trained_weights
from .scheme import QuantizationScheme

Batch = Tensor | Mapping[str, Tensor]


def train_qat(
    model: nn.Module,
    batches: Sequence[Batch],
    scheme: QuantizationScheme,
    *,
    steps: int,
    learning_rate: float,
    skip: Iterable[str] = DEFAULT_SKIP,
    progress: Callable[[int, float], None] | None = None,
) -> tuple[float, ...]:
    """Prepares a model in place and trains it; deploy it with `convert_qat`.

    Args:
        model: a causal language model whose forward returns ``.logits`` [B, T, V] (transformers).
        batches: token ids [B, T], or mappings with ``input_ids`` and ``attention_mask`` [B, T].
        scheme: the format that the weights will have.
        steps: of the optimizer, one batch each.
        learning_rate: of the first step; weights move by about that much in each of the early ones,
            so compare it with the scheme's scales.
        skip: layers that stay float, as in `prepare_qat`.
        progress: called after each step with its number, from 1, and its loss.

    Returns:
        The loss of each step, before it, in nats a token.

    Raises:
        ValueError: steps or learning_rate is not positive, there are no batches, a batch has no
            tokens, a weight cannot be quantized, or a loss is not finite.
    """
    if steps < 1 or not 0 < learning_rate < math.inf:
        raise ValueError(f"steps is {steps}, learning_rate {learning_rate}; both must be positive")
    if not batches:
        raise ValueError("there are no batches to train on")
    teacher = copy.deepcopy(model).eval().requires_grad_(False)
    prepare_qat(model, scheme, skip=skip)
    weights = trained_weights(model)
    required = {parameter: parameter.requires_grad for parameter in model.parameters()}
    model.requires_grad_(False)
    for weight in weights:
        weight.requires_grad_()
    try:
        with evaluating(model):
            return _train(model, teacher, batches, weights, steps, learning_rate, progress)
    finally:
        for parameter, flag in required.items():
            parameter.requires_grad_(flag)


def distillation_kl(
    student_logits: Tensor, teacher_logits: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Mean KL(teacher ‖ student) in nats a token, of logits [B, T, V] and a mask [B, T] of tokens.

    Raises:
        ValueError: the mask excludes every token.
    """
    teacher = teacher_logits.float().log_softmax(dim=-1)
    student = student_logits.float().log_softmax(dim=-1)
    tokens = (teacher.exp() * (teacher - student)).sum(dim=-1)  # [B, T]
    if mask is not None:
        tokens = tokens[mask.bool()]
    if not tokens.numel():
        raise ValueError("the batch has no tokens outside its attention mask")
    return tokens.mean()


def _train(
    model: nn.Module,
    teacher: nn.Module,
    batches: Sequence[Batch],
    weights: list[nn.Parameter],
    steps: int,
    learning_rate: float,
    progress: Callable[[int, float], None] | None,
) -> tuple[float, ...]:
    optimizer = torch.optim.Adam(weights, lr=learning_rate)
    losses: list[float] = []
    for step, batch in enumerate(itertools.islice(itertools.cycle(batches), steps)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * (1 - step / steps)
        arguments = {"input_ids": batch} if isinstance(batch, Tensor) else dict(batch)
        with torch.no_grad():
            targets = _logits(teacher, arguments)
        loss = distillation_kl(_logits(model, arguments), targets, arguments.get("attention_mask"))
        if not bool(loss.isfinite()):
            raise ValueError(f"the loss of step {step + 1} is {loss.item()}; lower learning_rate")
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if progress is not None:
            progress(step + 1, losses[-1])
    return tuple(losses)


def _logits(model: nn.Module, arguments: dict[str, Any]) -> Tensor:
    logits: Tensor = model(**arguments, use_cache=False).logits
    return logits
