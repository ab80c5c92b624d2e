"""Which linear layers of a model an optimisation takes: one rule for quantizing, training, pruning.
And the mode in which a model runs meanwhile.

Left out are embeddings (a table look-up, not a product), layers that the caller names, and weights
shared with a module that is not a linear layer: a tied output head, whose float matrix the
embedding keeps anyway.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn

DEFAULT_SKIP = ("lm_head",)


def select_linear_layers(
    model: nn.Module, skip: Iterable[str] = DEFAULT_SKIP, *, include_tied: bool = False
) -> tuple[dict[str, nn.Linear], tuple[str, ...]]:
    """The `nn.Linear` layers to take, by dotted name, and the names of those left alone.

    Subclasses of `nn.Linear` are not even listed: some read ``.weight`` themselves, as
    `nn.MultiheadAttention` does with its output projection. A layer that a model holds under two
    names appears under both.

    Args:
        model: any module, for instance a transformers model.
        skip: module names to leave alone. A name stands for every module whose dotted path has it
            as consecutive parts: "down_proj", "layers.0", "lm_head". ``()`` takes the head too.
        include_tied: take also layers whose weight an embedding shares.

    Raises:
        ValueError: a name in skip matches no module, or no layer is left.
    """
    skip = tuple(skip)
    _check_skip(model, skip)
    shared = weights_outside_linear_layers(model)
    chosen: dict[str, nn.Linear] = {}
    skipped: list[str] = []
    for name, module in model.named_modules(remove_duplicate=False):
        if type(module) is nn.Linear:
            tied = id(module.weight) in shared and not include_tied
            if tied or any(_matches(name, part) for part in skip):
                skipped.append(name)
            else:
                chosen[name] = module
    if not chosen:
        raise ValueError(f"no nn.Linear layer left; skipped: {', '.join(skipped) or 'none'}")
    return chosen, tuple(skipped)


def weights_outside_linear_layers(model: nn.Module) -> set[int]:
    """The ids of the parameters that modules other than `nn.Linear` hold."""
    return {
        id(parameter)
        for module in model.modules()
        if type(module) is not nn.Linear
        for parameter in module.parameters(recurse=False)
    }


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model without dropout; each module's mode comes back afterwards."""
    # By name: layers may be replaced meanwhile, and should not stay in memory for their mode.
    training = {name: module.training for name, module in model.named_modules()}
    model.eval()
    try:
        yield
    finally:
        for name, module in model.named_modules():
            module.training = training[name]


def _matches(name: str, part: str) -> bool:
    return f".{part}." in f".{name}."


def _check_skip(model: nn.Module, skip: tuple[str, ...]) -> None:
    names = [name for name, _ in model.named_modules(remove_duplicate=False)]
    for part in skip:
        # The default must suit models without a head too.
        if part not in DEFAULT_SKIP and not any(_matches(name, part) for name in names):
            raise ValueError(f"skip names {part!r}, which is in no module's path of this model")
