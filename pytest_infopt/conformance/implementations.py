"""From ``[implementations]`` of infopt.toml to classes of suites, one for each implementation.

A topic is the name of an entry point of the group ``infopt.suites``, whoever installed it. Its
suite is imported only where an implementation is configured, because suites import torch.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from ..errors import ConfigurationError
from ..naming import import_named, nearest, registered
from ..release import Implementation

GROUP = "infopt.suites"

Suites = Mapping[str, Mapping[Implementation, type]]  # by topic


def load_suites(config: pytest.Config, implementations: Iterable[Implementation]) -> Suites:
    """The suite's class for each implementation.

    Modules are looked for where pytest looks: on ``sys.path`` with ini ``pythonpath``; and, while
    this run lasts, in infopt.toml's folder and the rootdir. Raises ConfigurationError, with the
    place in infopt.toml, for an unknown topic, for a target that is not there, and for claims that
    the suite does not know.
    """
    found: dict[str, dict[Implementation, type]] = {}
    for implementation in implementations:
        _make_importable(config, config.rootpath)
        _make_importable(config, implementation.directory)
        try:
            suite = _class_for(implementation)
        except (ConfigurationError, TypeError) as error:
            raise ConfigurationError(f"{implementation.origin}: {error}") from error
        found.setdefault(implementation.topic, {})[implementation] = suite
    return found


def _make_importable(config: pytest.Config, folder: Path) -> None:
    word = str(folder.absolute())
    if word not in sys.path:
        sys.path.insert(0, word)
        config.add_cleanup(lambda: sys.path.remove(word) if word in sys.path else None)


def _class_for(implementation: Implementation) -> type:
    topic, topics = implementation.topic, registered(GROUP)
    if topic not in topics:
        raise ConfigurationError(f"unknown topic{nearest(topic, topics)}")
    target: Any = import_named(implementation.target)
    if isinstance(target, type) and hasattr(target, "infopt_suite"):
        _check_topic(target, topic)
        return target
    if topics[topic].module not in sys.modules:
        pytest.register_assert_rewrite(topics[topic].module)  # a failure says what was compared
    suite: Any = import_named(topics[topic].value)
    _check_topic(suite, topic)
    made: type = suite.made_for(implementation.name, target)
    return made


def _check_topic(suite: Any, topic: str) -> None:
    """Refuse a suite of another topic, whether infopt.toml or an entry point names it."""
    if suite.topic != topic:
        raise TypeError(f"{suite.__name__} is a suite of the topic {suite.topic!r}")
