"""transformers' paged cache of continuous batching through PagedKVSuite.

It gives a sequence's keys and values only where new ones are written: the adapter writes none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import transformers
from infopt_suites.attention import PagedGeometry, PagedKVSuite
from infopt_suites.attention.paged_protocol import MakePagedKV
from torch import Tensor
from transformers import ContinuousBatchingConfig
from transformers.generation.continuous_batching.cache import PagedAttentionCache
from transformers.generation.continuous_batching.distributed import DistributedHelper
from transformers.generation.continuous_batching.requests import RequestState

LAYER_TYPE = "full_attention"


class OfTransformers:
    """`PagedAttentionCache` and the states of its requests, as the suites' protocol."""

    def __init__(self, geometry: PagedGeometry) -> None:
        self.geometry = geometry
        self.cache = PagedAttentionCache(
            _config(geometry),
            ContinuousBatchingConfig(
                page_size=geometry.block_size,
                num_blocks=geometry.num_blocks,
                max_batch_tokens=8,
                max_blocks_per_request=0,
                max_memory_percent=0.9,
            ),
            torch.device(geometry.device),
            DistributedHelper(None, None),
            dtype=geometry.dtype,
        )
        self.allocator: Any = self.cache.cache_allocators[LAYER_TYPE]
        self.states: dict[int, RequestState] = {}
        # Blocks are numbered from behind two that are never given out.
        self.first = self.cache.pool.num_reserved_sectors * self.allocator.blocks_per_sector

    @property
    def num_free_blocks(self) -> int:
        sectors = self.cache.pool.num_free_sectors * self.allocator.blocks_per_sector
        return sectors + self.cache.pool.count_free_blocks(self.allocator.index)

    def block_table(self, sequence: int) -> Sequence[int]:
        table = self.allocator.block_table[self.states[sequence].request_id]
        return [block - self.first for block in table]

    def allocate(self, sequence: int) -> None:
        state = RequestState(request_id=str(sequence), initial_tokens=[])
        self.states[sequence] = state
        assert self.cache.can_store_request_tokens(state, 0)

    def can_append(self, sequence: int, num_tokens: int) -> bool:
        state = self.states[sequence]
        return self.cache.can_store_request_tokens(state, num_tokens, dry_run=True)

    def append(self, sequence: int, keys: Tensor, values: Tensor) -> None:
        state, count = self.states[sequence], keys.shape[2]
        if not count:
            return
        if not self.cache.can_store_request_tokens(state, count):
            raise MemoryError("no block is free")
        write: list[int] = []
        self.cache.extend_read_and_write_indices(
            state.request_id, state.current_len(), count, [[]], [write]
        )
        for layer in range(self.geometry.layers):
            self._update(keys[layer], values[layer], layer, [], write)
        state.position_offset += count

    def fork(self, parent: int, child: int) -> None:
        state = RequestState(request_id=str(child), initial_tokens=[])
        copies: dict[str, tuple[list[int], list[int]]] = {LAYER_TYPE: ([], [])}
        forked = self.cache.prepare_fork_request(self.states[parent], [state.request_id], copies)
        if not forked:
            raise MemoryError("no block is free")
        self.cache.perform_cache_copy(copies)
        state.position_offset = self.states[parent].current_len()
        self.states[child] = state

    def truncate(self, sequence: int, length: int) -> None:
        raise NotImplementedError("see can_truncate")

    def free(self, sequence: int) -> None:
        self.cache.free_blocks(self.states.pop(sequence).request_id)
        self.cache.pool.try_to_free_sectors()

    def read(self, sequence: int, layer: int) -> tuple[Tensor, Tensor]:
        state, g = self.states[sequence], self.geometry
        nothing = torch.zeros(g.kv_heads, 0, g.head_dim, dtype=g.dtype)
        if not state.current_len():
            return nothing, nothing
        read = self.allocator.get_read_indices(state.request_id, state.current_len(), 0)
        return self._update(nothing, nothing, layer, read, [])

    def references(self, block: int) -> int:
        shared = self.allocator.ledger.shared_ref_counts.get(block + self.first)
        owners = self.allocator.block_table.values()
        return shared or int(any(block + self.first in table for table in owners))

    def pool(self, layer: int) -> tuple[Tensor, Tensor]:
        g = self.geometry
        shape = -1, g.layers, 2, g.block_size, g.kv_heads, g.head_dim
        blocks = self.allocator.cache_tensor.view(shape)[self.first :, layer]
        return blocks[:, 0], blocks[:, 1]

    def _update(
        self, keys: Tensor, values: Tensor, layer: int, read: list[int], write: list[int]
    ) -> tuple[Tensor, Tensor]:
        lengths = {LAYER_TYPE: torch.tensor([0, len(read)])}
        held = self.cache.update(
            keys[None],
            values[None],
            layer,
            {
                "read_index": [torch.tensor(read, dtype=torch.long)],
                "write_index": [torch.tensor(write, dtype=torch.long)],
                "cu_seq_lens_k": lengths,
                "max_length_k": {LAYER_TYPE: len(read)},
            },
        )
        return held[0][0], held[1][0]


def _config(geometry: PagedGeometry) -> Any:
    return transformers.LlamaConfig(
        vocab_size=8,
        hidden_size=geometry.kv_heads * geometry.head_dim,
        num_hidden_layers=geometry.layers,
        num_attention_heads=geometry.kv_heads,
        num_key_value_heads=geometry.kv_heads,
        head_dim=geometry.head_dim,
    )


class TestPagedAttentionCache(PagedKVSuite):
    capabilities = frozenset({"references", "pool"})
    block_sizes = (4, 7)  # 4 is the least that transformers allows
    fork_copies, can_truncate = True, False

    @pytest.fixture
    def make_paged_kv(self) -> MakePagedKV:
        return OfTransformers
