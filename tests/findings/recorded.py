"""The versions in which a finding stands.

`make findings` installs the libraries of the findings that pip can install beside this project, and
runs them all. Where a library is missing, or is of another version, its findings are skipped and
say so. Two libraries ask for older releases of what this project needs, so they stay out of the
extra: ``pip install --no-deps instructor llmcompressor``, and what their imports ask for.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pytest
from packaging.requirements import Requirement


def recorded(module: str, requirement: str) -> Any:
    """The module, where a version is installed in which the fault was seen; else a skip.

    `requirement` is written as pip's, with the versions that were tried: a later one may be sound,
    and is tried by hand before the range is widened.
    """
    wanted = Requirement(requirement)
    try:
        installed = version(wanted.name)
    except PackageNotFoundError:
        pytest.skip(f"{wanted.name} is not installed", allow_module_level=True)
    if installed not in wanted.specifier:
        reason = f"recorded for {requirement}; {installed} is installed and has not been tried"
        pytest.skip(reason, allow_module_level=True)
    return pytest.importorskip(module, exc_type=ImportError)
