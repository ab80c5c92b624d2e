"""What a batch function gave, as what its callers may get."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from .errors import BatchFunctionError, BatchResultError


def require_one_each(results: object, count: int) -> None:
    """Checks what a batch function returned for ``count`` items.

    Strings and mappings have a length too, and what they give one by one is no result.

    Raises:
        BatchResultError: it is no sequence, or of another length.
    """
    if (
        isinstance(results, str | bytes | bytearray | Mapping)
        or not hasattr(results, "__len__")
        or not hasattr(results, "__getitem__")
    ):
        raise BatchResultError(
            f"the batch function returned a {type(results).__name__} for {count} items; return a "
            f"list with one result for each, in their order"
        )
    if len(results) != count:
        raise BatchResultError(
            f"the batch function returned {len(results)} results for {count} items; return one for "
            f"each, in their order, an Exception for an item that failed"
        )


def for_callers(error: BaseException) -> BaseException:
    """What a caller may be given: futures refuse StopIteration, and the others mean its own end."""
    kept_back = (asyncio.CancelledError, KeyboardInterrupt, SystemExit, StopIteration)
    if not isinstance(error, kept_back):
        return error
    wrapped = BatchFunctionError(f"the batch function ended with {error!r}")
    wrapped.__cause__ = error
    return wrapped
