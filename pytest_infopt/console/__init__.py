"""``infopt``: what can be asked of a release or of its runs without gating anything."""

from .main import main

__all__ = ["main"]
