"""Tables of what the gates, and other tools, said of planted faults and of sound variants.

A cell is what `tests/faults/see.py` wrote of one fault in one candidate; its key is "model|format|
kind|seed".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from markup import code

from pytest_infopt.binomial import upper_bound

FORMATS = ("float32", "bfloat16", "int8", "int4")
_ALPHA = 0.01
CLEAN = "clean"  # the sound variant that changes nothing
Row = list[str]
_ROUTERS = (
    "the usual row is 1.9 times as far off as the dtype makes it, and twice that is granted; "
    "routers near a tie make the mean over rows larger than that"
)
# Why faults are missed, and sound variants accused, as far as that was looked into.
REASONS: Mapping[str, str] = {
    "chunked-prefill-wrong": _ROUTERS,
    "breaks-after-passes": "the session ended before; more `stability.repeats` make it longer",
}


@dataclass(frozen=True)
class Cell:
    """One fault, or sound variant, in one candidate."""

    model: str
    form: str
    kind: str
    seed: int
    found: Mapping[str, Any]

    @property
    def key(self) -> str:
        """What the file calls it."""
        return "|".join((self.model, self.form, self.kind, str(self.seed)))

    @property
    def applies(self) -> bool:
        return "not_applicable" not in self.found

    @property
    def failed(self) -> list[str]:
        """Gates that fail it."""
        return [g for g, verdict in self.found.get("verdicts", {}).items() if verdict == "FAIL"]

    @property
    def exceeds(self) -> bool:
        """Whether it changes more than the format does."""
        return bool(self.found.get("exceeds"))

    @property
    def right(self) -> bool | None:
        """Whether the right module was named; None where no module is wrong."""
        return self.found.get("right")


def cells_of(known: Mapping[str, Mapping[str, Any]]) -> list[Cell]:
    """The cells of the file."""
    found = []
    for key, value in known.items():
        model, form, kind, seed = key.split("|")
        found.append(Cell(model, form, kind, int(seed), value))
    return found


def models_of(cells: Iterable[Cell]) -> list[str]:
    """Models in the file's order, the real one first."""
    return sorted({cell.model for cell in cells}, key=lambda name: (name.islower(), name))


