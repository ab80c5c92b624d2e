"""The run as one HTML page: the verdict first, then each candidate, then where it comes from.

Everything from models, prompts and configuration is made visible (`report.text`) and escaped by
the template engine; a content security policy forbids scripts and the network beside it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from ...results.run_result import RunResult
from ...results.verdict import Verdict
from ..comparison import COLUMNS as COMPARISON_COLUMNS
from ..comparison import HOW_TIMED, compared
from ..measured import cell_rows
from ..message import finding_context, finding_evidence, finding_place, top_text
from ..registry import ReportSpec
from ..text import visible
from ..view import COLUMNS, CandidateView, GateView, RunView, run_view
from .candidates import comparison_figure
from .figures import figure, page_style, standalone, why_no_plots
from .gauge import gauge

_METRIC, _BUDGET, _VALUE, _COUNT, _VERDICT = COLUMNS
# What a phone shows without scrolling stands first.
_COLUMNS = (_METRIC, _VERDICT, _VALUE, _BUDGET, "against the limit", _COUNT)
_NUMBER = re.compile(r"[-+.,\de]*\d|–")
MOST_ROWS = 200  # of a table on the page; result.json has all


@dataclass(frozen=True)
class GateOnPage:
    """A gate with its drawn tables and its others; ``anchor`` is its place on the page."""

    view: GateView
    anchor: str
    figures: list[tuple[dict[str, Any], Markup]]
    tables: list[dict[str, Any]]

    @property
    def is_open(self) -> bool:
        """Whether there is more to see than that it passed."""
        return self.view.verdict is not Verdict.PASS or bool(self.figures)


@dataclass(frozen=True)
class CandidateOnPage:
    """A candidate with its gates."""

    view: CandidateView
    gates: list[GateOnPage]


def html_page(run: RunResult) -> str:
    """The page; without the plotting library it has a sentence in place of plots."""
    view, comparison = run_view(run), compared(run)
    page: str = _template().render(
        run=run,
        view=view,
        candidates=list(map(_candidate, range(len(view.candidates)), view.candidates)),
        gate_names=list(dict.fromkeys(g.gate for each in view.candidates for g in each.gates)),
        columns=_COLUMNS,
        comparison=comparison,
        comparison_columns=COMPARISON_COLUMNS,
        comparison_figure=comparison_figure(comparison),
        how_timed=HOW_TIMED,
        models=model_rows([run.reference, *run.candidates]),
        environment=_pairs(run.environment),
        missing=why_no_plots() if any(_plots(view)) else "",
        css=page_style(),
    )
    return page


def _plots(view: RunView) -> Iterator[bool]:
    return ("plot" in table for gate in view.gates for table in gate.tables)


def _candidate(index: int, view: CandidateView) -> CandidateOnPage:
    return CandidateOnPage(view, [_gate(f"c{index}g{n}", g) for n, g in enumerate(view.gates)])


def _gate(anchor: str, view: GateView) -> GateOnPage:
    drawn = [(table, figure(table)) for table in view.tables]
    figures = [(table, svg) for table, svg in drawn if svg is not None]
    return GateOnPage(view, anchor, figures, [table for table, svg in drawn if svg is None])


def write_page(run: RunResult, directory: Path) -> None:
    """report.html in the run's folder, and candidates.svg where several are compared."""
    (directory / "report.html").write_text(html_page(run), encoding="utf-8")
    if plot := comparison_figure(compared(run)):
        (directory / "candidates.svg").write_text(standalone(plot), encoding="utf-8")


def model_rows(models: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Keys, and what each model says of them; names come first, as the header."""
    keys = dict.fromkeys(key for model in models for key in model)
    ordered = ["name", *(key for key in keys if key != "name")]
    rows = [(visible(key), *(value_text(model.get(key)) for model in models)) for key in ordered]
    return [row for row in rows if row[0] == "name" or any(row[1:])]


def value_text(value: object) -> str:
    """A configured or observed value in a table's cell; "" for what was left out."""
    if value in (None, "", [], {}):
        return ""
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return visible(", ".join(value))
    return visible(value if isinstance(value, str) else json.dumps(value, default=str))


def _number_columns(rows: Sequence[Sequence[str]]) -> set[int]:
    """The columns of a table, behind its first, that have numbers alone below their header."""
    columns = list(zip(*rows[1:], strict=True))
    return {n for n, cells in enumerate(columns) if n and all(map(_NUMBER.fullmatch, cells))}


def _pairs(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(visible(key), value_text(value)) for key, value in values.items()]


@cache
def _template() -> Any:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "breakable": lambda name: Markup("_<wbr>").join(map(escape, name.split("_"))),
        "cells": lambda table: list(cell_rows(table))[: MOST_ROWS + 1],
        "context": finding_context,
        "evidence": finding_evidence,
        "gauge": gauge,
        "number_columns": _number_columns,
        "place": finding_place,
        "top": top_text,
        "visible": lambda text: visible(str(text)),
    }
    source = files(__package__).joinpath("page.html.j2").read_text(encoding="utf-8")
    return environment.from_string(source)


REPORT = ReportSpec("html", "report.html, one page with plots", write=write_page)
