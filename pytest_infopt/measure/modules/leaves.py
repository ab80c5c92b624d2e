"""Every module that holds no other, fed what the reference's was fed, and normal noise.

The reference's own pass drives: as each of its modules has computed, the candidate's partner
computes the same input, both outputs become a handful of figures, and are dropped. So no more than
one module's activations are held. The experts of a stack [E, out, in] are called together, each
with tokens of its own: those that the router gave it, or, where it gave it fewer than a few, any.

What a text makes of an error of the weights depends on its few large activations. On noise, all
weights count alike: matrices of one kind, rounded in one way, err alike there. And what a matrix
makes of a token depends on nothing else, and is half as large for one half as large: what is not,
no error of weights explains.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from infopt_reference.weight_matrices import layer_matrix
from torch import nn

from .. import OUTPUT_FACTOR
from ..module_calls import called_like, copied, first_tensor, nudged, watched
from ..paired_modules import ModulePair, kind_of
from .output_errors import ExactOutput, OutputErrors
from .positions import far_call, rounding_of_angles
from .storage import Storage, storage_of

_EXPERT_TOKENS = 16  # that an expert is fed
_NOISE_TOKENS = 256

Outputs = tuple[torch.Tensor, torch.Tensor]  # of the candidate's module, and of the plain one


@dataclass(frozen=True)
class Figures:
    """What the candidate's module errs by on one input, and what the same dtype costs a plain
    implementation."""

    errors: OutputErrors
    cost: OutputErrors


@dataclass(frozen=True)
class Leaf:
    """A module, or an expert of a stack, on the reference's input; a matrix that errs by more than
    its dtype costs on noise as well.

    ``uneven`` is what a matrix errs by otherwise, as the text's tokens come in reverse order, each
    half as large.
    """

    name: str
    storage: Storage
    text: Figures
    columns: int  # of the batch, to name a token's row and position by
    noise: Figures | None = None
    uneven: Figures | None = None
    composed: bool = False  # of others, which are arranged otherwise in the candidate
    weights: torch.Tensor | None = None  # the reference's matrix

    @property
    def errors(self) -> OutputErrors:
        return self.text.errors

    @property
    def cost(self) -> OutputErrors:
        return self.text.cost

    @property
    def as_its_dtype(self) -> bool:
        """Whether it errs by no more than unquantized weights may in this dtype."""
        return all(
            getattr(self.errors, figure) <= OUTPUT_FACTOR * getattr(self.cost, figure)
            for figure in ("error", "channel_error", "token_error")
        )

    @property
    def of_weights(self) -> Figures:
        """Where all weights count alike, if that is known."""
        return self.noise or self.text

    @property
    def kind(self) -> str:
        return kind_of(self.name)


class LeafRun:
    """Collects the leaves of a pass of the reference; `hooks` are to be on it meanwhile.

    ``plain`` maps names to modules with the reference's weights in the candidate's dtype, ``whole``
    are names of modules that are taken as one although the reference's hold others; the model is
    made for positions up to ``last_position``. Where the plain modules are the reference's own,
    what the dtype costs is what a change of each input by one rounding unit makes of the output.
    """

    def __init__(
        self,
        pairs: Mapping[str, ModulePair],
        plain: Callable[[str], nn.Module],
        dtype: torch.dtype,
        whole: Collection[str] = (),
        last_position: int = 0,
    ) -> None:
        self.leaves: dict[str, Leaf] = {}
        self.failed: dict[str, str] = {}  # modules that refused the reference's input, and why
        self.unrouted = 0  # experts that were fed tokens which the router did not give them
        self._whole, self._last = whole, last_position
        self._pairs = {n: p for n, p in pairs.items() if n and (p.is_leaf or n in whole)}
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
        references = {name: pair.reference for name, pair in self._pairs.items()}
        with torch.no_grad(), watched(references, self._see):
            forward()

    def _see(self, name: str, args: Any, kwargs: Any, output: Any) -> None:
        if name in self.leaves:
            return
        pair = self._pairs[name]
        try:
            if (routed := _routed(pair.reference, args, kwargs)) is not None:
                self._measure_experts(pair, *routed)
            else:
                self._measure(pair, args, kwargs, output)
        except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
            self.failed[name] = str(error).partition("\n")[0]

    def _measure(self, pair: ModulePair, args: Any, kwargs: Any, output: Any) -> None:
        exact = first_tensor(output)
        if exact is None:
            return
        inputs = first_tensor((args, kwargs))
        made = self._outputs(pair, args, kwargs)
        if made[0].shape != exact.shape:
            self.failed[pair.name] = "its output has another shape"
            return
        matrix = self._matrices[pair.name]
        count = sum(parameter.numel() for parameter in pair.reference.parameters())
        leaf = Leaf(
            pair.name,
            storage_of(pair.candidate, count),
            self._with_far_positions(_figures(made, exact, inputs), pair, args, kwargs),
            int(exact.shape[-2]) if exact.ndim > 2 else len(exact),
            weights=None if matrix is None else matrix.weight.detach(),
            composed=pair.name in self._whole,
        )
        self.leaves[pair.name] = leaf
        if matrix is not None and inputs is not None and not leaf.as_its_dtype:
            with suppress(RuntimeError, TypeError, ValueError, AttributeError):
                self.leaves[pair.name] = self._as_a_matrix(leaf, pair, inputs, exact, made)

    def _with_far_positions(
        self, near: Figures, pair: ModulePair, args: Any, kwargs: Any
    ) -> Figures:
        """The figures, or those at far positions, where the module errs more there."""
        call = far_call(pair.reference, (args, kwargs), self._last)
        if call is None:
            return near
        args, kwargs = copied(call)
        exact = first_tensor(pair.reference.forward(*args, **kwargs))
        own, usual = self._outputs(pair, *call)
        rounding = rounding_of_angles(pair.reference.forward, call)
        if exact is None or rounding is None or own.shape != exact.shape:
            return near
        far = _figures((own, usual + rounding), exact, None)
        return max(near, far, key=lambda f: f.errors.error / (f.cost.error or 1.0))

    def _as_a_matrix(
        self, leaf: Leaf, pair: ModulePair, inputs: torch.Tensor, exact: torch.Tensor, made: Outputs
    ) -> Leaf:
        """The leaf with its figures on other inputs. Raises what a module raises that takes none
        but the model's."""
        size = float(inputs.float().square().mean(-1).sqrt().median())  # of a usual token
        shape = (*(1 for _ in inputs.shape[:-2]), _NOISE_TOKENS, inputs.shape[-1])
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * (size or 1.0)
        noise, halves = noise.to(inputs), _reversed(inputs) / 2
        on_noise, on_halves = (pair.reference.forward(given) for given in (noise, halves))
        again = first_tensor(called_like(pair.candidate, (halves,), {}, self._dtype))
        assert again is not None
        uneven = made[0] - 2 * _reversed(pair.part(again).to(exact) - on_halves)
        return replace(
            leaf,
            noise=_figures(self._outputs(pair, (noise,), {}), on_noise, noise),
            uneven=Figures(ExactOutput(exact, inputs).errors(uneven), leaf.cost),
        )

    def _outputs(self, pair: ModulePair, args: Any, kwargs: Any) -> Outputs:
        given, named = copied((args, kwargs))  # some add to their positions in place
        found = first_tensor(called_like(pair.candidate, given, named, self._dtype))
        plain = self._plain(pair.name)
        if plain is pair.reference:
            args, kwargs = nudged((args, kwargs))
            usual = first_tensor(plain.forward(*args, **kwargs))
        else:
            usual = first_tensor(called_like(plain, args, kwargs, self._dtype))
        if found is None or usual is None:
            raise TypeError("it returns no tensor of floats")
        return pair.part(found), usual

    def _measure_experts(
        self, pair: ModulePair, hidden: torch.Tensor, chosen: torch.Tensor, count: int
    ) -> None:
        tokens, unrouted = _expert_tokens(hidden, chosen, count)  # [E, n]
        self.unrouted += unrouted
        experts = torch.arange(count, device=tokens.device)[:, None].expand_as(tokens)
        given = hidden[tokens.flatten()]
        args = (given, experts.reshape(-1, 1), torch.ones_like(given[:, :1]))
        exact = first_tensor(pair.reference.forward(*args))
        assert exact is not None
        made = self._outputs(pair, args, {})
        weights = sum(parameter.numel() for parameter in pair.reference.parameters())
        storage, n = storage_of(pair.candidate, weights), tokens.shape[1]
        for expert in range(count):
            rows = slice(expert * n, (expert + 1) * n)
            self.leaves[f"{pair.name}.{expert}"] = Leaf(
                f"{pair.name}.{expert}",
                storage,
                _figures((made[0][rows], made[1][rows]), exact[rows], given[rows]),
                n,
            )


def _figures(made: Outputs, exact: torch.Tensor, inputs: torch.Tensor | None) -> Figures:
    known = ExactOutput(exact, inputs)
    errors = known.errors(made[0])
    return Figures(errors, errors if errors.identical else known.errors(made[1]))


def _reversed(tokens: torch.Tensor) -> torch.Tensor:
    """[…, C] with all but the channels in reverse order."""
    return tokens.flip(tuple(range(tokens.ndim - 1)))


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


def _expert_tokens(
    hidden: torch.Tensor, chosen: torch.Tensor, count: int
) -> tuple[torch.Tensor, int]:
    """Which tokens each expert is fed [E, n], its own first; how many experts had too few.

    Padding may be all zeros, of which every expert makes zeros: it comes last.
    """
    n = min(_EXPERT_TOKENS, len(chosen))
    filled = hidden.ne(0).any(-1)  # [N]
    own = torch.stack([(chosen == expert).any(-1) & filled for expert in range(count)])  # [E, N]
    order = (2 * own.int() + filled.int()).argsort(dim=-1, descending=True, stable=True)
    return order[:, :n], int((own.sum(-1) == 0).sum())
