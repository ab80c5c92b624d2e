"""The batch that two models are compared on."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch

from ...engines.base import ModuleEngine
from ...engines.transformers.cached_rows import left_padded, positions_of


def batch_inputs(engine: ModuleEngine, prompts: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Keyword arguments of the model's forward: the prompts, padded on the left."""
    rows = [torch.tensor(prompt, device=engine.device) for prompt in prompts]
    ids, mask = left_padded(rows, pad=0)
    inputs: dict[str, Any] = {"input_ids": ids, "use_cache": False, "return_dict": True}
    if mask is not None:
        inputs |= {"attention_mask": mask, "position_ids": positions_of(mask)}
    known = inspect.signature(engine.module.forward).parameters
    given = {name: value for name, value in inputs.items() if name in known}
    # Granite's MoE models hand it on among others, and would fill a cache otherwise.
    anything = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values())
    return {**given, "use_cache": False} if anything else given
