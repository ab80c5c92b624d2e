"""RopeSuite: are queries and keys turned by their positions, as the model was trained?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import ClassVar, cast

import torch

from ..base import Suite, requires
from ..properties import EXAMPLES, for_all, tried
from .rope_cases import TRAINED, Grid, RopeCase, RopeVariants, rope_cases, rope_traps
from .rope_oracle import pairs_of
from .rope_protocol import MakeRope, Scaling, ShiftingRope
from .rope_trial import Trial

on_rotations = tried("make_rope")  # a property of a `Trial`
SHORT, LONG = 9, 3 * TRAINED
SHIFTS = (0, 1, TRAINED // 2 + 1, 2 * TRAINED - 7, 239)  # of both tokens of a product


class RopeSuite(Suite):
    """Properties of rotary position embeddings.

    Give a fixture ``make_rope``: a `rope_protocol.MakeRope`. Where no scaling is claimed, none is
    tried; where no pairing is claimed, pairs are halves. ``bases`` and ``head_dims`` are those that
    the implementation takes, ``longest`` is the furthest position. ``output_pairing``: pairs come
    back as these, where they are given as others (DeepSeek's neighbours become halves).

    ``length_rule``: by which length dynamic and long-rope scaling choose their frequencies: "spec",
    that of the spec, for good; "call", the furthest position of each call and one; "longest", the
    furthest that there ever was. Angles may be off by what ``angle_dtype`` costs. ``scalings``, by
    capability, take the place of the suite's own where an implementation has constants of its own.
    """

    topic = "rope"
    fixture = "make_rope"
    fixture_returns = "a callable: RopeSpec -> rotary embedding"
    offers = {  # noqa: RUF012  # read only
        "unscaled": "frequencies of the paper; taken for granted where no scaling is claimed",
        "linear": "positions divided by a factor",
        "dynamic": "dynamic NTK: a base that grows with the length",
        "yarn": "YaRN: a ramp over pairs, and an attention factor",
        "yarn-options": "YaRN with an attention factor that is given, or without whole pairs",
        "llama3": "the bands of Llama 3",
        "longrope": "LongRoPE: factors for each pair, short and long, and an attention factor",
        "proportional": "only the first pairs of a whole head are turned (Gemma 4)",
        "halves": "pairs of dimensions j and j + R/2; taken for granted where none is claimed",
        "neighbours": "pairs of dimensions 2j and 2j + 1",
        "partial": "only the first dimensions of a head are turned",
        "sections": "positions with three axes, pairs in sections (M-RoPE of Qwen2-VL)",
        "interleaved-sections": "positions with three axes, pairs in turns (M-RoPE of Qwen3-VL)",
        "shift": "shift(keys, distance) turns stored keys on, for context shift",
    }
    dtype: ClassVar[torch.dtype] = torch.float32
    low_precision: ClassVar[Sequence[torch.dtype]] = (torch.bfloat16, torch.float16)
    angle_dtype: ClassVar[torch.dtype] = torch.float32
    device: ClassVar[str] = "cpu"
    bases: ClassVar[Sequence[float]] = (10_000.0, 500_000.0)
    head_dims: ClassVar[Sequence[int]] = (16, 64)
    scalings: ClassVar[Mapping[str, Scaling]] = MappingProxyType({})
    longest: ClassVar[int] = 131_072
    output_pairing: ClassVar[str | None] = None
    length_rule: ClassVar[str] = "spec"
    examples: ClassVar[int] = EXAMPLES

    @on_rotations()
    def test_each_pair_is_turned_by_its_angle(self, trial: Trial) -> None:
        """In queries and keys, with the declared pairing, base and scaling, for each row's own
        positions in any order.

        Usual causes: pairs of halves for pairs of neighbours, frequencies made for the head's
        dimension where it is turned in part, one row of positions for the batch, a scaling's bands
        the wrong way round, an attention factor for queries alone, axes in another order.
        """
        trial.check()

    @on_rotations(alone=True)
    def test_a_product_depends_on_the_distance_alone(self, trial: Trial) -> None:
        """⟨R(m)q, R(n)k⟩ = ⟨R(m + s)q, R(n + s)k⟩: it is what makes the embedding relative.

        Usual causes: keys that are turned the other way or not at all, angles that are no multiple
        of the position, a clamp or wrap of large positions, queries and keys of different bases.
        """
        trial.queries, trial.keys = (
            x[:, :, :1].expand_as(x).clone() for x in (trial.queries, trial.keys)
        )
        queries, keys = trial.rotate()
        error = trial.relative_error()[:, None, None]  # [B, 1, 1, T, R/2]
        sizes = [pairs_of(x, trial.spec).abs()[..., 0, :] for x in (trial.queries, trial.keys)]
        size = sizes[0][:, :, None] * sizes[1][:, None] * trial.factor**2  # [B, H, G, R/2]
        products, bounds = [], []
        for m in range(0, 2 * len(SHIFTS), 2):  # tokens are at m, n, m + s, n + s and so on
            pair = queries[..., m, :].double(), keys[..., m + 1, :].double()
            products.append(torch.einsum("bhd,bgd->bhg", *pair))
            bounds.append((size * (error[..., m, :] + error[..., m + 1, :])).sum(-1))
        for moved in range(1, len(SHIFTS)):
            off, allowed = (products[moved] - products[0]).abs(), bounds[moved] + bounds[0]
            assert bool((off <= allowed).all()), (
                f"⟨R(m)q, R(n)k⟩ differs by {off.max():.4g} between m, n = {trial.tokens(0, 1)} "
                f"and {trial.tokens(2 * moved, 2 * moved + 1)}; rounding explains "
                f"{allowed.max():.4g}"
            )

    @on_rotations()
    def test_a_pair_keeps_its_length(self, trial: Trial) -> None:
        """Up to the declared attention factor. What is turned is neither stretched nor mixed.

        Usual causes: an attention factor twice or not at all, cosine and sine of other pairs.
        """
        for name, given, found in trial.both(trial.rotate()):
            before = pairs_of(given, trial.spec).abs() * trial.factor
            after = pairs_of(found, trial.spec, self.output_pairing).abs()
            allowed = before * 4 * (torch.finfo(given.dtype).eps + trial.angle_eps)
            off = (after - before).abs()
            assert bool((off <= allowed).all()), (
                f"a pair of {name} grew from {before.max():.6g} to {after.max():.6g} at most; the "
                f"attention factor is {trial.factor:.6g}"
            )

    @requires("partial")
    @on_rotations()
    def test_what_is_not_turned_passes_unchanged(self, trial: Trial) -> None:
        """Bit for bit: the dimensions behind the rotated ones know no position.

        Usual causes: the attention factor for all dimensions, a tail that is dropped or cast.
        """
        rest = slice(trial.spec.rotary_dim, None)
        for name, given, found in trial.both(trial.rotate()):
            same = given[..., rest] == found[..., rest]
            assert bool(same.all()), f"{int((~same).sum())} untouched numbers of {name} changed"

    @on_rotations()
    def test_a_token_alone_is_turned_as_among_others(self, trial: Trial) -> None:
        """Decoding goes token by token, and kernels have a path of their own for it.

        Usual causes: a position counted from the call's first token, a table that begins anew, an
        axis of one that is squeezed away.
        """
        for token in range(trial.positions.shape[-1]):
            trial.renew()  # what earlier calls leave is another property's matter
            trial.check(slice(token, token + 1), f"token {token} alone")

    def test_far_positions_cost_what_their_angles_cost(self, make_rope: MakeRope) -> None:
        """In each dtype, up to ``longest``: an angle's error is that of ``angle_dtype``, whatever
        the heads' dtype.

        Usual causes: positions, frequencies or angles in half precision, a table that ends or
        clamps at the trained length, a slightly different base.
        """
        far = self.longest - 1
        rows = (
            (0, 1, 255, 257, 2049, far // 4 + 2, far),
            (far // 2 + 2, 4095, 1023, 513, 33, 31, 7),
        )
        for name, spec in self._variants().every(self.longest):
            for dtype in (self.dtype, *self.low_precision):
                case = RopeCase(spec, rows, dtype=dtype)
                trial = Trial(self, make_rope, case)
                trial.check(what=f"{name}, in {dtype}")

    def test_earlier_calls_leave_no_trace(self, make_rope: MakeRope) -> None:
        """Neither a longer sequence, nor another dtype, nor another instance changes what follows.

        Usual causes: a base that stays scaled (declare ``length_rule``), a table that is kept in
        the dtype of its first call, or shared by instances under too small a key.
        """
        for name, spec in self._variants().every():
            bases = [replace(spec, base=base) for base in self.bases if base != spec.base]
            others = [replace(spec, length=LONG), *bases]
            for length in (TRAINED, SHORT, TRAINED + 1, LONG):
                case = RopeCase(spec, (tuple(range(length)),))
                trial = Trial(self, make_rope, case)
                for before in (self._low(case), RopeCase(spec, (tuple(range(LONG)),))):
                    trial.call(before)
                for other in others:
                    Trial(self, make_rope, replace(case, spec=other)).check(what=f"{name}, another")
                trial.check(what=f"{name}, {length} tokens after {LONG}")
                trial.check(what=f"{name}, {length} tokens again")

    @requires("shift")
    @on_rotations()
    def test_shifted_keys_are_those_of_their_new_positions(self, trial: Trial) -> None:
        """Context shift: tokens behind those that were dropped move up, without being computed
        again. It costs one rounding more.

        Usual causes: the sign of the distance, the attention factor once more, positions for
        distances, dimensions that are not turned.
        """
        _, keys = trial.rotate()
        distance = -(trial.positions // 2)
        found = cast(ShiftingRope, trial.rope).shift(keys, distance)
        bound = trial.relative_error() + trial.relative_error(distance)
        trial.compare("keys, shifted", trial.keys, found, trial.positions + distance, bound)

    @on_rotations()
    def test_strides_change_nothing(self, trial: Trial) -> None:
        """Heads and positions are often transposed views of one projection.

        Usual causes: `view` or raw pointers where the layout is another.
        """
        trial.queries, trial.keys = (
            x.transpose(1, 2).contiguous().transpose(1, 2) for x in (trial.queries, trial.keys)
        )
        trial.check()

    @on_rotations()
    def test_the_inputs_are_not_modified(self, trial: Trial) -> None:
        """Usual causes: rotation in place, positions that are clamped or moved in place."""
        copies = [x.clone() for x in (trial.queries, trial.keys, trial.positions)]
        trial.rotate()
        for name, copy in zip(("queries", "keys", "positions"), copies, strict=True):
            assert torch.equal(getattr(trial, name), copy), f"{name} were changed"

    # How properties are tried

    def _variants(self) -> RopeVariants:
        own = self.scalings
        return RopeVariants(self.capabilities, self.head_dims, self.bases, self.device, own)

    def _low(self, case: RopeCase) -> RopeCase:
        return replace(case, dtype=(*self.low_precision, self.dtype)[0])

    def _hold(
        self, make_rope: MakeRope, holds: Callable[[Trial], None], *, alone: bool = False
    ) -> None:
        """``alone``: on tokens at m, n, m + s and n + s."""
        __tracebackhide__ = True

        def tried_on(case: RopeCase) -> None:
            chosen = _shifted(case) if alone else case
            holds(Trial(self, make_rope, replace(chosen, dtype=self.dtype)))

        variants = self._variants()
        traps = rope_traps(variants)
        for_all(tried_on, rope_cases(variants), traps=traps, examples=self.examples)


def _shifted(case: RopeCase) -> RopeCase:
    """Tokens at m, n, m + s, n + s and so on, on each axis another s."""

    def moved(grid: Grid, axis: int) -> Grid:
        near = [[min(row[0], TRAINED // 2), min(row[-1], TRAINED // 2)] for row in grid]
        room = case.spec.length - 1 - TRAINED // 2
        shifts = [min(shift + 4 * axis, room) for shift in SHIFTS]
        return tuple(tuple(p + shift for shift in shifts for p in pair) for pair in near)

    others = tuple(moved(grid, axis) for axis, grid in enumerate(case.others, start=1))
    return replace(case, positions=moved(case.positions, 0), others=others)
