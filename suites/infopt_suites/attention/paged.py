"""PagedKVSuite: do sequences in shared blocks read as if each had a memory of its own?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar

import torch

from ..base import Suite, requires
from ..machines import run_machine
from ..properties import tried
from .paged_machine import PagedMachine
from .paged_protocol import MakePagedKV, PagedGeometry
from .pages import Pages
from .refusals import is_refused

BLOCK_SIZES = (1, 3, 4)
EDGES = {"blocks": (0, 1, 2), "more": (-1, 0, 1)}  # of a length: whole blocks, and tokens beside
on_each_size = tried("make_paged_kv")  # a property of new `Pages`, and their size


class PagedKVSuite(Suite):
    """Properties of paged KV caches with a block allocator.

    Give a fixture ``make_paged_kv``: a `paged_protocol.MakePagedKV`. ``block_sizes`` are those that
    the implementation takes; ``examples`` sequences of operations are tried, of ``steps`` each.
    ``fork_copies``: a fork copies a last, partly filled block at once, and needs a block for it;
    otherwise it is copied when parent or child writes. ``can_truncate`` and ``can_fork``: where one
    is False, the suite frees the sequence and writes what remains of it, or writes the parent's
    tokens for the child. A quantized cache declares ``bits``, to which it rounds numbers, or
    ``float_codes``, the dtype of codes such as float8's.
    """

    topic = "paged_kv"
    fixture = "make_paged_kv"
    fixture_returns = "a callable: PagedGeometry -> paged KV cache"
    offers = {  # noqa: RUF012  # read only
        "references": "references(block) counts the tables that a block is in",
        "pool": "pool(layer) is the memory itself",
        "quantized": "numbers come back rounded",
        "prefixes": "remember(sequence, token_ids), allocate_known(…): full blocks are found again",
        "attend": "attend(sequences, queries, layer): attention through the tables",
        "runner": "runner_table(sequence): the table as the next step reads it",
    }
    block_sizes: ClassVar[Sequence[int]] = BLOCK_SIZES
    dtype: ClassVar[torch.dtype] = torch.float64
    device: ClassVar[str] = "cpu"
    examples: ClassVar[int] = 30
    steps: ClassVar[int] = 25
    fork_copies: ClassVar[bool] = False
    can_truncate: ClassVar[bool] = True
    can_fork: ClassVar[bool] = True
    bits: ClassVar[int] = 8
    float_codes: ClassVar[torch.dtype | None] = None
    head_dim: ClassVar[int] = 4

    def test_sequences_read_as_if_they_were_contiguous(self, make_paged_kv: MakePagedKV) -> None:
        """Lengths 0, 1, P − 1, P, P + 1 and 2·P, written at once and in two parts.

        Usual causes: a block too few where the length is a multiple of P, one too many where it is
        not, a slot that is computed from the part's own start, layers that share a slot.
        """
        for size in self.block_sizes:
            for length in _edges(size):
                for split in range(length + 1):
                    pages = self._pages(make_paged_kv, size)
                    pages.start(0)
                    pages.start(1)  # in between, so that blocks are not neighbours
                    for count in (split, length - split):
                        pages.append(0, count)
                        pages.append(1, 1)
                    pages.check()

    @on_each_size()
    def test_waste_is_less_than_a_block(self, pages: Pages, size: int) -> None:
        """A sequence of n tokens holds ceil(n / P) blocks, exactly.

        Usual causes: a block in advance, a block for no tokens, blocks kept after truncation.
        """
        pages.start(0)
        for length in range(3 * size + 1):
            found = len(pages.cache.block_table(0))
            assert found == -(-length // size), f"{found} blocks of {size} for {length} tokens"
            pages.append(0, 1)
        for length in reversed(range(3 * size + 1)):
            pages.truncate(0, length)
            found = len(pages.cache.block_table(0))
            assert found == -(-length // size), f"{found} blocks of {size} after truncation"

    @on_each_size(each=EDGES)
    def test_forks_go_on_apart(self, pages: Pages, size: int, blocks: int, more: int) -> None:
        """They share what they have in common and nothing that comes after.

        Usual causes: a write into a shared, partly filled block without a copy; a copy of one
        layer, or of keys alone; a copy where the block was full.
        """
        pages.start(0)
        pages.append(0, max(blocks * size + more, 0))
        used = pages.used
        pages.fork(0, 1)
        pages.fork(1, 2)
        copied = 2 * pages.copied_by_fork(0)
        assert pages.used == used + copied, "a fork took blocks"
        for sequence in (1, 0, 2):
            pages.append(sequence, 1)
            pages.check()
        pages.free(0)
        pages.append(1, size)
        pages.check()

    @on_each_size(each={"blocks": (1, 2), "more": (0, 1)})
    def test_sequences_can_share_a_beginning(
        self, pages: Pages, size: int, blocks: int, more: int
    ) -> None:
        """A fork that is cut back to what two prompts have in common, and goes on otherwise; also
        when the first one is preempted, computed again and ends.

        Usual causes: what is cut off is cleared in the block that both hold, or given back for
        both; a block that is full for one and is written by the other.
        """
        common = min(blocks * size + more, 3 * size)
        pages.start(0)
        pages.append(0, 3 * size)
        pages.fork(0, 1)
        pages.truncate(1, common)
        pages.check()
        for count in (1, size):
            pages.append(1, count)
            pages.check()
        pages.preempt(0)
        pages.check()
        pages.truncate(1, common)
        pages.append(1, 1)
        pages.free(0)
        pages.append(1, size)
        pages.check()

    @on_each_size(num_blocks=3)
    def test_a_recycled_block_holds_nothing_of_its_former_owner(
        self, pages: Pages, size: int
    ) -> None:
        """A request after reuse reads what it would in a new cache.

        Usual causes: writes that add to what is there, lengths or tables that survive their
        sequence.
        """
        for length in (3 * size, 1, 2 * size, 3 * size):
            pages.start(0)
            pages.append(0, length)
            pages.check()
            pages.truncate(0, length // 2)
            pages.append(0, 1)
            pages.check()
            pages.free(0)

    def test_a_refusal_changes_nothing(self, make_paged_kv: MakePagedKV) -> None:
        """Where blocks are too few, `can_append` says so, `append` raises, and all goes on.

        Usual causes: blocks that are taken before it is known whether there are enough, a copy on
        write that was not counted, a block that is kept in reserve and never given.
        """
        for size in self.block_sizes:
            for num_blocks in (2, 3):
                pages = self._pages(make_paged_kv, size, num_blocks)
                pages.start(0)
                pages.append(0, 2 * size - 1)
                if not pages.fork(0, 1):
                    continue
                for sequence, count in ((0, 2 * size), (0, 1), (1, 1), (1, size)):
                    pages.append(sequence, count)
                    pages.check()
                pages.free(0)
                pages.append(1, size)
                pages.check()

    @on_each_size()
    def test_a_freed_sequence_is_gone(self, pages: Pages, size: int) -> None:
        """All blocks come back, and freeing it again is an error, not a second owner for them.

        Usual causes: a double free that puts a block twice on the free list.
        """
        pages.start(0)
        pages.append(0, size + 1)
        pages.fork(0, 1)
        pages.free(0)
        pages.check()
        pages.free(1)
        free, blocks = pages.cache.num_free_blocks, pages.geometry.num_blocks
        assert free == blocks, f"{free} of {blocks} blocks are free when all sequences have ended"
        refused = is_refused(lambda: pages.cache.free(1))
        pages.check()
        assert refused, "a sequence was freed twice without an error"

    def test_any_interleaving_keeps_every_sequence(self, make_paged_kv: MakePagedKV) -> None:
        """Start, append, fork, truncate, free, preempt and reuse in any order: after each step each
        sequence reads what was written, and every block is free or in use, never both or neither.

        Usual causes: all of the above, together.
        """
        for size in self.block_sizes:
            pages = partial(self._pages, make_paged_kv, size, num_blocks=7)
            members = {"make_pages": staticmethod(pages)}
            run_machine(PagedMachine, members, examples=self.examples, steps=self.steps)

    @requires("runner")
    @on_each_size(num_blocks=9, each=EDGES)
    def test_the_runner_reads_the_tables_of_the_allocator(
        self, pages: Pages, size: int, blocks: int, more: int
    ) -> None:
        """Also for a sequence that was preempted where its prompt filled its last block exactly.

        Usual causes: only changes since the last allocation are sent, and not those since the last
        delivery.
        """
        pages.start(0)
        pages.append(0, max(blocks * size + more, 0))
        pages.check()
        pages.append(0, 1)
        pages.preempt(0)
        pages.check()
        pages.append(0, 1)
        pages.check()

    @on_each_size()
    def test_pages_without_tokens_are_never_read(self, pages: Pages, size: int) -> None:
        """All memory is NaN before it is written, and again when it is free: through the pool, or
        else from a sequence of NaN that was there before.

        Usual causes: whole blocks read where the last is partly filled, the whole prompt's length
        for an early chunk, table entries behind the end.
        """
        for sequence, length in enumerate(_edges(size)):
            pages.start(sequence)
            for count in (length // 2, length - length // 2):
                pages.append(sequence, count)
                pages.check()
        pages.free(2)
        pages.poison()
        pages.poison_by_writing()
        pages.check()
        pages.start(2)
        pages.append(2, size + 1)
        pages.check()

    @requires("quantized")
    @on_each_size()
    def test_numbers_are_really_rounded(self, pages: Pages, size: int) -> None:
        """An error of nothing means that nothing was quantized.

        Usual causes: a block that is quantized when it is full, and none is; scales for every
        number.
        """
        pages.start(0)
        pages.append(0, 16 * size + 1)
        pages.check()
        for name, found, written in zip(
            ("keys", "values"), pages.cache.read(0, 0), pages.truth[0], strict=True
        ):
            old = slice(0, 16 * size)
            exact = (found[:, old] == written[0][:, old]).double().mean().item()
            assert exact < 0.5, f"{100 * exact:.0f} % of the {name} came back exactly"

    @requires("prefixes")
    @on_each_size(
        each={
            "more": (0, 1),
            "owner": ("runs", "ends", "is forked", "is cut", "is preempted"),
            "follower": ("goes on", "is forked", "is cut", "is preempted"),
        }
    )
    def test_known_blocks_keep_their_numbers(
        self, pages: Pages, size: int, more: int, owner: str, follower: str
    ) -> None:
        """Of a sequence that begins with known blocks, of their first owner, and of forks of both,
        whatever is done to each of them.

        Usual causes: codes that are found and scales that are not, or that go with their owner; a
        known block that is written after a cut; a fork that counts what it shares but once; an
        entry that stays when its block is given away.
        """
        pages.start(0)
        pages.append(0, 3 * size + 1)
        prompt = pages.remember(0)
        _disturb(pages, 0, 8, owner, size)
        length = 2 * size + more
        found = pages.begin(1, prompt, length)
        # Who writes behind a cut may write its known block, if that is forgotten.
        least = size if owner == "is cut" else (length - 1) // size * size
        assert found >= least, (
            f"{found} of {length} known tokens were found in blocks of {size}, none was evicted"
        )
        pages.check()
        _disturb(pages, 1, 9, follower, size)
        pages.begin(2, prompt, 3 * size + 1)
        pages.check()
        for sequence in list(pages.truth):
            pages.free(sequence)
        pages.poison_by_writing()
        pages.begin(3, prompt, 3 * size + 1)
        pages.check()

    @requires("attend")
    @on_each_size()
    def test_attention_in_a_batch_equals_attention_alone(self, pages: Pages, size: int) -> None:
        """Rows of different lengths, none a multiple of P or all of them: each is its definition's.

        Usual causes: slots of one request that begin inside the page of another, one length for
        the batch, a table padded with block 0 that is read.
        """
        lengths = (2 * size + 1, 1, size, size, 2 * size, 3 * size - 1, size + 1)
        for sequence, length in enumerate(lengths):
            pages.start(sequence)
            pages.append(sequence, length)
        for rows in ((0, 1, 2), (3, 4), (5, 6)):
            for queries in range(1, min(lengths[row] for row in rows) + 1):
                pages.attend(rows, queries)
                pages.attend(rows[1:2], queries)

    @requires("attend")
    @on_each_size()
    def test_chunked_prefill_equals_prefill_at_once(self, pages: Pages, size: int) -> None:
        """Each chunk attends to what is written by then, its own keys included, and to no more.

        Usual causes: the prompt's length for an early chunk, a mask aligned to the first key.
        """
        for sequence, chunk in enumerate((1, 2, size, size + 1)):
            pages.start(sequence)
            for _ in range(3):
                pages.append(sequence, chunk)
                pages.attend([sequence], chunk)

    def _hold(
        self, make_paged_kv: MakePagedKV, holds: Callable[[Pages, int], None], num_blocks: int = 24
    ) -> None:
        __tracebackhide__ = True
        for size in self.block_sizes:
            holds(self._pages(make_paged_kv, size, num_blocks), size)

    def _pages(self, make_paged_kv: MakePagedKV, size: int, num_blocks: int = 24) -> Pages:
        geometry = PagedGeometry(
            num_blocks, size, head_dim=self.head_dim, dtype=self.dtype, device=self.device
        )
        return Pages(make_paged_kv(geometry), geometry, self)


def _disturb(pages: Pages, sequence: int, other: int, what: str, size: int) -> None:
    """Do something to a sequence, and write behind it."""
    if what == "ends":
        pages.free(sequence)
        return
    if what == "is forked":
        pages.fork(sequence, other)
        pages.append(other, size)
    elif what == "is cut":
        pages.truncate(sequence, size + size // 2)
    elif what == "is preempted":
        pages.preempt(sequence)
    pages.append(sequence, 1)
    pages.check()


def _edges(size: int) -> list[int]:
    """Lengths around the edges of blocks: 0, 1, P − 1, P, P + 1, 2·P."""
    return sorted({0, 1, size - 1, size, size + 1, 2 * size})
