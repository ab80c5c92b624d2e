"""Random requests of two engines that exchange keys and values, checked after each poll."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from .prefix_protocol import Extra
from .transfer_engine import Request, TransferEngine
from .transfer_pair import TransferPair

MOST = 3  # requests at a time
CHUNKS = st.sampled_from([[0], [0, 1], [0, 1, 1], [1, 0, 1]])  # few, so that they are met again


class TransferMachine(RuleBasedStateMachine):
    """Requests that begin in either engine, load, are stored, are aborted, and end."""

    make_pair: ClassVar[Callable[[], TransferPair]]
    extras: ClassVar[Sequence[Extra]]

    def __init__(self) -> None:
        super().__init__()
        self.pair = type(self).make_pair()
        self.running: list[tuple[TransferEngine, Request]] = []

    @initialize()
    def serve(self) -> None:
        for chunks in ([0, 1, 1], [1, 0, 1]):
            self.pair.serve(self._tokens(chunks, 1), self.extras[0])

    @precondition(lambda self: len(self.running) < MOST)
    @rule(
        data=st.data(),
        chunks=CHUNKS,
        computed=st.sampled_from([0, 0, 1]),
        decodes=st.sampled_from([True, True, False]),
        loads=st.sampled_from([True, True, True, False]),
    )
    def begin_and_load(
        self, data: st.DataObject, chunks: list[int], computed: int, decodes: bool, loads: bool
    ) -> None:
        extra = data.draw(st.sampled_from(self.extras), label="extra")
        tokens = self._tokens(chunks, 1)
        blocks = min(computed, len(tokens) // self.pair.layouts[0].block_size)
        engine, request = self._begin(tokens, decodes, blocks, extra)
        found = engine.lookup(request)
        engine.load(request, found if loads else 0)

    @precondition(lambda self: len(self.running) < MOST)
    @rule(data=st.data(), chunks=CHUNKS, rest=st.integers(0, 2), decodes=st.booleans())
    def begin_and_store(
        self, data: st.DataObject, chunks: list[int], rest: int, decodes: bool
    ) -> None:
        extra = data.draw(st.sampled_from(self.extras), label="extra")
        engine, request = self._begin(self._tokens(chunks, rest), decodes, 0, extra)
        engine.compute(request)
        engine.store(request)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def store(self, data: st.DataObject) -> None:
        engine, request = self._one(data)
        if not self._flies(engine, request) and not request.given_up:
            engine.compute(request)
            engine.store(request)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        engine, request = self._one(data)
        engine.abort(request)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        engine, request = self._one(data)
        if not self._flies(engine, request):
            self.running.remove((engine, request))
            engine.end(request)

    @rule(count=st.integers(1, 5), decodes=st.booleans(), reuses=st.booleans())
    def poll(self, count: int, decodes: bool, reuses: bool) -> None:
        """Where ``reuses``, blocks go to others as soon as they may."""
        for _ in range(count):
            (self.pair.decode if decodes else self.pair.prefill).poll()
            for engine, request in list(self.running) if reuses else ():
                if not self._flies(engine, request):
                    self.running.remove((engine, request))
                    engine.end(request)

    @rule()
    def settle(self) -> None:
        self.pair.settle()
        self.pair.linger(2)

    def _tokens(self, chunks: list[int], rest: int) -> list[int]:
        return [token for token in chunks for _ in range(self.pair.chunk)] + [5] * rest

    def _begin(
        self, tokens: list[int], decodes: bool, computed: int, extra: Extra
    ) -> tuple[TransferEngine, Request]:
        engine = self.pair.decode if decodes else self.pair.prefill
        names = {request.name for _, request in self.running}
        name = next(number for number in range(MOST) if number not in names)
        size = self.pair.layouts[0].block_size
        made = engine, engine.begin(name, tokens, extra, computed * size)
        self.running.append(made)
        return made

    def _one(self, data: st.DataObject) -> tuple[TransferEngine, Request]:
        return self.running[data.draw(st.integers(0, len(self.running) - 1), label="request")]

    def _flies(self, engine: TransferEngine, request: Request) -> bool:
        return request.name in engine.loading or request.name in engine.storing
