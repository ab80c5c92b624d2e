"""Queries, keys and positions put to a rotary embedding, and how far off it may be.

Legend: B batch, T tokens, R rotated dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from .rope_cases import RopeCase
from .rope_oracle import angle_error, angles, attention_factor, pairs_of
from .rope_protocol import MakeRope, Rope

LENGTH_RULES = ("spec", "call", "longest")


class RopeContract(Protocol):
    """What the suite's class declares."""

    angle_dtype: ClassVar[torch.dtype]
    device: ClassVar[str]
    length_rule: ClassVar[str]
    output_pairing: ClassVar[str | None]


class Trial:
    """Queries, keys and their positions, and the implementation that turns them."""

    def __init__(self, suite: RopeContract, make_rope: MakeRope, case: RopeCase) -> None:
        if suite.length_rule not in LENGTH_RULES:
            raise ValueError(f"length_rule is {suite.length_rule!r}; give one of {LENGTH_RULES}")
        self.suite, self.spec = suite, case.spec
        self.queries, self.keys = case.tensors()
        self.positions = case.positions_on(suite.device)
        self.make = make_rope
        self.renew()
        self.factor = attention_factor(case.spec)
        self.angle_eps = torch.finfo(suite.angle_dtype).eps

    def renew(self) -> None:
        """An implementation that has rotated nothing yet."""
        self.rope: Rope = self.make(self.spec)
        self.furthest = 0

    def rotate(self) -> tuple[Tensor, Tensor]:
        """What the implementation makes of the tensors as they now are."""
        return self._rotate(self.queries, self.keys, self.positions)

    def call(self, case: RopeCase) -> None:
        """Rotate something else."""
        self._rotate(*case.tensors(), case.positions_on(self.suite.device))

    def check(self, tokens: slice = slice(None), what: str = "") -> None:
        """Raise AssertionError unless these tokens, rotated in a call of their own, are right."""
        positions = self.positions[..., tokens]
        given = self.queries[:, :, tokens], self.keys[:, :, tokens]
        found = self._rotate(*given, positions)
        error = self.relative_error(positions)
        for name, before, after in zip(("queries", "keys"), given, found, strict=True):
            title = f"{name}, {what}" if what else name
            self.compare(title, before, after, positions, error)

    def compare(
        self, what: str, given: Tensor, found: Tensor, positions: Tensor, error: Tensor
    ) -> None:
        """Raise AssertionError unless ``found`` is ``given``, turned for these positions."""
        assert found.shape == given.shape, f"{what}: {list(found.shape)}, not {list(given.shape)}"
        assert found.dtype is given.dtype, f"{what}: {given.dtype} came back as {found.dtype}"
        before = pairs_of(given, self.spec)
        turns = torch.polar(torch.ones_like(error), angles(self.spec, positions, self.length()))
        expected = before * self.factor * turns[:, None]
        off = (pairs_of(found, self.spec, self.suite.output_pairing) - expected).abs()
        allowed = before.abs() * self.factor * error[:, None] + torch.finfo(given.dtype).tiny
        if not bool((off <= allowed).all()):
            wrong = (~(off <= allowed)).nonzero()[0].tolist()
            row, _, token, pair = wrong
            place = positions[..., row, token].tolist()
            raise AssertionError(
                f"{what}: pair {pair} at position {place} is off by {off[tuple(wrong)]:.4g}; "
                f"rounding explains {allowed[tuple(wrong)]:.4g}"
            )

    def relative_error(self, positions: Tensor | None = None) -> Tensor:
        """How far each pair may be off, [B, T, R/2], as a share of its size.

        The angle is off by a share of itself; cosine and sine, two products and a sum are rounded
        to the heads' dtype, and a few times to that of the angles.
        """
        positions = self.positions if positions is None else positions
        turned = angles(self.spec, positions, self.length()).abs()
        rounded = 2 * torch.finfo(self.queries.dtype).eps + 8 * self.angle_eps
        return turned * angle_error(self.spec, self.suite.angle_dtype) + rounded

    def length(self) -> int:
        """The length by which the last call's frequencies were chosen."""
        return self.spec.length if self.suite.length_rule == "spec" else self.furthest

    def both(self, found: tuple[Tensor, Tensor]) -> Iterable[tuple[str, Tensor, Tensor]]:
        return zip(("queries", "keys"), (self.queries, self.keys), found, strict=True)

    def tokens(self, *indices: int) -> list[list[int]]:
        return [self.positions[..., 0, index].tolist() for index in indices]

    def _rotate(self, queries: Tensor, keys: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        reached = int(positions.max()) + 1
        longest = self.suite.length_rule == "longest"
        self.furthest = max(self.furthest, reached) if longest else reached
        return self.rope.rotate(queries, keys, positions)
