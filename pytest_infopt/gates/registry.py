"""The installed gates, by entry points of the group ``infopt.gates``; their metrics and plans."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

from ..errors import ConfigurationError
from ..metrics.metric import Metric
from ..naming import loaded, nearest
from .base import GateSpec
from .plan import Plan

GROUP = "infopt.gates"


class _Registry(NamedTuple):
    gates: Mapping[str, GateSpec]
    metrics: Mapping[str, Metric]
    plans: tuple[type[Plan], ...]
    gate_of_metric: Mapping[str, GateSpec]


def gates() -> Mapping[str, GateSpec]:
    """Every installed gate by name, in the order in which gates run.

    Raises ConfigurationError for an entry point that cannot be loaded or is no `GateSpec`, for two
    gates that share a metric's name, and for two plans that share a table.
    """
    return _registry().gates


def gate_named(name: str) -> GateSpec:
    """The gate of that name; raises ConfigurationError with the nearest known one."""
    found = gates()
    if name not in found:
        raise ConfigurationError(f"unknown gate {name!r}{nearest(name, found)}")
    return found[name]


def metrics() -> Mapping[str, Metric]:
    """Every metric by name, in the order in which reports print them."""
    return _registry().metrics


def gate_of(metric: str) -> GateSpec:
    """The gate that measures the metric; raises KeyError for a name that no gate knows."""
    return _registry().gate_of_metric[metric]


def plans() -> tuple[type[Plan], ...]:
    """Every gate's plans, each once."""
    return _registry().plans


def _registry() -> _Registry:
    return _built(tuple(loaded(GROUP, GateSpec).values()))


@lru_cache(maxsize=8)
def _built(installed: tuple[GateSpec, ...]) -> _Registry:
    specs = sorted(installed, key=lambda spec: (spec.order, spec.name))
    by_name = {spec.name: spec for spec in specs}
    owner: dict[str, GateSpec] = {}
    known: dict[str, Metric] = {}
    tables: dict[str, type[Plan]] = {}
    for spec in specs:
        for metric in spec.metrics:
            other = owner.setdefault(metric.name, spec)
            if other is not spec:
                raise ConfigurationError(
                    f"the gates {other.name!r} and {spec.name!r} both have a metric "
                    f"{metric.name!r}; rename one"
                )
            known[metric.name] = metric
        for plan in spec.plans:
            if tables.setdefault(plan.table, plan) is not plan:
                raise ConfigurationError(
                    f"two plans have the table [{plan.table}]: {tables[plan.table].__module__} "
                    f"and {plan.__module__}; rename one class"
                )
    return _Registry(
        MappingProxyType(by_name),
        MappingProxyType(known),
        tuple(tables.values()),
        MappingProxyType(owner),
    )
