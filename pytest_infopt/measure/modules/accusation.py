"""What is said of a module that errs more than it may."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from ..paired_modules import kind_of


@dataclass(frozen=True)
class Accusation:
    """A module, what of it is wrong, and by how much.

    ``times`` is how many times as much as is granted; ``what`` a sentence about the figure with the
    envelope or yardstick and the number of siblings. ``part`` is "weights" for what a module itself
    computes, "composition" for what it makes of the modules inside it. ``excuse`` says why nothing
    is wrong after all.
    """

    module: str
    what: str
    times: float
    part: str = "weights"
    excuse: str = ""
    evidence: dict[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        return kind_of(self.module)

    def __str__(self) -> str:
        return f"{self.module or 'the whole model'}: {self.what}"

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "kind": self.kind}
