"""Every module that holds no other, fed what the reference's was fed.

The reference's own pass drives: as each of its modules has computed, the candidate's partner
computes the same input, both outputs become a handful of figures, and are dropped. So no more than
one module's activations are held. The experts of a stack [E, out, in] are called together, each
with tokens of its own: those that the router gave it, or, where it gave it fewer than a few, any.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from infopt_reference.weight_matrices import layer_matrix
from torch import nn

from pytest_infopt.measure.module_calls import called_like, first_tensor, nudged
from pytest_infopt.measure.paired_modules import ModulePair, kind_of

from .output_errors import OutputErrors, output_errors
from .storage import Storage, storage_of

_EXPERT_TOKENS = 16  # that an expert is fed


@dataclass(frozen=True)
class Leaf:
    """A module, or an expert of a stack: what the candidate's makes of the reference's input,
    beside what the same dtype costs a plain implementation."""

    name: str
    storage: Storage
    errors: OutputErrors
    cost: OutputErrors
    columns: int  # of the batch, to name a token's row and position by
    weights: torch.Tensor | None = None  # the reference's matrix

    @property
    def kind(self) -> str:
        return kind_of(self.name)


class LeafRun:
    """Collects the leaves of a pass of the reference; `hooks` are to be on it meanwhile.

    ``plain`` maps names to modules with the reference's weights in the candidate's dtype. Where
    those are the reference's own, what the dtype costs is what a change of each input by one
    rounding unit makes of the output.
    """

    def __init__(
        self,
        pairs: Mapping[str, ModulePair],
        plain: Callable[[str], nn.Module],
        dtype: torch.dtype,
    ) -> None:
        self.leaves: dict[str, Leaf] = {}
        self.failed: dict[str, str] = {}  # modules that refused the reference's input, and why
        self.unrouted = 0  # experts that were fed tokens which the router did not give them
        self._pairs = {name: pair for name, pair in pairs.items() if pair.is_leaf and name}
        # Found before any hook is there: some layers have to be called to know what they compute.
        self._matrices = {n: layer_matrix(pair.reference) for n, pair in self._pairs.items()}
        self._plain, self._dtype = plain, dtype

    @property
    def not_tried(self) -> list[str]:
        """Modules that the reference's pass never called."""
        tried = self.leaves.keys() | self.failed.keys()
        stacks = {name.rpartition(".")[0] for name in tried}
        return [name for name in self._pairs if name not in tried | stacks]

    def run(self, forward: Callable[[], Any]) -> None:
        """Let ``forward`` be a pass of the reference, and measure every pair on the way."""
        handles = [
            pair.reference.register_forward_hook(self._hook(pair), with_kwargs=True)
            for pair in self._pairs.values()
        ]
        try:
            with torch.no_grad():
                forward()
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, pair: ModulePair) -> Callable[..., None]:
        def measure(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if pair.name in self.leaves:
                return
            try:
                if (routed := _routed(module, args, kwargs)) is not None:
                    self._measure_experts(pair, *routed)
                else:
                    self._measure(pair, args, kwargs, output)
            except (RuntimeError, TypeError, ValueError, AttributeError) as error:
                self.failed[pair.name] = str(error).partition("\n")[0]

        return measure

    def _measure(self, pair: ModulePair, args: Any, kwargs: Any, output: Any) -> None:
        exact = first_tensor(output)
        if exact is None:
            return
        inputs = first_tensor((args, kwargs))
        matrix = self._matrices[pair.name]
        weight = None if matrix is None else matrix.weight.detach()
        found = first_tensor(called_like(pair.candidate, args, kwargs, self._dtype))
        if found is None or pair.part(found).shape != exact.shape:
            self.failed[pair.name] = "its output has another shape"
            return
        errors = output_errors(pair.part(found), exact, inputs, weight)
        cost = errors if errors.identical else self._cost(pair, args, kwargs, exact, inputs, weight)
        count = sum(parameter.numel() for parameter in pair.reference.parameters())
        self.leaves[pair.name] = Leaf(
            pair.name,
            storage_of(pair.candidate, count),
            errors,
            cost,
            int(exact.shape[-2]) if exact.ndim > 2 else len(exact),
            weight,
        )

    def _cost(
        self,
        pair: ModulePair,
        args: Any,
        kwargs: Any,
        exact: torch.Tensor,
        inputs: torch.Tensor | None,
        weight: torch.Tensor | None,
    ) -> OutputErrors:
        plain = self._plain(pair.name)
        if plain is pair.reference:
            args, kwargs = nudged((args, kwargs))
            found = first_tensor(plain.forward(*args, **kwargs))
        else:
            found = first_tensor(called_like(plain, args, kwargs, self._dtype))
        assert found is not None
        return output_errors(found, exact, inputs, weight)

    def _measure_experts(
        self, pair: ModulePair, hidden: torch.Tensor, chosen: torch.Tensor, count: int
    ) -> None:
        tokens, unrouted = _expert_tokens(chosen, count)  # [E, n]
        self.unrouted += unrouted
        experts = torch.arange(count, device=tokens.device)[:, None].expand_as(tokens)
        given = hidden[tokens.flatten()]
        args = (given, experts.reshape(-1, 1), torch.ones_like(given[:, :1]))
        exact = first_tensor(pair.reference.forward(*args))
        found = first_tensor(called_like(pair.candidate, args, {}, self._dtype))
        plain = self._plain(pair.name)
        if plain is pair.reference:
            plain_args = (nudged(given), *args[1:])
            cost = first_tensor(plain.forward(*plain_args))
        else:
            cost = first_tensor(called_like(plain, args, {}, self._dtype))
        assert exact is not None
        assert found is not None
        assert cost is not None
        weights = sum(parameter.numel() for parameter in pair.reference.parameters())
        storage, n = storage_of(pair.candidate, weights), tokens.shape[1]
        for expert in range(count):
            rows = slice(expert * n, (expert + 1) * n)
            self.leaves[f"{pair.name}.{expert}"] = Leaf(
                f"{pair.name}.{expert}",
                storage,
                output_errors(found[rows], exact[rows], given[rows]),
                output_errors(cost[rows], exact[rows], given[rows]),
                n,
            )


def _routed(
    module: nn.Module, args: Any, kwargs: Any
) -> tuple[torch.Tensor, torch.Tensor, int] | None:
    """Tokens [N, I], the experts chosen for each [N, k], and how many there are; None where the
    module is no stack of experts."""
    count = getattr(module, "num_experts", None)
    given = [*args, *kwargs.values()]
    if not isinstance(count, int) or len(given) != 3:
        return None
    hidden, chosen, weights = given
    if not all(isinstance(t, torch.Tensor) for t in given) or chosen.is_floating_point():
        return None
    fits = hidden.ndim == chosen.ndim == 2 and weights.shape == chosen.shape
    return (hidden, chosen, count) if fits else None


def _expert_tokens(chosen: torch.Tensor, count: int) -> tuple[torch.Tensor, int]:
    """Which tokens each expert is fed [E, n], its own first; how many experts had too few."""
    n = min(_EXPERT_TOKENS, len(chosen))
    own = torch.stack([(chosen == expert).any(-1) for expert in range(count)])  # [E, N]
    return own.int().argsort(dim=-1, descending=True, stable=True)[:, :n], int(
        (own.sum(-1) == 0).sum()
    )
