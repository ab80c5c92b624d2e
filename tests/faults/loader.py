"""Planted candidates for a real run: a loader of one's own, `quantization` of infopt.toml.

    [candidates.planted]
    quantization = "faults.loader:load_planted"
    options = {kind = "linear-slope", seed = 3, format = "int8"}

``seed`` is 0 by default and ``format`` the compute dtype; ``member`` holds what of the fault is not
drawn, such as {layer = 2}.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pytest_infopt.engines.formats import format_of
from pytest_infopt.engines.loaders import LoadRequest

from . import kinds


def load_planted(request: LoadRequest) -> Any:
    """The model in the format that the options name, with a fault or sound variant in it."""
    plain = replace(request.source, quantization=request.option("format", "none"), options={})
    model = format_of(plain.quantization).load_function()(replace(request, source=plain))
    kind, member = request.option("kind", None), request.option("member", None)
    if kind is None:
        raise request.wrong(f"name a kind among its options: {', '.join(kinds.KINDS)}")
    try:
        fault = kinds.draw(model, str(kind), int(request.option("seed", 0)), member)
    except (ValueError, kinds.NotApplicableError) as error:
        raise request.wrong(error) from error
    fault.stay()
    return model
