"""How many cases of a kind are drawn: a few in the ordinary tests, many under `make fuzz`.

`make fuzz` sets INFOPT_FUZZ and prints its seed; SEED=N repeats one. Hypothesis keeps what failed
in .hypothesis and tries it first the next time. A failure is then mended, and its smallest case is
kept for everybody as an ``@example`` above its property, which every run tries.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, settings

FUZZING = bool(os.environ.get("INFOPT_FUZZ"))
_WITHOUT_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)


def cases(smoke: int, fuzz: int, *, shrink: bool = True, **more: Any) -> settings:
    """Hypothesis' settings for `smoke` cases, the same each time, or for `fuzz` new ones."""
    phases = {} if shrink else {"phases": _WITHOUT_SHRINKING}
    return settings(
        max_examples=fuzz if FUZZING else smoke,
        derandomize=not FUZZING,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
        **phases,
        **more,
    )


def refusal(kind: type[Exception], call: Callable[[], object]) -> str | None:
    """The message of the error of this kind that the call ends with; None where it goes well."""
    try:
        call()
    except kind as error:
        return str(error)
    return None
