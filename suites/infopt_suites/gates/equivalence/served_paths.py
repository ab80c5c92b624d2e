"""The paths by which a prompt is served, each against the plain pass: none is only timed.

A server asks for the last position's logits alone, pads a batch on the right, computes attention by
another kernel. Each comes to the plain pass's logits, up to the dtype's own rounding.

Legend: T positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch

from pytest_infopt.engines.base import Capability, ServingPathsEngine, able
from pytest_infopt.errors import NotSupportedError
from pytest_infopt.measure import Pair, SelfComparison, host_logits

from .prompt_passes import PromptPasses

SERVED = ("served_error_ratio", "served_greedy_mismatches")
_LAST = 4  # positions that are asked for without the others
Path = Callable[[PromptPasses], Mapping[str, Pair]]


def served_values(
    found: SelfComparison,
    own: PromptPasses,
    controls: Callable[[], PromptPasses] | None,
    left_out: dict[str, str],
) -> dict[str, float]:
    """Error and mismatches of the worst path; ``left_out`` gets the paths that there are not.

    ``controls`` gives the passes of the reference's weights in the engine's dtype, which go a path
    where the engine's logits differ, or where it refuses.
    """
    if Capability.SERVING_PATHS not in own.engine.capabilities:
        reason = f"engine {own.engine.name!r} has no other paths to serve a prompt by"
        left_out |= dict.fromkeys(SERVED, reason)
        return {}
    for title, path in _PATHS.items():
        try:
            pairs = path(own)
        except Exception as error:
            refused = isinstance(error, NotSupportedError)
            if not refused and (controls is None or not _refuses(controls(), path)):
                raise
            left_out[title] = str(error)
            continue
        add_pairs(found, path, pairs, controls)
    return found.values(*SERVED) if found.errors else {}


def add_pairs(
    found: SelfComparison,
    path: Path,
    pairs: Mapping[str, Pair],
    controls: Callable[[], PromptPasses] | None,
) -> None:
    """Take what a path of the engine came to; the controls go it where the engine's rows differ."""
    for route, (rows, exact) in pairs.items():
        control = partial(_control_pair, controls, path, route)
        found.add(route, rows, host_logits(exact), control=control)


def _last_positions(own: PromptPasses) -> Mapping[str, Pair]:
    engine = able(own.engine, ServingPathsEngine)
    return {
        name: (engine.last_logits(own.ids, count), own.logits[-count:])
        for name, count in (
            ("the last position alone", 1),
            ("the last positions alone", min(_LAST, len(own.ids))),
        )
    }


def _right_padding(own: PromptPasses) -> Mapping[str, Pair]:
    """All rows are beginnings of the prompt, but for what the longest repeats."""
    rows = able(own.engine, ServingPathsEngine).right_padded_logits(own.rows)
    return {
        f"right padding, row {place}": (row[: len(own.ids)], own.logits[: len(row)])
        for place, row in enumerate(rows)
    }


def _plain_attention(own: PromptPasses) -> Mapping[str, Pair]:
    logits = able(own.engine, ServingPathsEngine).eager_logits(own.ids)
    return {} if logits is None else {"attention without a fused kernel": (logits, own.logits)}


def _own_code(own: PromptPasses) -> Mapping[str, Pair]:
    logits = able(own.engine, ServingPathsEngine).uncompiled_logits(own.ids)
    return {} if logits is None else {"compiled": (own.logits, logits)}


_PATHS: dict[str, Path] = {
    "last positions": _last_positions,
    "right padding": _right_padding,
    "attention without a fused kernel": _plain_attention,
    "compiled": _own_code,
}


def _refuses(passes: PromptPasses, path: Path) -> bool:
    try:
        path(passes)
    except Exception:
        return True
    return False


def _control_pair(
    controls: Callable[[], PromptPasses] | None, path: Path, route: str
) -> tuple[torch.Tensor, torch.Tensor] | None:
    if controls is None or _refuses(controls(), path):
        return None
    pair = path(controls()).get(route)  # the control may have nothing to go that path with
    return None if pair is None else (host_logits(pair[0]), host_logits(pair[1]))
