"""AttentionSuite: does a kernel compute attention, whichever way it goes about it?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar, cast

import torch
from torch import Tensor

from ..base import Suite, requires
from ..properties import EXAMPLES, for_all, tried
from .cases import MOST_TILES, TILES, AttentionCase, attention_cases, attention_traps
from .oracle import plain_attention, rounding_bound, visible
from .protocol import Attention, AttentionSpec, AttentionWithLse, MakeAttention, MergingAttention

on_problems = tried("make_attention")  # a property of a `Trial`


class AttentionSuite(Suite):
    """Properties of scaled dot-product attention, with whatever masks the implementation offers.

    Give a fixture ``make_attention``: a `protocol.MakeAttention`. Properties are tried in
    ``dtype``, float64 where it can be: then rounding hides nothing. In those of ``low_precision``
    the cost of rounding is compared with a plain implementation's. ``head_dims`` are those that the
    kernel takes. ``boundaries`` are numbers of keys and queries at which its tiles or chunks may
    end: one less, as many and one more are tried.
    """

    topic = "attention"
    fixture = "make_attention"
    fixture_returns = "a callable: AttentionSpec -> attention"
    offers = {  # noqa: RUF012  # read only
        "grouped": "several query heads share a kv head",
        "bidirectional": "causal=False: every query sees every key",
        "window": "sliding windows",
        "chunk": "chunks that do not see each other",
        "left-padding": "rows may begin with slots that hold no token",
        "any-padding": "such slots may hold anything, NaN and infinity too",
        "zero-rows": "a query that sees no key gets zeros",
        "sinks": "a logit for each head that takes its share of the softmax",
        "tiles": "keys are handled a given number at a time",
        "lse": "attend_with_lse(...) also gives the log of the denominator",
        "merge": "merge(parts) joins outputs over disjoint keys",
    }
    dtype: ClassVar[torch.dtype] = torch.float64
    low_precision: ClassVar[Sequence[torch.dtype]] = (torch.float32, torch.bfloat16, torch.float16)
    device: ClassVar[str] = "cpu"
    head_dims: ClassVar[Sequence[int]] = (4, 2, 8)
    boundaries: ClassVar[Sequence[int]] = (64, 128, 256)
    examples: ClassVar[int] = EXAMPLES

    # The definition

    @on_problems()
    def test_output_is_that_of_the_definition(self, trial: Trial) -> None:
        """softmax(Q·Kᵀ / √D)·V over the visible keys, in float64, within what sums may round.

        Usual causes: a causal mask aligned to the first keys instead of the last, kv heads repeated
        along another axis, a window off by one, chunks counted from the slot and not from the
        token, an accumulator that is not rescaled when the maximum grows.
        """
        trial.compare(trial.output(), trial.expected)

    @on_problems()
    def test_finite_inputs_give_finite_outputs(self, trial: Trial) -> None:
        """Also for a query that sees no key, as those in padded slots: its NaN would be cached and
        read by the next layer.

        Usual causes: −inf − −inf in a softmax of nothing, uninitialised output of an empty loop.
        """
        output = trial.output()
        bad = ~torch.isfinite(output)
        assert not bool(bad.any()), f"{int(bad.sum())} of {bad.numel()} outputs not finite"

    @requires("zero-rows")
    @on_problems(traps=[("more queries than keys", AttentionCase(queries=5, keys=2))])
    def test_a_query_without_keys_gets_zeros(self, trial: Trial) -> None:
        """The sum over no keys is 0, also where there are more queries than keys.

        Usual causes: a softmax over the mask's fill value, which is the mean of all values.
        """
        wrong = trial.output().masked_fill(trial.sees_any, 0.0)
        assert not bool((wrong != 0).any()), f"{wrong.abs().max().item():.6g} without a key"

    @on_problems()
    def test_weights_sum_to_one(self, trial: Trial) -> None:
        """Where all values are 1, so is every output.

        Usual causes: a mask after the softmax, a denominator that misses a tile or counts one
        twice, a last tile that is read beyond its end.
        """
        if trial.case.spec.sinks is None:
            trial.values = torch.ones_like(trial.values)
            trial.compare(trial.output(), torch.ones_like(trial.expected))

    # Who sees what

    @on_problems()
    def test_later_tokens_change_nothing_before_them(self, trial: Trial) -> None:
        """What is still to come is not known when decoding.

        Usual causes: no mask, a mask of the wrong sign or corner, a finite fill value that large
        logits outweigh.
        """
        if not trial.case.spec.causal or trial.case.queries == 1:
            return
        before = trial.output()
        trial.keys[:, :, -1] += 40.0
        trial.values[:, :, -1] += 1000.0
        bound = rounding_bound(trial.queries, trial.keys, trial.values, self.dtype)
        earlier = trial.sees_any[:, :, :-1]
        after = trial.output()[:, :, :-1]
        trial.compare(after, before[:, :, :-1], bound=bound, sees_any=earlier)

    @on_problems()
    def test_queries_may_come_in_any_split(self, trial: Trial) -> None:
        """Chunked prefill: each part of the queries, over the keys until its end, gives what all
        queries give at once.

        Usual causes: a mask that assumes the first query at position 0, the whole prompt's length
        for an early part, a window counted from the part's start.
        """
        if not trial.case.spec.causal:
            return
        offset = trial.case.keys - trial.case.queries
        for size in _part_sizes(trial.case.queries):
            parts = []
            for start in range(0, trial.case.queries, size):
                stop = min(start + size, trial.case.queries)
                until = offset + stop
                parts.append(
                    trial.attention.attend(
                        trial.queries[:, :, start:stop],
                        trial.keys[:, :, :until],
                        trial.values[:, :, :until],
                        None if trial.padding is None else trial.padding.clamp(max=until),
                    )
                )
            trial.compare(torch.cat(parts, dim=2), trial.expected)

    @requires("left-padding")
    @on_problems()
    def test_a_padded_row_gives_what_the_row_gives_alone(self, trial: Trial) -> None:
        """Who else is in the batch must not matter.

        Usual causes: one length for the whole batch, windows and chunks counted from the slot,
        padding that is masked for queries and not for keys.
        """
        output = trial.output()
        for row, empty in enumerate(trial.case.padding):
            length = min(trial.case.queries, trial.case.keys - empty)
            if length == 0:
                continue
            alone = trial.attention.attend(
                trial.queries[row : row + 1, :, -length:],
                trial.keys[row : row + 1, :, empty:],
                trial.values[row : row + 1, :, empty:],
                None,
            )
            sees_any = trial.sees_any[row : row + 1, :, -length:]
            trial.compare(output[row : row + 1, :, -length:], alone, sees_any=sees_any)

    @requires("left-padding", "any-padding")
    @on_problems()
    def test_padded_slots_may_hold_anything(self, trial: Trial) -> None:
        """Memory that nobody has written holds NaN or infinity, and 0 · NaN is NaN.

        Usual causes: a weight of 0 for what is not seen, times its value; keys that are cleaned and
        values that are not; NaN that is replaced and infinity that is not.
        """
        for anything in (math.nan, math.inf, -math.inf):
            for row, empty in enumerate(trial.case.padding):
                trial.keys[row, :, :empty], trial.values[row, :, :empty] = anything, anything
            trial.compare(trial.output(), trial.expected)

    @requires("grouped")
    @on_problems()
    def test_grouped_heads_equal_repeated_heads(self, trial: Trial) -> None:
        """Query head h reads kv head h // (H / G), as if each kv head were there H / G times.

        Usual causes: heads repeated as 0 1 0 1 for 0 0 1 1, or along the sequence axis, which is
        silent where both are of one length.
        """
        grouped = trial.output()
        trial.keys, trial.values = (
            x.repeat_interleave(trial.case.repeats, dim=1) for x in (trial.keys, trial.values)
        )
        trial.compare(grouped, trial.output())

    # How it is computed

    # A sink's logit stays where it is.
    @on_problems(lambda case: replace(case, spec=replace(case.spec, sinks=None)))
    def test_a_constant_in_all_logits_changes_nothing(self, trial: Trial) -> None:
        """Softmax is invariant to it. Logits go up to 2^18, or what the dtype holds exactly.

        What is rounded are the shifted logits: kernels that scale queries and keys first, or join
        parts by their denominators, may be off by an eps of those.

        Usual causes: −10,000 as "minus infinity", a running maximum that starts at −50,000, exp
        without subtracting the maximum.
        """
        # Logits are multiples of 1/8, so beside the shift they take three bits and a few more.
        largest = min(2.0**18, 1 / (32 * torch.finfo(self.dtype).eps))
        trial.queries = trial.queries.mul(2).round().div(2)
        trial.keys = trial.keys.mul(2).round().div(2)
        # The last coordinate adds (q·k) / √D, about the shift, to each logit.
        root = 2.0 ** round(math.log2(trial.case.head_dim) / 2)
        trial.queries[..., -1], trial.keys[..., -1] = 2.0, 0.0
        before = trial.output()
        for shift in (largest / 2, -largest / 2, -largest):
            trial.keys[..., -1] = shift * root / 2
            bound = rounding_bound(trial.queries, trial.keys, trial.values, self.dtype)
            trial.compare(trial.output(), before, bound=bound)

    @requires("tiles")
    @on_problems()
    def test_the_size_of_tiles_changes_nothing(self, trial: Trial) -> None:
        """Partial softmaxes are merged exactly, in tiles of 1, 2, 3, 7, 16 and all keys; more than
        64 tiles are tried of the longest problems of few queries alone.

        Usual causes: an accumulator or a denominator that is not rescaled when the maximum grows,
        the exponent's sign, a last tile that is not masked, a tile with no visible key.
        """
        for tile in (*TILES, trial.case.keys):
            longest = trial.case.queries < trial.case.keys > max(self.boundaries, default=0)
            if tile * MOST_TILES < trial.case.keys and not longest:
                continue
            tiled = trial.make(replace(trial.case.spec, tile=tile))
            output = tiled.attend(trial.queries, trial.keys, trial.values, trial.padding)
            trial.compare(output, trial.expected)

    @requires("lse")
    @on_problems()
    def test_the_lse_is_that_of_all_logits(self, trial: Trial) -> None:
        """Merging with other keys needs the denominator of these; −inf where a query sees no key.

        Usual causes: the last split's lse, the maximum for the lse, log₂ for ln, another layout.
        """
        attention = cast(AttentionWithLse, trial.attention)
        output, lse = attention.attend_with_lse(
            trial.queries, trial.keys, trial.values, trial.padding
        )
        trial.compare(output, trial.expected)
        assert lse.shape == trial.lse.shape, f"lse {list(lse.shape)}, not {list(trial.lse.shape)}"
        same = (lse.double() - trial.lse).abs() <= trial.bound
        same |= (lse == -math.inf) & (trial.lse == -math.inf)
        assert bool(same.all()), f"lse {lse[~same][0].item()}, not {trial.lse[~same][0].item()}"

    @requires("lse", "merge", "left-padding", "bidirectional")
    @on_problems(lambda case: replace(case, spec=AttentionSpec(causal=False)))
    def test_merged_parts_equal_the_whole(self, trial: Trial) -> None:
        """In any order, also where a part holds no key of a row, or none at all.

        Usual causes: a mean of outputs, weights by number of keys, garbage or NaN from a row
        without keys in a part.
        """
        attention = cast(MergingAttention, trial.attention)
        for size in (1, 2, 5) if trial.case.keys < 32 else (31, 64):
            parts = [
                attention.attend_with_lse(
                    trial.queries,
                    trial.keys[:, :, start : start + size],
                    trial.values[:, :, start : start + size],
                    _padding_of_part(trial.case, start, size, self.device),
                )
                for start in range(0, trial.case.keys, size)
            ]
            for order in (parts, parts[::-1]):
                output, lse = attention.merge(order)
                trial.compare(output, trial.expected)
                known = trial.lse > -math.inf
                off = (lse - trial.lse).where(known, 0.0).abs()
                assert bool((off <= trial.bound).all()), f"lse off by {off.max().item():.6g}"

    @requires("lse", "merge")
    @on_problems()
    def test_parts_without_keys_weigh_nothing(self, trial: Trial) -> None:
        """A part of which a query sees no key has an lse of −inf, and any finite output: first,
        last or in between, alone or with others like it.

        Usual causes: −inf − −inf where a part, or all of them, has no key; a running maximum that
        starts with the first part's; a mean over the number of parts.
        """
        attention = cast(MergingAttention, trial.attention)
        part = attention.attend_with_lse(trial.queries, trial.keys, trial.values, trial.padding)
        nothing = torch.full_like(part[0], 7.0), torch.full_like(part[1], -math.inf)
        for order in ([part], [nothing, part], [part, nothing], [nothing, part, nothing, nothing]):
            output, lse = attention.merge(order)
            trial.compare(output, trial.expected)
            same = ((lse - trial.lse).abs() <= trial.bound) | (lse == trial.lse)
            assert bool(same.all()), f"lse {lse[~same][0]:.6g}, not {trial.lse[~same][0]:.6g}"
        output, lse = attention.merge([nothing, nothing])
        assert bool(torch.isfinite(output).all()), "parts without keys merge to no finite output"
        assert bool((lse == -math.inf).all()), f"lse {lse.max():.6g} of parts without keys"

    def test_low_precision_costs_what_it_costs_a_plain_implementation(
        self, make_attention: MakeAttention
    ) -> None:
        """At most twice the error of the definition in the same dtype, and one rounding.

        Usual causes: sums in half precision, probabilities rounded before they are normalised,
        a scale applied twice with a rounding between.
        """
        grouped = 2 if "grouped" in self.capabilities else 1
        head_dim = max(*self.head_dims, 16)
        case = AttentionCase(kv_heads=2, repeats=grouped, queries=24, keys=40, head_dim=head_dim)
        for dtype in self.low_precision:
            tensors = case.tensors(dtype, self.device)
            gold, _ = plain_attention(*tensors, case.spec)
            plain, _ = plain_attention(*tensors, case.spec, dtype=dtype)
            output = make_attention(case.spec).attend(*tensors, None)
            assert output.dtype is dtype, f"{dtype} came back as {output.dtype}"
            floor = torch.finfo(dtype).eps * gold.abs().max()
            allowed = 2 * (plain.double() - gold).abs().max() + floor
            error = (output.double() - gold).abs().max()
            assert bool(error <= allowed), f"error {error:.4g} in {dtype}, allowed {allowed:.4g}"

    @on_problems()
    def test_strides_change_nothing(self, trial: Trial) -> None:
        """Heads and positions are often transposed views of one projection.

        Usual causes: `view` or raw pointers where the layout is another, [B, S, H, D] taken for
        [B, H, S, D].
        """
        trial.queries, trial.keys, trial.values = (
            x.transpose(1, 2).contiguous().transpose(1, 2)
            for x in (trial.queries, trial.keys, trial.values)
        )
        trial.compare(trial.output(), trial.expected)

    @on_problems()
    def test_the_inputs_are_not_modified(self, trial: Trial) -> None:
        """Keys and values are the cache's.

        Usual causes: scaling the queries or filling masked slots in place.
        """
        copies = [x.clone() for x in (trial.queries, trial.keys, trial.values)]
        trial.output()
        for name, copy in zip(("queries", "keys", "values"), copies, strict=True):
            assert torch.equal(getattr(trial, name), copy), f"{name} were changed"

    # How properties are tried

    def _hold(
        self,
        make_attention: MakeAttention,
        holds: Callable[[Trial], None],
        changed: Callable[[AttentionCase], AttentionCase] = lambda case: case,
        traps: Sequence[tuple[str, AttentionCase]] = (),
    ) -> None:
        """Try the property on drawn problems and on the traps, each as ``changed`` makes it."""
        __tracebackhide__ = True

        def tried_on(case: AttentionCase) -> None:
            holds(Trial(self, make_attention, changed(case)))

        offered, head_dims = self.capabilities, self.head_dims
        own = [(name, replace(case, head_dim=head_dims[0])) for name, case in traps]
        every = [*attention_traps(offered, head_dims[0], self.boundaries), *own]
        cases = attention_cases(offered, head_dims)
        for_all(tried_on, cases, traps=every, examples=self.examples)


class Trial:
    """A problem's tensors, the implementation for it, and what the definition makes of them."""

    def __init__(
        self, suite: AttentionSuite, make_attention: MakeAttention, case: AttentionCase
    ) -> None:
        self.make, self.case = make_attention, case
        self.queries, self.keys, self.values = case.tensors(suite.dtype, suite.device)
        self.padding = case.padding_on(suite.device)
        self.attention: Attention = make_attention(case.spec)
        tensors = self.queries, self.keys, self.values
        self.expected, self.lse = plain_attention(*tensors, case.spec, self.padding)
        self.bound = rounding_bound(*tensors, suite.dtype)
        padding = torch.tensor(case.padding, device=suite.device)
        seen = visible(case.queries, case.keys, case.spec, padding)
        self.sees_any = seen.any(-1, keepdim=True)  # [B, 1, T, 1]

    def output(self) -> Tensor:
        """What the implementation makes of the tensors as they now are."""
        return self.attention.attend(self.queries, self.keys, self.values, self.padding)

    def compare(
        self,
        output: Tensor,
        expected: Tensor,
        *,
        bound: float | None = None,
        sees_any: Tensor | None = None,
    ) -> None:
        """Raise AssertionError unless both agree, for queries that see a key."""
        assert output.shape == expected.shape, f"{list(output.shape)}, not {list(expected.shape)}"
        off = (output.double() - expected.double()).abs()
        off = off.where(self.sees_any if sees_any is None else sees_any, 0.0)
        allowed = self.bound if bound is None else bound
        # A NaN is in no bound, and compares with none.
        if not bool((off <= allowed).all()):
            flat = off.nan_to_num(nan=math.inf).argmax()
            place = tuple(int(i) for i in torch.unravel_index(flat, off.shape))
            raise AssertionError(
                f"output{list(place)} = {output[place].item():.9g}, "
                f"expected {expected[place].item():.9g}; rounding explains {allowed:.3g}"
            )


def _part_sizes(queries: int) -> list[int]:
    """All where there are few queries; of many those that leave a part of another size."""
    return [*range(1, queries)] if queries < 16 else [31, queries // 2, queries - 1]


def _padding_of_part(case: AttentionCase, start: int, size: int, device: str) -> Tensor | None:
    size = min(size, case.keys - start)
    padding = [min(max(empty - start, 0), size) for empty in case.padding]
    return torch.tensor(padding, device=device) if any(padding) else None