class Matrix:
    """The cells, with what is known of kinds: summary, group, whether listed, whether sound."""

    def __init__(
        self,
        cells: Mapping[str, Mapping[str, Any]],
        kinds: Mapping[str, Mapping[str, Any]],
        rivals: Mapping[str, Mapping[str, Any]],
    ) -> None:
        self.kinds = kinds
        self._rivals = rivals
        known = [cell for cell in cells_of(cells) if cell.kind in kinds and cell.applies]
        self.faults = [cell for cell in known if not kinds[cell.kind]["sound"]]
        self.sound = [cell for cell in known if kinds[cell.kind]["sound"]]
        self.models = models_of(known)

    def summary(self) -> list[Row]:
        """By model and format: faults that exceed the noise, and sound variants."""
        return [
            [
                model,
                form,
                _share(cell.failed for cell in self._large(model, form)),
                _share(cell.right for cell in self._large(model, form) if cell.right is not None),
                _share(c.failed for c in self._of(self.faults, model, form) if not c.exceeds),
                _share(cell.failed for cell in self._of(self.sound, model, form)),
            ]
            for model in self.models
            for form in FORMATS
            if self._of(self.faults + self.sound, model, form)
        ]

    SUMMARY = (
        "model",
        "format",
        "caught, of faults beyond its noise",
        "right module first",
        "caught, of smaller faults",
        "sound variants accused",
    )

    RIVALS = ("tool", "format", "caught", "right place first", "sound accused", "clean accused")

    def rivals(self) -> list[Row]:
        """By tool and format: the same faults and variants, as far as the tools were asked."""
        tools = list(dict.fromkeys(tool for found in self._rivals.values() for tool in found))
        rows = []
        for form in FORMATS:
            faults = [
                c for c in self.faults if c.exceeds and c.form == form and c.key in self._rivals
            ]
            sound = [c for c in self.sound if c.form == form and c.key in self._rivals]
            if faults:
                rows.append(["the gates", form, *_of_gates(faults, sound)])
                rows += [[tool, form, *self._of_tool(tool, faults, sound)] for tool in tools]
        return rows

    def _of_tool(self, tool: str, faults: list[Cell], sound: list[Cell]) -> Row:
        def said(cells: Iterable[Cell]) -> list[Any]:
            found = [self._rivals[cell.key].get(tool) for cell in cells]
            return [each for each in found if each is not None]

        clean = [cell for cell in sound if cell.kind == CLEAN]
        others = [cell for cell in sound if cell.kind != CLEAN]
        right = [each["right"] for each in said(faults) if each.get("right") is not None]
        return [
            _share(each["caught"] for each in said(faults)),
            _share(right),
            _share(each["caught"] for each in said(others)),
            _share(each["caught"] for each in said(clean)),
        ]

    def totals(self) -> dict[str, tuple[int, int]]:
        """How many of how many were caught, named, and accused."""
        large = [cell for cell in self.faults if cell.exceeds]
        named = [cell for cell in large if cell.right is not None]
        return {
            "caught": (sum(bool(c.failed) for c in large), len(large)),
            "named": (sum(bool(c.right) for c in named), len(named)),
            "accused": (sum(bool(c.failed) for c in self.sound), len(self.sound)),
        }

    def in_words(self) -> str:
        """The totals as README says them."""
        counts = self.totals()
        accused, sound = counts["accused"]
        rate = 100 * upper_bound(accused, sound, _ALPHA) if sound else 100
        return (
            "So far {} of {} faults beyond their format's noise failed, and of those with a wrong "
            "module {} of {} had it named first. Of {} sound variants and clean formats {} {} "
            "accused: a rate of at most {:.1f} %, at 99 % confidence.".format(
                *counts["caught"],
                *counts["named"],
                sound,
                accused or "none",
                "is" if accused < 2 else "are",
                rate,
            )
        )

    def clean_formats(self) -> list[Row]:
        """Formats that no other table has, each as it is, with what the gates say."""
        return [
            [cell.form, cell.model, ", ".join(cell.failed) or "passes"]
            for cell in self.sound
            if cell.kind == CLEAN and cell.form not in FORMATS
        ]

    def table(self, model: str, *, sound: bool = False) -> list[Row]:
        """A row for each kind of fault, a column for each format."""
        cells = [c for c in (self.sound if sound else self.faults) if c.model == model]
        known = {cell.kind for cell in cells}
        return [
            [code(kind), *(self._said(cells, kind, form) for form in FORMATS)]
            for kind in self.kinds
            if kind in known
        ]

    DRAWS = ("fault", "model", "format", "caught", "right module first")

    def draws(self) -> list[Row]:
        """Kinds of which several members were drawn, as far as these are beyond the noise."""
        rows = []
        groups = sorted({(c.kind, c.model, c.form) for c in self.faults if c.seed > 0})
        for kind, model, form in groups:
            cells = [c for c in self._large(model, form) if c.kind == kind]
            if len(cells) > 1:
                named = [cell.right for cell in cells if cell.right is not None]
                caught = _share(cell.failed for cell in cells)
                rows.append([code(kind), model, form, caught, _share(named)])
        return rows

    def missed(self) -> list[Row]:
        """Faults beyond the noise that no gate fails, with the reason where one is known."""
        return [
            [code(c.kind), c.model, c.form, c.found["sentence"], REASONS.get(c.kind, "not known")]
            for c in self.faults
            if c.exceeds and not c.failed
        ]

    def unnamed(self) -> list[Row]:
        """Faults beyond the noise whose module was not named first."""
        return [
            [code(c.kind), c.model, c.form, c.found["sentence"], code(c.found.get("named", "–"))]
            for c in self.faults
            if c.exceeds and c.right is False and c.failed
        ]

    def accused(self) -> list[Row]:
        """Sound variants that a gate fails."""
        return [
            [code(c.kind), c.model, c.form, ", ".join(c.failed), REASONS.get(c.kind, "not known")]
            for c in self.sound
            if c.failed
        ]

    def _said(self, cells: Iterable[Cell], kind: str, form: str) -> str:
        found = [cell for cell in cells if (cell.kind, cell.form) == (kind, form)]
        return "; ".join(dict.fromkeys(_words(cell) for cell in found)) or "–"

    def _large(self, model: str, form: str) -> list[Cell]:
        return [cell for cell in self._of(self.faults, model, form) if cell.exceeds]

    def _of(self, cells: Iterable[Cell], model: str, form: str) -> list[Cell]:
        return [cell for cell in cells if (cell.model, cell.form) == (model, form)]


def _words(cell: Cell) -> str:
    gates = ", ".join(cell.failed) or "passes"
    named = {True: ", named", False: ", not named", None: ""}[cell.right if cell.failed else None]
    return f"{gates}{named}" if cell.exceeds else f"({gates}{named})"


def _of_gates(faults: list[Cell], sound: list[Cell]) -> Row:
    return [
        _share(c.failed for c in faults),
        _share(c.right for c in faults if c.right is not None),
        _share(c.failed for c in sound if c.kind != CLEAN),
        _share(c.failed for c in sound if c.kind == CLEAN),
    ]


def _share(values: Iterable[Any]) -> str:
    found = list(values)
    return f"{sum(map(bool, found))} of {len(found)}" if found else "–"


def plain(header: Iterable[str], rows: Iterable[Row]) -> Iterator[str]:
    """A table for a terminal."""
    lines = [[cell.replace("`", "") for cell in row] for row in [list(header), *rows]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        yield "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
