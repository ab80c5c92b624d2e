"""How a candidate that was trained came to be: the losses that its trainer left beside it.

Source: ``trainer_state.json`` of transformers' Trainer, ``log_history``: one entry a log, with
``step`` and ``loss``, or ``eval_loss``. `infopt_reference.distillation.DistillationTrainer` leaves
the same.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pytest_infopt import MeasuredTable, Plot

STATE = "trainer_state.json"
_LOSSES = {"loss": "trained on", "eval_loss": "held out"}


def training_table(folder: Path) -> MeasuredTable | None:
    """The losses by step; None where no trainer left any that can be read."""
    try:
        state: Any = json.loads((folder / STATE).read_text(encoding="utf-8"))
        logged = [entry for entry in state["log_history"] if _LOSSES.keys() & entry.keys()]
        rows = tuple(
            (int(entry["step"]), name, float(entry[key]))
            for key, name in _LOSSES.items()
            for entry in logged
            if key in entry
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if not rows:
        return None
    columns = ("step", "rows", "loss")
    plot = Plot("step", ("loss",), "loss", group="rows")
    return MeasuredTable("training of the candidate", columns, rows, plot=plot)
