"""Accused modules that another one makes up for: norms folded into weights, permuted heads.

Whatever the trick, the layer around such a module computes what the reference's does, and the
reference's layer with nothing but that module swapped in does not. So a module is excused exactly
if its layer errs at most half as much as the reference's layer with the module in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from pytest_infopt.measure.module_calls import called_like, computing_with, first_tensor, moved
from pytest_infopt.measure.paired_modules import PairedModules

from .accusation import Accusation
from .composition import atomic_parts, outermost_block

_HALF = 0.5


class Excuses:
    """Looks for excuses in passes of the reference.

    ``plain`` maps names to modules with the reference's weights in the candidate's dtype: what a
    module's layer errs by is taken against theirs, so that rounding is no part of it.
    """

    def __init__(
        self,
        paired: PairedModules,
        plain: Callable[[str], nn.Module],
        dtype: torch.dtype,
        forward: Callable[[], Any],
    ) -> None:
        self._paired, self._plain, self._dtype, self._forward = paired, plain, dtype, forward

    def of(self, accusations: Sequence[Accusation]) -> list[Accusation]:
        """The accusations with what excuses them, by the layer around each, or by the whole model
        where there is none."""
        by_block: dict[str, list[int]] = {}
        for index, accusation in enumerate(accusations):
            by_block.setdefault(outermost_block(accusation.module), []).append(index)
        found = list(accusations)

        def hook(block: str, indices: list[int]) -> Callable[..., None]:
            def look(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
                excuses = self._look(block, args, kwargs, [found[i] for i in indices])
                for index, excuse in zip(indices, excuses, strict=True):
                    found[index] = replace(found[index], excuse=excuse)

            return look

        handles = [
            self._paired.pairs[block].reference.register_forward_hook(
                hook(block, indices), with_kwargs=True
            )
            for block, indices in by_block.items()
            if block in self._paired.pairs
        ]
        try:
            with torch.no_grad():
                self._forward()
        finally:
            for handle in handles:
                handle.remove()
        return found

    def _look(
        self, block: str, args: Any, kwargs: Any, accusations: Sequence[Accusation]
    ) -> list[str]:
        pair, plain = self._paired.pairs[block], self._plain(block)
        call = (args, kwargs, self._dtype)
        exact = _output(called_like_inside(plain, *call))
        own = _output(called_like(pair.candidate, *call)).to(exact.device)
        error = float((own - exact).norm() / exact.norm())
        found = []
        for accusation in accusations:
            with computing_with(self._swapped(accusation)):
                output = _output(called_like_inside(plain, *call))
            swapped = float((output - exact).norm() / exact.norm())
            excused = swapped > 0 and error <= _HALF * swapped
            title = block or "the whole model"
            found.append(
                f"{title} errs by {error:.2g} of its output's size, the reference's with this "
                f"module in it by {swapped:.2g}: others make up for it"
                if excused
                else ""
            )
        return found

    def _swapped(self, accusation: Accusation) -> dict[nn.Module, Callable[..., Any]]:
        """Forwards of plain modules in place of which the candidate's compute."""
        names = [accusation.module]
        if accusation.part == "composition":
            names = atomic_parts(self._paired, accusation.module)
        while names[0] not in self._paired.pairs:  # an expert stands for its stack
            names = [names[0].rpartition(".")[0]]
        return {self._plain(name): self._candidate_forward(name) for name in names}

    def _candidate_forward(self, name: str) -> Callable[..., Any]:
        pair = self._paired.pairs[name]

        def forward(*args: Any, **kwargs: Any) -> Any:
            output = called_like(pair.candidate, args, kwargs, self._dtype)
            if pair.columns is not None:
                output = pair.part(output)
            return output

        return forward


def called_like_inside(module: nn.Module, args: Any, kwargs: Any, dtype: torch.dtype) -> Any:
    """A call of a module's own forward: hooks that look for excuses are not called again."""
    device = next(module.parameters()).device
    return module.forward(*moved(args, dtype, device), **moved(kwargs, dtype, device))


def _output(value: Any) -> torch.Tensor:
    found = first_tensor(value)
    assert found is not None
    return found.float().nan_to_num()
