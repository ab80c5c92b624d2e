"""Random requests on a prefix cache whose pool is too small for them, checked after each step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
)

from .prefix_protocol import Extra
from .prefix_serving import Request, Serving

MOST = 3  # requests at a time


class PrefixMachine(RuleBasedStateMachine):
    """Requests that begin, are inserted, and end."""

    make_serving: ClassVar[Callable[[], Serving]]
    extras: ClassVar[Sequence[Extra]]

    def __init__(self) -> None:
        super().__init__()
        self.serving = type(self).make_serving()

    @precondition(lambda self: len(self.serving.running) < MOST)
    @rule(data=st.data(), blocks=st.lists(st.integers(0, 1), max_size=4), rest=st.integers(0, 2))
    def begin(self, data: st.DataObject, blocks: list[int], rest: int) -> None:
        size = self.serving.size
        tokens = [token for token in blocks for _ in range(size)] + [5] * min(rest, size)
        extra = data.draw(st.sampled_from(self.extras[:2]), label="extra")
        self.serving.begin(tokens, extra)

    @precondition(lambda self: self.serving.running)
    @rule(data=st.data())
    def insert(self, data: st.DataObject) -> None:
        self.serving.insert(self._request(data))

    @precondition(lambda self: self.serving.running)
    @rule(data=st.data(), insert=st.booleans())
    def end(self, data: st.DataObject, insert: bool) -> None:
        request = self._request(data)
        if insert:
            self.serving.insert(request)
        self.serving.end(request)

    @invariant()
    def each_reads_its_own(self) -> None:
        self.serving.check()

    def _request(self, data: st.DataObject) -> Request:
        running = self.serving.running
        return running[data.draw(st.integers(0, len(running) - 1), label="request")]
