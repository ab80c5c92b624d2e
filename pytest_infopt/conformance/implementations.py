"""From ``[implementations]`` of infopt.toml to classes of suites, one for each implementation.

Topics are the shipped gates' own: ``test_gate_conformance_TOPIC.py`` in `infopt_suites.gates`. A
module is imported only for what is configured, because suites import torch.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ..errors import ConfigurationError
from ..release import Implementation

if TYPE_CHECKING:
    from infopt_suites.base import Suite

_PREFIX = "test_gate_conformance_"

Suites = Mapping[str, Mapping[Implementation, "type[Suite]"]]  # by topic


def gate_files() -> dict[str, Path]:
    """The gate file of each topic."""
    import infopt_suites.gates

    return {
        path.stem.removeprefix(_PREFIX): path
        for folder in infopt_suites.gates.__path__
        for path in sorted(Path(folder).glob(f"{_PREFIX}*.py"))
    }


def load_suites(config: pytest.Config, implementations: Iterable[Implementation]) -> Suites:
    """The suite's class for each implementation.

    Modules are looked for where pytest looks: on ``sys.path`` with ini ``pythonpath``; and, while
    this run lasts, in infopt.toml's folder and the rootdir. Raises ConfigurationError, with the
    place in infopt.toml, for an unknown topic, for a target that is not there, and for claims that
    the suite does not know.
    """
    found: dict[str, dict[Implementation, type[Suite]]] = {}
    for implementation in implementations:
        _make_importable(config, config.rootpath)
        _make_importable(config, implementation.directory)
        suite = _suite_class(implementation)
        found.setdefault(implementation.topic, {})[implementation] = suite
    return found


def _make_importable(config: pytest.Config, folder: Path) -> None:
    word = str(folder.absolute())
    if word not in sys.path:
        sys.path.insert(0, word)
        config.add_cleanup(lambda: sys.path.remove(word) if word in sys.path else None)


def _suite_class(implementation: Implementation) -> type[Suite]:
    topic, place = implementation.topic, implementation.origin
    files = gate_files()
    if topic not in files:
        raise ConfigurationError(f"{place}: unknown topic{_nearest(topic, files)}")
    target = _resolve(implementation)
    template = _template(files[topic])
    try:
        if isinstance(target, type) and hasattr(target, "infopt_suite"):
            return _of_topic(target, topic)
        made: type[Suite] = template.made_for(implementation.name, target)
    except TypeError as error:
        raise ConfigurationError(f"{place}: {error}") from error
    return made


def _of_topic(suite: Any, topic: str) -> type[Suite]:
    """A target that is a suite's subclass itself, as in a test module of door 1."""
    if suite.topic != topic:
        raise TypeError(f"{suite.__name__} is of a suite of the topic {suite.topic!r}")
    checked: type[Suite] = suite
    return checked


def _template(path: Path) -> Any:
    module = import_module(f"infopt_suites.gates.{path.stem}")
    return next(each for each in vars(module).values() if template_topic(each))


def template_topic(found: object) -> str | None:
    """The topic of a shipped gate's class, of which one is made for each implementation."""
    if not isinstance(found, type) or not hasattr(found, "made_for"):
        return None
    return getattr(found, "topic", "") or None


def _resolve(implementation: Implementation) -> object:
    """What "module:name" names; raises ConfigurationError with what is there instead."""
    module, _, path = implementation.target.partition(":")
    where = f"{implementation.origin}: {implementation.target}"
    try:
        found: object = import_module(module)
    except Exception as error:  # importing runs code of the user's
        raise ConfigurationError(
            f"{where}: importing {module} failed: {type(error).__name__}: {error}"
        ) from error
    owner = f"module {module}"
    for name in path.split("."):
        if not hasattr(found, name):
            public = [word for word in dir(found) if not word.startswith("_")]
            raise ConfigurationError(f"{where}: {owner} has no {name!r}{_nearest(name, public)}")
        found = getattr(found, name)
        owner = name
    return found


def _nearest(word: str, known: Iterable[str]) -> str:
    from ..naming import nearest

    return nearest(word, known)
