"""infopt.toml, ``[tool.infopt]``, ini file and command line → `Release`."""

from .fingerprint import fingerprint
from .plan_lines import missing, plan_lines
from .release_file import load_release

__all__ = ["fingerprint", "load_release", "missing", "plan_lines"]
