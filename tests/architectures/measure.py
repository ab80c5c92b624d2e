"""Writes docs/generate/architectures.json: every family through the gates.

python tests/architectures/measure.py [FAMILY…]

Families that are named replace what the file says of them; without names it is written anew.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1])]

import torch  # noqa: E402
from in_process_run import COPIES, GATES, Outcome, run_gates, write_release  # noqa: E402
from tiny_families import FAMILIES, tiny_model  # noqa: E402
from tiny_models import cache_in  # noqa: E402
from transformers.utils import logging as transformers_logging  # noqa: E402

DATA = Path(__file__).parents[2] / "docs" / "generate" / "architectures.json"
QUANTIZED_GATES = ("equivalence", "kv-cache", "memory")


def measured(family: str) -> dict[str, Any]:
    """What the page shows of a family: why it cannot be built or is refused, or the outcomes."""
    torch.manual_seed(0)
    try:
        model = tiny_model(family)
    except Exception as error:  # libraries raise what they please
        return {"not built": one_line(f"{type(error).__name__}: {error}")}
    with tempfile.TemporaryDirectory() as folder:
        write_release(Path(folder), model)
        found = run_gates(Path(folder), COPIES[:2], GATES)
        refusals = {o.reason for (copy, _), o in found.items() if copy == COPIES[0]}
        if len(refusals) == 1 and found[COPIES[0], GATES[0]].verdict == "ERROR":
            return {"refused": one_line(refusals.pop())}
        found |= run_gates(Path(folder), COPIES[2:], QUANTIZED_GATES)
    return {"class": type(model).__name__, "cache": cache_kinds(model), "gates": table(found)}


def cache_kinds(model: Any) -> list[str]:
    """The library's classes of the cache's layers, each once."""
    with torch.no_grad():
        output = model(input_ids=torch.arange(1, 5)[None], use_cache=True)
    cache = cache_in(output)
    return sorted({type(layer).__name__ for layer in getattr(cache, "layers", ())})


def table(found: dict[tuple[str, str], Outcome]) -> dict[str, dict[str, list[str]]]:
    """Verdict and reason by copy and gate."""
    rows: dict[str, dict[str, list[str]]] = {}
    for (copy, gate), outcome in found.items():
        cell = [outcome.verdict, *([one_line(outcome.reason)] if outcome.reason else [])]
        rows.setdefault(copy, {})[gate] = cell
    return rows


def one_line(text: str) -> str:
    """Its beginning, as inline code takes it."""
    return " ".join(text.replace("`", "'").split())[:160]


def main(names: list[str]) -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(1)
    known = json.loads(DATA.read_text(encoding="utf-8")) if names and DATA.exists() else {}
    for family in names or FAMILIES:
        known[family] = measured(family)
        text = json.dumps(dict(sorted(known.items())), indent=1, ensure_ascii=False)
        DATA.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
