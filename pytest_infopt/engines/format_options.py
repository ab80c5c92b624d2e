"""What the options of number formats may be: checked before a model is loaded. Imports no torch."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["OPTIONS", "Sparsity", "check_options", "is_width", "sparsity_of"]

_GRANULARITIES = ("tensor", "channel", "group")
_LARGEST_AXIS = 1  # weights are matrices


@dataclass(frozen=True)
class Sparsity:
    """The share of weights to remove; ``pattern`` (N, M) says that N of M neighbours stay."""

    share: float
    pattern: tuple[int, int] | None = None


def sparsity_of(value: object) -> Sparsity:
    """A share, such as 0.5, or a pattern, such as "2:4". Raises ValueError for anything else."""
    if isinstance(value, str) and (found := re.fullmatch(r"(\d+):(\d+)", value)):
        kept, group = int(found[1]), int(found[2])
        if not 0 < kept <= group:
            raise ValueError(f"sparsity is {value!r}; of N:M neighbours N stay, 0 < N ≤ M")
        return Sparsity(1 - kept / group, (kept, group))
    if not _is_number(value) or not 0 <= value <= 1:  # type: ignore[operator]  # a number
        raise ValueError(f"sparsity is {value!r}; give a share from 0 to 1 such as 0.5, or '2:4'")
    return Sparsity(float(value))  # type: ignore[arg-type]


def check_options(form: str, options: Mapping[str, Any]) -> None:
    """Raises ValueError for a value that no format takes, or this one does not."""
    for name, value in options.items():
        if name == "sparsity":
            sparsity_of(value)
        elif name in _VALUES:
            accepts, takes = _VALUES[name]
            one_scale_a_row = form == "gptqmodel" and name == "group_size" and value == -1
            if not accepts(value) and not one_scale_a_row:
                raise ValueError(f"{name} is {value!r}; give {takes}")
    if form == "gptqmodel" and options.get("bits", 4) not in (2, 3, 4, 8):
        raise ValueError(f"bits is {options['bits']}; gptqmodel packs 2, 3, 4 or 8")
    _check_places(form, options)


def _check_places(form: str, options: Mapping[str, Any]) -> None:
    granularity = options.get("granularity", "group" if "group_size" in options else None)
    if "group_size" in options and granularity != "group":
        raise ValueError(f"group_size has no meaning per {granularity}; leave one of the two out")
    if options.get("axis", 0) != 0 and granularity in ("tensor", "group"):
        raise ValueError(f"axis has no meaning per {granularity}; leave one of the two out")
    if form == "gptq" and options.get("axis", 0) not in (0, -2):
        raise ValueError(f"axis is {options['axis']}; GPTQ needs scales of rows: axis 0")


def is_width(value: object) -> bool:
    """Whether a code can have that many bits."""
    return type(value) is int and 2 <= value <= 8


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _are_names(value: object) -> bool:
    return isinstance(value, (list, tuple)) and all(_is_text(item) for item in value)


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 1


def _is_share(value: object) -> bool:
    return _is_number(value) and 0 <= value <= 1  # type: ignore[operator]  # a number


def _is_threshold(value: object) -> bool:
    return type(value) in (int, float) and value >= 0  # type: ignore[operator]  # infinity too


def _is_axis(value: object) -> bool:
    return type(value) is int and -_LARGEST_AXIS - 1 <= value <= _LARGEST_AXIS


_COUNT = (_is_count, "a whole number of 1 or more")
_FLAG = (_is_flag, "true or false")
_SHARE = (_is_share, "a share from 0 to 1")

# What each option takes, as a test and in words.
_VALUES: dict[str, tuple[Callable[[object], bool], str]] = {
    "attn_implementation": (_is_text, "a name, such as 'sdpa' or 'eager'"),
    "skip": (_are_names, "a list of names, such as ['lm_head']"),
    "bits": (is_width, "an integer from 2 to 8"),
    "symmetric": _FLAG,
    "granularity": (lambda value: value in _GRANULARITIES, f"one of {', '.join(_GRANULARITIES)}"),
    "group_size": _COUNT,
    "axis": (_is_axis, "an axis of a matrix: 0 or 1"),
    "calibration": (
        lambda value: _is_text(value) or _are_names(value),
        "a glob or a list of globs, as [corpus] files",
    ),
    "calibration_documents": _COUNT,
    "calibration_tokens": _COUNT,
    "act_order": _FLAG,
    "static_groups": _FLAG,
    "row_fallback": _FLAG,
    "true_sequential": _FLAG,
    "damping": _SHARE,
    "block_size": _COUNT,
    "steps": _COUNT,
    "clip": _FLAG,
    "alpha": _SHARE,
    "threshold": (_is_threshold, "a number of 0 or more"),
    "double_quantization": _FLAG,
}
OPTIONS = frozenset(_VALUES) | {"sparsity"}
