"""Names that users write: the nearest known one, what "module:name" means, what is registered."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import TypeVar

from .errors import ConfigurationError

__all__ = ["closest", "import_named", "loaded", "nearest", "registered", "same"]

Kind = TypeVar("Kind")


def closest(word: str, known: Iterable[str]) -> str:
    """The known word that is nearest, whatever its case; "" where none is near."""
    folded = {each.casefold(): each for each in known}
    return folded[near[0]] if (near := get_close_matches(word.casefold(), folded, n=1)) else ""


def same(word: str, known: Iterable[str]) -> str:
    """The known word that differs in case and punctuation alone; "" where none does."""
    return next((each for each in known if _letters(each) == _letters(word)), "")


def _letters(word: str) -> str:
    return re.sub(r"[\W_]", "", word.casefold())


def nearest(word: str, known: Iterable[str]) -> str:
    """'; did you mean …?' with the nearest known word, else '; known: …'."""
    known = list(known)
    if close := closest(word, known):
        return f"; did you mean {close}?"
    return f"; known: {', '.join(known)}" if known else ""


def import_named(target: str) -> object:
    """What "module:name" or "module:name.attribute" names.

    Raises ConfigurationError naming the target, and what is there instead.
    """
    module, _, path = target.partition(":")
    if not module or not path:
        raise ConfigurationError(f'{target!r} has to be written "module:name"')
    try:
        found: object = import_module(module)
    except Exception as error:  # importing runs other people's code
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
    """The entry points of a group, by name.

    Raises ConfigurationError where two distributions use one name.
    """
    return _registered(group, tuple(sys.path))


@lru_cache(maxsize=32)
def _registered(group: str, path: tuple[str, ...]) -> Mapping[str, EntryPoint]:
    """``path`` is where entry points are looked for: they are read once for each."""
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=group):
        other = found.setdefault(point.name, point)
        if other.value != point.value:
            raise ConfigurationError(
                f"two packages register {point.name!r} in {group}: {_origin(other)} and "
                f"{_origin(point)}; uninstall one"
            )
    return MappingProxyType(found)


def loaded(group: str, kind: type[Kind]) -> Mapping[str, Kind]:
    """The objects behind a group's entry points, by name.

    Raises ConfigurationError for one that cannot be imported or is of another kind.
    """
    found: dict[str, Kind] = {}
    for name, point in registered(group).items():
        each = import_named(point.value)
        if not isinstance(each, kind):
            raise ConfigurationError(
                f"{_origin(point)} registers {name!r} in {group} as {point.value}, which is a "
                f"{type(each).__name__}; it has to be a {kind.__name__}"
            )
        found[name] = each
    return MappingProxyType(found)


def _origin(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value
