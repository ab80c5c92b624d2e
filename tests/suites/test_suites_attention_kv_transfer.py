"""KVTransferSuite accepts the reference, and connectors of other designs."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from infopt_reference.attention.kv_transfer import ChunkStore, KVConnector
from infopt_suites.attention import KVTransferSuite, TransferSpec
from infopt_suites.attention.transfer_protocol import Extra, Transfers
from torch import Tensor


class Reference:
    """`KVConnector` as the suite's protocol."""

    def __init__(self, tokens_first: bool, store: ChunkStore) -> None:
        self.tokens_first, self.chunks = tokens_first, store

    def register(self, memory: Sequence[Tensor]) -> None:
        views = [layer if self.tokens_first else layer.transpose(2, 3) for layer in memory]
        self.made = KVConnector([v[0] for v in views], [v[1] for v in views], self.chunks)

    def lookup(self, request: int, tokens: Sequence[int], computed: int, extra: Extra) -> int:
        return self.made.lookup(request, tokens, computed, extra)

    def load(
        self,
        request: int,
        tokens: Sequence[int],
        blocks: Sequence[int],
        computed: int,
        count: int,
        extra: Extra,
    ) -> None:
        self.made.load(request, tokens, blocks, computed, count, extra)

    def store(
        self, request: int, tokens: Sequence[int], blocks: Sequence[int], extra: Extra
    ) -> None:
        self.made.store(request, tokens, blocks, extra)

    def abort(self, request: int) -> None:
        self.made.abort(request)

    def poll(self) -> Transfers:
        done = self.made.step()
        return Transfers(done.stored, done.loaded, done.failed_blocks)

    def lose(self) -> None:
        self.chunks.clear()


def in_blocks(spec: TransferSpec) -> list[Reference]:
    """Chunks of a block of the first engine."""
    return in_chunks(spec, spec.layouts[0].block_size)


def in_chunks(spec: TransferSpec, size: int = 4) -> list[Reference]:
    """Chunks across blocks."""
    store = ChunkStore(size, None if spec.capacity is None else spec.capacity // size)
    return [Reference(layout.tokens_first, store) for layout in spec.layouts]


EVERYTHING = frozenset({"block_sizes", "head_orders", "dtypes", "bounded", "lose"})


class TestReference(KVTransferSuite):
    capabilities = EVERYTHING

    @pytest.fixture
    def make_kv_connectors(self):
        return in_blocks


class TestReferenceInChunks(KVTransferSuite):
    capabilities = EVERYTHING
    chunk = 4
    examples = 10

    @pytest.fixture
    def make_kv_connectors(self):
        return in_chunks
