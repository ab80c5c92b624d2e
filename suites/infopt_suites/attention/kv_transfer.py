"""KVTransferSuite: are keys and values that come from elsewhere those that would be computed?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch

from ..base import Suite, requires
from ..machines import run_machine
from ..properties import tried
from .prefix_protocol import Extra
from .refusals import SLIPS
from .transfer_machine import TransferMachine
from .transfer_pair import PLAIN, TransferPair
from .transfer_protocol import KVLayout, MakeKVConnectors

BLOCKS = 24
OTHERS: list[tuple[set[str], dict[str, Any]]] = [  # another engine, and the capabilities for it
    ({"block_sizes"}, {"block_size": 5}),
    ({"block_sizes"}, {"block_size": 6}),
    ({"head_orders"}, {"tokens_first": False}),
    ({"dtypes"}, {"dtype": torch.bfloat16}),
    ({"block_sizes", "head_orders"}, {"block_size": 4, "tokens_first": False}),
]
on_each_size = tried("make_kv_connectors")  # a property of a new `TransferPair`, and blocks' size
PROGRESS = {"polls": (0, 1, 2, 3, 5)}  # after which something comes between


class KVTransferSuite(Suite):
    """Properties of connectors that store an engine's keys and values, and load them elsewhere.

    Give a fixture ``make_kv_connectors``: a `transfer_protocol.MakeKVConnectors`. Class attributes
    say how a connector differs:

    | attribute | default | meaning |
    |---|---|---|
    | ``block_sizes`` | (2, 3) | tokens of a block; one as large as the number of heads, 2 |
    | ``chunk`` | None | tokens stored and found together; None: a block of the storing engine |
    | ``wire`` | None | a dtype through which numbers go, if it is another than the engines' |
    | ``extras`` | 4 | what is told apart beside tokens; ``({},)``: nothing |
    | ``polls`` | 1000 | polls that are enough for whatever is in flight |
    | ``examples``, ``steps`` | 60, 30 | drawn sequences of operations; operations of each |

    A connector may find the whole prompt or leave its last token, tell of a chunk when it is begun
    or when it is there, finish or drop what is aborted, and keep what was looked up or report that
    it is gone.
    """

    topic = "kv_transfer"
    fixture = "make_kv_connectors"
    fixture_returns = "a callable: TransferSpec -> a connector for each of its layouts"
    offers = {  # noqa: RUF012  # read only
        "block_sizes": "engines with blocks of other sizes exchange",
        "head_orders": "engines that keep heads before tokens, and tokens before heads, exchange",
        "dtypes": "engines with other dtypes exchange",
        "bounded": "keeps ``spec.capacity`` tokens at most, and gives up old ones for new ones",
        "lose": "lose() forgets all that is stored, behind the connectors' backs",
    }
    block_sizes: ClassVar[Sequence[int]] = (2, 3)
    chunk: ClassVar[int | None] = None
    wire: ClassVar[torch.dtype | None] = None
    extras: ClassVar[Sequence[Extra]] = ({}, {"adapter": "x"}, {"salt": "x"}, {"adapter": "y"})
    polls: ClassVar[int] = 1000
    examples: ClassVar[int] = 60
    steps: ClassVar[int] = 30

    @on_each_size()
    def test_what_one_engine_stores_another_loads(self, pair: TransferPair, size: int) -> None:
        """Prompts around the edges of blocks and chunks, whose blocks are reused at once.

        Usual causes: keys for values, one layer for all, a table that is sorted, a last block that
        is left out or filled up, a whole hit that ends behind the prompt.
        """
        for length in _edges(size, pair.chunk):
            prompt = _prompt(length, first=length)
            pair.serve(prompt)
            pair.fetch_and_end(prompt)
            pair.fetch_and_end([*prompt, 7])

    @on_each_size(by_layout=True)
    def test_other_layouts_are_right_or_refused(self, pair: TransferPair | None, size: int) -> None:
        """What is not claimed may be refused when connectors are made or register, or not found.

        Usual causes: axes told apart by their sizes, which are equal here for once; a table of
        small blocks read in units of large ones; bits of one dtype read as another's.
        """
        if pair is None:
            return  # refused
        prompts = [_prompt(length, first=length) for length in _edges(size, pair.chunk)]
        for prompt in prompts:
            pair.serve(prompt)
        for prompt in prompts:
            pair.fetch_and_end(prompt)

    @on_each_size()
    def test_a_common_beginning_is_found_and_no_more(self, pair: TransferPair, size: int) -> None:
        """Of a prompt that goes on otherwise, within a chunk or at its edge, and behind another
        beginning.

        Usual causes: chunks that are found by their own tokens alone, a hit that is rounded up to
        a whole block, all or nothing, a hit behind a gap.
        """
        for common in range(2 * pair.chunk + size + 1):
            known = _prompt(3 * pair.chunk, first=50 + common)
            pair.serve(known)
            pair.fetch_and_end([*known[:common], *_prompt(2 * size, first=90)])
        pair.fetch_and_end([99] * pair.chunk + known[pair.chunk :])

    @on_each_size()
    def test_other_salts_share_nothing(self, pair: TransferPair, size: int) -> None:
        """Keys and values depend on adapter, tenant and image as well.

        Usual causes: a key of tokens and base model alone; names joined without their fields.
        """
        prompt = _prompt(2 * pair.chunk + 1)
        for extra in self.extras:
            pair.fetch_and_end(prompt, extra)  # before it is stored: of the others
            pair.serve(prompt, extra)
        for extra in self.extras:
            pair.fetch_and_end(prompt, extra)

    @on_each_size(each={"blocks": (1, 2, 3), "held_back": (0, 1)})
    def test_tokens_that_are_there_stay(
        self, pair: TransferPair, size: int, blocks: int, held_back: int
    ) -> None:
        """A request whose first blocks are computed or cached loads what comes behind them, or a
        part of that, or nothing.

        Usual causes: pairs of blocks counted from the table's start on one side and from the first
        missing one on the other; a count of all tokens taken for a count of new ones.
        """
        prompt = _prompt(4 * max(size, pair.chunk) + 1)
        pair.serve(prompt)
        request = pair.decode.begin(pair.name(), prompt, PLAIN, blocks * size)
        found = pair.decode.lookup(request)
        least = pair.least(prompt) - blocks * size
        assert found >= least, f"{found} tokens found behind {blocks} blocks, not {least}"
        pair.decode.load(request, max(found - held_back * size, 0))
        pair.settle()
        pair.decode.end(request)
        shorter = _prompt(pair.chunk, first=60)  # of which more is computed than was stored
        pair.serve(shorter)
        for known in (prompt, [*shorter, *prompt]):
            nothing = pair.decode.begin(pair.name(), known, PLAIN, 4 * max(size, pair.chunk))
            pair.decode.lookup(nothing)
            pair.decode.load(nothing, 0)
            pair.linger()
            pair.decode.end(nothing)

    @on_each_size()
    def test_blocks_are_read_when_they_are_reported(self, pair: TransferPair, size: int) -> None:
        """Three requests are stored at once; whoever is reported loses its blocks to others, which
        write them at once. What is loaded later is what was stored.

        Usual causes: reported when the copy has begun, or when one layer is there; a staging buffer
        for two requests.
        """
        prompts = [_prompt(3 * pair.chunk, first=10 * n) for n in (1, 2, 3)]
        requests = [pair.prefill.begin(pair.name(), prompt, PLAIN) for prompt in prompts]
        for request in requests:
            pair.prefill.compute(request)
            pair.prefill.store(request)
        for _ in range(self.polls):
            for request in [r for r in requests if r.name not in pair.prefill.storing]:
                pair.prefill.end(request)
                requests.remove(request)
            if not requests:
                break
            pair.prefill.poll()
        pair.settle()
        pair.linger()
        for prompt in prompts:
            pair.fetch_and_end([*prompt, 7])

    @on_each_size()
    def test_a_growing_request_is_stored_to_its_end(self, pair: TransferPair, size: int) -> None:
        """A prompt that is computed in parts, and an answer that grows behind it: stored again and
        again, up to lengths that fill a chunk, or begin one.

        Usual causes: a request that counts as stored after its first part; a part that begins in
        the middle of a chunk and is left out; the table of the first part.
        """
        tokens = _prompt(4 * pair.chunk + 1, first=30)
        request = pair.prefill.begin(pair.name(), tokens, PLAIN)
        pair.prefill.compute(request)
        ends = (1, pair.chunk, pair.chunk + 1, 2 * pair.chunk, 4 * pair.chunk - 1, 4 * pair.chunk)
        for end in ends:
            pair.prefill.store(request, end)
            pair.settle()
            pair.fetch_and_end([*tokens[:end], 9])
        pair.prefill.end(request)
        pair.fetch_and_end(tokens)

    @on_each_size(each=PROGRESS)
    def test_what_is_found_early_is_whole(self, pair: TransferPair, size: int, polls: int) -> None:
        """While a prompt is still being stored, as much of it is found as can be loaded, at once or
        when it is there.

        Usual causes: keys that are entered before the numbers are copied.
        """
        prompt = _prompt(3 * pair.chunk + 1)
        storing = pair.prefill.begin(pair.name(), prompt, PLAIN)
        pair.prefill.compute(storing)
        pair.prefill.store(storing)
        for _ in range(polls):
            pair.prefill.poll()
        early = pair.decode.begin(pair.name(), prompt, PLAIN)
        pair.decode.load(early, pair.decode.lookup(early))
        for _ in range(8):  # a load that is faster than the store
            pair.decode.poll()
        pair.settle()
        pair.prefill.end(storing)
        pair.fetch_and_end(prompt)

    @on_each_size(each=PROGRESS)
    def test_an_aborted_load_writes_no_more(
        self, pair: TransferPair, size: int, polls: int
    ) -> None:
        """When it is reported, its blocks go to others; nothing is written there any more.

        Usual causes: blocks given back while a write is in flight; a report that is lost with the
        request, or comes twice; a name that stays on a list of the aborted.
        """
        prompt, name = _prompt(3 * pair.chunk + 1), pair.name()
        pair.serve(prompt)
        for _ in range(2):
            request = pair.decode.begin(name, prompt, PLAIN)
            pair.decode.load(request, pair.decode.lookup(request))
            for _ in range(polls):
                pair.decode.poll()
            pair.decode.abort(request)
            pair.settle()
            pair.decode.abort(request)  # nothing is in flight any more
            pair.decode.end(request)
            pair.linger()
        again = pair.decode.begin(name, prompt, PLAIN)
        pair.decode.load(again, pair.decode.lookup(again))
        pair.settle()
        pair.decode.end(again)
        pair.fetch_and_end(prompt)

    @on_each_size(each=PROGRESS)
    def test_an_aborted_store_is_found_whole_or_not(
        self, pair: TransferPair, size: int, polls: int
    ) -> None:
        """Half of a prompt may be there, and not half of a chunk; stored again, it is found.

        Usual causes: an entry for what was not copied; blocks that are read after they were given
        back; a prompt that counts as stored when it was only begun.
        """
        prompt = _prompt(3 * pair.chunk + 1)
        request = pair.prefill.begin(pair.name(), prompt, PLAIN)
        pair.prefill.compute(request)
        pair.prefill.store(request)
        for _ in range(polls):
            pair.prefill.poll()
        pair.prefill.abort(request)
        pair.settle()
        pair.prefill.end(request)
        pair.linger()
        pair.decode.end(pair.fetch(prompt, least=0))
        pair.serve(prompt)
        pair.fetch_and_end(prompt)

    @requires("lose")
    @on_each_size(each=PROGRESS)
    def test_what_was_not_loaded_is_said(self, pair: TransferPair, size: int, polls: int) -> None:
        """A hit may be gone when it is loaded: before, or in the middle. Each block that does not
        hold its tokens is reported, and the next request does not run into the same hit for ever.

        Usual causes: a load that is over when it was tried, the first block named for all, numbers
        of blocks in the table for blocks of the pool, an entry that outlives its numbers.
        """
        prompt = _prompt(4 * pair.chunk + 1)
        for early in (True, False):
            pair.serve(prompt)
            request = pair.decode.begin(pair.name(), prompt, PLAIN)
            found = pair.decode.lookup(request)
            if early:
                pair.lose()
            pair.decode.load(request, found)
            for _ in range(polls):
                pair.decode.poll()
            pair.lose()
            pair.settle()
            pair.decode.compute(request)
            pair.decode.end(request)
            pair.decode.end(pair.fetch(prompt, least=0))
        assert pair.found(prompt) == 0, "what was lost is found, though a load of it has failed"
        pair.serve(prompt)
        pair.fetch_and_end(prompt)

    @requires("bounded")
    @on_each_size(capacity=4)
    def test_a_full_store_takes_new_prompts(self, pair: TransferPair, size: int) -> None:
        """Forty prompts through room for two of them, some looked up and never loaded, some given
        up: each is found again right after it was stored. One that has to go between lookup and
        load is right or reported.

        Usual causes: what was looked up is kept for ever, room that is not given back when a store
        is aborted, entries that are counted twice.
        """
        chunk = pair.chunk
        for number in range(40):
            prompt = _prompt(2 * chunk + 1, first=number)
            pair.serve(prompt)
            pair.fetch_and_end(prompt)
            request = pair.decode.begin(pair.name(), prompt, PLAIN)
            found = max(pair.decode.lookup(request) for _ in range(2))  # it waits, and asks again
            if number % 4 == 0:
                pair.decode.load(request, 0)
            elif number % 4 == 1:
                pair.decode.abort(request)
            else:
                for other in range(number % 4):
                    pair.serve(_prompt(2 * chunk + 1, first=1000 + 10 * number + other))
                pair.decode.load(request, found)
            pair.settle()
            pair.decode.end(request)

    @on_each_size()
    def test_the_hundredth_request_is_served_as_the_first(
        self, pair: TransferPair, size: int
    ) -> None:
        """Prompts with common beginnings, in both directions, under names that come again.

        Usual causes: state by the request's name that outlives it; buffers that are used again
        while they are in use; tables of a former request.
        """
        for number in range(100):
            length = (2, 3, 1, 4)[number % 4] * pair.chunk + number % 3
            prompt = [number % 5] * pair.chunk + _prompt(length, first=200 + number // 3)
            extra = self.extras[number % 2 % len(self.extras)]
            pair.serve(prompt, extra, name=number % 3)
            pair.fetch_and_end(prompt, extra)
            if number % 7 == 0:
                pair.serve([*prompt, 8], engine=pair.decode, name=number % 3)

    @on_each_size()
    def test_transfers_at_once_stay_apart(self, pair: TransferPair, size: int) -> None:
        """Loads of the same and of other prompts, beside stores, all in flight together.

        Usual causes: one staging buffer, one list of blocks or one outcome for all.
        """
        prompts = [_prompt(2 * pair.chunk + n, first=10 * n) for n in (1, 2)]
        for prompt in prompts:
            pair.serve(prompt)
        loads = [pair.decode.begin(pair.name(), p, PLAIN) for p in (*prompts, prompts[0])]
        store = pair.decode.begin(pair.name(), _prompt(3 * pair.chunk, first=70), PLAIN)
        pair.decode.compute(store)
        counts = [pair.decode.lookup(request) for request in loads]
        for request, count in zip(loads, counts, strict=True):
            pair.decode.load(request, count)
        pair.decode.store(store)
        pair.decode.poll()
        pair.decode.abort(loads[1])
        pair.settle()
        for request in (*loads, store):
            pair.decode.end(request)
        for prompt in (*prompts, store.tokens):
            pair.fetch_and_end(prompt)

    def test_any_interleaving_loads_what_was_stored(
        self, make_kv_connectors: MakeKVConnectors
    ) -> None:
        """Requests of two engines compute, store, look up, load and are aborted in any order, with
        any number of polls in between.

        Usual causes: all of the above, together.
        """
        for size in self.block_sizes:
            pair = partial(self._pair, make_kv_connectors, size)
            members = {"make_pair": staticmethod(pair), "extras": self.extras[:2]}
            run_machine(TransferMachine, members, examples=self.examples, steps=self.steps)

    def _hold(
        self,
        make: MakeKVConnectors,
        holds: Callable[[TransferPair | None, int], None],
        by_layout: bool = False,
        capacity: int | None = None,
    ) -> None:
        __tracebackhide__ = True
        for size in self.block_sizes:
            if not by_layout:
                chunks = None if capacity is None else capacity * (self.chunk or size)
                holds(self._pair(make, size, chunks), size)
                continue
            self._pair(make, size)  # its own layout is not refused
            for words, other in OTHERS:
                for swapped in (False, True):
                    holds(self._pair_of_layouts(make, size, words, other, swapped), size)

    def _pair(self, make: MakeKVConnectors, size: int, capacity: int | None = None) -> TransferPair:
        layout = KVLayout(BLOCKS * self._blocks_of(size), size)
        return TransferPair(make, (layout, layout), self, capacity)

    def _pair_of_layouts(
        self,
        make: MakeKVConnectors,
        size: int,
        words: set[str],
        other: dict[str, Any],
        swapped: bool,
    ) -> TransferPair | None:
        one = KVLayout(BLOCKS * self._blocks_of(size), size)
        layouts = (replace(one, **other), one) if swapped else (one, replace(one, **other))
        claimed = words <= {*self.capabilities}
        try:
            return TransferPair(make, layouts, self, exchanges=claimed)
        except SLIPS:
            raise
        except Exception:
            if claimed:
                raise
            return None

    def _blocks_of(self, size: int) -> int:
        """Blocks of a chunk, but for the part of one."""
        return max(1, (self.chunk or size) // size)


def _prompt(length: int, first: int = 0) -> list[int]:
    return [first, *range(100, 99 + length)][:length]


def _edges(size: int, chunk: int) -> list[int]:
    """Lengths around the edges of blocks and chunks."""
    edges = (0, size, chunk, 2 * chunk, 3 * chunk)
    return sorted({max(edge + more, 0) for edge in edges for more in (-1, 0, 1)})
