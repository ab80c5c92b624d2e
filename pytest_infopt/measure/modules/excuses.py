"""Accused modules that another one makes up for: norms folded into weights, permuted heads.

Whatever the trick, a module around it computes what the reference's does, and the reference's with
nothing but the accused module swapped in does not; or others before it in its layer change its
inputs so that its outputs are right. So a module is excused exactly if what is wrong is at most
half as much

    of a module around it, up to the layer     as of the reference's with the accused one in it
    of its own outputs in its layer            as of those on the reference's inputs

over all tokens, or of the usual token: a router's near-tie is decided otherwise at a few.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..module_calls import called_like, computing_with, first_tensor, moved, watched
from ..paired_modules import PairedModules
from ..row_errors import least_factor
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
        """The accusations with what excuses them, by the modules around each up to its layer, or by
        the whole model where there is no layer."""
        found = list(accusations)
        inside: dict[str, list[int]] = {}
        for index, accusation in enumerate(accusations):
            for name in self._around(accusation.module):
                inside.setdefault(name, []).append(index)
        looking = False

        def look(name: str, args: Any, kwargs: Any, output: Any) -> None:
            nonlocal looking
            if looking:  # the reference's own modules, where they are the plain ones
                return
            looking = True
            waiting = {i: found[i] for i in inside[name] if not found[i].excuse}
            for index, excuse in self._look(name, args, kwargs, waiting) if waiting else ():
                found[index] = replace(found[index], excuse=excuse)
            looking = False

        pairs = self._paired.pairs
        with torch.no_grad(), watched({n: pairs[n].reference for n in inside}, look):
            self._forward()
        return found

    def _around(self, module: str) -> list[str]:
        """The modules around a module, as far as its layer; of a layer itself, that layer."""
        block = outermost_block(module)
        names = [block] if module == block and block in self._paired.pairs else []
        while module != block:
            module = module.rpartition(".")[0]
            pair = self._paired.pairs.get(module)
            if pair is not None and not isinstance(pair.reference, (nn.ModuleList, nn.ModuleDict)):
                names.append(module)
        return names

    def _look(
        self, name: str, args: Any, kwargs: Any, waiting: Mapping[int, Accusation]
    ) -> Iterator[tuple[int, str]]:
        """The excuses that this module around them gives, with the accusations' numbers."""
        pair, plain = self._paired.pairs[name], self._plain(name)
        exact = _output(called_inside(plain, args, kwargs))
        own = _output(called_like(pair.candidate, args, kwargs, self._dtype)).to(exact.device)
        if own.shape != exact.shape:
            return
        rounding = torch.finfo(self._dtype).eps / 2
        in_place = self._in_place(name, args, kwargs, waiting.values())
        for index, accusation in waiting.items():
            with computing_with(self._swapped(accusation)):
                output = _output(called_inside(plain, args, kwargs))
            title = name or "the whole model"
            if _is_half(exact, own - exact, output - exact, rounding):
                size = exact.norm()
                yield (
                    index,
                    f"{title} errs by {(own - exact).norm() / size:.2g} of its output's size, the "
                    f"reference's with this module in it by {(output - exact).norm() / size:.2g}: "
                    "others make up for it",
                )
            elif accusation.module in in_place and _is_half(*in_place[accusation.module], rounding):
                error, alone = (float(e.norm()) for e in in_place[accusation.module][1:])
                yield (
                    index,
                    f"in its place in {title} it errs by {error / alone:.2g} of that: others make "
                    "up for it",
                )

    def _in_place(
        self, name: str, args: Any, kwargs: Any, accusations: Iterable[Accusation]
    ) -> dict[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """By module inside a module, its output, what the candidate's errs by there, behind the
        candidate's own, and on the reference's inputs."""
        pairs, modules = self._paired.pairs, {a.module for a in accusations if a.part == "weights"}
        inside = {n for n in modules if n in pairs and n != name}
        exact: dict[str, torch.Tensor] = {}
        alone: dict[str, torch.Tensor] = {}
        own: dict[str, torch.Tensor] = {}

        def see_plain(module: str, given: Any, named: Any, output: Any) -> None:
            exact[module] = _output(output)
            alone[module] = _output(self._candidate_forward(module)(*given, **named))

        def see_own(module: str, given: Any, named: Any, output: Any) -> None:
            own[module] = _output(pairs[module].part(output)).to(exact[module].device)

        with watched({n: self._plain(n) for n in inside}, see_plain):
            called_inside(self._plain(name), args, kwargs)
        with watched({n: pairs[n].candidate for n in inside & exact.keys()}, see_own):
            called_like(pairs[name].candidate, args, kwargs, self._dtype)
        return {
            n: (exact[n], own[n] - exact[n], alone[n] - exact[n])
            for n in own
            if own[n].shape == exact[n].shape == alone[n].shape
        }

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
            given = first_tensor((args, kwargs))  # of a plain module, which may be narrower
            return output if given is None else moved(output, given.dtype, given.device)

        return forward


def called_inside(module: nn.Module, args: Any, kwargs: Any) -> Any:
    """A call of a plain module's own forward, in the dtype of its weights: hooks that look for
    excuses are not called again."""
    own = next(module.parameters())
    return module.forward(
        *moved(args, own.dtype, own.device), **moved(kwargs, own.dtype, own.device)
    )


def _is_half(exact: torch.Tensor, error: torch.Tensor, other: torch.Tensor, eps: float) -> bool:
    """Whether errors [..., C] of exact values are at most half as large as others, in all or of the
    usual token, where rounding the values by a relative ``eps`` is no error."""
    if not bool(other.any()):
        return False
    if float(error.norm()) <= _HALF * float(other.norm()):
        return True
    rounding, tokens, others = (e.norm(dim=-1).flatten() for e in (exact * eps, error, other))
    return least_factor(others, torch.maximum(tokens, rounding)) * _HALF >= 1


def _output(value: Any) -> torch.Tensor:
    found = first_tensor(value)
    assert found is not None
    return found.float().nan_to_num()
