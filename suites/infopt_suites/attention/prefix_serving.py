"""Requests on a prefix cache, with a record of what is really in each block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from .prefix_protocol import CountedPrefixCache, Extra, PrefixCache, PrefixGeometry
from .refusals import is_refused

Content = tuple[tuple[int, ...], tuple[tuple[str, str], ...]]  # all tokens so far, and the extra


@dataclass
class Request:
    """Tokens, and the blocks that hold their keys and values."""

    tokens: list[int]
    extra: Extra
    blocks: list[int] = field(default_factory=list)


class Serving:
    """Requests on a prefix cache, and what is really in each block."""

    def __init__(
        self, cache: PrefixCache, geometry: PrefixGeometry, capabilities: frozenset[str]
    ) -> None:
        self.cache, self.geometry, self.capabilities = cache, geometry, capabilities
        self.size = geometry.block_size
        self.memory: dict[int, Content] = {}
        self.running: list[Request] = []

    @property
    def held(self) -> set[int]:
        return {block for request in self.running for block in request.blocks}

    def match(self, tokens: Sequence[int], extra: Extra) -> list[int]:
        """What the cache finds, checked and let go again."""
        found = self._matched(tokens, extra)
        self.cache.release(found)
        return found

    def begin(self, tokens: Sequence[int], extra: Extra) -> Request:
        """Match, allocate and compute; the request runs, with fewer blocks if there are too few."""
        request = Request(list(tokens), extra, self._matched(tokens, extra))
        self.running.append(request)
        needed = -(-len(tokens) // self.size) - len(request.blocks)
        held = self.held
        fresh = self._allocated(needed)
        if fresh is None:
            room = self.geometry.num_blocks - len(held)
            assert needed > room, f"{needed} blocks were refused, and nobody holds {room}"
            request.tokens = request.tokens[: len(request.blocks) * self.size]
            self.check()
            return request
        assert len(fresh) == needed, f"{len(fresh)} blocks for {needed}"
        assert len({*fresh}) == needed, f"allocate gave a block twice: {fresh}"
        assert not held & {*fresh}, f"blocks {sorted(held & {*fresh})} are held and given away"
        for index, block in enumerate(fresh, start=len(request.blocks)):
            self.memory[block] = self._content(request, index)
        request.blocks += fresh
        return request

    def insert(self, request: Request) -> None:
        table = self.cache.insert(request.tokens, request.blocks, request.extra)
        request.blocks = list(table)
        self._check_request(request)

    def end(self, request: Request) -> None:
        self.running.remove(request)
        self.cache.release(request.blocks)

    def run(self, tokens: Sequence[int], extra: Extra, *, insert: bool = True) -> None:
        """A request from its begin to its end."""
        request = self.begin(tokens, extra)
        if insert:
            self.insert(request)
        self.end(request)

    def check(self) -> None:
        """Raise AssertionError unless running requests have their tokens and counts add up."""
        for request in self.running:
            self._check_request(request)
        if "counts" in self.capabilities:
            counted = cast(CountedPrefixCache, self.cache)
            free, evictable, held = counted.num_free, counted.num_evictable, counted.num_held
            assert held == len(self.held), f"num_held is {held}, {len(self.held)} blocks are held"
            assert free + evictable + held == self.geometry.num_blocks, (
                f"{free} free + {evictable} evictable + {held} held, not {self.geometry.num_blocks}"
            )

    def _matched(self, tokens: Sequence[int], extra: Extra) -> list[int]:
        found = list(self.cache.match(tokens, extra))
        assert len(found) * self.size < max(len(tokens), 1), (
            f"{len(found)} blocks of {self.size} leave nothing to compute of {len(tokens)} tokens"
        )
        self._check_request(Request(list(tokens), extra, found))
        return found

    def _allocated(self, count: int) -> list[int] | None:
        given: list[int] = []
        refused = is_refused(lambda: given.extend(self.cache.allocate(count)))
        return None if refused else given  # refused: there are too few

    def _content(self, request: Request, index: int) -> Content:
        tokens = request.tokens[: (index + 1) * self.size]
        return tuple(tokens), tuple(sorted(request.extra.items()))

    def _check_request(self, request: Request) -> None:
        for index, block in enumerate(request.blocks):
            wanted, held = self._content(request, index), self.memory.get(block)
            assert held == wanted, (
                f"block {index} of {request.tokens}, {_words(request.extra)}, is block {block}, "
                f"which holds {held}"
            )


def _words(extra: Mapping[str, str]) -> str:
    return f"extra {dict(extra)}" if extra else "no extra"
