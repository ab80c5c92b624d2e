"""KVCacheSuite: does a cache give back what it was given, to those who may see it?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import torch
from hypothesis import strategies as st
from torch import Tensor

from ..base import Suite, requires
from ..properties import EXAMPLES, for_all, tried
from .cache_protocol import (
    CacheGeometry,
    CroppableCache,
    KVCache,
    MakeCache,
    MaskedCache,
    RaggedCache,
    ReadableCache,
    ReorderableCache,
    ResettableCache,
    WeighedCache,
)


@dataclass(frozen=True)
class CacheCase:
    """A cache, and the numbers of tokens that are written into it one after the other."""

    layers: int = 2
    batch: int = 2
    kv_heads: int = 2
    window: int | None = None
    chunks: tuple[int, ...] = (1,)


on_caches = tried("make_cache")  # a property of an empty `Filled`


class KVCacheSuite(Suite):
    """Properties of KV caches: growing, preallocated, windowed or quantized.

    Give a fixture ``make_cache``: a `cache_protocol.MakeCache`. A quantized cache also declares
    ``bits``, to which it rounds numbers, and ``residual``, how many of the newest tokens it may
    keep as they are.
    """

    topic = "kv_cache"
    fixture = "make_cache"
    fixture_returns = "a callable: CacheGeometry -> cache"
    offers = {  # noqa: RUF012  # read only
        "mask-sizes": "get_mask_sizes(query_length, layer) says which keys an update gives",
        "window": "a geometry may have a window",
        "full": "a geometry may have no window",
        "crop": "crop(length) takes tokens back",
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
    residual: ClassVar[int] = 0
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
        for layer in range(filled.case.layers):
            assert filled.cache.get_seq_length(layer) == 0
        for count in filled.case.chunks:
            before = filled.length
            tokens = filled.draw(count)
            for layer in range(filled.case.layers):
                filled.write(layer, tokens[layer])
                for other in range(filled.case.layers):
                    expected = before + (count if other <= layer else 0)
                    found = filled.cache.get_seq_length(other)
                    assert found == expected, (
                        f"get_seq_length({other}) is {found} after {expected} tokens"
                    )

    @requires("mask-sizes")
    @on_caches()
    def test_masks_are_as_wide_as_the_keys(self, filled: Filled) -> None:
        """A mask is made before the keys are there: both must speak of the same tokens.

        Usual causes: the window's width for the mask and all keys returned, bursts of several
        tokens into a full window.
        """
        for count in filled.case.chunks:
            for layer, (keys, values) in enumerate(filled.draw(count)):
                cache = cast(MaskedCache, filled.cache)
                width, offset = cache.get_mask_sizes(count, layer)
                returned = filled.write(layer, (keys, values))
                assert returned[0].shape[2] == width, (
                    f"{returned[0].shape[2]} keys for a mask of {width}"
                )
                assert returned[1].shape[2] == width
                assert 0 <= offset <= filled.oldest_needed(count, layer)

    @requires("logical")
    @on_caches()
    def test_what_is_stored_is_what_was_written(self, filled: Filled) -> None:
        """Read behind the interface's back, so that a fault of reading cannot undo one of writing.

        Usual causes: what update returns is right and what it keeps is not: dropped one early,
        a view of the caller's tensor, a residual that is never flushed.
        """
        filled.fill()
        for layer in range(filled.case.layers):
            stored = cast(ReadableCache, filled.cache).logical_kv(layer)
            width = stored[0].shape[2]
            # The next query sees itself, and window − 1 tokens before it.
            needed = filled.length
            if filled.case.window is not None:
                needed = min(needed, filled.case.window - 1)
            assert width >= needed, f"{width} tokens are stored, {needed} can be seen"
            filled.compare(layer, stored, filled.length - width, f"stored in layer {layer}")

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
    @on_caches()
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
            for layer in range(case.layers):
                assert filled.cache.get_seq_length(layer) == kept
            filled.step(2)
            filled.step(1)

    @requires("reorder")
    @on_caches()
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
        filled.step(1)

    @requires("reorder")
    @on_caches()
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
        for layer, tokens in enumerate(filled.draw(sum(filled.case.chunks))):
            keys, values = (torch.full_like(x, warm_up) for x in tokens)
            filled.cache.update(keys, values, layer)
        cast(ResettableCache, filled.cache).reset()
        for layer in range(filled.case.layers):
            assert filled.cache.get_seq_length(layer) == 0
        filled.fill()

    # What it costs

    @requires("bytes")
    @on_caches()
    def test_memory_is_that_of_the_tokens(self, filled: Filled) -> None:
        """At most 2 · layers · kv heads · head dim · batch · bytes for each token of the capacity,
        or of the window and the newest chunk; with small numbers it is seen which of them counts.

        Usual causes: tokens that a window has left, a second copy, float32 for a half cache.
        """
        filled.fill()
        kept = filled.geometry.capacity
        if filled.case.window is not None:
            kept = min(kept, filled.case.window + max(filled.case.chunks))
        allowed = filled.bytes_for(kept)
        found = cast(WeighedCache, filled.cache).nbytes()
        assert found <= allowed, f"{found} bytes are kept; {kept} tokens take {allowed}"

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
        geometry = self._geometry(replace(case, batch=3, window=None), len(case.chunks) + 2)
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
                        self._compare(found[None], truth, truth, f"row {row}, layer {layer}")

        for index, count in enumerate(case.chunks):
            append([count, 1, (index + 1) % 2])
            check()
        cache.reorder(torch.tensor([2, 1]))  # the longest leaves
        rows[:] = [[list(layer) for layer in rows[row]] for row in (2, 1)]
        for lengths in ([1, 1], [0, 2]):
            append(lengths)
            check()

    # How properties are tried

    def _hold(self, make_cache: MakeCache, holds: Callable[[Filled], None]) -> None:
        """Try the property on empty caches, for drawn sequences of writes and the traps."""
        __tracebackhide__ = True

        def tried_on(case: CacheCase) -> None:
            holds(Filled(self, make_cache, case))

        windowed = "window" in self.capabilities
        windows: list[int | None] = [*self.windows] if windowed else []
        if "full" in self.capabilities or not windowed:
            windows.append(None)
        cases = cache_cases(windows)
        for_all(tried_on, cases, traps=cache_traps(windows), examples=self.examples)

    def _geometry(self, case: CacheCase, spare: int = 4) -> CacheGeometry:
        return CacheGeometry(
            layers=case.layers,
            batch=case.batch,
            kv_heads=case.kv_heads,
            head_dim=self.head_dim,
            capacity=sum(case.chunks) + spare,
            window=case.window,
            dtype=self.dtype,
            device=self.device,
        )

    def _reordered(self, empty: Filled, case: CacheCase, rows: Sequence[int]) -> None:
        filled = empty.of(case)
        cast(ReorderableCache, filled.cache).reorder(torch.tensor(rows, device=self.device))
        filled.gather_rows(rows)
        for count in (1, 2):
            filled.step(count)

    def _compare(self, found: Tensor, written: Tensor, seen: Tensor, what: str) -> None:
        """Raise AssertionError unless tokens came back: exactly, or within a step of their bits.

        A group spans at most twice the largest magnitude that its row was given, in 2^bits − 2
        steps at least; half a step is lost in rounding, half in a zero point's.
        """
        assert found.shape == written.shape, f"{what}: {list(found.shape)}, {list(written.shape)}"
        assert found.dtype is written.dtype, f"{what}: {found.dtype}"
        if "quantized" not in self.capabilities:
            same = found == written
            assert bool(same.all()), f"{what}: {int((~same).sum())} of {same.numel()} differ"
            return
        largest = seen.abs().double().amax((1, 2, 3), keepdim=True)
        # The constants and the product are rounded to the cache's dtype.
        allowed = largest * (2 / (2**self.bits - 2) + 4 * torch.finfo(self.dtype).eps)
        excess = (found.double() - written.double()).abs() - allowed
        assert bool((excess <= 0).all()), f"{what}: off by {excess.max():.6g} more than a step"


class Filled:
    """A cache, and everything that was written into it."""

    def __init__(self, suite: KVCacheSuite, make_cache: MakeCache, case: CacheCase) -> None:
        self.suite, self.make, self.case = suite, make_cache, case
        self.geometry = suite._geometry(case)
        self.cache: KVCache = make_cache(self.geometry)
        self.generator = torch.Generator().manual_seed(11)
        self.batch = case.batch
        empty = torch.zeros(case.batch, case.kv_heads, 0, suite.head_dim)
        empty = empty.to(suite.device, suite.dtype)
        self.truth: list[tuple[Tensor, Tensor]] = [(empty, empty) for _ in range(case.layers)]

    def fill(self) -> None:
        """Write what the case says."""
        for count in self.case.chunks:
            self.step(count)

    def of(self, case: CacheCase) -> Filled:
        """Another cache, with what this case says."""
        other = Filled(self.suite, self.make, case)
        other.fill()
        return other

    @property
    def length(self) -> int:
        return self.truth[-1][0].shape[2]

    def draw(self, count: int, size: float = 1.0) -> list[tuple[Tensor, Tensor]]:
        """New tokens for each layer: keys and values [B, G, count, D], no number twice."""
        shape = self.batch, self.case.kv_heads, count, self.suite.head_dim

        def numbers() -> Tensor:
            drawn = torch.randn(shape, generator=self.generator) * size
            return drawn.to(self.suite.device, self.suite.dtype)

        return [(numbers(), numbers()) for _ in range(self.case.layers)]

    def step(self, count: int, size: float = 1.0) -> list[tuple[Tensor, Tensor]]:
        """Write ``count`` tokens into each layer and check what comes back."""
        return [self.write(i, tokens) for i, tokens in enumerate(self.draw(count, size))]

    def write(self, layer: int, tokens: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Write tokens into a layer; raise AssertionError unless all that is needed comes back."""
        count = tokens[0].shape[2]
        offset = None
        if "mask-sizes" in self.suite.capabilities:
            _, offset = cast(MaskedCache, self.cache).get_mask_sizes(count, layer)
        copies = [x.clone() for x in tokens]
        old = self.truth[layer]
        self.truth[layer] = tuple(  # type: ignore[assignment]  # a pair, which zip forgets
            torch.cat([x, new], dim=2) for x, new in zip(old, copies, strict=True)
        )
        returned = self.cache.update(*tokens, layer)
        length = self.truth[layer][0].shape[2]
        if offset is None:
            offset = length - returned[0].shape[2]
        oldest = self.oldest_needed(count, layer)
        assert 0 <= offset <= oldest, (
            f"{count} tokens after {length - count} see those from {oldest} on, and update gave "
            f"those from {offset} on"
        )
        held = [x[:, :, : length - offset] for x in returned]
        self.compare(layer, held, offset, f"{count} after {length - count} in layer {layer}")
        return returned

    def oldest_needed(self, count: int, layer: int) -> int:
        """The first token that one of the newest ``count`` sees."""
        if self.case.window is None:
            return 0
        return max(self.truth[layer][0].shape[2] - count - self.case.window + 1, 0)

    def compare(self, layer: int, found: Sequence[Tensor], offset: int, what: str) -> None:
        for name, tensor, written in zip(("keys", "values"), found, self.truth[layer], strict=True):
            self.suite._compare(tensor, written[:, :, offset:], written, f"{name}, {what}")

    def keep_tokens(self, count: int) -> None:
        self.truth = [(keys[:, :, :count], values[:, :, :count]) for keys, values in self.truth]

    def gather_rows(self, rows: Sequence[int]) -> None:
        self.batch = len(rows)
        self.truth = [(keys[list(rows)], values[list(rows)]) for keys, values in self.truth]

    def bytes_for(self, tokens: int) -> int:
        """Keys and values of so many tokens, kept as they are."""
        geometry = self.geometry
        numbers = geometry.layers * geometry.batch * geometry.kv_heads * geometry.head_dim
        return 2 * numbers * tokens * geometry.dtype.itemsize


@st.composite
def cache_cases(draw: st.DrawFn, windows: Sequence[int | None]) -> CacheCase:
    """Caches of few heads, and up to five writes of up to six tokens."""
    return CacheCase(
        layers=draw(st.integers(1, 3)),
        batch=draw(st.integers(1, 3)),
        kv_heads=draw(st.integers(1, 3)),
        window=draw(st.sampled_from(windows)),
        chunks=tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=5))),
    )


def cache_traps(windows: Sequence[int | None]) -> Iterator[tuple[str, CacheCase]]:
    """Lengths around every edge of a window, and what comes after it is full."""
    for window in windows:
        size = window or 4
        for prompt in range(max(size - 2, 1), size + 3):
            after = (1, 1, 1)
            yield (
                f"{prompt} tokens, then one by one",
                CacheCase(window=window, chunks=(prompt, *after)),
            )
        yield "bursts after it is full", CacheCase(window=window, chunks=(size + 1, 2, 3, 2))
        yield "one long prompt", CacheCase(window=window, chunks=(3 * size,))
        yield "more heads than tokens", CacheCase(window=window, kv_heads=5, chunks=(2, 1))
