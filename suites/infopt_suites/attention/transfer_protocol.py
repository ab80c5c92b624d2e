"""What the suite for KV connectors talks to: minimal protocols for a thin adapter.

A connector stands between an engine's paged KV cache and what several engines share: a store
(LMCache, Mooncake), host memory (offloading), another engine's copy. Its methods are those of
vLLM's ``KVConnectorBase_V1`` that move numbers: ``lookup`` is ``get_num_new_matched_tokens``,
``poll`` is ``get_finished`` with ``get_block_ids_with_load_errors``. What is stored stays there, as
far as there is room: where the other engine reads the blocks as they lie, and nothing is kept once
they are given back (NIXL's pull), there is nothing that this suite could ask for later.
Legend: L layers, N blocks, P tokens a block, G kv heads, D head dim.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Extra = Mapping[str, str]


@dataclass(frozen=True)
class KVLayout:
    """An engine's paged memory: for each layer one tensor, keys before values.

    [2, N, P, G, D] where tokens come before heads ("NHD"), [2, N, G, P, D] otherwise ("HND").
    """

    num_blocks: int
    block_size: int
    tokens_first: bool = True
    layers: int = 2
    kv_heads: int = 2
    head_dim: int = 4
    dtype: torch.dtype = torch.float32

    def shape(self) -> tuple[int, ...]:
        """Of each layer's tensor."""
        inner = (self.block_size, self.kv_heads)
        return (2, self.num_blocks, *(inner if self.tokens_first else inner[::-1]), self.head_dim)


@dataclass(frozen=True)
class TransferSpec:
    """Engines that exchange keys and values. ``capacity``: tokens that are kept for them at most
    (capability "bounded"); None: all."""

    layouts: Sequence[KVLayout]
    capacity: int | None = None


@dataclass(frozen=True)
class Transfers:
    """What ended since the last `KVConnector.poll`, each request once, also where it was aborted.

    The blocks of a stored request are read, and those of a loaded one are written: from now on
    they are the engine's again. ``failed_blocks``: blocks of loads that do not hold what they were
    to hold, told with the load or before.
    """

    stored: Collection[int] = ()
    loaded: Collection[int] = ()
    failed_blocks: Collection[int] = ()


class KVConnector(Protocol):
    """One engine's connector. A request is an integer, which comes again when it has ended.

    ``extra`` is all that changes keys and values beside the tokens: adapter, tenant, image, salt.
    """

    def register(self, memory: Sequence[Tensor]) -> None:
        """The engine's memory, a tensor for each layer; called once, before all else."""

    def lookup(self, request: int, tokens: Sequence[int], computed: int, extra: Extra) -> int:
        """How many tokens behind the first ``computed`` can be loaded. It may be asked again; then
        a `load` or `abort` of the request follows."""

    def load(
        self,
        request: int,
        tokens: Sequence[int],
        blocks: Sequence[int],
        computed: int,
        count: int,
        extra: Extra,
    ) -> None:
        """Begin to write ``count`` tokens behind the first ``computed`` into the request's blocks,
        those that `lookup` found or fewer; of none, nothing is reported."""

    def store(
        self, request: int, tokens: Sequence[int], blocks: Sequence[int], extra: Extra
    ) -> None:
        """Begin to store the tokens of the request, which its blocks hold. A request that grows is
        stored again, when what was stored before is reported."""

    def abort(self, request: int) -> None:
        """The request is given up. What is in flight may be finished or dropped, and is reported;
        a request of which nothing is in flight is ignored."""

    def poll(self) -> Transfers:
        """Carry transfers on, and report those that ended."""


class LosingConnector(KVConnector, Protocol):
    """Capability "lose"."""

    def lose(self) -> None:
        """All that is stored is lost, as by a server that restarts; no connector is told."""


class MakeKVConnectors(Protocol):
    """The factory that `KVTransferSuite` asks for."""

    def __call__(self, spec: TransferSpec) -> Sequence[KVConnector]:
        """A connector for each layout; raises for layouts that do not go together."""
