"""Whether a call was refused, or its code has a slip."""

from __future__ import annotations

from collections.abc import Callable

SLIPS = (AttributeError, ImportError, NameError, NotImplementedError, TypeError)


def is_refused(call: Callable[[], object]) -> bool:
    """Whether a call raises an error, of whatever kind but `SLIPS`: those are raised on."""
    try:
        call()
    except SLIPS as error:
        error.add_note("this call has to be refused, and such an error is taken for a slip")
        raise
    except Exception:
        return True
    return False
