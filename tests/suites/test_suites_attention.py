"""AttentionSuite accepts the reference: in one piece and in tiles, and torch's own."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from infopt_reference.attention import (
    attend_in_tiles,
    attend_with_lse,
    merge,
    token_positions,
    visible_keys,
    with_sinks,
)
from infopt_suites.attention import AttentionSpec, AttentionSuite
from torch import Tensor


class Reference:
    """`attend` or `attend_in_tiles` behind masks of positions, as the suites' protocol."""

    def __init__(self, spec: AttentionSpec) -> None:
        self.spec = spec

    def attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, padding: Tensor | None
    ) -> Tensor:
        return self.attend_with_lse(queries, keys, values, padding)[0]

    def attend_with_lse(
        self, queries: Tensor, keys: Tensor, values: Tensor, padding: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        mask = self.mask(queries, keys, padding)
        sinks = None if self.spec.sinks is None else torch.tensor(self.spec.sinks)
        if self.spec.tile is None:
            return attend_with_lse(queries, keys, values, mask, sinks=sinks)
        output, lse = attend_in_tiles(queries, keys, values, mask, tile=self.spec.tile)
        return (output, lse) if sinks is None else with_sinks(output, lse, sinks)

    def mask(self, queries: Tensor, keys: Tensor, padding: Tensor | None) -> Tensor:
        count, held = queries.shape[2], keys.shape[2]
        if padding is None:
            padding = torch.zeros(queries.shape[0], dtype=torch.long)
        slots = token_positions(torch.arange(held) >= padding[:, None])
        if not self.spec.causal:
            return (slots >= 0)[:, None, None, :]
        # More queries than keys: the first stand before position 0.
        before = torch.full((len(slots), max(count - held, 0)), -1)
        positions = torch.cat([before, slots], dim=1)[:, -count:]
        return visible_keys(positions, slots, window=self.spec.window, chunk=self.spec.chunk)

    def merge(self, parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        return merge(parts)


class Cleaned(Reference):
    """Slots of padding are overwritten first, so that they may hold anything."""

    def attend_with_lse(
        self, queries: Tensor, keys: Tensor, values: Tensor, padding: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if padding is not None:
            filled = torch.arange(keys.shape[2]) >= padding[:, None]
            keys, values = (
                torch.where(filled[:, None, :, None], x, torch.zeros_like(x))
                for x in (keys, values)
            )
        return super().attend_with_lse(queries, keys, values, padding)


class InParts(Reference):
    """Attention to two parts of the keys, joined by `merge`."""

    def attend_with_lse(
        self, queries: Tensor, keys: Tensor, values: Tensor, padding: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        mask = self.mask(queries, keys, padding).expand(-1, -1, queries.shape[2], -1)
        half = keys.shape[2] // 2
        output, lse = merge(
            [
                attend_with_lse(queries, keys[:, :, part], values[:, :, part], mask[..., part])
                for part in (slice(0, half), slice(half, None))
            ]
        )
        sinks = self.spec.sinks
        return (output, lse) if sinks is None else with_sinks(output, lse, torch.tensor(sinks))


class TestReference(AttentionSuite):
    capabilities = frozenset(AttentionSuite.offers) - {"any-padding"}

    @pytest.fixture
    def make_attention(self) -> type[Reference]:
        return Reference


class TestReferenceOnCleanedSlots(AttentionSuite):
    capabilities = frozenset({"left-padding", "any-padding", "grouped", "bidirectional"})
    head_dims = (16, 64)
    examples = 10

    @pytest.fixture
    def make_attention(self) -> type[Cleaned]:
        return Cleaned


class TestReferenceInParts(AttentionSuite):
    capabilities = frozenset(AttentionSuite.offers) - {"any-padding", "tiles"}
    examples = 10

    @pytest.fixture
    def make_attention(self) -> type[InParts]:
        return InParts
