"""A small KV connector that is right, and the same with faults that real ones have shipped.

Legend: L layers, N blocks, P tokens a block, C tokens a chunk, T tokens, G kv heads, D head dim.
"""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from infopt_suites.attention import KVLayout, Transfers, TransferSpec
from infopt_suites.attention.transfer_protocol import Extra
from torch import Tensor

AREA = "2 KV connectors"
EVERYTHING = frozenset({"block_sizes", "head_orders", "dtypes", "bounded", "lose"})
Key = Any
Chunk = list[Tensor]  # for each layer [2, T, G, D]


class Hub:
    """What connectors share: chunks by their keys, the oldest first."""

    def __init__(self, capacity: int | None) -> None:
        self.capacity = capacity  # in chunks
        self.chunks: dict[Key, Chunk] = {}
        self.pins: Counter[Key] = Counter()

    def enter(self, key: Key, chunk: Chunk) -> None:
        if key in self.chunks or self.has_room():
            self.chunks[key] = chunk

    def has_room(self) -> bool:
        if self.capacity is None or len(self.chunks) < self.capacity:
            return True
        old = next((key for key in self.chunks if not self.pins[key]), None)
        if old is None:
            return False
        del self.chunks[old]
        return True


@dataclass
class Piece:
    """Tokens ``start``…``end`` − 1 of one layer, in the chunk that begins at ``first``."""

    key: Key
    first: int
    start: int
    end: int
    layer: int


@dataclass
class Job:
    request: int
    blocks: list[int]
    pieces: list[Piece] = field(default_factory=list)
    failed: set[int] = field(default_factory=set)
    staged: dict[Key, Chunk] = field(default_factory=dict)


