"""Random operations on a paged KV cache, in any order, checked after each."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from .pages import Pages, Prompt

MOST = 4  # sequences at a time, so that each of them is met again


class PagedMachine(RuleBasedStateMachine):
    """Sequences that start, grow, fork, shrink, end, and are preempted and computed again."""

    make_pages: ClassVar[Callable[[], Pages]]

    def __init__(self) -> None:
        super().__init__()
        self.pages = type(self).make_pages()
        self.next = 0
        self.prompts: list[Prompt] = []

    @initialize(count=st.integers(1, 9))
    def begin(self, count: int) -> None:
        self.start(count)

    @precondition(lambda self: len(self.pages.truth) < MOST)
    @rule(count=st.integers(0, 9))
    def start(self, count: int) -> None:
        self.pages.start(self.next)
        self.pages.append(self.next, count)
        self.next += 1

    @precondition(lambda self: self.pages.truth)
    @rule(data=st.data(), blocks=st.integers(0, 2), more=st.integers(-1, 1))
    def append(self, data: st.DataObject, blocks: int, more: int) -> None:
        count = max(blocks * self.pages.geometry.block_size + more, 0)
        self.pages.append(self._sequence(data), count)

    @precondition(lambda self: 0 < len(self.pages.truth) < MOST)
    @rule(data=st.data(), count=st.integers(0, 2))
    def fork(self, data: st.DataObject, count: int) -> None:
        if self.pages.fork(self._sequence(data), self.next):
            self.pages.append(self.next, count)
        self.next += 1

    @precondition(lambda self: "prefixes" in self.pages.capabilities and self.pages.truth)
    @rule(data=st.data())
    def remember(self, data: st.DataObject) -> None:
        self.prompts.append(self.pages.remember(self._sequence(data)))

    @precondition(lambda self: self.prompts and len(self.pages.truth) < MOST)
    @rule(data=st.data(), count=st.integers(0, 2))
    def begin_known(self, data: st.DataObject, count: int) -> None:
        prompt = data.draw(st.sampled_from(self.prompts), label="prompt")
        length = data.draw(st.integers(0, len(prompt.ids)), label="length")
        self.pages.begin(self.next, prompt, length)
        self.pages.append(self.next, count)
        self.next += 1

    @precondition(lambda self: self.pages.truth)
    @rule(data=st.data())
    def truncate(self, data: st.DataObject) -> None:
        sequence = self._sequence(data)
        length = data.draw(st.integers(0, self.pages.length(sequence)), label="length")
        self.pages.truncate(sequence, length)

    @precondition(lambda self: len(self.pages.truth) > 1)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        self.pages.free(self._sequence(data))

    @precondition(lambda self: self.pages.truth)
    @rule(data=st.data())
    def preempt(self, data: st.DataObject) -> None:
        self.pages.preempt(self._sequence(data))

    @precondition(lambda self: "attend" in self.pages.capabilities)
    @rule()
    def attend(self) -> None:
        rows = sorted(s for s in self.pages.truth if self.pages.length(s))
        if rows:
            self.pages.attend(rows, 1)

    @precondition(lambda self: len(self.pages.truth) == MOST)
    @rule()
    def end(self) -> None:
        for sequence in list(self.pages.truth):
            self.pages.free(sequence)
        free, blocks = self.pages.cache.num_free_blocks, self.pages.geometry.num_blocks
        assert free == blocks, f"{free} of {blocks} blocks are free when all sequences have ended"
        self.pages.poison_by_writing()

    @invariant()
    def nothing_is_lost(self) -> None:
        self.pages.poison()
        self.pages.check()

    def _sequence(self, data: st.DataObject) -> int:
        return data.draw(st.sampled_from(sorted(self.pages.truth)), label="sequence")
