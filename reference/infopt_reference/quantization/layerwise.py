"""Calibration of a decoder block by block, so that one block's statistics are in memory at a time.

The model runs once up to its last block with every block passing its input on, which shows what
each is called with: masks and positions may differ from block to block. From then on blocks run
alone: the outputs of one, quantized, are the inputs of the next, so that later blocks are
calibrated on what they will really be given.

Memory: the model, the hidden states of all calibration tokens, one block's statistics.

Contract. Works on transformers decoders whose blocks sit in one `nn.ModuleList` and pass hidden
states on as their first argument. Everything is deterministic; models are run without gradients, in
eval mode and without a cache. Padding is what ``attention_mask`` says.

Left out: encoder-decoders, and offloading of blocks or hidden states.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from ..weight_matrices import WeightMatrix, experts_one_by_one, layer_matrix
from .checks import naming
from .expert_inputs import ExpertInputs

CalibrationBatch = Tensor | Mapping[str, Tensor]


class Statistics(Protocol):
    """What takes a layer's inputs: `calibration.HessianStatistics` and the like."""

    def observe(self, inputs: Tensor, mask: Tensor | None = None) -> None:
        """Adds a batch of inputs [B, T, K] with a mask [B, T]."""


_S = TypeVar("_S", bound=Statistics)


@dataclass(frozen=True)
class Call:
    """What a module is called with for a calibration batch; ``mask`` [B, T] excludes padding."""

    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    mask: Tensor | None

    @property
    def tokens(self) -> int:
        """Tokens of a call of the model, padding not counted."""
        ids = self.keywords["input_ids"]
        return int(ids.numel() if self.mask is None else (self.mask != 0).sum())


class _EverythingSeenError(Exception):
    """Ends a forward pass that has shown what it was run for."""


class CalibratedModule:
    """A decoder block, or a whole model, together with the calls that calibrate it."""

    def __init__(
        self, module: nn.Module, calls: list[Call], *, is_decoder_block: bool = True
    ) -> None:
        self.module = module
        self.calls = calls
        self.is_decoder_block = is_decoder_block

    def layer(self, name: str) -> WeightMatrix:
        """The matrix of a layer, by its path."""
        matrix = layer_matrix(self.module.get_submodule(name), name)
        assert matrix is not None
        return matrix

    @torch.no_grad()
    def input_groups(self, names: Iterable[str]) -> list[tuple[str, ...]]:
        """Names of layers that are given the same tensor, in the order in which they run.

        Layers that no calibration batch reaches, or whose weight is read in place of calling them,
        are in none.
        """
        waiting = dict.fromkeys(names)
        groups: list[tuple[str, ...]] = []
        for call in self.calls:
            seen: dict[Tensor, dict[str, None]] = {}  # by identity, which is what tensors hash

            def record(
                name: str, inputs: Tensor, seen: dict[Tensor, dict[str, None]] = seen
            ) -> None:
                seen.setdefault(inputs, {})[name] = None

            self._run(call, waiting, record)
            found = [tuple(group) for group in seen.values()]
            groups += found
            for name in (name for group in found for name in group):
                waiting.pop(name, None)
            if not waiting:
                break
        return groups

    @torch.no_grad()
    def observe(self, statistics: Mapping[str, Statistics]) -> None:
        """Gives each named layer's inputs, of all calls, to its statistics."""
        for call in self.calls:
            self._observe(call, statistics)

    @torch.no_grad()
    def observe_experts(
        self, stacks: Mapping[str, WeightMatrix], make: Callable[[WeightMatrix], _S]
    ) -> dict[str, dict[int, _S]]:
        """Statistics of what each expert's matrix is multiplied with, by stack and expert.

        Experts that no token chose are in none, and so are those of modules that do not multiply
        by one matrix after another. Experts are given tokens out of order: of batches with padding
        nothing can be said.
        """
        found: dict[str, dict[int, _S]] = {name: {} for name in stacks}
        if any(call.mask is not None and not bool(call.mask.all()) for call in self.calls):
            return found

        def record(name: str, expert: int, inputs: Tensor) -> None:
            experts = found[name]
            if expert not in experts:
                experts[expert] = make(stacks[name])
            with naming(f"{name}[{expert}]"):
                experts[expert].observe(inputs)

        with experts_one_by_one(self.module), ExpertInputs(stacks, record):
            for call in self.calls:
                self.module(*call.arguments, **call.keywords)
        return found

    def _observe(self, call: Call, statistics: Mapping[str, Statistics]) -> None:
        waiting = set(statistics)

        def record(name: str, inputs: Tensor) -> None:
            with naming(name):
                statistics[name].observe(inputs, call.mask)
            waiting.discard(name)
            if not waiting:
                raise _EverythingSeenError

        self._run(call, statistics, record)

    @torch.no_grad()
    def run(self, call: Call) -> Tensor:
        """The hidden states that the module makes of a call."""
        return hidden_states(self.module(*call.arguments, **call.keywords))

    def pass_on(self, following: list[Call]) -> list[Call]:
        """The next block's calls, with this block's outputs as their hidden states."""
        calls = []
        for index, call in enumerate(following):
            hidden = self.run(self.calls[index])
            self.calls[index] = replace(self.calls[index], arguments=())  # hidden states: used up
            calls.append(replace(call, arguments=(hidden, *call.arguments[1:])))
        return calls

    def _run(self, call: Call, names: Iterable[str], record: Callable[[str, Tensor], None]) -> None:
        """Tells ``record`` the inputs of the named layers, until it has seen everything."""
        with ExitStack() as hooks, suppress(_EverythingSeenError):
            for name in names:
                handle = self.module.get_submodule(name).register_forward_pre_hook(
                    lambda _, inputs, name=name: record(name, inputs[0])
                )
                hooks.callback(handle.remove)
            self.module(*call.arguments, **call.keywords)


