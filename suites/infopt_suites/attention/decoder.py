"""DecoderSuite: does a language model say the same however its tokens come?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import torch
from hypothesis import strategies as st
from torch import Tensor

from ..base import Suite, requires
from ..properties import for_all, tried
from .decoder_protocol import CroppableDecoder, Decoder, MakeDecoder, ReorderableDecoder


@dataclass(frozen=True)
class DecoderCase:
    """Empty slots at the start of each row, and the lengths of the parts that are written."""

    padding: tuple[int, ...] = (0,)
    chunks: tuple[int, ...] = (1,)

    @property
    def slots(self) -> int:
        return sum(self.chunks)


on_rows = tried("make_decoder")  # a property of a `Trial`


class DecoderSuite(Suite):
    """Properties of decoding with a cache, for any model of the transformers kind.

    Give a fixture ``make_decoder``: a `decoder_protocol.MakeDecoder`. The same model without a
    cache, in ``dtype``, is off float64's outputs; outputs with the cache may be off twice as far.
    ``longest`` is the most tokens that rows have. It has to exceed the windows of the model, and
    the length that its positions were made for where the model goes beyond that.
    """

    topic = "decoder"
    fixture = "make_decoder"
    fixture_returns = "a callable: torch.dtype -> decoder"
    offers = {  # noqa: RUF012  # read only
        "left-padding": "rows of a batch may begin with slots that hold no token",
        "crop": "crop(past, length) takes tokens back",
        "reorder": "reorder(past, rows) gathers rows",
    }
    dtype: ClassVar[torch.dtype] = torch.float32
    device: ClassVar[str] = "cpu"
    longest: ClassVar[int] = 20
    examples: ClassVar[int] = 15

    @on_rows()
    def test_cached_logits_equal_uncached_ones(self, trial: Trial) -> None:
        """For every split into a prompt and the rest, token by token, and in chunks.

        Usual causes: a mask aligned to the first key, positions that start again at each call, a
        window that is one token short, rotations of two bases in one cache.
        """
        trial.compare(trial.cached(), "cached")

    @on_rows()
    def test_later_tokens_change_no_earlier_logits(self, trial: Trial) -> None:
        """Usual causes: a mask that lets the first query of a chunk see its last key, statistics
        over all positions."""
        kept = max(trial.case.slots - trial.case.chunks[-1], 1)
        trial.ids[:, kept:] = (trial.ids[:, kept:] + 1) % trial.decoder.vocab_size
        for found, what in (
            (trial.decoder.logits(trial.ids, trial.mask), "uncached"),
            (trial.cached(), "cached"),
        ):
            trial.compare(found[:, :kept], f"{what}, with other tokens behind")

    @requires("left-padding")
    @on_rows(padded=True)
    def test_a_padded_row_gives_what_the_row_gives_alone(self, trial: Trial) -> None:
        """At once and in chunks, for each amount of padding, beside rows of other lengths.

        Usual causes: one row of positions for the whole batch, windows and chunks of attention
        counted from the slot, a mask for the new tokens alone.
        """
        trial.compare(trial.decoder.logits(trial.ids, trial.mask), "in a batch, uncached")
        trial.compare(trial.cached(), "in a batch, cached")

    @requires("left-padding")
    @on_rows(padded=True)
    def test_padded_slots_say_nothing(self, trial: Trial) -> None:
        """Whatever ids stand there, and all logits are finite, theirs too.

        Usual causes: padding known by its id and not by the mask, a softmax over no keys.
        """
        trial.ids = torch.where(trial.mask, trial.ids, (trial.ids + 1) % trial.decoder.vocab_size)
        for found in (trial.decoder.logits(trial.ids, trial.mask), trial.cached()):
            assert bool(torch.isfinite(found).all()), "a logit is not finite"
            trial.compare(found, "with other ids in padded slots")

    @requires("crop")
    def test_tokens_taken_back_leave_no_trace(self, make_decoder: MakeDecoder) -> None:
        """Rejected drafts: after cropping, the next tokens get what they would have got.

        Usual causes: positions counted by calls, a window that has dropped what is needed again.
        """

        def holds(trial: Trial) -> None:
            drafts = trial.ids.flip(1)[:, :3]
            done, past = 0, None
            for count in trial.case.chunks:
                stop = done + count
                _, past = trial.step(past, stop - count, stop)
                wider = torch.cat([trial.mask[:, :stop], torch.ones_like(drafts).bool()], dim=1)
                _, past = trial.decoder.step(drafts, wider, past)
                past = cast(CroppableDecoder, trial.decoder).crop(past, stop)
                done = stop
            # The last of it again, behind everything that was taken back.
            last = max(done - trial.case.chunks[-1], 1)
            if last < done:
                past = cast(CroppableDecoder, trial.decoder).crop(past, last)
                found, _ = trial.step(past, last, done)
                trial.compare(found, "after cropping", start=last)

        self._hold(make_decoder, holds, padded="left-padding" in self.capabilities)

    @requires("reorder")
    @on_rows(rows=3)
    def test_rows_go_on_where_another_row_stopped(self, trial: Trial) -> None:
        """Beams: each goes on from the row that it came from.

        Usual causes: no reordering, of one layer alone, or along another axis.
        """
        split = trial.case.slots // 2
        if split == 0:
            return
        _, past = trial.step(None, 0, split)
        rows = torch.tensor([2, 0, 0], device=self.device)
        past = cast(ReorderableDecoder, trial.decoder).reorder(past, rows)
        trial.ids[:, :split] = trial.ids[rows, :split]
        trial.renew()
        found, _ = trial.step(past, split, trial.case.slots)
        trial.compare(found, "after reordering", start=split)

    def test_a_long_sequence_leaves_no_trace_in_the_next(self, make_decoder: MakeDecoder) -> None:
        """A short one after it gives what it gives in a new model.

        Usual causes: a base of rotation that stays scaled, masks or positions kept in buffers.
        """
        decoder = make_decoder(self.dtype)
        Trial(self, make_decoder, DecoderCase(chunks=(self.longest,)), decoder).cached()
        for chunks in ((4,), (3, 1, 1)):
            trial = Trial(self, make_decoder, DecoderCase(chunks=chunks), decoder)
            trial.compare(decoder.logits(trial.ids, trial.mask), "uncached, after a long sequence")
            trial.compare(trial.cached(), "cached, after a long sequence")

    # How properties are tried

    def _dtype_error(self, plain: Decoder, gold: Decoder) -> float:
        """How far the model without a cache is off float64, over rows of every length.

        Of many rows, since an error of rounding is a matter of chance; made once for all cases.
        """
        if not hasattr(self, "_off"):
            rows = self._ids(plain, 32, self.longest)
            lengths = range(1, self.longest + 1)
            self._off = max(uncached_error(plain, gold, rows[:, :n])[1] for n in lengths)
        return self._off

    def _ids(self, decoder: Decoder, rows: int, slots: int) -> Tensor:
        generator = torch.Generator().manual_seed(3)
        ids = torch.randint(decoder.vocab_size, (rows, slots), generator=generator)
        return ids.to(self.device)

    def _hold(
        self,
        make_decoder: MakeDecoder,
        holds: Callable[[Trial], None],
        *,
        padded: bool = False,
        rows: int | None = None,
    ) -> None:
        """``padded``: rows may begin with empty slots. ``rows``: so many, none of them padded."""
        __tracebackhide__ = True

        def tried_on(case: DecoderCase) -> None:
            chosen = case if rows is None else replace(case, padding=(0,) * rows)
            holds(Trial(self, make_decoder, chosen))

        cases = decoder_cases(self.longest, padded)
        for_all(tried_on, cases, traps=decoder_traps(self.longest, padded), examples=self.examples)


class Trial:
    """Rows of tokens, a decoder, and what each row gives alone without a cache."""

    def __init__(
        self,
        suite: DecoderSuite,
        make_decoder: MakeDecoder,
        case: DecoderCase,
        decoder: Decoder | None = None,
    ) -> None:
        self.case, self.dtype = case, suite.dtype
        self.decoder = make_decoder(suite.dtype) if decoder is None else decoder
        self.plain, self.gold = make_decoder(suite.dtype), make_decoder(torch.float64)
        self.dtype_error = suite._dtype_error(self.plain, self.gold)
        self.ids = suite._ids(self.decoder, len(case.padding), case.slots)
        empty = torch.tensor(case.padding, device=suite.device)
        self.mask = torch.arange(case.slots, device=suite.device) >= empty[:, None]
        self.renew()

    def renew(self) -> None:
        """What the rows as they now are give alone, and how far ``dtype`` is off there."""
        self.expected, off = [], self.dtype_error
        for row, empty in enumerate(self.case.padding):
            alone = self.ids[row : row + 1, empty:]
            expected, error = uncached_error(self.plain, self.gold, alone)
            off = max(off, error)
            self.expected.append(expected[0])
        largest = max(x.abs().max().item() for x in self.expected)
        self.allowed = 2 * off + torch.finfo(self.dtype).eps * largest

    def step(self, past: Any, start: int, stop: int) -> tuple[Tensor, Any]:
        """The slots from ``start`` to ``stop``, behind ``past``."""
        return self.decoder.step(self.ids[:, start:stop], self.mask[:, :stop], past)

    def cached(self) -> Tensor:
        """Logits of all slots [B, N, V], chunk by chunk."""
        parts, past, start = [], None, 0
        for count in self.case.chunks:
            part, past = self.step(past, start, start + count)
            parts.append(part)
            start += count
        return torch.cat(parts, dim=1)

    def compare(self, found: Tensor, what: str, start: int = 0) -> None:
        """Raise AssertionError unless these logits, from slot ``start`` on, are the expected."""
        for row, empty in enumerate(self.case.padding):
            first = max(empty, start)
            mine = found[row, first - start :].double()
            if len(mine) == 0:
                continue
            off = (mine - self.expected[row][first - empty :][: len(mine)]).abs().amax(-1)
            wrong = [first - empty + int(i) for i in (~(off <= self.allowed)).nonzero()]
            assert not wrong, (
                f"row {row}, {what}: logits of tokens {wrong} are off by up to {off.max():.4g}; "
                f"{self.dtype} explains {self.allowed:.4g}"
            )


def uncached_error(plain: Decoder, gold: Decoder, ids: Tensor) -> tuple[Tensor, float]:
    """Logits without padding and cache by ``gold``, and how far those of ``plain`` are off."""
    mask = torch.ones_like(ids).bool()
    expected = gold.logits(ids, mask).double()
    return expected, (plain.logits(ids, mask).double() - expected).abs().max().item()


@st.composite
def decoder_cases(draw: st.DrawFn, longest: int, padded: bool) -> DecoderCase:
    """Rows of at most ``longest`` slots, in up to six chunks; padded ones keep a token at least."""
    count = draw(st.integers(1, 6))
    chunks = tuple(draw(st.integers(1, max(longest // count, 1))) for _ in range(count))
    if not padded:
        return DecoderCase((0,) * draw(st.integers(1, 2)), chunks)
    empty = st.integers(0, sum(chunks) - 1)
    return DecoderCase(tuple(draw(st.lists(empty, min_size=2, max_size=3))), chunks)


def decoder_traps(longest: int, padded: bool) -> Iterator[tuple[str, DecoderCase]]:
    """Every split in two, one token at a time, equal chunks; each amount of padding."""
    rows: Sequence[tuple[int, ...]] = [(0, 0)]
    if padded:
        rows = [(0, empty) for empty in range(1, longest // 2 + 1, 2)] + [(longest // 2, 3)]
    for padding in rows:
        name = f"padding {padding}, " if padded else ""
        yield f"{name}at once", DecoderCase(padding, (longest,))
        half = longest // 2 + 1  # longer than any padding above
        singles = (half, *[1] * (longest - half))
        yield f"{name}a prompt, then one by one", DecoderCase(padding, singles)
        yield f"{name}in bursts", DecoderCase(padding, (half, 2, 3, longest - half - 5))
    if not padded:
        for split in range(1, longest):
            yield f"{split} tokens, then all others", DecoderCase((0,), (split, longest - split))
        yield "one by one", DecoderCase((0,), (1,) * longest)
