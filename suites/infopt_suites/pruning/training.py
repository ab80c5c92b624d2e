"""Properties of training with masks: what is pruned stays 0, and the rest trains as it would."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from ..base import Suite, requires
from ..tally import each_case
from .protocol import MakePruner, MaskKeeper


class TrainingProperties(Suite):
    """Those of a pruner that holds masks while an optimizer trains."""

    topic = ""

    @requires("training")
    def test_pruned_weights_stay_zero_in_training(self, make_pruner: MakePruner) -> None:
        """Masks that are set after some steps hold through further ones: exactly 0, every time.

        Usual causes: gradients are masked, and momentum or weight decay moves the weights; masks
        applied before the forward pass and not after the step.
        """
        for optimizer, _, kept, masks in each_case(_trained(make_pruner)):
            _assert_zero(kept, masks, optimizer)

    @requires("training")
    def test_kept_weights_train_as_if_zeros_were_written_after_each_step(
        self, make_pruner: MakePruner
    ) -> None:
        """Every weight that stays, and every bias, goes where it would go anyway.

        Usual causes: masks swapped between layers, parameters replaced by copies that the optimizer
        does not know, gradients masked twice or scaled.
        """
        for optimizer, plain, kept, _ in each_case(_trained(make_pruner)):
            kept.forward()  # where it is the forward pass that applies the masks
            for name, parameter in plain.module.named_parameters():
                expected = parameter.detach()
                away = float((_parameter(kept.module, name) - expected).abs().max())
                # Another order of the same float64 products.
                allowed = 2**-40 * float(expected.abs().max())
                assert away <= allowed, f"{optimizer}: {name} is {away:.3g} away"

    @requires("training", "remasking")
    def test_new_masks_hold_from_then_on(self, make_pruner: MakePruner) -> None:
        """Masks that are given in the middle of training hold through all further steps.

        Where "regrows" is not claimed, what was pruned before stays 0 as well. Usual causes: hooks
        of the first masks alone, new masks that are written once, momentum of what is pruned now,
        weights that come back although nobody said so.
        """
        stays = "regrows" not in self.capabilities
        for optimizer, kept, earlier, masks in each_case(_remasked(make_pruner)):
            both = {name: mask & earlier[name] for name, mask in masks.items()}
            _assert_zero(kept, both if stays else masks, optimizer)

    @requires("training", "remasking", "regrows")
    def test_weights_that_new_masks_keep_train_again(self, make_pruner: MakePruner) -> None:
        """A weight that an earlier mask removed, and the new one keeps, leaves 0 within four steps.

        Usual causes: both masks held at once, the gradient hooks of the first mask left in place.
        """
        dead: dict[tuple[str, str], Tensor] = {}
        for optimizer, kept, earlier, masks in _remasked(make_pruner):
            for name, mask in masks.items():
                weight = _parameter(kept.module, name)[mask & ~earlier[name]]
                before = dead.get((optimizer, name), torch.ones_like(weight, dtype=torch.bool))
                dead[optimizer, name] = before & (weight == 0)
        for (optimizer, name), still in each_case(dead.items()):
            assert not bool(still.any()), (
                f"{optimizer}: {int(still.sum())} of {still.numel()} weights of {name} that may "
                "grow again stay 0"
            )


_OPTIMIZERS: dict[str, Callable[[Collection[nn.Parameter]], torch.optim.Optimizer]] = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.1),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.1),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9),
}


def _assert_zero(kept: _Trainer, masks: Mapping[str, Tensor], optimizer: str) -> None:
    for name, mask in masks.items():
        revived = _parameter(kept.module, name)[~mask]
        assert not bool(revived.any()), (
            f"{optimizer}: {int(revived.count_nonzero())} of {revived.numel()} pruned "
            f"weights of {name} are no longer 0"
        )


def _trained(
    make_pruner: MakePruner,
) -> Iterator[tuple[str, _Trainer, _Trainer, Mapping[str, Tensor]]]:
    """After each step with masks: the optimizer, a network trained plainly, one kept, the masks.

    The plain network's pruned weights are set to 0 after each step.
    """
    start, x = _network()
    masks = _masks(seed=3)
    for optimizer in _OPTIMIZERS:
        plain = _Trainer(copy.deepcopy(start), optimizer, x)
        kept = _Trainer(copy.deepcopy(start), optimizer, x)
        for _ in range(3):  # so that momentum is not 0
            plain.step()
            kept.step()
        _write_zeros(plain.module, masks)
        keeper = cast(MaskKeeper, make_pruner())
        handle = keeper.keep(kept.module, masks, kept.optimizer)
        for _ in range(4):
            yield optimizer, plain, kept, masks
            plain.step()
            _write_zeros(plain.module, masks)
            kept.step()
        del handle  # lives as long as the training


def _remasked(
    make_pruner: MakePruner,
) -> Iterator[tuple[str, _Trainer, Mapping[str, Tensor], Mapping[str, Tensor]]]:
    """After each step with the second masks: the optimizer, the network, first and second masks."""
    start, x = _network()
    earlier, masks = _masks(seed=3), _masks(seed=4)
    for optimizer in _OPTIMIZERS:
        kept = _Trainer(copy.deepcopy(start), optimizer, x)
        keeper = cast(MaskKeeper, make_pruner())
        handles = []
        for held in (earlier, masks):
            handles.append(keeper.keep(kept.module, held, kept.optimizer))
            for _ in range(4):
                kept.step()
                kept.forward()  # where it is the forward pass that applies the masks
                if held is masks:
                    yield optimizer, kept, earlier, masks
        handles.clear()


def _network() -> tuple[nn.Module, Tensor]:
    """A small network in float64, and its inputs."""
    generator = torch.Generator().manual_seed(3)
    start = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    for parameter in start.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return start, torch.randn(16, 6, generator=generator, dtype=torch.float64)


def _masks(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = (("0.weight", (8, 6)), ("2.weight", (3, 8)))
    return {name: torch.rand(shape, generator=generator) > 0.5 for name, shape in shapes}


class _Trainer:
    def __init__(self, module: nn.Module, optimizer: str, x: Tensor) -> None:
        self.module, self.x = module, x
        self.optimizer = _OPTIMIZERS[optimizer](list(module.parameters()))

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.forward().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.optimizer.step()

    def forward(self) -> Tensor:
        loss: Tensor = self.module(self.x).square().mean()
        return loss


def _write_zeros(module: nn.Module, masks: Mapping[str, Tensor]) -> None:
    for name, mask in masks.items():
        module.get_parameter(name).data.mul_(mask)


def _parameter(module: nn.Module, name: str) -> Tensor:
    """What the module has computed with, be it a parameter or made from one."""
    path, _, last = name.rpartition(".")
    value: Tensor = getattr(module.get_submodule(path), last)
    return value.detach()
