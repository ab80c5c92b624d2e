"""Engines with a paged memory of their own, and a record of what a connector may do to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .transfer_protocol import Extra, KVConnector, KVLayout

UNWRITTEN, REUSED = 1000.0, -500.0  # numbers that no token has
Salted = tuple[tuple[int, ...], tuple[tuple[str, str], ...]]


def salted(tokens: Sequence[int], extra: Extra) -> Salted:
    return tuple(tokens), tuple(sorted(extra.items()))


class Numbers:
    """Keys and values [L, 2, T, G, D] of tokens. Each depends on all before it, and the extra."""

    def __init__(self, layout: KVLayout) -> None:
        self._shape = (layout.layers, 2, layout.kv_heads, layout.head_dim)
        self._known: dict[Salted, Tensor] = {}

    def of(self, tokens: Sequence[int], extra: Extra) -> Tensor:
        rows = [self._last(tokens[: end + 1], extra) for end in range(len(tokens))]
        empty = torch.empty(*self._shape[:2], 0, *self._shape[2:])
        return torch.stack(rows, dim=2) if rows else empty

    def _last(self, tokens: Sequence[int], extra: Extra) -> Tensor:
        key = salted(tokens, extra)
        if key not in self._known:
            generator = torch.Generator().manual_seed(len(self._known))
            self._known[key] = torch.randn(self._shape, generator=generator)
        return self._known[key]


@dataclass
class Stored:
    """What has been stored so far, by whichever engine: tokens with their extra, and in which
    dtypes."""

    begun: dict[Salted, set[torch.dtype]] = field(default_factory=dict)

    def add(self, tokens: Sequence[int], extra: Extra, dtype: torch.dtype) -> None:
        self.begun.setdefault(salted(tokens, extra), set()).add(dtype)

    def common(self, tokens: Sequence[int], extra: Extra) -> int:
        """The longest beginning that was stored under the same extra."""
        own, salt = salted(tokens, extra)
        lengths = [_shared(own, other) for other, theirs in self.begun if theirs == salt]
        return max(lengths, default=0)

    def dtypes(self) -> set[torch.dtype]:
        return set().union(*self.begun.values())


@dataclass
class Request:
    """Tokens of which the first ``valid`` are in the blocks."""

    name: int
    tokens: list[int]
    extra: Extra
    blocks: list[int]
    valid: int = 0
    given_up: bool = False


@dataclass
class Load:
    request: Request
    end: int
    failed: set[int] = field(default_factory=set)


class TransferEngine:
    """A paged memory and its requests. What a connector does to it is checked at each poll."""

    def __init__(
        self,
        layout: KVLayout,
        connector: KVConnector,
        numbers: Numbers,
        stored: Stored,
        wire: torch.dtype | None,
    ) -> None:
        self.layout, self.connector, self.stored = layout, connector, stored
        self._numbers, self._wire = numbers, wire
        shape = layout.shape()
        self.memory = [
            torch.full(shape, UNWRITTEN, dtype=layout.dtype) for _ in range(layout.layers)
        ]
        self._own = [layer.clone() for layer in self.memory]  # what is to be in it
        self.free = list(range(layout.num_blocks))
        self.loading: dict[int, Load] = {}
        self.storing: dict[int, Request] = {}
        connector.register(self.memory)

    def begin(self, name: int, tokens: Sequence[int], extra: Extra, computed: int = 0) -> Request:
        """A request in blocks of its own, whose first tokens are computed."""
        count = -(-len(tokens) // self.layout.block_size)
        blocks = [self.free.pop() for _ in range(count)][::-1]
        blocks = blocks[1::2] + blocks[::2]  # in no order
        request = Request(name, list(tokens), extra, blocks)
        self.compute(request, computed)
        return request

    def compute(self, request: Request, end: int | None = None) -> None:
        """Write the tokens that are not there, up to the end."""
        end = len(request.tokens) if end is None else end
        numbers = self._numbers.of(request.tokens[:end], request.extra)[:, :, request.valid :]
        self._write(request, request.valid, numbers)
        request.valid = end

    def lookup(self, request: Request) -> int:
        computed = request.valid
        found = self.connector.lookup(request.name, request.tokens, computed, request.extra)
        most = max(self.stored.common(request.tokens, request.extra) - computed, 0)
        assert 0 <= found <= most, (
            f"lookup found {found} tokens behind the first {computed} of {request.tokens}, extra "
            f"{dict(request.extra)}, of which {most} were stored"
        )
        return found

    def load(self, request: Request, count: int) -> None:
        if count:
            self.loading[request.name] = Load(request, request.valid + count)
        self.connector.load(
            request.name,
            request.tokens,
            list(request.blocks),
            request.valid,
            count,
            request.extra,
        )

    def store(self, request: Request, end: int | None = None) -> None:
        """Its tokens, or those before ``end``."""
        tokens = request.tokens[:end]
        blocks = request.blocks[: -(-len(tokens) // self.layout.block_size)]
        self.stored.add(tokens, request.extra, self.layout.dtype)
        self.storing[request.name] = request
        self.connector.store(request.name, tokens, blocks, request.extra)

    def abort(self, request: Request) -> None:
        request.given_up = True
        self.connector.abort(request.name)

    def end(self, request: Request) -> None:
        """Give the blocks to whoever comes next, who writes them at once."""
        moving = {name for name, load in self.loading.items() if load.request is request}
        assert not moving | {n for n, r in self.storing.items() if r is request}
        self._write(request, 0, None)
        self.free += request.blocks

    def poll(self) -> None:
        found = self.connector.poll()
        for block in found.failed_blocks:
            owners = [load for load in self.loading.values() if block in load.request.blocks]
            assert owners, f"block {block} failed, and no load is in flight that has it"
            owners[0].failed.add(block)
        for kind, names, flying in (
            ("stored", found.stored, self.storing),
            ("loaded", found.loaded, self.loading),
        ):
            for name in names:
                assert name in flying, f"request {name} was {kind}, of which nothing is in flight"
        for name in found.loaded:
            self._check_load(self.loading.pop(name))
        for name in found.stored:
            del self.storing[name]
        self.check()

    def check(self) -> None:
        """Raise AssertionError where memory changed that no load in flight may write."""
        writable = torch.zeros(self.layout.num_blocks, self.layout.block_size, dtype=torch.bool)
        for load in self.loading.values():
            request = load.request
            writable[self._slots(request, request.valid, None)] = True
        for layer, (now, own) in enumerate(zip(self.memory, self._own, strict=True)):
            changed = (self._view(now) != self._view(own)).any(-1).any(-1).any(0) & ~writable
            places = changed.nonzero().tolist()
            assert not places, (
                f"slots {places[:4]} (block, place) of layer {layer} were written, and no load in "
                "flight has them"
            )

    def _check_load(self, load: Load) -> None:
        request, start = load.request, load.request.valid
        size = self.layout.block_size
        ends = [i * size for i, block in enumerate(request.blocks) if block in load.failed]
        good = max(start, min([load.end, *ends]))
        slots = self._slots(request, start, None)
        numbers = self._numbers.of(request.tokens, request.extra)
        for layer, (now, own) in enumerate(zip(self.memory, self._own, strict=True)):
            view = self._view(now)
            if not request.given_up:
                blocks, places = self._slots(request, start, load.end)
                wanted = numbers[layer][:, start : load.end]
                same = self._same(view[:, blocks, places], wanted).all(-1).all(-1).all(0)
                claimed = ~torch.isin(blocks, torch.tensor(sorted(load.failed)))
                wrong = (start + (~same & claimed).nonzero()[:, 0]).tolist()
                assert not wrong, (
                    f"request {request.name} was loaded, its tokens {wrong} of "
                    f"{start}…{load.end - 1} in blocks {request.blocks} (size {size}) are wrong "
                    f"in layer {layer}, and no failed block says so"
                )
            self._view(own)[:, slots[0], slots[1]] = view[:, slots[0], slots[1]]
        request.valid = start if request.given_up else good

    def _same(self, found: Tensor, wanted: Tensor) -> Tensor:
        """Which numbers are those that were stored, rounded as dtypes and the wire round them."""
        ways = [
            wanted.to(dtype).to(self._wire or dtype).to(self.layout.dtype)
            for dtype in self.stored.dtypes()
        ]
        return torch.stack([found == way for way in ways]).any(0)

    def _write(self, request: Request, start: int, numbers: Tensor | None) -> None:
        """Numbers [L, 2, T, G, D] from a token on; None: what the next request writes in all."""
        end = None if numbers is None else start + numbers.shape[2]
        blocks, places = self._slots(request, start, end)
        for layer, both in enumerate(zip(self.memory, self._own, strict=True)):
            for memory in both:
                new = REUSED if numbers is None else numbers[layer].to(self.layout.dtype)
                self._view(memory)[:, blocks, places] = new

    def _slots(self, request: Request, start: int, end: int | None) -> tuple[Tensor, Tensor]:
        """Blocks and places of tokens; without an end, to the end of the last block."""
        size = self.layout.block_size
        tokens = torch.arange(start, len(request.blocks) * size if end is None else end)
        return torch.tensor(request.blocks, dtype=torch.int64)[tokens // size], tokens % size

    def _view(self, memory: Tensor) -> Tensor:
        """[2, N, P, G, D] of whatever order."""
        return memory if self.layout.tokens_first else memory.transpose(2, 3)


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def least_found(common: int, length: int, chunk: int, size: int) -> int:
    """Tokens that have to be found of a prompt: whole chunks and whole blocks of what is stored,
    short of the last token."""
    return min(common, max(length - 1, 0)) // chunk * chunk // size * size
