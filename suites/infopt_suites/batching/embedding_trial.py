"""An embedding batcher at work on virtual time: lists of texts, and the vectors they get."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from .batcher_trial import Call, Caller, Trial, named
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
        batcher = cast(EmbeddingBatcher, self.batcher)
        return self.add(list(texts), batcher.embed(list(texts)))

    def check_result(self, caller: Caller) -> None:
        name = caller.task.get_name()
        assert caller.error is None, f"{name} got {caller.error!r}; {self._told()}"
        vectors = [numbers(vector) for vector in caller.task.result()]
        wanted = [vector_of(text) for text in caller.item]
        owners = {tuple(vector_of(text)): text for other in self.callers for text in other.item}
        assert vectors == wanted, (
            f"{name} asked for {caller.item} and got the vectors of "
            f"{[owners.get(tuple(vector), vector) for vector in vectors]}; {self._told()}"
        )

    def check(self, *, window: bool = True) -> None:
        """Raise AssertionError unless the backend's calls fit the policy and what was asked."""
        self.check_sizes()
        asked = {text for caller in self.callers for text in caller.item}
        for call in self.calls:
            for text in call.items:
                assert text in asked, f"the backend got {named(text)}, for which nobody asked"


def vector_of(text: str) -> list[float]:
    """The right vector: different texts of the trials have different ones."""
    return [float(len(text)), float(zlib.crc32(text.encode()) % 2**20)]


def numbers(vector: Any) -> list[float]:
    """A vector of any type as a list."""
    return [float(number) for number in vector]