def hidden_states(output: Any) -> Tensor:
    """A block's hidden states: its output, or the first of several."""
    result: Tensor = output[0] if isinstance(output, tuple) else output
    return result


def decoder_blocks(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Path and list of the decoder's blocks: the `nn.ModuleList` that holds most of the weights.

    Raises:
        ValueError: there is none.
    """
    lists = [(path, m) for path, m in model.named_modules() if isinstance(m, nn.ModuleList) and m]
    if not lists:
        raise ValueError(
            f"{type(model).__name__} has no nn.ModuleList of decoder blocks; calibrated methods go "
            "block by block: use method='rtn'"
        )
    path, blocks = max(lists, key=lambda item: sum(p.numel() for p in item[1].parameters()))
    return path, blocks


def model_calls(calibration: Iterable[CalibrationBatch], device: torch.device) -> list[Call]:
    """Calls of the model itself, from token ids [B, T] or dicts with ``input_ids``.

    Raises:
        ValueError: there is no batch, or one is neither.
    """
    calls: list[Call] = []
    for batch in calibration:
        inputs = {"input_ids": batch} if isinstance(batch, Tensor) else dict(batch)
        ids, mask = inputs.get("input_ids"), inputs.get("attention_mask")
        if ids is None or ids.ndim != 2 or not ids.numel():
            raise ValueError(
                f"calibration batch {len(calls)} has token ids of shape "
                f"{None if ids is None else tuple(ids.shape)}; give [batch, tokens], or a dict "
                "with input_ids and attention_mask"
            )
        keywords = {key: value.to(device) for key, value in inputs.items()}
        calls.append(Call((), {**keywords, "use_cache": False}, mask))
    if not calls:
        raise ValueError("calibration holds no batch; give token ids of some texts")
    return calls


@torch.no_grad()
def block_calls(model: nn.Module, blocks: nn.ModuleList, calls: list[Call]) -> list[list[Call]]:
    """What each block is called with, by block and batch; hidden states are the first block's."""
    seen: list[list[Call]] = [[] for _ in blocks]
    as_tuple: dict[type[nn.Module], bool] = {}

    with ExitStack() as patches:
        for index, block in enumerate(blocks):
            forward = block.forward

            def pass_on(
                *arguments: Any, index: int = index, forward: Any = forward, **keywords: Any
            ) -> Any:
                if not arguments or not isinstance(arguments[0], Tensor):
                    raise ValueError(
                        f"{type(blocks[index]).__name__} is not given its hidden states as first "
                        "argument; calibrated methods cannot run it: use method='rtn'"
                    )
                kind = type(blocks[index])
                if kind not in as_tuple:  # once for real, to see what such a block returns
                    as_tuple[kind] = isinstance(forward(*arguments, **keywords), tuple)
                seen[index].append(Call(arguments, keywords, None))
                if index == len(blocks) - 1:
                    raise _EverythingSeenError
                return (arguments[0],) if as_tuple[kind] else arguments[0]

            patches.enter_context(_forward(block, pass_on))
        for call in calls:
            with suppress(_EverythingSeenError):
                model(*call.arguments, **call.keywords)
    for block_seen in seen:
        if len(block_seen) != len(calls):
            raise ValueError("a decoder block does not run exactly once a forward pass")
        block_seen[:] = [replace(c, mask=b.mask) for c, b in zip(block_seen, calls, strict=True)]
    return seen


@contextmanager
def _forward(module: nn.Module, forward: Any) -> Iterator[None]:
    own = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own
