"""A student made of its teacher's layers: the cheapest start that there is.

Contract. The student is a model of its own, sharing no tensor with the teacher: embedding, head and
norm are copies, and so are the chosen layers, renumbered for their caches. Which are chosen matters
more than a first training: `least_needed` asks the teacher itself.
Leaves out: models whose layers differ in kind by their number (sliding windows on some).

Source: Sanh et al. 2019, arXiv:1910.01108 (DistilBERT); Sajjad et al. 2023, arXiv:2004.03844; Kim
et al. 2024, arXiv:2402.02834, section 3.1 (layers chosen by what the model says without each).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .divergence import computed, forward_kl


def keep_layers(teacher: Any, layers: Sequence[int]) -> Any:
    """A copy of a causal model of transformers with these of its layers, in this order.

    Raises:
        ValueError: no layer is kept, one twice, or one that the teacher does not have.
    """
    count = len(teacher.model.layers)
    if not layers or len({*layers} & {*range(count)}) < len(layers):
        raise ValueError(f"layers {list(layers)} of a teacher with layers 0…{count - 1}")
    config = copy.deepcopy(teacher.config)
    config.num_hidden_layers = len(layers)
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[layer] for layer in layers]
    with torch.device("meta"):
        student = type(teacher)(config)
    renamed = {layer: number for number, layer in enumerate(layers)}
    weights = {}
    for name, value in teacher.state_dict().items():
        parts = name.split(".")
        if parts[:2] == ["model", "layers"]:
            if int(parts[2]) not in renamed:
                continue
            parts[2] = str(renamed[int(parts[2])])
        weights[".".join(parts)] = value.clone()
    student.load_state_dict(weights, assign=True)
    student.tie_weights()
    student.model.rotary_emb = copy.deepcopy(teacher.model.rotary_emb)  # a buffer that is not saved
    return student.eval()


@torch.no_grad()
def least_needed(teacher: Any, ids: Tensor, layers: Sequence[int], count: int = 1) -> list[int]:
    """Those ``count`` of a causal model's ``layers`` without each of which the model of the others
    is nearest to the teacher: by the mean KL at all tokens of ids [B, S].

    One call drops layers that may stand in for each other; a call for each is the surest. The
    teacher works with fewer layers meanwhile, and is as before afterwards.

    Raises:
        ValueError: so many are not to be had, or none would be left.
    """
    if not 1 <= count < len(layers):
        raise ValueError(f"{count} of {len(layers)} layers; at least one is chosen, and one left")
    teacher.eval()
    meant = _said(teacher, ids)
    away = {}
    for layer in layers:
        with _only(teacher, [other for other in layers if other != layer]):
            away[layer] = float(forward_kl(_said(teacher, ids), meant).mean())
    return sorted(layers, key=away.__getitem__)[:count]


def _said(model: Any, ids: Tensor) -> Tensor:
    return computed(model(input_ids=ids, use_cache=False).logits).log_softmax(dim=-1)


@contextmanager
def _only(teacher: Any, layers: Sequence[int]) -> Iterator[None]:
    every = teacher.model.layers
    teacher.model.layers = nn.ModuleList(every[layer] for layer in layers)
    try:
        yield
    finally:
        teacher.model.layers = every


def spread(kept: int, count: int) -> list[int]:
    """``kept`` of ``count`` layers, evenly, first and last among them where two are kept."""
    if not 1 <= kept <= count:
        raise ValueError(f"{kept} of {count} layers")
    if kept == 1:
        return [count - 1]
    return [round(i * (count - 1) / (kept - 1)) for i in range(kept)]
