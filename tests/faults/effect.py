"""Whether a fault changes more than its format does."""

from __future__ import annotations

from typing import Any

from . import kinds
from .fault import REPEATED, Fault, exceeds
from .routes import ROUTES, along, difference


class Effects:
    """What clean candidates of a model lose on each route, and what faults change there.

    A change of weights is measured on the weights, row by row. Any other is planted into the
    reference, where nothing is rounded, and the logits on the fault's route are compared.
    """

    def __init__(self, reference: Any) -> None:
        self._reference = reference
        self._outputs: dict[str, Any] = {}
        self._losses: dict[tuple[str, str], float] = {}

    def exceeds(self, fault: Fault, size: float | None, candidate: Any, form: str) -> bool:
        """Whether the fault, which changed weights by ``size``, changes more than the format of the
        clean candidate."""
        if size is not None or fault.shows == REPEATED or fault.shows not in ROUTES:
            return exceeds(size, form)
        return self._effect(fault) > self._loss(fault.shows, candidate, form)

    def _effect(self, fault: Fault) -> float:
        same = kinds.draw(self._reference, fault.kind, options=fault.options)
        clean = self._output(fault.shows)
        with same.planted():
            return difference(along(fault.shows, self._reference), clean)

    def _loss(self, route: str, candidate: Any, form: str) -> float:
        if (route, form) not in self._losses:
            found = along(route, candidate)
            self._losses[route, form] = difference(found, self._output(route))
        return self._losses[route, form]

    def _output(self, route: str) -> Any:
        if route not in self._outputs:
            self._outputs[route] = along(route, self._reference)
        return self._outputs[route]
