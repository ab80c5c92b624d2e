"""``infopt``: what can be asked of a release or of its runs without measuring anything."""

from .main import main

__all__ = ["main"]
