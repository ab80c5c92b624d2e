"""KVCacheSuite: does a cache give back what it was given, to those who may see it?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, cast

import torch

from ..base import Suite, requires
from ..properties import EXAMPLES, for_all, tried
from .cache_cases import CacheCase, cache_cases, cache_traps, within_the_window
from .cache_protocol import (
    CroppableCache,
    DroppingCache,
    MakeCache,
    MaskedCache,
    RaggedCache,
    ReorderableCache,
    ResettableCache,
    WeighedCache,
)
from .filled_cache import Filled, geometry_of

on_caches = tried("make_cache")  # a property of an empty `Filled`


class KVCacheSuite(Suite):
    """Properties of KV caches: growing, preallocated, windowed or quantized.

    Give a fixture ``make_cache``: a `cache_protocol.MakeCache`. A quantized cache also declares
    ``bits``, to which it rounds numbers, or ``float_codes``, the dtype of codes such as float8's,
    and ``residual``, how many of the newest tokens it may keep as they are. ``growth``: memory
    grows by so many tokens at a time. With ``chunks_within_window``, no update has more tokens than
    the window.
    """

    topic = "kv_cache"
    fixture = "make_cache"
    fixture_returns = "a callable: CacheGeometry -> cache"
    offers = {  # noqa: RUF012  # read only
        "mask-sizes": "get_mask_sizes(query_length, layer) says which keys an update gives",
        "positions": "key_positions(layer) says which token is in which column, in any order",
        "window": "a geometry may have a window",
        "full": "a geometry may have no window",
        "crop": "crop(length) takes tokens back",
        "drop": "drop(start, stop) takes tokens out of the middle, for context shift",
        "reorder": "reorder(rows) gathers rows, of which there may be fewer than before",
        "reset": "reset() empties the cache",
        "logical": "logical_kv(layer) shows what is stored",
        "bytes": "nbytes() weighs what is stored",
        "quantized": "numbers come back rounded",
        "ragged": "append(…, lengths) and row_kv(row, layer): rows of different lengths",
    }
    dtype: ClassVar[torch.dtype] = torch.float32
    device: ClassVar[str] = "cpu"
    head_dim: ClassVar[int] = 4
    windows: ClassVar[Sequence[int]] = (1, 2, 3, 5)
    bits: ClassVar[int] = 8
    float_codes: ClassVar[torch.dtype | None] = None
    residual: ClassVar[int] = 0
    growth: ClassVar[int] = 1
    chunks_within_window: ClassVar[bool] = False
    examples: ClassVar[int] = EXAMPLES

    # What is read

    @on_caches()
    def test_updates_give_back_every_token_in_order(self, filled: Filled) -> None:
        """After any sequence of writes, each query gets every token that it may see, its row's,
        head's and layer's own.

        Usual causes: a window that rolls one step early or late, a write at the wrong head's
        stride, a position that is not moved on, layers that share a counter.
        """
        filled.fill()

    @on_caches()
    def test_seq_length_counts_every_token(self, filled: Filled) -> None:
        """Positions of the next tokens are counted from it, in each layer for itself.

        Usual causes: the window's or the buffer's length, a counter that all layers move.
        """
        filled.check_state()
        for count in filled.case.chunks:
            before = filled.length
            tokens = filled.draw(count)
            for layer in range(filled.case.layers):
                filled.write(layer, tokens[layer])
                for other in range(filled.case.layers):
                    filled.check_length(other, before + (count if other <= layer else 0))

    @on_caches(spare=0)
    def test_a_cache_can_be_filled_to_its_last_slot(self, filled: Filled) -> None:
        """Its capacity is a promise: the last token fits, and is read like any other, also where
        the cache was full before.

        Usual causes: a slot in reserve, ≥ for > in the check for room, a position that wraps
        around when the buffer is full.
        """
        filled.fill()
        filled.check_state()
        if "crop" in self.capabilities and filled.case.window is None:
            for kept in (filled.length - 1, filled.length // 2):
                more = filled.length - kept
                cast(CroppableCache, filled.cache).crop(kept)
                filled.keep_tokens(kept)
                filled.step(more)
        if "reset" in self.capabilities:
            cast(ResettableCache, filled.cache).reset()
            filled.forget()
            filled.fill()
            filled.check_state()

    @requires("mask-sizes")
    @on_caches()
    def test_masks_are_as_wide_as_the_keys(self, filled: Filled) -> None:
        """A mask is made before the keys are there: both must speak of the same tokens.

        Usual causes: the window's width for the mask and all keys returned, bursts of several
        tokens into a full window.
        """
        for count in filled.case.chunks:
            for layer, tokens in enumerate(filled.draw(count)):
                width, offset = cast(MaskedCache, filled.cache).get_mask_sizes(count, layer)
                for name, found in zip(
                    ("keys", "values"), filled.write(layer, tokens), strict=True
                ):
                    assert found.shape[2] == width, f"{found.shape[2]} {name} for a mask of {width}"
                oldest = filled.oldest_needed(count, layer)
                assert 0 <= offset <= oldest, f"a mask from {offset} on; {oldest} is to be seen"

    @requires("logical")
    @on_caches()
    def test_what_is_stored_is_what_was_written(self, filled: Filled) -> None:
        """Read behind the interface's back, so that a fault of reading cannot undo one of writing.

        Usual causes: what update returns is right and what it keeps is not: dropped one early,
        a view of the caller's tensor, a residual that is never flushed.
        """
        for count in filled.case.chunks:
            filled.step(count)
            for layer in range(filled.case.layers):
                filled.check_stored(layer)

    @on_caches()
    def test_written_tensors_are_the_callers_own(self, filled: Filled) -> None:
        """They are not changed, and what the caller does with them later changes nothing.

        Usual causes: a first update that keeps the tensor itself, a view into a shared projection.
        """
        for count in filled.case.chunks:
            for layer, tokens in enumerate(filled.draw(count)):
                copies = [x.clone() for x in tokens]
                filled.write(layer, tokens)
                for given, copy in zip(tokens, copies, strict=True):
                    assert torch.equal(given, copy), "update changed what it was given"
                    given.fill_(-77.0)
        filled.step(1)

    # What is taken back

    @requires("crop")
    @on_caches(several=True)
    def test_cropping_then_appending_equals_never_having_appended(self, empty: Filled) -> None:
        """Rejected drafts leave no trace. Only where no window has dropped what comes back.

        Usual causes: a counter that is cropped and a tensor that is not, a negative length taken
        for a positive one, layers that were forgotten.
        """
        case = empty.case
        if case.window is not None and sum(case.chunks) >= case.window:
            case = replace(case, window=sum(case.chunks) + 1)
        written = sum(case.chunks)
        for kept in {0, 1, written // 2, written - 1, written}:
            filled = empty.of(case)
            cast(CroppableCache, filled.cache).crop(kept)
            filled.keep_tokens(kept)
            filled.check_state()
            filled.step(2)
            filled.step(1)

    @requires("drop")
    @on_caches(several=True)
    def test_tokens_can_be_taken_out_of_the_middle(self, empty: Filled) -> None:
        """Context shift: some tokens at the start are kept, those behind them are dropped, and the
        rest moves up, as if the dropped ones had never been.

        Usual causes: a stop that is dropped too, keys that move and values that do not, layers that
        were forgotten, a counter that stays.
        """
        case = empty.case
        if case.window is not None:
            case = replace(case, window=sum(case.chunks) + 4)
        written = sum(case.chunks)
        for start, stop in {(0, 1), (written // 2, written), (1, written - 1), (0, written)}:
            if start >= stop:
                continue
            filled = empty.of(case)
            cast(DroppingCache, filled.cache).drop(start, stop)
            filled.drop_tokens(start, stop)
            filled.check_state()
            filled.step(2)
            filled.step(1)

    @requires("reorder")
    @on_caches(several=True)
    def test_reordering_gathers_rows(self, empty: Filled) -> None:
        """Row i is then what row ``rows[i]`` was, in every layer; two that were one go on apart.

        Usual causes: gathering along the heads or positions, a layer that is skipped, expanded
        views that share memory.
        """
        case = replace(empty.case, batch=3)
        for rows in ([0, 1, 2], [2, 0, 1], [0, 0, 2], [1, 1, 1]):
            self._reordered(empty, case, rows)
        filled = empty.of(case)
        for rows in ([1, 2, 0], [2, 0, 1]):  # a permutation and its inverse
            cast(ReorderableCache, filled.cache).reorder(torch.tensor(rows))
        filled.check_state()
        filled.step(1)

    @requires("reorder")
    @on_caches(several=True)
    def test_rows_that_are_done_can_leave(self, empty: Filled) -> None:
        """The others go on as if they had been alone.

        Usual causes: buffers of the former batch size, lengths of a row that left.
        """
        for rows in ([1], [2, 0]):
            self._reordered(empty, replace(empty.case, batch=3), rows)

    @requires("reset")
    @on_caches(each={"warm_up": (0.0, 1000.0)})
    def test_a_reset_cache_is_as_new(self, filled: Filled, warm_up: float) -> None:
        """Nothing of a first conversation, or of a warm-up with zeros, is in a second one.

        Usual causes: counters or scales that stay, a window that is still full.
        """
        for count in filled.case.chunks:
            for layer, tokens in enumerate(filled.draw(count)):
                keys, values = (torch.full_like(x, warm_up) for x in tokens)
                filled.cache.update(keys, values, layer)
        cast(ResettableCache, filled.cache).reset()
        filled.check_state()
        filled.fill()

    # What it costs

    @requires("bytes")
    @on_caches()
    def test_memory_is_that_of_the_tokens(self, filled: Filled) -> None:
        """At most 2 · layers · kv heads · head dim · batch · bytes for each token of the capacity,
        or of the window and the newest chunk, in steps of ``growth`` tokens; with small numbers it
        is seen which of them counts.

        Usual causes: tokens that a window has left, a slice that keeps the tensor from which it was
        cut, a second copy, float32 for a half cache, blocks or steps that are not declared.
        """
        filled.fill()
        kept = filled.geometry.capacity
        if filled.case.window is not None:
            kept = min(kept, filled.case.window + max(filled.case.chunks))
        kept = -(-kept // self.growth) * self.growth
        allowed = filled.bytes_for(kept)
        found = cast(WeighedCache, filled.cache).nbytes()
        assert found <= allowed, (
            f"nbytes() is {found}, storages of views counted whole; the tensors of {kept} tokens "
            f"take {allowed}"
        )

    @requires("quantized")
    def test_old_tokens_are_really_rounded(self, make_cache: MakeCache) -> None:
        """An error of nothing means that nothing was quantized.

        Usual causes: groups of one token, whose ends are exact; a residual that is never flushed.
        """
        filled = Filled(self, make_cache, CacheCase())
        tokens = 2 * self.residual + 64
        for _ in range(tokens):
            filled.step(1)
        returned = filled.step(1)[0]
        old = slice(0, tokens - self.residual)
        for name, found, written in zip(("keys", "values"), returned, filled.truth[0], strict=True):
            exact = (found[:, :, old] == written[:, :, old]).double().mean().item()
            assert exact < 0.5, f"{100 * exact:.0f} % of the old {name} came back exactly"

    @requires("quantized", "bytes")
    def test_decoded_tokens_are_compressed_like_the_prompt(self, make_cache: MakeCache) -> None:
        """Written one by one, tokens take as much as at once, but for the newest ``residual``.

        Usual causes: a residual that is measured by the call and not by the length, so that
        decoding never quantizes; constants for every token.
        """
        tokens = 2 * self.residual + 64
        at_once = Filled(self, make_cache, CacheCase())
        at_once.step(tokens)
        streamed = Filled(self, make_cache, CacheCase())
        streamed.step(1)
        for _ in range(tokens - 1):
            streamed.step(1)
        compressed, found = (cast(WeighedCache, f.cache).nbytes() for f in (at_once, streamed))
        plain = at_once.bytes_for(tokens)
        assert compressed < plain, f"{compressed} bytes compressed, {plain} plain"
        allowed = compressed + at_once.bytes_for(self.residual)
        assert found <= allowed, f"{found} bytes one by one, {compressed} at once"

    @requires("quantized")
    def test_later_tokens_may_be_of_another_size(self, make_cache: MakeCache) -> None:
        """Rounding errors follow the numbers that are there, not those that came first.

        Usual causes: a scale that is kept from a warm-up or from the first tokens, a maximum over
        a buffer's uninitialised end.
        """
        for sizes in ((0.0, 1.0), (1.0, 10.0, 100.0), (100.0, 1.0)):
            filled = Filled(self, make_cache, CacheCase())
            for size in sizes:
                for count in (5, 1, 1, self.residual + 1):
                    filled.step(count, size)

    # Ragged rows

    @requires("ragged")
    @on_caches()
    def test_rows_of_different_lengths_do_not_touch(self, empty: Filled) -> None:
        """Each row grows at its own end, also when the longest has left.

        Usual causes: one end for all rows, the longest's; an end that stays when its row leaves.
        """
        case = empty.case
        geometry = geometry_of(
            self, replace(case, batch=3, window=None), spare=len(case.chunks) + 2
        )
        cache = cast(RaggedCache, empty.make(geometry))
        generator = torch.Generator().manual_seed(len(case.chunks))
        rows: list[list[Any]] = [[[] for _ in range(case.layers)] for _ in range(3)]

        def append(lengths: list[int]) -> None:
            shape = len(lengths), geometry.kv_heads, max(*lengths, 1), geometry.head_dim
            for layer in range(case.layers):
                keys, values = (
                    torch.randn(shape, generator=generator).to(self.device, self.dtype)
                    for _ in range(2)
                )
                cache.append(keys, values, layer, torch.tensor(lengths))
                for row, length in enumerate(lengths):
                    rows[row][layer].append((keys[row, :, :length], values[row, :, :length]))

        def check() -> None:
            for row, written in enumerate(rows):
                for layer, parts in enumerate(written):
                    for found, given in zip(
                        cache.row_kv(row, layer), zip(*parts, strict=True), strict=True
                    ):
                        truth = torch.cat(given, dim=1)[None]
                        empty.require_same(found[None], truth, truth, f"row {row}, layer {layer}")

        for index, count in enumerate(case.chunks):
            append([count, 1, (index + 1) % 2])
            check()
        cache.reorder(torch.tensor([2, 1]))  # the longest leaves
        rows[:] = [[list(layer) for layer in rows[row]] for row in (2, 1)]
        for lengths in ([1, 1], [0, 2]):
            append(lengths)
            check()

    # How properties are tried

    def _hold(
        self,
        make_cache: MakeCache,
        holds: Callable[[Filled], None],
        *,
        spare: int = 4,
        several: bool = False,
    ) -> None:
        """Try the property on empty caches, for drawn sequences of writes and the traps.

        One that fills several caches for each sequence is tried on half as many.
        """
        __tracebackhide__ = True

        def tried_on(case: CacheCase) -> None:
            chosen = within_the_window(case) if self.chunks_within_window else case
            holds(Filled(self, make_cache, chosen, spare))

        windowed = "window" in self.capabilities
        windows: list[int | None] = [*self.windows] if windowed else []
        if "full" in self.capabilities or not windowed:
            windows.append(None)
        cases = cache_cases(windows)
        examples = -(-self.examples // 2) if several else self.examples
        for_all(tried_on, cases, traps=cache_traps(windows), examples=examples)

    def _reordered(self, empty: Filled, case: CacheCase, rows: Sequence[int]) -> None:
        filled = empty.of(case)
        cast(ReorderableCache, filled.cache).reorder(torch.tensor(rows, device=self.device))
        filled.gather_rows(rows)
        filled.check_state()
        for count in (1, 2):
            filled.step(count)