class SmallConnector:
    """Chunks by all tokens up to their end; each poll moves one layer of one chunk of each job."""

    capabilities: ClassVar[Any] = EVERYTHING
    chunk: ClassVar[int | None] = None
    wire: ClassVar[torch.dtype | None] = None
    make_hub: ClassVar[Callable[[int | None], Hub]] = Hub

    def __init__(self, layout: KVLayout, hub: Hub, size: int) -> None:
        self.layout, self.hub, self.size = layout, hub, size
        self.pinned: dict[int, list[Key]] = {}
        self.loads: dict[int, Job] = {}
        self.stores: dict[int, Job] = {}

    @classmethod
    def make(cls, spec: TransferSpec) -> list[Self]:
        size = cls.chunk or spec.layouts[0].block_size
        hub = cls.make_hub(None if spec.capacity is None else spec.capacity // size)
        return [cls(layout, hub, size) for layout in spec.layouts]

    def register(self, memory: Sequence[Tensor]) -> None:
        self.memory = [self.view(layer) for layer in memory]

    def view(self, layer: Tensor) -> Tensor:
        """[2, N, P, G, D]."""
        return layer if self.layout.tokens_first else layer.transpose(2, 3)

    # Keys

    def key(self, tokens: Sequence[int], end: int, extra: Extra) -> Key:
        return self.named(tokens, end), self.salt(extra)

    def named(self, tokens: Sequence[int], end: int) -> tuple[int, ...]:
        return tuple(tokens[:end])

    def salt(self, extra: Extra) -> Any:
        return tuple(sorted(extra.items()))

    def keys(self, tokens: Sequence[int], extra: Extra, length: int) -> list[Key]:
        ends = range(self.size, length + 1, self.size)
        return [self.key(tokens, end, extra) for end in ends]

    # Lookups

    def lookup(self, request: int, tokens: Sequence[int], computed: int, extra: Extra) -> int:
        found = self.walk(self.keys(tokens, extra, self.limit(len(tokens))))
        self.pin(request, found)
        return self.count(len(found), tokens, computed)

    def limit(self, length: int) -> int:
        return max(length - 1, 0)

    def walk(self, keys: list[Key]) -> list[Key]:
        found = []
        for key in keys:
            if not self.is_known(key):
                break
            found.append(key)
        return found

    def is_known(self, key: Key) -> bool:
        return key in self.hub.chunks

    def count(self, chunks: int, tokens: Sequence[int], computed: int) -> int:
        return max(chunks * self.size - computed, 0)

    def pin(self, request: int, keys: list[Key]) -> None:
        self.unpin(request)
        self.pinned[request] = keys
        self.hub.pins.update(keys)

    def unpin(self, request: int) -> None:
        self.hub.pins.subtract(self.pinned.pop(request, []))

    # Transfers

    def load(
        self,
        request: int,
        tokens: Sequence[int],
        blocks: Sequence[int],
        computed: int,
        count: int,
        extra: Extra,
    ) -> None:
        if not count:
            self.unpin_unused(request)
            return
        start, end = self.loaded_range(computed, count)
        job = Job(request, self.table(request, blocks))
        job.pieces = self.cut(self.keys(tokens, extra, len(tokens)), start, end)
        self.loads[request] = job

    def unpin_unused(self, request: int) -> None:
        self.unpin(request)

    def loaded_range(self, computed: int, count: int) -> tuple[int, int]:
        return computed, computed + count

    def table(self, request: int, blocks: Sequence[int]) -> list[int]:
        return list(blocks)

    def cut(self, keys: list[Key], start: int, end: int) -> list[Piece]:
        pieces = []
        for index, key in enumerate(keys):
            first = index * self.size
            a, b = max(first, start), min(first + self.size, end)
            if a < b:
                layers = range(self.layout.layers)
                pieces += [Piece(key, first, a, b, layer) for layer in layers]
        return pieces

    def store(
        self, request: int, tokens: Sequence[int], blocks: Sequence[int], extra: Extra
    ) -> None:
        keys = [self.keys(tokens, extra, len(tokens)), len(tokens)]
        job = Job(request, list(blocks))
        job.pieces = [p for p in self.cut(keys[0], 0, keys[1]) if not self.is_stored(p.key)]
        self.begun(job)
        self.stores[request] = job

    def is_stored(self, key: Key) -> bool:
        return key in self.hub.chunks

    def begun(self, job: Job) -> None:
        pass

    def abort(self, request: int) -> None:
        self.unpin_aborted(request)
        for jobs in (self.loads, self.stores):
            if request in jobs:
                self.drop(jobs[request], jobs)

    def unpin_aborted(self, request: int) -> None:
        self.unpin(request)

    def drop(self, job: Job, jobs: dict[int, Job]) -> None:
        job.pieces = []

    def poll(self) -> Transfers:
        for job in list(self.stores.values()):
            if job.pieces:
                self.read(job, job.pieces.pop(0))
        for job in list(self.loads.values()):
            if job.pieces:
                self.write(job, job.pieces.pop(0))
        stored = [request for request, job in self.stores.items() if self.is_read(job)]
        loaded = [request for request, job in self.loads.items() if self.is_written(job)]
        failed = [block for request in loaded for block in self.failed(self.loads[request])]
        for request in stored:
            self.ended(self.stores.pop(request))
        for request in loaded:
            self.loads.pop(request)
            self.unpin_loaded(request)
        return Transfers(stored, loaded, failed)

    def is_read(self, job: Job) -> bool:
        return not job.pieces

    def is_written(self, job: Job) -> bool:
        return not job.pieces

    def failed(self, job: Job) -> list[int]:
        return sorted(job.failed)

    def ended(self, job: Job) -> None:
        pass

    def unpin_loaded(self, request: int) -> None:
        self.unpin(request)

    def read(self, job: Job, piece: Piece) -> None:
        layers = job.staged.setdefault(piece.key, [])
        layers.append(self.copied(self.gathered(job, piece)))
        if len(layers) == self.whole():
            self.hub.enter(piece.key, layers)

    def whole(self) -> int:
        return self.layout.layers

    def gathered(self, job: Job, piece: Piece) -> Tensor:
        blocks, places = self.slots(job, piece)
        return self.memory[piece.layer][:, blocks, places]

    def copied(self, numbers: Tensor) -> Tensor:
        return numbers.clone()

    def write(self, job: Job, piece: Piece) -> None:
        chunk = self.hub.chunks.get(piece.key)
        if chunk is None:
            self.missing(job, piece)
            return
        numbers = self.of_layer(chunk, piece.layer)
        part = numbers[:, piece.start - piece.first : piece.end - piece.first]
        blocks, places = self.slots(job, piece)
        self.memory[piece.layer][:, blocks, places] = self.cast(part)

    def of_layer(self, chunk: Chunk, layer: int) -> Tensor:
        return chunk[layer]

    def cast(self, numbers: Tensor) -> Tensor:
        return numbers.to(self.layout.dtype)

    def missing(self, job: Job, piece: Piece) -> None:
        blocks, _ = self.slots(job, piece)
        job.failed.update(blocks.tolist())

    def slots(self, job: Job, piece: Piece) -> tuple[Tensor, Tensor]:
        tokens = torch.arange(piece.start, piece.end)
        size = self.layout.block_size
        return torch.tensor(job.blocks)[tokens // size], tokens % size

    def lose(self) -> None:
        self.hub.chunks.clear()


# Sound in other ways


class AtOnce(SmallConnector):
    """All is moved before a call returns; the next poll says so. The whole of a prompt is found."""

    def limit(self, length: int) -> int:
        return length

    def load(self, request: int, *arguments: Any) -> None:
        super().load(request, *arguments)
        while request in self.loads and self.loads[request].pieces:
            self.write(self.loads[request], self.loads[request].pieces.pop(0))

    def store(self, request: int, *arguments: Any) -> None:
        super().store(request, *arguments)
        while self.stores[request].pieces:
            self.read(self.stores[request], self.stores[request].pieces.pop(0))


class TokenByToken(SmallConnector):
    """Each token is a chunk, and goes as bfloat16; aborted transfers are finished all the same."""

    chunk = 1
    wire = torch.bfloat16

    def copied(self, numbers: Tensor) -> Tensor:
        return numbers.to(torch.bfloat16)

    def drop(self, job: Job, jobs: dict[int, Job]) -> None:
        pass


class OneLayoutAlone(SmallConnector):
    """Refuses to exchange with another layout; holds nothing for those who look up."""

    capabilities = frozenset({"lose"})

    @classmethod
    def make(cls, spec: TransferSpec) -> list[Self]:
        if len({*spec.layouts}) > 1:
            raise ValueError("the engines differ in their layouts")
        return super().make(spec)

    def pin(self, request: int, keys: list[Key]) -> None:
        pass


class Threaded(SmallConnector):
    """A thread moves what was begun, and a poll waits until it has done something. Layouts share
    nothing."""

    capabilities = frozenset({"bounded", "lose"})

    def __init__(self, layout: KVLayout, hub: Hub, size: int) -> None:
        super().__init__(layout, hub, size)
        self.asked: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.told: queue.SimpleQueue[Transfers] = queue.SimpleQueue()
        threading.Thread(target=self.work, daemon=True).start()

    def salt(self, extra: Extra) -> Any:
        return super().salt(extra), self.layout

    def work(self) -> None:
        while True:
            self.asked.get()
            self.told.put(super().poll())

    def poll(self) -> Transfers:
        self.asked.put(None)
        return self.told.get()


SOUND = [SmallConnector, AtOnce, TokenByToken, OneLayoutAlone, Threaded]


# Layouts


class KeysForValues(SmallConnector):
    def of_layer(self, chunk: Chunk, layer: int) -> Tensor:
        return chunk[layer][:1].expand(2, -1, -1, -1)


class FirstLayerForAll(SmallConnector):
    def of_layer(self, chunk: Chunk, layer: int) -> Tensor:
        return chunk[0]


class LayersReversed(SmallConnector):
    def of_layer(self, chunk: Chunk, layer: int) -> Tensor:
        return chunk[-1 - layer]


class HeadsReversed(SmallConnector):
    """Slices of heads in the order of other ranks."""

    def cast(self, numbers: Tensor) -> Tensor:
        return super().cast(numbers).flip(2)


class LoadedBeforeItsLastLayer(SmallConnector):
    def is_written(self, job: Job) -> bool:
        return len(job.pieces) <= 1


class SortedTable(SmallConnector):
    def table(self, request: int, blocks: Sequence[int]) -> list[int]:
        return sorted(blocks)


class PaddedTable(SmallConnector):
    """A table is filled up with block 0, and so is what is written."""

    def write(self, job: Job, piece: Piece) -> None:
        super().write(job, piece)
        self.memory[piece.layer][:, 0, -1] = 0.0


class AxesBySize(SmallConnector):
    """LMCache #4467: two axes of one size cannot be told apart by it."""

    def view(self, layer: Tensor) -> Tensor:
        return layer if layer.shape[2] == layer.shape[3] else super().view(layer)


class OrderIgnored(SmallConnector):
    """Heads before tokens read as tokens before heads (LMCache #2826)."""

    def view(self, layer: Tensor) -> Tensor:
        both, blocks, a, b, dim = layer.shape
        return layer if self.layout.tokens_first else layer.view(both, blocks, b, a, dim)


class OthersBlocks(SmallConnector):
    """vLLM #28677: a table in one size of blocks, read in another."""

    def slots(self, job: Job, piece: Piece) -> tuple[Tensor, Tensor]:
        tokens = torch.arange(piece.start, piece.end)
        index = (tokens // self.size).clamp(max=len(job.blocks) - 1)
        return torch.tensor(job.blocks)[index], tokens % self.layout.block_size


class WholeBlocksOfTheLoader(SmallConnector):
    """NIXL with blocks of several sizes: pairs of blocks, where the last one is not filled."""

    def cut(self, keys: list[Key], start: int, end: int) -> list[Piece]:
        size = self.layout.block_size
        return super().cut(keys, start, end // size * size if size > self.size else end)


class BitsOfAnotherDtype(SmallConnector):
    """vLLM #54338."""

    def cast(self, numbers: Tensor) -> Tensor:
        if numbers.dtype == self.layout.dtype:
            return numbers
        bits = numbers.float().view(torch.bfloat16)[..., ::2]
        return bits.to(self.layout.dtype)


class RefusesWhatItClaims(SmallConnector):
    @classmethod
    def make(cls, spec: TransferSpec) -> list[Self]:
        if len({layout.block_size for layout in spec.layouts}) > 1:
            raise ValueError("blocks are of different sizes")
        return super().make(spec)


class LastExactChunkLeftOut(SmallConnector):
    """LMCache #5151: a hit of exactly the whole chunks of a prompt."""

    def cut(self, keys: list[Key], start: int, end: int) -> list[Piece]:
        pieces = super().cut(keys, start, end)
        exact = start == 0 and end > self.size and end % self.size == 0
        return pieces[:-1] if exact and pieces and not self.is_new(pieces) else pieces

    def is_new(self, pieces: list[Piece]) -> bool:
        return pieces[-1].key not in self.hub.chunks


# Lookups


class OwnTokensAlone(SmallConnector):
    def named(self, tokens: Sequence[int], end: int) -> tuple[int, ...]:
        return tuple(tokens[end - self.size : end])


class FirstTokensOfAChunk(SmallConnector):
    """Mooncake #4153: found by a part of the chunk."""

    def named(self, tokens: Sequence[int], end: int) -> tuple[int, ...]:
        return tuple(tokens[: end - 1])


class RoundedUp(SmallConnector):
    """Mooncake #4164: a last part of a chunk counts as a chunk."""

    def count(self, chunks: int, tokens: Sequence[int], computed: int) -> int:
        rest = len(tokens) % self.size > 0 and chunks == len(tokens) // self.size > 0
        return max((chunks + rest) * self.size - computed, 0)


class BehindAGap(SmallConnector):
    def walk(self, keys: list[Key]) -> list[Key]:
        return [key for key in keys if self.is_known(key)]

    def named(self, tokens: Sequence[int], end: int) -> tuple[int, ...]:
        return (end, *tokens[end - self.size : end])


class AllOrNothing(SmallConnector):
    def walk(self, keys: list[Key]) -> list[Key]:
        found = super().walk(keys)
        return found if len(found) == len(keys) else []


class SaltIgnored(SmallConnector):
    """vLLM #44250: the key has no adapter."""

    def salt(self, extra: Extra) -> Any:
        return ()


class AdapterAlone(SmallConnector):
    def salt(self, extra: Extra) -> Any:
        return extra.get("adapter")


class ValuesOfSalts(SmallConnector):
    """SGLang #24638: an adapter "x" is a salt "x"."""

    def salt(self, extra: Extra) -> Any:
        return "".join(extra.values())


class ComputedCountsToo(SmallConnector):
    def count(self, chunks: int, tokens: Sequence[int], computed: int) -> int:
        return chunks * self.size


class NegativeNeed(SmallConnector):
    """LMCache #987: "need to load: -400"."""

    def count(self, chunks: int, tokens: Sequence[int], computed: int) -> int:
        return chunks * self.size - computed


class TableFromItsStart(SmallConnector):
    """vLLM #50558: blocks paired by count, where the first ones are there already."""

    def load(
        self,
        request: int,
        tokens: Sequence[int],
        blocks: Sequence[int],
        computed: int,
        count: int,
        extra: Extra,
    ) -> None:
        shifted = blocks[computed // self.layout.block_size :]
        super().load(request, tokens, [*shifted, *blocks], 0, count, extra)


class CountOfAllTokens(SmallConnector):
    def loaded_range(self, computed: int, count: int) -> tuple[int, int]:
        return computed, max(count, computed + 1)


# Requests that grow


class StoredOnce(SmallConnector):
    """A request that was stored is not stored again."""

    def store(
        self, request: int, tokens: Sequence[int], blocks: Sequence[int], extra: Extra
    ) -> None:
        self.names = getattr(self, "names", set())
        super().store(request, [] if request in self.names else tokens, blocks, extra)
        self.names.add(request)


class PartsOfChunksLeftOut(SmallConnector):
    """What begins where the last store ended, in whole chunks from there."""

    def store(
        self, request: int, tokens: Sequence[int], blocks: Sequence[int], extra: Extra
    ) -> None:
        self.ends: dict[int, int] = getattr(self, "ends", {})
        super().store(request, tokens, blocks, extra)
        start = self.ends.get(request, 0)
        job = self.stores[request]
        job.pieces = [piece for piece in job.pieces if piece.first >= start]
        self.ends[request] = len(tokens)


class FirstTable(SmallConnector):
    """TensorRT-LLM #13320: the table stays that of the first part, and the last block is taken for
    all that come after it."""

    def store(
        self, request: int, tokens: Sequence[int], blocks: Sequence[int], extra: Extra
    ) -> None:
        self.first: dict[int, list[int]] = getattr(self, "first", {})
        table = self.first.setdefault(request, list(blocks))
        filled = [*table, *table[-1:] * len(blocks)][: len(blocks)]
        super().store(request, tokens, filled if table else blocks, extra)


# Stores in flight


class ReportedAtOnce(SmallConnector):
    """vLLM #45704: the copy was queued, and the block is given back."""

    def is_read(self, job: Job) -> bool:
        return True

    unread: ClassVar[list[Job]] = []

    def poll(self) -> Transfers:
        for job in self.unread:
            if job.pieces:
                self.read(job, job.pieces.pop(0))
        return super().poll()

    def ended(self, job: Job) -> None:
        self.unread = [*self.unread, job]


class ReportedBeforeTheLastLayer(ReportedAtOnce):
    def is_read(self, job: Job) -> bool:
        return len(job.pieces) <= 1


class ViewsForCopies(SmallConnector):
    """What is stored is where it was."""

    def gathered(self, job: Job, piece: Piece) -> Tensor:
        blocks, places = self.slots(job, piece)
        if len({*blocks.tolist()}) > 1:
            return super().gathered(job, piece)
        first = int(places[0])
        return self.memory[piece.layer][:, int(blocks[0]), first : first + len(places)]

    def copied(self, numbers: Tensor) -> Tensor:
        return numbers


class OneStagingBuffer(SmallConnector):
    """TensorRT-LLM #15546: a buffer that is written again before it was sent."""

    def copied(self, numbers: Tensor) -> Tensor:
        if not hasattr(self, "buffer") or self.buffer.shape != numbers.shape:
            self.buffer = numbers.clone()
        self.buffer.copy_(numbers)
        return self.buffer


class EnteredBeforeItIsRead(SmallConnector):
    def begun(self, job: Job) -> None:
        for piece in job.pieces:
            shape = (2, self.size, self.layout.kv_heads, self.layout.head_dim)
            chunk = [torch.zeros(shape) for _ in range(self.layout.layers)]
            self.hub.enter(piece.key, chunk)


class EnteredWithItsFirstLayer(SmallConnector):
    def read(self, job: Job, piece: Piece) -> None:
        if piece.layer == 0:
            numbers = self.copied(self.gathered(job, piece))
            self.hub.enter(piece.key, [numbers, torch.zeros_like(numbers)])
        super().read(job, piece)


# Aborts


class LateWrite(SmallConnector):
    """SGLang #35049: the blocks are given back, and the write in flight lands."""

    late: ClassVar[list[Job]] = []

    def drop(self, job: Job, jobs: dict[int, Job]) -> None:
        if jobs is self.loads:
            self.late = [*self.late, Job(job.request, job.blocks, list(job.pieces))]
        super().drop(job, jobs)

    def poll(self) -> Transfers:
        found = super().poll()
        for job in self.late:
            if job.pieces:
                self.write(job, job.pieces.pop(0))
        return found


class LateRead(SmallConnector):
    """Blocks of an aborted store are given back, and read later."""

    late: ClassVar[list[Job]] = []

    def drop(self, job: Job, jobs: dict[int, Job]) -> None:
        if jobs is self.stores:
            self.late = [
                *self.late,
                Job(job.request, job.blocks, list(job.pieces), staged=job.staged),
            ]
        super().drop(job, jobs)

    def poll(self) -> Transfers:
        found = super().poll()
        for job in self.late:
            if job.pieces:
                self.read(job, job.pieces.pop(0))
        return found


class AbortedLoadIsForgotten(SmallConnector):
    """vLLM Ascend #16662: its end is reported to nobody."""

    def drop(self, job: Job, jobs: dict[int, Job]) -> None:
        if jobs is self.loads:
            del jobs[job.request]


class AbortedStoreIsForgotten(SmallConnector):
    def drop(self, job: Job, jobs: dict[int, Job]) -> None:
        if jobs is self.stores:
            del jobs[job.request]


class AbortIsReportedTwice(SmallConnector):
    """vLLM #33377."""

    again: ClassVar[tuple[int, ...]] = ()

    def drop(self, job: Job, jobs: dict[int, Job]) -> None:
        super().drop(job, jobs)
        if jobs is self.loads:
            self.waits = job.request

    def poll(self) -> Transfers:
        found, again = super().poll(), self.again
        self.again = tuple(name for name in found.loaded if name == getattr(self, "waits", None))
        return Transfers(found.stored, [*found.loaded, *again], found.failed_blocks)


class AbortOfNothingIsReported(SmallConnector):
    """vLLM #46304."""

    strange: ClassVar[tuple[int, ...]] = ()

    def abort(self, request: int) -> None:
        if request not in self.loads and request not in self.stores:
            self.strange = (*self.strange, request)
        super().abort(request)

    def poll(self) -> Transfers:
        found, strange = super().poll(), self.strange
        self.strange = ()
        return Transfers(found.stored, [*found.loaded, *strange], found.failed_blocks)


class AbortedNamesStay(SmallConnector):
    """SGLang #30352: a name that has failed once is dropped ever after."""

    def __init__(self, layout: KVLayout, hub: Hub, size: int) -> None:
        super().__init__(layout, hub, size)
        self.aborted: set[int] = set()

    def abort(self, request: int) -> None:
        self.aborted.add(request)
        super().abort(request)

    def load(self, request: int, *arguments: Any) -> None:
        super().load(request, *arguments)
        if request in self.aborted and request in self.loads:
            self.loads[request].pieces = []


class HalfOfAChunk(SmallConnector):
    """What was staged when the abort came is entered."""

    def drop(self, job: Job, jobs: dict[int, Job]) -> None:
        for key, layers in job.staged.items():
            if key not in self.hub.chunks:
                lacking = self.layout.layers - len(layers)
                self.hub.enter(key, layers + [torch.zeros_like(layers[0])] * lacking)
        super().drop(job, jobs)


class BegunIsStored(SmallConnector):
    """A prompt is not stored again once its store has begun."""

    def begun(self, job: Job) -> None:
        self.seen = {*getattr(self, "seen", ()), *(piece.key for piece in job.pieces)}

    def is_stored(self, key: Key) -> bool:
        return key in getattr(self, "seen", ())


# Loads that fail


class Silent(SmallConnector):
    """LMCache #1835: fewer tokens come than were found."""

    def missing(self, job: Job, piece: Piece) -> None:
        pass


class FirstFailedBlockAlone(SmallConnector):
    def failed(self, job: Job) -> list[int]:
        return super().failed(job)[:1]


class PlacesForBlocks(SmallConnector):
    """Numbers of blocks in the table, not in the pool."""

    def failed(self, job: Job) -> list[int]:
        return [job.blocks.index(block) for block in super().failed(job)]


class FailsInVain(SmallConnector):
    """It tries for ever."""

    def missing(self, job: Job, piece: Piece) -> None:
        job.pieces.insert(0, piece)


class ChunkWithoutItsLastLayerIsGood(SmallConnector):
    """What was lost behind the first layer is not noticed."""

    def missing(self, job: Job, piece: Piece) -> None:
        if piece.layer == 0:
            super().missing(job, piece)


class IndexOutlivesItsChunks(SmallConnector):
    """vLLM #55297: the same hit again and again."""

    def __init__(self, layout: KVLayout, hub: Hub, size: int) -> None:
        super().__init__(layout, hub, size)
        self.index: set[Key] = set()

    def is_known(self, key: Key) -> bool:
        self.index |= {*self.hub.chunks}
        return key in self.index


class IndexSaysItIsStored(SmallConnector):
    """What was lost is not stored again."""

    def __init__(self, layout: KVLayout, hub: Hub, size: int) -> None:
        super().__init__(layout, hub, size)
        self.index: set[Key] = set()

    def ended(self, job: Job) -> None:
        self.index |= {*job.staged}

    def is_stored(self, key: Key) -> bool:
        return key in self.index


# Room


class KeptThoughNotLoaded(SmallConnector):
    """LMCache #1034: what was looked up, and is there already, stays pinned."""

    def unpin_unused(self, request: int) -> None:
        self.pinned.pop(request, None)


class KeptTwice(SmallConnector):
    """LMCache #1254: a second lookup of a request that waits pins again."""

    def pin(self, request: int, keys: list[Key]) -> None:
        self.pinned[request] = keys
        self.hub.pins.update(keys)


class KeptThoughAborted(SmallConnector):
    def unpin_aborted(self, request: int) -> None:
        self.pinned.pop(request, None)


class KeptThoughLoaded(SmallConnector):
    """LMCache #3884."""

    def unpin_loaded(self, request: int) -> None:
        self.pinned.pop(request, None)


class NothingIsGivenUp(SmallConnector):
    class make_hub(Hub):  # a factory, as of the class above
        def has_room(self) -> bool:
            return self.capacity is None or len(self.chunks) < self.capacity


class NewestIsGivenUp(SmallConnector):
    class make_hub(Hub):  # as above
        def has_room(self) -> bool:
            if self.capacity is not None and len(self.chunks) >= self.capacity:
                self.chunks.popitem()
            return True


class CountedTwice(SmallConnector):
    class make_hub(Hub):  # as above
        entered = 0

        def enter(self, key: Key, chunk: Chunk) -> None:
            self.entered += 1
            super().enter(key, chunk)

        def has_room(self) -> bool:
            if self.capacity is not None and self.entered > 4 * self.capacity:
                return False
            return super().has_room()


class GoneAndSilent(Silent):
    """vLLM #39702: found, evicted, and taken for loaded."""

    def pin(self, request: int, keys: list[Key]) -> None:
        pass


# Many requests


class FormerTable(SmallConnector):
    """A name that comes again has the table that it had."""

    def table(self, request: int, blocks: Sequence[int]) -> list[int]:
        self.tables: dict[int, list[int]] = getattr(self, "tables", {})
        former = self.tables.setdefault(request % 8, list(blocks))
        return former if len(former) >= len(blocks) else list(blocks)


class FormerLookup(SmallConnector):
    """The answer to a name's first lookup."""

    def lookup(self, request: int, tokens: Sequence[int], computed: int, extra: Extra) -> int:
        found = super().lookup(request, tokens, computed, extra)
        self.answers: dict[int, int] = getattr(self, "answers", {})
        return min(self.answers.setdefault(request % 8, found), found)


class BuffersComeAround(SmallConnector):
    """Memory for so many chunks that is used again, though the chunks are still known."""

    ring: ClassVar[int] = 64

    def copied(self, numbers: Tensor) -> Tensor:
        self.buffers: list[Tensor] = getattr(self, "buffers", [])
        if len(self.buffers) < self.ring:
            self.buffers.append(numbers.clone())
        else:
            self.buffers.append(self.buffers.pop(0).copy_(numbers))
        return self.buffers[-1]


class NoMoreAfterSixty(SmallConnector):
    """Something that is counted and never given back."""

    begun_stores: ClassVar[int] = 0

    def begun(self, job: Job) -> None:
        self.begun_stores += 1
        if self.begun_stores > 60:
            job.pieces = []


# At the same time


class OneTableForAll(SmallConnector):
    def load(self, request: int, *arguments: Any) -> None:
        super().load(request, *arguments)
        for job in self.loads.values():
            if request in self.loads and len(self.loads[request].blocks) >= len(job.blocks):
                job.blocks = self.loads[request].blocks


class OneOutcomeForAll(SmallConnector):
    def is_written(self, job: Job) -> bool:
        return any(not other.pieces for other in self.loads.values())


class AbortOfAll(SmallConnector):
    def abort(self, request: int) -> None:
        if request in self.loads:
            for job in self.loads.values():
                job.pieces = []
        super().abort(request)


class FailureOfAll(SmallConnector):
    """A load that ends takes the stores in flight with it."""

    def unpin_loaded(self, request: int) -> None:
        super().unpin_loaded(request)
        for job in self.stores.values():
            job.pieces = []


@dataclass(frozen=True)
class TransferMutant:
    fault: type[SmallConnector]
    broken: str


LOADS = "test_what_one_engine_stores_another_loads"
LAYOUTS = "test_other_layouts_are_right_or_refused"
COMMON = "test_a_common_beginning_is_found_and_no_more"
SALTS = "test_other_salts_share_nothing"
THERE = "test_tokens_that_are_there_stay"
GROWS = "test_a_growing_request_is_stored_to_its_end"
REPORTED = "test_blocks_are_read_when_they_are_reported"
EARLY = "test_what_is_found_early_is_whole"
ABORTED_LOAD = "test_an_aborted_load_writes_no_more"
ABORTED_STORE = "test_an_aborted_store_is_found_whole_or_not"
SAID = "test_what_was_not_loaded_is_said"
ROOM = "test_a_full_store_takes_new_prompts"
HUNDREDTH = "test_the_hundredth_request_is_served_as_the_first"
AT_ONCE = "test_transfers_at_once_stay_apart"
ANY = "test_any_interleaving_loads_what_was_stored"

FAULTS: dict[str, tuple[type[SmallConnector], ...]] = {
    LOADS: (
        KeysForValues,
        FirstLayerForAll,
        LayersReversed,
        HeadsReversed,
        LoadedBeforeItsLastLayer,
        SortedTable,
        PaddedTable,
        LastExactChunkLeftOut,
        RoundedUp,
        ViewsForCopies,
    ),
    LAYOUTS: (
        AxesBySize,
        OrderIgnored,
        OthersBlocks,
        WholeBlocksOfTheLoader,
        BitsOfAnotherDtype,
        RefusesWhatItClaims,
    ),
    COMMON: (OwnTokensAlone, FirstTokensOfAChunk, BehindAGap, AllOrNothing),
    SALTS: (SaltIgnored, AdapterAlone, ValuesOfSalts),
    THERE: (ComputedCountsToo, NegativeNeed, TableFromItsStart, CountOfAllTokens),
    GROWS: (StoredOnce, PartsOfChunksLeftOut, FirstTable),
    REPORTED: (
        ReportedAtOnce,
        ReportedBeforeTheLastLayer,
        ViewsForCopies,
        OneStagingBuffer,
    ),
    EARLY: (EnteredBeforeItIsRead, EnteredWithItsFirstLayer),
    ABORTED_LOAD: (
        LateWrite,
        AbortedLoadIsForgotten,
        AbortIsReportedTwice,
        AbortOfNothingIsReported,
        AbortedNamesStay,
    ),
    ABORTED_STORE: (
        LateRead,
        AbortedStoreIsForgotten,
        HalfOfAChunk,
        BegunIsStored,
        EnteredBeforeItIsRead,
    ),
    SAID: (
        Silent,
        FirstFailedBlockAlone,
        PlacesForBlocks,
        FailsInVain,
        ChunkWithoutItsLastLayerIsGood,
        IndexOutlivesItsChunks,
        IndexSaysItIsStored,
    ),
    ROOM: (
        KeptThoughNotLoaded,
        KeptTwice,
        KeptThoughAborted,
        KeptThoughLoaded,
        NothingIsGivenUp,
        NewestIsGivenUp,
        CountedTwice,
        GoneAndSilent,
    ),
    HUNDREDTH: (FormerTable, FormerLookup, BuffersComeAround, NoMoreAfterSixty),
    AT_ONCE: (OneTableForAll, OneOutcomeForAll, AbortOfAll, FailureOfAll),
    ANY: (
        OwnTokensAlone,
        ReportedAtOnce,
        LateWrite,
        SaltIgnored,
        AbortedLoadIsForgotten,
        OneOutcomeForAll,
        ComputedCountsToo,
    ),
}
MUTANTS = [TransferMutant(fault, broken) for broken, faults in FAULTS.items() for fault in faults]
