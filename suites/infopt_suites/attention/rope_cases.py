"""Rotary embeddings and positions for the properties: every variant that is offered.

Legend: B batch, T tokens, H query heads, G kv heads, D head dim, R rotated dimensions, A axes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from .rope_protocol import Dynamic, Linear, Llama3, LongRope, Proportional, RopeSpec, Scaling, Yarn

TRAINED = 32  # tokens; short, so that sequences beyond it are cheap
FACTOR = 8.0

Grid = tuple[tuple[int, ...], ...]  # positions of the tokens of each row, [B][T]


def _long_rope(pairs: int) -> LongRope:
    grown = [1 + (FACTOR - 1) * (pair + 1) / pairs for pair in range(pairs)]
    short = [1 + 0.05 * pair for pair in range(pairs)]
    return LongRope(tuple(short), tuple(grown), FACTOR, TRAINED)


def _yarn(**options: Any) -> Yarn:
    # The ramp has to lie within the few pairs of small heads.
    return Yarn(FACTOR, TRAINED, beta_fast=1.0, beta_slow=0.05, **options)


# By capability, for R/2 pairs.
SCALINGS: dict[str, Callable[[int], Sequence[Scaling | None]]] = {
    "unscaled": lambda pairs: [None],
    "linear": lambda pairs: [Linear(FACTOR)],
    "dynamic": lambda pairs: [Dynamic(FACTOR, TRAINED)],
    "yarn": lambda pairs: [_yarn()],
    "yarn-options": lambda pairs: [_yarn(attention_factor=1.0), _yarn(truncate=False)],
    "llama3": lambda pairs: [Llama3(FACTOR, TRAINED, low=0.05)],
    "longrope": lambda pairs: [_long_rope(pairs)],
    "proportional": lambda pairs: [Proportional(0.25), Proportional(0.75, FACTOR)],
}


def _always(scaling: Scaling) -> Callable[[int], Sequence[Scaling | None]]:
    return lambda pairs: [scaling]


@dataclass(frozen=True)
class RopeCase:
    """A rotary embedding, and the positions of the tokens that are put to it."""

    spec: RopeSpec
    positions: Grid = ((0,),)
    others: tuple[Grid, ...] = ()  # on the axes behind the first; the same where none is given
    heads: int = 2
    kv_heads: int = 1
    dtype: torch.dtype = torch.float32

    def positions_on(self, device: str) -> Tensor:
        if self.spec.sections is None:
            return torch.tensor(self.positions, device=device)
        axes = [self.positions, *self.others]
        axes += [self.positions] * (3 - len(axes))
        return torch.tensor(axes, device=device)

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Queries [B, H, T, D] and keys [B, G, T, D]."""
        generator = torch.Generator().manual_seed(23)
        shape = len(self.positions), len(self.positions[0]), self.spec.head_dim
        queries, keys = (
            torch.randn(shape[0], heads, *shape[1:], generator=generator)
            for heads in (self.heads, self.kv_heads)
        )
        return queries.to(self.spec.device, self.dtype), keys.to(self.spec.device, self.dtype)


