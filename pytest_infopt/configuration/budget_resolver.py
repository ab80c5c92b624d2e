"""Limits: the defaults of a number format, ``[budgets]`` over them, a candidate's own over both."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError
from ..metrics.budget import Budget, parse_budget
from ..metrics.metric import METRICS, Gate
from ..release import ModelSource
from .defaults import (
    batching_budgets,
    default_budgets,
    long_context_budgets,
    semantic_cache_budgets,
)
from .toml_source import Key, TomlSource, place_in

if TYPE_CHECKING:
    from .schema import ReleaseFile

_OFF = "off"
# A server gives no logits, and reports cached tokens in blocks of a size that it keeps to itself.
_NOT_OF_SERVERS = ("prefix_error_ratio", "prefix_saved_share")
_SEMANTIC = frozenset(m.name for m in METRICS.values() if m.gate is Gate.SEMANTIC_CACHE)


class Limits:
    """The limits that a release's file writes. Messages name the place of a wrong one."""

    def __init__(self, file: ReleaseFile, source: TomlSource | None) -> None:
        self._file = file
        self._source = source

    def of_candidate(
        self,
        source: ModelSource,
        reference: ModelSource,
        own: Mapping[str, Any],
        *,
        served: bool,
    ) -> dict[str, Budget]:
        """A candidate's budgets by metric; ``own`` is its table, ``served`` that it has a server.

        Raises ConfigurationError for an unknown metric, a limit that fits none, and one on a gate
        that the file does not ask for.
        """
        budgets = default_budgets(source, reference)
        for name in _NOT_OF_SERVERS if served else ():
            budgets.pop(name)
        tables: list[tuple[Key, Mapping[str, Any]]] = [
            (("budgets",), self._file.budgets),
            (("candidates", source.name, "budgets"), own),
        ]
        written: set[str] = set()
        for key, table in tables:
            for name, value in table.items():
                if name in _SEMANTIC:
                    self._require_global(key, name)
                    continue
                budget = self._budget((*key, name), name, value)
                budgets.pop(name, None)
                written.add(name)
                if budget is not None:
                    budgets[name] = budget
        for gate, sizes, limits, remedy in (
            (
                Gate.LONG_CONTEXT,
                self._file.long_context.lengths,
                long_context_budgets(budgets),
                "lengths in [long_context]",
            ),
            (
                Gate.BATCHING,
                self._file.batching.batch_sizes,
                batching_budgets(),
                "batch_sizes in [batching]",
            ),
        ):
            if sizes:
                budgets.update({name: limits[name] for name in limits.keys() - written})
            else:
                self._require_none(budgets, gate, remedy)
        # In the order in which reports print metrics, whatever the order they were written in.
        return {name: budgets[name] for name in METRICS if name in budgets}

    def of_semantic_cache(self) -> dict[str, Budget]:
        """The limits of the embedder that the file names, from [budgets]; none without one.

        Raises ConfigurationError for limits without an embedder.
        """
        budgets = {
            name: self._budget(("budgets", name), name, value)
            for name, value in self._file.budgets.items()
            if name in _SEMANTIC
        }
        if not self._file.semantic_cache.embedder:
            written = {name: b for name, b in budgets.items() if b is not None}
            self._require_none(written, Gate.SEMANTIC_CACHE, "embedder in [semantic_cache]")
            return {}
        limits = {**semantic_cache_budgets(), **budgets}
        return {name: budget for name, budget in limits.items() if budget is not None}

    def _require_none(self, budgets: Mapping[str, Budget], gate: Gate, remedy: str) -> None:
        for name, budget in budgets.items():
            if budget.metric.gate is gate:
                raise ConfigurationError(
                    f"{place_in(self._source, ('budgets', name))}: limits the {gate} gate, which "
                    f"this release does not ask for; set {remedy}"
                )

    def _require_global(self, key: Key, name: str) -> None:
        if key != ("budgets",):
            raise ConfigurationError(
                f"{place_in(self._source, (*key, name))}: is no candidate's limit, but the "
                "embedder's; write it in [budgets]"
            )

    def _budget(self, key: Key, name: str, value: Any) -> Budget | None:
        """The limit, or None for "off"."""
        if name not in METRICS:
            close = get_close_matches(name, METRICS, n=1)
            remedy = f"did you mean {close[0]}?" if close else f"known: {', '.join(METRICS)}"
            raise ConfigurationError(f"{place_in(self._source, key)}: unknown metric; {remedy}")
        if value == _OFF:
            return None
        assert self._source is not None  # a budget was written somewhere
        return parse_budget(METRICS[name], value, self._source.place(key))
