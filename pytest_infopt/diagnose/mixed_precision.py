"""Which layers to leave in higher precision: the same format without them, and what it loses.

The layers are those whose swap back to the reference's recovers most, a quarter of all. What they
recover together is no sum, so the candidate is loaded anew without them and its loss is measured on
the same texts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..engines.base import able
from ..engines.formats import format_of
from ..engines.registry import load_engine
from ..process.comparable import keep_vocabulary
from ..release import ModelSource
from .subjects import OpenEngine
from .swaps import Swap, Swaps

__all__ = ["MixedPrecision", "mixed_precision", "takes_skip"]

_SHARE = 4  # one layer of so many is left alone


@dataclass(frozen=True)
class MixedPrecision:
    """``options`` are those of infopt.toml, ``skip`` among them; losses are mean KL in nats."""

    options: dict[str, Any]
    loss: float
    before: float

    @property
    def sentences(self) -> list[str]:
        """What was tried and measured, and the line that asks for it."""
        return [
            f"mixed precision, loaded and measured on these texts: mean KL {self.loss:.3g} nats "
            f"instead of {self.before:.3g}, with this line in the candidate's table:",
            f"options = {{{', '.join(f'{k} = {json.dumps(v)}' for k, v in self.options.items())}}}",
        ]

    @property
    def figures(self) -> dict[str, Any]:
        return {"options": self.options, "loss_nats": self.loss}


def takes_skip(source: ModelSource) -> bool:
    """Whether the source's format can leave modules alone."""
    return "skip" in (format_of(source.quantization).options or ())


def mixed_precision(
    source: ModelSource, reference: OpenEngine, swaps: Swaps, layers: Sequence[Swap]
) -> MixedPrecision:
    """The source without the layers that recover most. Raises what loading it raises."""
    ranked = sorted(layers, key=lambda swap: -swap.recovered)
    chosen = {swap.names[0] for swap in ranked[: max(1, len(layers) // _SHARE)]}
    head = reference.module.get_output_embeddings()
    heads = [name for name, part in reference.module.named_modules() if part is head]
    left = [swap.names[0] for swap in layers if swap.names[0] in chosen]
    skip = list(dict.fromkeys([*source.options.get("skip", heads), *left]))
    options = {**source.options, "skip": skip}
    engine = load_engine(replace(source, options=options))
    try:
        keep_vocabulary(engine, reference.vocabulary)
        return MixedPrecision(options, swaps.loss_of(able(engine, OpenEngine)), swaps.loss)
    finally:
        engine.close()
