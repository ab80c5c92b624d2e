"""Packages of other people, as installed: what registers gates, engines, reports and suites."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest


def write_package(
    pytester: pytest.Pytester,
    name: str,
    files: Mapping[str, str],
    entry_points: Mapping[str, Mapping[str, str]],
) -> Path:
    """A package that Python finds, and the entry points that it registers; its directory.

    ``files`` are texts by their paths inside the package; an ``__init__.py`` is made where none is
    given. ``entry_points`` are by group and name: {"infopt.gates": {"mine": "mine.gate:GATE"}}.
    The package lies in ``pytester.path``, which is put on ``sys.path``, and which a process that
    pytester starts has there, too.
    """
    package = pytester.path / name
    for path, text in {"__init__.py": "", **files}.items():
        (package / path).parent.mkdir(parents=True, exist_ok=True)
        (package / path).write_text(text, encoding="utf-8")
    metadata = pytester.path / f"{name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [
        line
        for group, points in entry_points.items()
        for line in (f"[{group}]", *(f"{point} = {target}" for point, target in points.items()))
    ]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
    pytester.syspathinsert()
    return package
