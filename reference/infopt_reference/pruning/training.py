"""Training a pruned model on: the masks hold through every step of any optimizer.

A mask on the gradients alone does not hold: momentum from before the pruning goes on moving the
weights, and so does a decay of weights that are not quite 0. So three things are done:

at once          pruned weights become 0, and so do their entries in the optimizer's state;
before a step    the gradients of pruned weights become 0, so that they count in no momentum, no
                 second moment and no norm that the optimizer itself takes;
after a step     pruned weights are set to 0 again, whatever the step did.

Contract. After each ``optimizer.step()`` the pruned weights are exactly +0. Parameters stay plain
parameters of their modules: state_dict, tied weights and quantization see nothing of the masks.

Left out: gradients before they reach the optimizer (norm clipping sees those of pruned weights),
and weights that other code writes between steps (loading a state_dict), until the next step.

Source: Han et al. 2015, arXiv:1506.02626, section 3 (retraining with fixed masks).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class MaskedTraining:
    """Holds masks on a model's parameters while an optimizer trains it.

    Args:
        model: the pruned model, or one to prune by these masks now.
        masks: bool, True = kept, by parameter name ("layers.0.weight"), as in `PruningReport`.
        optimizer: whose steps are watched; it may have made some already.

    Raises:
        ValueError: a name is no parameter, a mask is not bool or of another shape, two masks of one
            shared parameter differ, or the optimizer does not train a masked parameter.
    """

    def __init__(self, model: nn.Module, masks: Mapping[str, Tensor], optimizer: Optimizer) -> None:
        self._masks = _by_parameter(model, masks)
        trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            if name in masks and id(parameter) not in trained:
                raise ValueError(f"the optimizer does not train {name}; leave its mask out")
        self._clear_state(optimizer)
        self._clear_weights()
        self._hooks = (
            optimizer.register_step_pre_hook(lambda *_: self._clear_gradients()),
            optimizer.register_step_post_hook(lambda *_: self._clear_weights()),
        )

    def make_permanent(self) -> None:
        """Lets go of the optimizer. The zeros stay, as ordinary weights that training may move."""
        for hook in self._hooks:
            hook.remove()

    @torch.no_grad()
    def _clear_weights(self) -> None:
        for parameter, mask in self._masks:
            parameter.masked_fill_(~mask, 0)

    @torch.no_grad()
    def _clear_gradients(self) -> None:
        for parameter, mask in self._masks:
            if parameter.grad is not None:
                parameter.grad.masked_fill_(~mask, 0)

    @torch.no_grad()
    def _clear_state(self, optimizer: Optimizer) -> None:
        for parameter, mask in self._masks:
            state: dict[str, Any] = optimizer.state.get(parameter, {})
            for value in state.values():
                # Whatever has an entry for each weight: momenta, second moments, their maxima.
                if isinstance(value, Tensor) and value.shape == mask.shape:
                    value.masked_fill_(~mask, 0)


@torch.no_grad()
def apply_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Sets the pruned weights of a model to 0, in place; raises as `MaskedTraining` does."""
    for parameter, mask in _by_parameter(model, masks):
        parameter.masked_fill_(~mask, 0)


def _by_parameter(
    model: nn.Module, masks: Mapping[str, Tensor]
) -> list[tuple[nn.Parameter, Tensor]]:
    parameters = dict(model.named_parameters(remove_duplicate=False))
    found: dict[int, tuple[nn.Parameter, Tensor]] = {}
    for name, mask in masks.items():
        if name not in parameters:
            raise ValueError(f"{name!r} is no parameter of this model")
        parameter = parameters[name]
        if mask.dtype is not torch.bool or mask.shape != parameter.shape:
            raise ValueError(
                f"the mask of {name} is {mask.dtype} of shape {tuple(mask.shape)}; give torch.bool "
                f"of shape {tuple(parameter.shape)}"
            )
        mask = mask.to(parameter.device)
        _, other = found.setdefault(id(parameter), (parameter, mask))
        if not torch.equal(mask, other):
            raise ValueError(f"{name} shares its weights with another name and differs in its mask")
    return list(found.values())
