"""Words that a user writes, and what they name: near spellings, "module:name", entry points.

Loaded by every module that registers something, so it imports nothing heavy.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType

from .errors import ConfigurationError

__all__ = ["import_named", "nearest", "registered"]


def nearest(word: str, known: Iterable[str]) -> str:
    """'; did you mean …?' with the nearest known word, else '; known: …', else nothing."""
    known = list(known)
    close = get_close_matches(word, known, n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; known: {', '.join(known)}" if known else ""


def import_named(target: str) -> object:
    """What "module:name" names; the name may have dots.

    Raises ConfigurationError where the module cannot be imported, with the reason, and where it
    lacks the name, with the nearest name that it has.
    """
    module, _, path = target.partition(":")
    if not module or not path:
        raise ConfigurationError(f'{target!r} has to be written "module:name"')
    try:
        found: object = import_module(module)
    except Exception as error:  # importing runs code of the user's
        raise ConfigurationError(
            f"{target}: importing {module} failed: {type(error).__name__}: {error}"
        ) from error
    owner = f"module {module}"
    for name in path.split("."):
        if not hasattr(found, name):
            public = [word for word in dir(found) if not word.startswith("_")]
            raise ConfigurationError(f"{target}: {owner} has no {name!r}{nearest(name, public)}")
        found = getattr(found, name)
        owner = name
    return found


def registered(group: str) -> Mapping[str, EntryPoint]:
    """The entry points of a group by name, in alphabetical order.

    Raises ConfigurationError where two distributions register one name.
    """
    return _registered(group, tuple(sys.path))


@cache
def _registered(group: str, _path: tuple[str, ...]) -> Mapping[str, EntryPoint]:
    """Reading metadata costs milliseconds, and what there is depends on ``sys.path`` alone."""
    found: dict[str, EntryPoint] = {}
    for entry in sorted(entry_points(group=group), key=lambda entry: entry.name):
        other = found.setdefault(entry.name, entry)
        if _distribution(other) != _distribution(entry):
            raise ConfigurationError(
                f"{group}: {_distribution(other)} and {_distribution(entry)} both register "
                f"{entry.name!r}; uninstall one"
            )
    return MappingProxyType(found)


def _distribution(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else entry.value
