"""What can go wrong around a batch."""

from __future__ import annotations


class BatcherStoppedError(RuntimeError):
    """The batcher does not run: not yet, not any more, or it was stopped before this was served."""


class BatcherRunningError(RuntimeError):
    """The batcher runs already, or has not ended yet."""


class QueueFullError(RuntimeError):
    """As many items wait as may, and the policy is to turn further ones away."""


class BatchResultError(ValueError):
    """A batch function returned something else than one result for each of its items."""


class BatchFunctionError(RuntimeError):
    """A batch function ended with what cannot be handed to its callers: it is the ``__cause__``.

    Its own cancellation is the usual one: raised at the callers, it would look like theirs.
    """
