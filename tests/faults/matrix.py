"""The matrix of faults, formats and models: what the gates said of each planted candidate."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from in_process_run import Outcome

from pytest_infopt.errors import ModelLoadError

from . import kinds
from .fault import GENERATION, PLAIN, REPEATED, SPEED, TOKENIZER, Fault
from .models import CLEAN
from .planted_run import Bench

_FOLDER = Path(__file__).parents[2] / "docs" / "generate"
DATA = _FOLDER / "faults.json"
KINDS = _FOLDER / "fault_kinds.json"
RIVALS = _FOLDER / "rivals.json"
ALL_GATES = (
    "modules",
    "equivalence",
    "quality",
    "kv-cache",
    "prefix-cache",
    "batching",
    "memory",
    "stability",
)
# The gates that compare the route on which a fault shows. The others run where these see nothing.
GATES_OF_ROUTES: Mapping[str, tuple[str, ...]] = {
    PLAIN: ("modules", "equivalence", "quality"),
    "left padded": ("modules", "equivalence", "batching"),
    "right padded": ("equivalence",),
    "batched": ("modules", "equivalence", "batching"),
    "eager": ("equivalence",),
    "cached": ("kv-cache", "equivalence", "prefix-cache"),
    "cached batch": ("kv-cache", "batching"),
    "chunked": ("kv-cache", "prefix-cache"),
    "cropped": ("kv-cache",),
    "last position": ("equivalence", "kv-cache"),
    "last positions": ("equivalence", "kv-cache"),
    "generated": ("equivalence",),
    REPEATED: ("equivalence", "quality", "kv-cache", "batching", "stability"),
}
# Nothing is timed here, and a module that a loader returns brings neither tokenizer nor settings.
NOT_GATED = {
    SPEED: "it changes time alone, and the matrix times nothing",
    TOKENIZER: "a loader returns a module, without a tokenizer",
    GENERATION: "a loader returns a module; gates end no text by its settings",
}
_MODULES, _MEMORY = "modules", "memory"


@dataclass
class Cell:
    """A fault in a candidate: the verdicts by gate, and the module that was named first.

    ``exceeds`` tells whether the change is larger than the format's own error, ``right`` whether
    the named module is one of those that are wrong; None where the fault has no module of its own.
    """

    sentence: str
    exceeds: bool
    verdicts: dict[str, str] = field(default_factory=dict)
    metrics: list[str] = field(default_factory=list)  # that failed
    named: str = ""
    right: bool | None = None
    seconds: float = 0.0
    not_applicable: str = ""

    @property
    def failed(self) -> list[str]:
        """The gates that fail it."""
        return [gate for gate, verdict in self.verdicts.items() if verdict == "FAIL"]


def key_of(model: str, form: str, kind: str, seed: int) -> str:
    """What the file calls a cell."""
    return "|".join((model, form, kind, str(seed)))


def measured(bench: Bench, form: str, kind: str, seed: int, *, brief: bool = False) -> Cell:
    """What the gates say of one drawn fault; those that cannot see it run only where the others
    have seen nothing. Where ``brief``, gates end with the first that fails, modules aside."""
    started = time.monotonic()
    try:
        fault = kinds.draw(bench.candidate(form), kind, seed)
        with fault.planted() as changes:
            size = changes.size
    except (kinds.NotApplicableError, ModelLoadError) as error:  # a library's kernel takes no 96
        return Cell("", False, not_applicable=str(error).replace(f"{bench.folder}/", ""))
    if fault.shows in NOT_GATED:
        return Cell(fault.sentence, False, not_applicable=NOT_GATED[fault.shows])
    clean = bench.candidate(form)
    cell = Cell(fault.sentence, fault.sound or bench.effects.exceeds(fault, size, clean, form))
    likely = _sound_gates(kind) if fault.sound else GATES_OF_ROUTES[fault.shows]
    whole_session = fault.sound or fault.shows == REPEATED
    for gates in _portions(likely, brief and not whole_session):
        _add(cell, fault, bench.run(form, gates, lambda model: fault.planted()))
        if cell.failed:
            break
    if not cell.failed and not fault.sound:
        others = tuple(gate for gate in ALL_GATES if gate not in likely)
        _add(cell, fault, bench.run(form, others, lambda model: fault.planted()))
    cell.seconds = round(time.monotonic() - started, 2)
    return cell


def _sound_gates(kind: str) -> tuple[str, ...]:
    """Those that may not fail a sound variant. Some variants weigh more, which the gate on memory
    rightly says; it judges what is as it was loaded."""
    return tuple(gate for gate in ALL_GATES if gate != _MEMORY or kind == CLEAN)


def _portions(gates: tuple[str, ...], brief: bool) -> Iterator[tuple[str, ...]]:
    """All gates in one session, or one by one."""
    if brief:
        yield from ((gate,) for gate in gates)
    else:
        yield gates


def _add(cell: Cell, fault: Fault, outcomes: Mapping[str, Outcome]) -> None:
    for gate, outcome in outcomes.items():
        cell.verdicts[gate] = outcome.verdict
        if outcome.verdict == "ERROR":
            cell.metrics.append(f"{gate}: {outcome.reason[:120]}")
        if outcome.result is not None:
            judged = outcome.result.judgements
            cell.metrics += [j.metric for j in judged if str(j.verdict) == "FAIL"]
    if fault.modules and _MODULES in outcomes:
        names = list(named_modules(outcomes[_MODULES]))
        cell.named = names[0] if names else ""
        cell.right = bool(names) and fault.is_named_by(names[0])


def named_modules(outcome: Outcome) -> Iterator[str]:
    """Modules that gate ``modules`` names, the gravest first."""
    details = {} if outcome.result is None else outcome.result.details
    yield from (accusation["module"] for accusation in details.get("accused", ()))
    for constant in details.get("constants", ()):
        yield constant.partition(" is ")[0].rpartition(".")[0]


def described_kinds() -> dict[str, dict[str, Any]]:
    """What the page says of each kind."""
    return {
        kind.name: {
            "summary": kind.summary,
            "group": kind.group,
            "listed": kind.listed,
            "sound": kind.sound,
        }
        for kind in kinds.KINDS.values()
    }


def judged_by_rivals(bench: Bench, form: str, kind: str, seed: int) -> dict[str, Any]:
    """What other tools say of one drawn fault, by tool; nothing where it is not applicable."""
    candidate = bench.candidate(form)
    try:
        fault = kinds.draw(candidate, kind, seed)
        tools = bench.rivals(form)
        if fault.kind == CLEAN:
            return {name: {"caught": accuses} for name, accuses in tools.accuses_clean.items()}
        if fault.shows in NOT_GATED:
            return {}
        with fault.planted():
            return tools.verdicts(fault)
    except kinds.NotApplicableError:
        return {}


def load(path: Path | None = None) -> dict[str, Any]:
    """What a file says, by key: by default, that of cells."""
    path = path or DATA
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    found: dict[str, Any] = json.loads(text or "{}")
    return found


def add(cells: Mapping[str, Cell]) -> None:
    """Put cells into the file, beside those that other runs have put there meanwhile."""
    add_to(DATA, {key: _brief(cell) for key, cell in cells.items()})


def add_to(path: Path, entries: Mapping[str, Any]) -> None:
    """Put entries into a file of a line each."""
    with path.open("a") as itself:
        fcntl.flock(itself, fcntl.LOCK_EX)
        known = load(path) | entries
        lines = (
            f"{json.dumps(key)}: {json.dumps(known[key], ensure_ascii=False)}"
            for key in sorted(known)
        )
        path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def _brief(cell: Cell) -> dict[str, Any]:
    """Its fields, without those that say nothing."""
    return {name: value for name, value in asdict(cell).items() if value not in ("", [], {}, None)}
