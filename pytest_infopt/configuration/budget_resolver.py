"""Budgets: the defaults of the gates, ``[budgets]`` over them, a candidate's own over both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..engines.weight_precision import precision_of
from ..errors import ConfigurationError
from ..gates import registry
from ..gates.base import BudgetContext, GateSpec
from ..gates.limits import gate_limits
from ..gates.plan import Plan
from ..metrics.budget import Budget, parse_budget
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

    def written(self, candidate: ModelSource, own: Mapping[str, Any]) -> dict[str, Budget | None]:
        """The limits that the file sets on a candidate, by metric; ``own`` is its table.

        Raises ConfigurationError for an unknown metric, a limit that fits none, and one on a gate
        that the file does not ask for.
        """
        key: Key = ("candidates", candidate.name, "budgets")
        for name in own:
            if self._gate(name, (*key, name)).per_release:
                raise ConfigurationError(
                    f"{place_in(self._source, (*key, name))}: limits no candidate, but the "
                    f"release; write it in [budgets]"
                )
        written = {**self._read(("budgets",), self._file.budgets), **self._read(key, own)}
        for spec in registry.gates().values():
            if not spec.per_release:
                self._check_asked_for(spec, written, candidate)
        return written

    def of_release(self) -> dict[str, dict[str, Budget]]:
        """The limits of gates that judge no candidate, by gate, where the release asks for them.

        Raises ConfigurationError for limits on such a gate that the release does not ask for.
        """
        written = self._read(("budgets",), self._file.budgets)
        nobody = ModelSource("", "")
        context = BudgetContext(nobody, nobody, precision_of(nobody, nobody))
        found: dict[str, dict[str, Budget]] = {}
        for spec in registry.gates().values():
            if spec.per_release and self._check_asked_for(spec, written):
                found[spec.name] = gate_limits(spec, written, context, "default")
        return {name: budgets for name, budgets in found.items() if budgets}

    def _check_asked_for(
        self,
        spec: GateSpec,
        written: Mapping[str, Budget | None],
        candidate: ModelSource | None = None,
    ) -> bool:
        """Whether the release asks for the gate; where it does not, nothing may limit it."""
        if spec.asked_for(self._plans, candidate):
            return True
        self._require_none(spec, written)
        return False

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
