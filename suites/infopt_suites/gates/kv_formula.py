"""What a KV cache holds against the formula of its architecture, as far as there is one.

A formula is read off the configuration (`infopt_reference.attention.kv_size`). It is one only if
the reference's own cache keeps it: where that too holds another number of bytes, the architecture
keeps something that the formula does not know, and nothing is said against the candidate.

A window's oldest token is not read again once the newest is there: a cache may hold it, as the
formula says, or have dropped it.
"""

from __future__ import annotations

from pytest_infopt.engines.base import KVSizeEngine


class FormulaCheck:
    """Readings of an engine's cache against the formula.

    ``worst`` is the largest |held − predicted| in bytes, of the nearer number where windows are
    full, None where the formula is unknown;
    ``predicted`` has the formula's bytes of each reading, or None. The reference is asked only
    where a reading differs from the formula.
    """

    def __init__(self, engine: KVSizeEngine, reference: KVSizeEngine | None = None) -> None:
        self._engine, self._reference = engine, reference
        self.predicted: list[int | None] = []
        self.worst: int | None = None
        self._unknown = ""

    def add(self, tokens: int, batch: int, held: int) -> None:
        """Take the bytes that the engine's cache of ``batch`` rows of ``tokens`` tokens holds."""
        predicted = None if self._unknown else self._engine.predicted_kv_bytes(tokens, batch)
        if predicted is None:
            self._give_up("this architecture keeps states that no formula is known for")
        elif held != predicted and (off := self._reference_is_off(tokens, batch)):
            self._give_up(
                f"the reference's own cache differs from it too, by {off} bytes at {tokens} tokens"
            )
        else:
            self.predicted.append(predicted)
            dropped = predicted - self._past_windows(tokens, batch)
            error = min(abs(held - predicted), abs(held - dropped))
            self.worst = max(error, self.worst or 0)

    def values(self, metric: str) -> dict[str, float]:
        """The worst error under the name of a metric, nothing where it is unknown."""
        return {} if self.worst is None else {metric: float(self.worst)}

    def details(self, metric: str) -> dict[str, object]:
        """What a sample says of a metric that is not judged."""
        if not self._unknown:
            return {}
        return {"not_judged": {metric: self._unknown}, "notes": [self._unknown]}

    def _give_up(self, reason: str) -> None:
        self.predicted = [None] * (len(self.predicted) + 1)
        self.worst = None
        self._unknown = (
            self._unknown
            or f"size of the KV cache: formula unknown, measured and not judged ({reason})"
        )

    def _past_windows(self, tokens: int, batch: int) -> int:
        """Bytes of a token in the layers that hold no more of them."""
        one, now, then = (
            self._engine.predicted_kv_bytes(count, batch) or 0 for count in (1, tokens, tokens + 1)
        )
        return max(0, one - (then - now))

    def _reference_is_off(self, tokens: int, batch: int) -> int:
        if self._reference is None:
            return 0
        predicted = self._reference.predicted_kv_bytes(tokens, batch)
        held = self._reference.kv_cache_bytes(tokens, batch)
        return held if predicted is None else held - predicted
