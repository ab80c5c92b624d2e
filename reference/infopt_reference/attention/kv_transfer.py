"""KV transfer: keys and values of a paged cache, stored in chunks and loaded by other engines.

    chunk i of a prompt  →  store[hash of all tokens up to its end, and of the salt]  →  any memory

Contract. Numbers are stored in one layout, [2, G, C, D] for each layer, whatever the engines' own:
blocks of other sizes, heads before tokens and other dtypes are read and written through their
tables, slot by slot. A chunk is found when all of it is stored, and it was read from its blocks in
one piece. What `KVConnector.lookup` found stays until it is loaded or given up, as far as the store
keeps it. Each `step` moves one chunk; a request is reported when nothing of it is in flight any
more, once, also when it was aborted: only then its blocks may go to others. Tokens of a chunk that
is gone are not written, and their blocks are reported as failed.
Leaves out: layers one by one while others are computed, devices, networks, windows.
Source: vLLM, ``vllm/distributed/kv_transfer/kv_connector/v1/base.py``; Cheng et al. 2025, "LMCache:
An Efficient KV Cache Layer for Enterprise-Scale LLM Inference".
Legend: L layers, N blocks, P tokens a block, C tokens a chunk, T tokens, G kv heads, D head dim.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .paged import PagedKVCache
from .prefix_cache import block_hashes


class ChunkStore:
    """Chunks of keys and values by the hash of all tokens up to their end.

    When it is full, the chunk that was used longest ago goes, of those that nobody is to load.

    Raises:
        ValueError: ``chunk_size`` is less than 1, or ``capacity`` negative.
    """

    def __init__(self, chunk_size: int, capacity: int | None = None) -> None:
        if chunk_size < 1:
            raise ValueError(f"chunk_size is {chunk_size}; give 1 or more tokens")
        if capacity is not None and capacity < 0:
            raise ValueError(f"capacity is {capacity} chunks; give 0 or more, or None")
        self.chunk_size, self.capacity = chunk_size, capacity
        self._chunks: OrderedDict[bytes, Tensor] = OrderedDict()  # [L, 2, G, C, D], oldest first
        self._holders: Counter[bytes] = Counter()

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._chunks

    def __len__(self) -> int:
        return len(self._chunks)

    def get(self, digest: bytes) -> Tensor | None:
        if digest in self._chunks:
            self._chunks.move_to_end(digest)
        return self._chunks.get(digest)

    def put(self, digest: bytes, numbers: Tensor) -> bool:
        """Keep a chunk; False where there is no room, because all others are held."""
        if digest not in self._chunks and not self._make_room():
            return False
        self._chunks[digest] = numbers
        self._chunks.move_to_end(digest)
        return True

    def hold(self, digests: Sequence[bytes]) -> None:
        self._holders.update(digests)

    def release(self, digests: Sequence[bytes]) -> None:
        self._holders.subtract(digests)
        self._holders += Counter()  # without those that nobody holds

    def clear(self) -> None:
        """Forget all chunks, those that are held too."""
        self._chunks.clear()

    def _make_room(self) -> bool:
        if self.capacity is None or len(self._chunks) < self.capacity:
            return True
        for digest in self._chunks:
            if not self._holders[digest]:
                del self._chunks[digest]
                return True
        return False


@dataclass(frozen=True)
class FinishedTransfers:
    """Requests of which nothing is in flight any more, and blocks that were to be loaded and do not
    hold their tokens."""

    stored: tuple[int, ...] = ()
    loaded: tuple[int, ...] = ()
    failed_blocks: tuple[int, ...] = ()


@dataclass
class _Piece:
    """Tokens ``start``…``end`` − 1 of a request: within one chunk."""

    digest: bytes
    start: int
    end: int


@dataclass
class _Transfer:
    request: int
    table: Tensor
    pieces: deque[_Piece] = field(default_factory=deque)
    failed: set[int] = field(default_factory=set)


class KVConnector:
    """Moves keys and values between one engine's paged memory and a store.

    Args:
        keys, values: for each layer [N, P, G, D]; views of whatever lies otherwise in memory.
        store: shared with other engines, whose layers, heads and head dim are the same.

    Raises:
        ValueError: keys and values, or their layers, differ in shape.
    """

    def __init__(self, keys: Sequence[Tensor], values: Sequence[Tensor], store: ChunkStore) -> None:
        shapes = {tuple(pages.shape) for pages in (*keys, *values)}
        if len(shapes) != 1 or len(keys) != len(values):
            raise ValueError(f"pages are of shapes {sorted(shapes)}; give those of one layout")
        self.keys, self.values, self.chunks = list(keys), list(values), store
        self.block_size: int = keys[0].shape[1]
        self._found: dict[int, list[bytes]] = {}  # held since the lookup
        self._loads: dict[int, _Transfer] = {}
        self._stores: dict[int, _Transfer] = {}

    @classmethod
    def of(cls, pages: PagedKVCache, store: ChunkStore) -> KVConnector:
        """The connector of a paged cache."""
        return cls(list(pages.keys), list(pages.values), store)

    def lookup(
        self,
        request: int,
        tokens: Sequence[int],
        computed: int = 0,
        salt: Mapping[str, str] | None = None,
    ) -> int:
        """Tokens behind the first ``computed`` that can be loaded, in whole chunks, and short of
        the prompt's last token, whose logits are needed. They are held until `load` or `abort`."""
        found = []
        for digest in self._hashes(tokens[: max(len(tokens) - 1, 0)], salt):
            if digest not in self.chunks:
                break
            found.append(digest)
        self._let_go(request)
        self._found[request] = found
        self.chunks.hold(found)
        return max(len(found) * self.chunks.chunk_size - computed, 0)

    def load(
        self,
        request: int,
        tokens: Sequence[int],
        table: Sequence[int],
        computed: int,
        count: int,
        salt: Mapping[str, str] | None = None,
    ) -> None:
        """Begin to write ``count`` tokens behind the first ``computed`` into the table's blocks.

        Raises:
            ValueError: the table has no slots for them, or a load of the request is in flight.
        """
        if count > 0:
            transfer = self._begin(self._loads, request, table, computed + count)
            transfer.pieces += self._pieces(tokens, computed, computed + count, salt)
        else:
            self._let_go(request)

    def store(
        self,
        request: int,
        tokens: Sequence[int],
        table: Sequence[int],
        salt: Mapping[str, str] | None = None,
    ) -> None:
        """Begin to store the full chunks of these tokens, which the table's blocks hold.

        Raises:
            ValueError: the table has fewer tokens, or a store of the request is in flight.
        """
        transfer = self._begin(self._stores, request, table, len(tokens))
        transfer.pieces += self._pieces(tokens, 0, len(tokens), salt)

    def abort(self, request: int) -> None:
        """Move no more of this request; what was in flight is reported by the next step."""
        self._let_go(request)
        for transfers in (self._loads, self._stores):
            if request in transfers:
                transfers[request].pieces.clear()

    def step(self) -> FinishedTransfers:
        """Move one chunk of each request, and report those of which nothing is left."""
        for transfer in self._stores.values():
            if transfer.pieces:
                self._read(transfer, transfer.pieces.popleft())
        for transfer in self._loads.values():
            if transfer.pieces:
                self._write(transfer, transfer.pieces.popleft())
        loads, stores = _ended(self._loads), _ended(self._stores)
        for transfer in loads:
            self._let_go(transfer.request)
        return FinishedTransfers(
            tuple(transfer.request for transfer in stores),
            tuple(transfer.request for transfer in loads),
            tuple(block for transfer in loads for block in sorted(transfer.failed)),
        )

    def _begin(
        self, transfers: dict[int, _Transfer], request: int, table: Sequence[int], length: int
    ) -> _Transfer:
        if request in transfers:
            raise ValueError(f"request {request} is in flight; await its end, or abort it")
        if len(table) * self.block_size < length:
            raise ValueError(
                f"{len(table)} blocks of {self.block_size} have no room for {length} tokens"
            )
        device = self.keys[0].device
        made = _Transfer(request, torch.tensor(list(table), dtype=torch.int64, device=device))
        transfers[request] = made
        return made

    def _read(self, transfer: _Transfer, piece: _Piece) -> None:
        if piece.digest in self.chunks:
            self.chunks.get(piece.digest)
            return
        slots = self._slots(transfer, piece)
        numbers = [
            torch.stack([pages[slots].transpose(0, 1) for pages in both])
            for both in zip(self.keys, self.values, strict=True)
        ]
        self.chunks.put(piece.digest, torch.stack(numbers))

    def _write(self, transfer: _Transfer, piece: _Piece) -> None:
        slots, numbers = self._slots(transfer, piece), self.chunks.get(piece.digest)
        if numbers is None:
            transfer.failed.update(slots[0].tolist())
            return
        size = self.chunks.chunk_size
        first = piece.start // size * size
        for layer, both in enumerate(zip(self.keys, self.values, strict=True)):
            for pages, chunk in zip(both, numbers[layer], strict=True):
                part = chunk[:, piece.start - first : piece.end - first]  # [G, T, D]
                pages[slots] = part.transpose(0, 1).to(pages.dtype)

    def _slots(self, transfer: _Transfer, piece: _Piece) -> tuple[Tensor, Tensor]:
        """Blocks and places [T] of a piece's tokens."""
        tokens = torch.arange(piece.start, piece.end, device=transfer.table.device)
        return transfer.table[tokens // self.block_size], tokens % self.block_size

    def _pieces(
        self, tokens: Sequence[int], start: int, end: int, salt: Mapping[str, str] | None
    ) -> Iterator[_Piece]:
        size = self.chunks.chunk_size
        for index, digest in enumerate(self._hashes(tokens, salt)):
            first, last = max(index * size, start), min((index + 1) * size, end)
            if first < last:
                yield _Piece(digest, first, last)

    def _hashes(self, tokens: Sequence[int], salt: Mapping[str, str] | None) -> list[bytes]:
        return block_hashes(tokens, self.chunks.chunk_size, salt)

    def _let_go(self, request: int) -> None:
        self.chunks.release(self._found.pop(request, []))


def _ended(transfers: dict[int, _Transfer]) -> list[_Transfer]:
    """Take out those of which nothing is left to move."""
    ended = [transfer for transfer in transfers.values() if not transfer.pieces]
    for transfer in ended:
        del transfers[transfer.request]
    return ended
