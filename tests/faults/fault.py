"""A fault: what is wrong in a sentence, which modules a report should name, how it is planted."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from .changes import Changes
from .parts import NotApplicableError, Parts

# RMS error of a weight, relative to its row's own: half a unit in the last place of a float,
# uniform; a step of an integer grid that reaches four standard deviations.
_PEAK = 4.0
NOISE = {
    "float32": 2.0**-24 / math.sqrt(3),
    "bfloat16": 2.0**-8 / math.sqrt(3),
    "int8": _PEAK / 127 / math.sqrt(12),
    "int4": _PEAK / 7 / math.sqrt(12),
}

Plant = Callable[[Changes], None]
# Where a fault shows: the routes of `routes.ROUTES`, or one of these.
PLAIN, SPEED, REPEATED = "plain", "speed", "repeated"
TOKENIZER, GENERATION = "tokenizer", "generation settings"


@dataclass(frozen=True)
class Fault:
    """A member of a kind, drawn for one model.

    ``modules`` are those of which a report should name one, or one inside; none for faults of a
    path or of a session. ``shows`` is the route whose outputs it changes; ``sound`` says that it
    changes none beyond rounding.
    """

    kind: str
    options: dict[str, Any]
    sentence: str
    modules: tuple[str, ...]
    plant: Plant
    shows: str = PLAIN
    sound: bool = False

    @contextmanager
    def planted(self) -> Iterator[Changes]:
        """The model with the fault in it, until the end."""
        with Changes.undone() as changes:
            self.plant(changes)
            yield changes

    def stay(self) -> Changes:
        """Plant it for good."""
        with Changes.undone() as changes:
            self.plant(changes)
            changes.keep()
        return changes

    def is_named_by(self, module: str) -> bool:
        """Whether a report that names this module names the right one."""
        return any(module == name or module.startswith(name + ".") for name in self.modules)


def exceeds(size: float | None, format_name: str) -> bool:
    """Whether a change of the weights of this size is larger than the format's own error. Faults
    without a size are of other parts than weights, which no format rounds."""
    return size is None or size > NOISE[format_name]


@dataclass
class Draw:
    """Draws a fault's options by a seed; those that are given are taken as they are."""

    parts: Parts
    seed: int
    given: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def choice(self, name: str, among: Iterable[Any]) -> Any:
        """One of them, or the given option of that name."""
        values: Sequence[Any] = list(among)
        if not values:
            raise NotApplicableError(f"there is no {name} to choose")
        drawn = self._random.choice(values)  # also where it is given: the others stay the same
        self.options[name] = self.given.get(name, drawn)
        return self.options[name]

    def layer(self, pattern: str | None = None) -> int:
        """A layer, with a module that matches."""
        parts = self.parts
        return int(self.choice("layer", parts.layers_with(pattern) if pattern else parts.layers))

    def module(self, pattern: str) -> tuple[str, nn.Module]:
        """A module of a drawn layer by a pattern, with its name."""
        name = self.parts.of_layer(self.layer(pattern), pattern)
        return name, self.parts.modules[name]

    def two(self, what: str, count: int) -> tuple[int, int]:
        """Two different numbers below ``count``."""
        if count < 2:
            raise NotApplicableError(f"there are no two of {what}")
        first = int(self.choice(what, range(count)))
        other = int(self.choice(f"other {what}", [i for i in range(count) if i != first]))
        return first, other


@dataclass(frozen=True)
class Kind:
    """A kind of fault: its name, its sentence, and how a member is made.

    ``listed`` marks those that were planted when the gates were first tried, caught or not.
    """

    name: str
    summary: str
    make: Callable[[Draw], Fault]
    group: str
    listed: bool = False
    sound: bool = False


KINDS: dict[str, Kind] = {}


def kind(
    *, listed: bool = False, sound: bool = False, shows: str = PLAIN
) -> Callable[[Callable[[Draw], Planned]], Callable[[Draw], Planned]]:
    """Register a function that draws a fault: its name is the kind's, its docstring the summary."""

    def register(function: Callable[[Draw], Planned]) -> Callable[[Draw], Planned]:
        name = function.__name__.replace("_", "-")
        group = function.__module__.rpartition(".")[2].replace("_", " ")

        def make(draw: Draw) -> Fault:
            sentence, modules, plant = function(draw)
            names = tuple(modules)
            return Fault(name, draw.options, sentence, names, plant, shows, sound)

        KINDS[name] = Kind(name, (function.__doc__ or "").strip(), make, group, listed, sound)
        return function

    return register


Planned = tuple[str, Iterable[str], Plant]  # sentence, modules, plant