class RopeVariants:
    """The specs that an implementation offers."""

    def __init__(
        self,
        offered: Collection[str],
        head_dims: Sequence[int],
        bases: Sequence[float],
        device: str,
        own: Mapping[str, Scaling],
    ) -> None:
        self.offered, self.head_dims, self.bases = offered, head_dims, bases
        self.device = device
        self.makers = {**SCALINGS, **{name: _always(scaling) for name, scaling in own.items()}}
        claimed = [name for name in SCALINGS if name in offered] or ["unscaled"]
        self.scalings = [(name, i) for name in claimed for i in range(len(self.makers[name](2)))]
        pairings = [name for name in ("halves", "neighbours") if name in offered]
        self.pairings = pairings or ["halves"]

    def spec(
        self,
        scaling: tuple[str, int],
        pairing: str,
        *,
        head_dim: int | None = None,
        share: int = 1,
        base: float | None = None,
        sections: str | None = None,
        length: int = 256,
    ) -> RopeSpec:
        head_dim = self.head_dims[0] if head_dim is None else head_dim
        rotary_dim = max(head_dim // share // 2 * 2, 4)  # one pair alone has no base
        pairs = rotary_dim // 2
        third = pairs // 3
        return RopeSpec(
            head_dim=head_dim,
            rotary_dim=rotary_dim,
            length=length,
            base=self.bases[0] if base is None else base,
            pairing=pairing,  # type: ignore[arg-type]  # a literal, by its construction
            scaling=self.makers[scaling[0]](pairs)[scaling[1]],
            sections=(pairs - 2 * third, third, third) if sections else None,
            interleaved=sections == "interleaved-sections",
            device=self.device,
        )

    def every(self, length: int = 256) -> Iterator[tuple[str, RopeSpec]]:
        """Each variant once: scalings by pairings, in part, by sections."""
        for pairing in self.pairings:
            for scaling in self.scalings:
                name = f"{scaling[0]}, {pairing}"
                yield name, self.spec(scaling, pairing, length=length)
                if "partial" in self.offered:
                    yield f"{name}, in part", self.spec(scaling, pairing, share=2, length=length)
            for sections in ("sections", "interleaved-sections"):
                if sections in self.offered:
                    made = self.spec(self.scalings[0], pairing, sections=sections, length=length)
                    yield f"{sections}, {pairing}", made


@st.composite
def rope_cases(draw: st.DrawFn, variants: RopeVariants) -> RopeCase:
    """Variants with rows of positions of their own, in any order, some beyond the trained."""
    offered = variants.offered
    sections = [s for s in ("sections", "interleaved-sections") if s in offered]
    spec = variants.spec(
        draw(st.sampled_from(variants.scalings)),
        draw(st.sampled_from(variants.pairings)),
        head_dim=draw(st.sampled_from(variants.head_dims)),
        share=draw(st.sampled_from([1, 2, 4])) if "partial" in offered else 1,
        base=draw(st.sampled_from(variants.bases)),
        sections=draw(st.sampled_from([None, *sections])),
        length=draw(st.sampled_from([TRAINED, 256])),
    )
    batch, tokens = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    furthest = min(draw(st.sampled_from([7, TRAINED - 1, TRAINED, 255])), spec.length - 1)
    rows = st.lists(st.integers(0, furthest), min_size=tokens, max_size=tokens).map(tuple)
    grids = st.lists(rows, min_size=batch, max_size=batch).map(tuple)
    return RopeCase(
        spec,
        draw(grids),
        (draw(grids), draw(grids)) if spec.sections else (),
        heads=draw(st.integers(1, 4)),
        kv_heads=draw(st.integers(1, 2)),
    )


def rope_traps(variants: RopeVariants) -> Iterator[tuple[str, RopeCase]]:
    """Each variant where positions have led kernels astray."""
    for name, spec in variants.every():
        trained = replace(spec, length=TRAINED)
        yield f"{name}: the trained length", RopeCase(trained, (tuple(range(TRAINED)),))
        prompt = tuple(range(TRAINED + 8))
        yield f"{name}: a prompt beyond the trained length", RopeCase(spec, (prompt,))
        yield f"{name}: one token at an offset", RopeCase(spec, ((TRAINED - 1,),))
        yield (
            f"{name}: a padded row beside another",
            replace(RopeCase(spec), positions=((0, 0, 0, 1, 2), (0, 1, 2, 3, 4)), kv_heads=2),
        )
        yield f"{name}: rows at different offsets", RopeCase(spec, ((40, 41), (3, 4), (0, 1)))
        if spec.sections:
            grid = ((5, 5, 5, 5, 6),)
            others = (((5, 5, 6, 6, 7),), ((5, 6, 5, 6, 7),))
            yield f"{name}: a picture of 2 × 2", RopeCase(spec, grid, others)
