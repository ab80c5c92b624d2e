"""Budgets: the defaults of the gates, ``[budgets]`` over them, a candidate's own over both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..engines.weight_precision import precision_of
from ..errors import ConfigurationError
from ..gates import registry
from ..gates.base import BudgetContext, GateSpec
from ..gates.plan import Plan
from ..metrics.budget import Budget, parse_budget
from ..metrics.metric import Metric, Unit
from ..naming import nearest
from ..release import ModelSource
from .toml_source import Key, TomlSource, place_in

if TYPE_CHECKING:
    from .schema import ReleaseFile

_OFF = "off"


class BudgetResolver:
    """The limits that a release's file writes. Messages name the place of a wrong one."""

    def __init__(
        self, file: ReleaseFile, source: TomlSource | None, plans: tuple[Plan, ...]
    ) -> None:
        self._file = file
        self._source = source
        self._plans = plans

    def of_candidate(
        self, source: ModelSource, reference: ModelSource, own: Mapping[str, Any], *, served: bool
    ) -> dict[str, Budget]:
        """A candidate's budgets by metric; ``own`` is its table, ``served`` that it has a server.

        Raises ConfigurationError for an unknown metric, a limit that fits none, and one on a gate
        that the file does not ask for.
        """
        key: Key = ("candidates", source.name, "budgets")
        for name in own:
            if self._gate(name, (*key, name)).per_release:
                raise ConfigurationError(
                    f"{place_in(self._source, (*key, name))}: limits no candidate, but the "
                    f"release; write it in [budgets]"
                )
        written = {**self._read(("budgets",), self._file.budgets), **self._read(key, own)}
        precision = precision_of(source, reference)
        budgets: dict[str, Budget] = {}
        for spec in registry.gates().values():
            if not spec.per_release:
                context = BudgetContext(source, reference, precision, dict(budgets), served)
                budgets |= self._of_gate(spec, written, context, f"default for {precision.summary}")
        return budgets

    def of_release(self) -> dict[str, dict[str, Budget]]:
        """The limits of gates that judge no candidate, by gate, where the release asks for them.

        Raises ConfigurationError for limits on such a gate that the release does not ask for.
        """
        written = self._read(("budgets",), self._file.budgets)
        nobody = ModelSource("", "")
        context = BudgetContext(nobody, nobody, precision_of(nobody, nobody))
        found = {
            spec.name: self._of_gate(spec, written, context, "default")
            for spec in registry.gates().values()
            if spec.per_release
        }
        return {name: budgets for name, budgets in found.items() if budgets}

    def _of_gate(
        self,
        spec: GateSpec,
        written: Mapping[str, Budget | None],
        context: BudgetContext,
        origin: str,
    ) -> dict[str, Budget]:
        """The gate's budgets, in the order of its metrics."""
        if not spec.asked_for(self._plans):
            self._require_none(spec, written)
            return {}
        defaults = spec.default_budgets(context)
        limits: dict[str, Budget | None] = {
            metric.name: _default(metric, defaults[metric.name], origin)
            for metric in spec.metrics
            if metric.name in defaults
        }
        limits |= {name: written[name] for name in spec.metric_names & written.keys()}
        ordered = ((metric.name, limits.get(metric.name)) for metric in spec.metrics)
        return {name: budget for name, budget in ordered if budget is not None}

    def _require_none(self, spec: GateSpec, written: Mapping[str, Budget | None]) -> None:
        assert spec.switch is not None
        plan, field = spec.switch
        for name in spec.metric_names & written.keys():
            if written[name] is not None:
                raise ConfigurationError(
                    f"{place_in(self._source, ('budgets', name))}: limits the {spec.name} gate, "
                    f"which this release does not ask for; set {field} in [{plan.table}]"
                )

    def _read(self, key: Key, table: Mapping[str, Any]) -> dict[str, Budget | None]:
        """The limits of a table by metric, None for "off"."""
        return {name: self._budget((*key, name), name, value) for name, value in table.items()}

    def _gate(self, name: str, key: Key) -> GateSpec:
        if name not in registry.metrics():
            raise ConfigurationError(
                f"{place_in(self._source, key)}: unknown metric{nearest(name, registry.metrics())}"
            )
        return registry.gate_of(name)

    def _budget(self, key: Key, name: str, value: Any) -> Budget | None:
        self._gate(name, key)
        if value == _OFF:
            return None
        assert self._source is not None  # a budget was written somewhere
        return parse_budget(registry.metrics()[name], value, self._source.place(key))


def _default(metric: Metric, limit: float, origin: str) -> Budget:
    """A gate's default; on bytes it is a share of the reference's, unless it is 0."""
    return Budget(metric, limit, metric.unit is Unit.BYTES and limit != 0, origin)
