"""Two engines that exchange keys and values: one that mostly stores, one that mostly loads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol, cast

import torch

from .transfer_engine import Numbers, Request, Stored, TransferEngine, least_found
from .transfer_protocol import (
    Extra,
    KVLayout,
    LosingConnector,
    MakeKVConnectors,
    TransferSpec,
)

PLAIN: Extra = {}


class TransferContract(Protocol):
    """What the suite's class declares."""

    chunk: ClassVar[int | None]
    wire: ClassVar[torch.dtype | None]
    polls: ClassVar[int]


class TransferPair:
    """``prefill`` and ``decode``, and what both have stored so far.

    Raises whatever the factory raises where the layouts do not go together.
    """

    def __init__(
        self,
        make: MakeKVConnectors,
        layouts: tuple[KVLayout, KVLayout],
        contract: TransferContract,
        capacity: int | None = None,
        exchanges: bool = True,
    ) -> None:
        self.contract, self.layouts, self.exchanges = contract, layouts, exchanges
        self.stored, numbers = Stored(), Numbers(layouts[0])
        connectors = make(TransferSpec(layouts, capacity))
        self.prefill, self.decode = (
            TransferEngine(layout, connector, numbers, self.stored, contract.wire)
            for layout, connector in zip(layouts, connectors, strict=True)
        )
        self._next = 0

    @property
    def chunk(self) -> int:
        return self.contract.chunk or self.layouts[0].block_size

    def name(self) -> int:
        """A request that never was."""
        self._next += 1
        return self._next

    def least(self, tokens: Sequence[int], extra: Extra = PLAIN) -> int:
        """Tokens that `decode` has to find; none where layouts are not said to go together."""
        if not self.exchanges:
            return 0
        common = self.stored.common(tokens, extra)
        return least_found(common, len(tokens), self.chunk, self.layouts[1].block_size)

    def settle(self) -> None:
        """Poll both engines in turns until nothing is in flight."""
        engines = (self.decode, self.prefill)
        for _ in range(self.contract.polls):
            busy = [engine for engine in engines if engine.loading or engine.storing]
            if not busy:
                return
            for engine in busy:
                engine.poll()
        flying = sorted({name for e in engines for name in (*e.loading, *e.storing)})
        assert not flying, (
            f"requests {flying} are in flight after {self.contract.polls} polls, and their blocks "
            "cannot be given to others"
        )

    def linger(self, count: int = 8) -> None:
        """Polls in which nothing is to come any more."""
        for _ in range(count):
            self.prefill.poll()
            self.decode.poll()

    def serve(
        self,
        tokens: Sequence[int],
        extra: Extra = PLAIN,
        engine: TransferEngine | None = None,
        name: int | None = None,
    ) -> None:
        """A prompt computed and stored, whose blocks are written by others as soon as they may."""
        engine = engine or self.prefill
        request = engine.begin(self.name() if name is None else name, tokens, extra)
        engine.compute(request)
        engine.store(request)
        self.settle()
        engine.end(request)

    def fetch(
        self,
        tokens: Sequence[int],
        extra: Extra = PLAIN,
        least: int | None = None,
        computed: int = 0,
    ) -> Request:
        """A prompt looked up and loaded into the decoding engine; of at least so many tokens."""
        request = self.decode.begin(self.name(), tokens, extra, computed)
        found = self.decode.lookup(request)
        least = self.least(tokens, extra) if least is None else least
        assert found >= least - computed, (
            f"{found} tokens were found behind the first {computed} of {tokens}, extra "
            f"{dict(extra)}: {least} of its beginning are stored in whole chunks"
        )
        self.decode.load(request, found)
        self.settle()
        assert request.valid == computed + found or least == 0, (
            f"tokens from {request.valid} on failed to load, and nothing was lost"
        )
        return request

    def fetch_and_end(self, tokens: Sequence[int], extra: Extra = PLAIN) -> None:
        self.decode.end(self.fetch(tokens, extra))

    def lose(self) -> None:
        cast(LosingConnector, self.prefill.connector).lose()

    def found(self, tokens: Sequence[int]) -> int:
        """What the decoding engine finds, and does not load."""
        request = self.decode.begin(self.name(), tokens, PLAIN)
        found = self.decode.lookup(request)
        self.decode.abort(request)
        self.decode.end(request)
        return found
