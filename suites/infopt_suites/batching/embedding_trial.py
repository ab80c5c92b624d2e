"""An embedding batcher at work on virtual time: lists of texts, and the vectors they get."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from .batcher_calls import Call, Caller, named
from .batcher_trial import Trial
from .contract import ask
from .protocol import EmbeddingBatcher


class Text(str):
    """A text that shows whether anything still holds it."""

    __slots__ = ("__weakref__",)


@dataclass(eq=False)
class BackendCall(Call):
    """A call of the backend; its items are texts."""

    def answers(self) -> list[Any]:
        return [vector_of(text) for text in self.items]


@dataclass
class EmbeddingTrial(Trial):
    """Callers with lists of texts on one embedding batcher."""

    _made: ClassVar[type[Call]] = BackendCall

    def embed(self, texts: Sequence[str]) -> Caller:
        """A caller that asks for texts in the loop's next turn."""
        return self.embed_exactly(list(texts), list(texts))

    def embed_exactly(self, texts: Any, expected: list[str]) -> Caller:
        """A caller that hands over this very object, and gets the vectors of ``expected``."""
        return self.add(expected, ask(EmbeddingBatcher, self.batcher, "embed", texts))

    def check_result(self, caller: Caller) -> None:
        name = caller.task.get_name()
        assert caller.error is None, f"{name} got {caller.error!r}; {self.told()}"
        vectors = [numbers(vector) for vector in caller.task.result()]
        wanted = [vector_of(text) for text in caller.item]
        owners = {tuple(vector_of(text)): text for other in self.callers for text in other.item}
        assert vectors == wanted, (
            f"{name} asked for {caller.item} and got the vectors of "
            f"{[owners.get(tuple(vector), vector) for vector in vectors]}; {self.told()}"
        )

    def check(self, *, window: bool = True) -> None:
        """Raise AssertionError unless the backend's calls fit the policy and what was asked."""
        self.check_sizes()
        asked = {text for caller in self.callers for text in caller.item}
        for call in self.calls:
            for text in call.items:
                assert text in asked, f"the backend got {named(text)}, for which nobody asked"
        if window:
            for caller in self.callers:
                for text in dict.fromkeys(caller.item):
                    self.check_wait(named(text), caller, self._begun(caller, text))

    def _begun(self, caller: Caller, text: str) -> float | None:
        """When the call began that gave a caller a text's vector; it may have run already.

        None if the caller has left before, or got an error of another text's call.
        """
        until = self.loop.time() if caller.ended is None else caller.ended
        for call in self.calls:
            awaited = call.ended is None or call.ended >= caller.submitted
            if text in call.items and awaited and call.started <= until:
                return max(call.started, caller.submitted)
        return None


def vector_of(text: str) -> list[float]:
    """The right vector: different texts of the trials have different ones."""
    return [float(len(text)), float(zlib.crc32(text.encode()) % 2**20)]


def numbers(vector: Any) -> list[float]:
    """A vector of any type as a list."""
    return [float(number) for number in vector]
