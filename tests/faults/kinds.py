"""Every kind of fault and every sound variant, by name; drawing one for a model."""

from __future__ import annotations

from typing import Any

from pytest_infopt.naming import nearest

from . import (  # noqa: F401  registering their kinds
    attention,
    batches,
    experts,
    kv_caches,
    norms,
    paths,
    rope,
    sessions,
    sound,
    tokens,
    weights,
)
from .fault import KINDS, Draw, Fault, Kind
from .parts import NotApplicableError, Parts

__all__ = ["KINDS", "Fault", "Kind", "NotApplicableError", "draw", "faults", "sound_variants"]


def faults(*, listed: bool = False) -> list[str]:
    """Names of the kinds of faults; those alone that passed every gate once, where ``listed``."""
    return [k.name for k in KINDS.values() if not k.sound and (k.listed or not listed)]


def sound_variants() -> list[str]:
    """Names of the sound variants."""
    return [k.name for k in KINDS.values() if k.sound]


def draw(
    model: Any,
    kind: str,
    seed: int = 0,
    options: dict[str, Any] | None = None,
    tokenizer: Any = None,
) -> Fault:
    """A member of a kind for this model; ``options`` are those that are not drawn.

    Raises ValueError for an unknown kind or option, NotApplicableError where the model lacks what
    the fault is planted into.
    """
    if kind not in KINDS:
        raise ValueError(f"there is no kind {kind!r} of fault{nearest(kind, KINDS)}")
    drawn = Draw(Parts(model, tokenizer), seed, dict(options or {}))
    fault = KINDS[kind].make(drawn)
    if unknown := sorted(drawn.given.keys() - drawn.options.keys()):
        known = ", ".join(sorted(drawn.options)) or "none"
        raise ValueError(f"{kind} has no option {unknown[0]!r}; it has {known}")
    return fault
