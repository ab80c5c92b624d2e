"""What a server that knows texts alone has to be told, and which token a text of its is."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from ...errors import InvalidComparisonError
from ..base import Engine

_PREFIX = "token_id:"  # how some servers write ids among texts


class TokenTexts:
    """The texts of token ids, by an engine's tokenizer."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def text_of(self, token_ids: Sequence[int]) -> str:
        """A text that the server's tokenizer, which puts its own special tokens before it, reads
        as these ids. Raises InvalidComparisonError where there is none."""
        beginning = self._engine.encode("", "tokenizer")
        ids = list(token_ids)
        text = self._engine.decode(ids[len(beginning) :])
        if self._engine.encode(text, "tokenizer") != ids:
            raise InvalidComparisonError(
                f"a server that takes texts alone cannot be asked for these {len(ids)} tokens: "
                f"their text, {text[:60]!r}, is read as others"
            )
        return text

    def nearest_text(self, token_ids: Sequence[int]) -> str:
        """A text of about these tokens."""
        return self._engine.decode(token_ids)

    def ids_of(self, text: str, count: int | None) -> list[int]:
        """The tokens of a greedy answer. Raises InvalidComparisonError where the server counted
        others than its text is read as, but for a token that ended it."""
        ids = self._engine.encode(text)
        if count is not None and count not in (len(ids), len(ids) + 1):
            raise InvalidComparisonError(
                f"the server counts {count} tokens of an answer that its tokenizer reads as "
                f"{len(ids)}: {text[:60]!r}"
            )
        return ids

    def id_of(self, text: str) -> int | None:
        """The only token of that text, None where there are several, or none."""
        if text.startswith(_PREFIX):
            return int(text.removeprefix(_PREFIX))
        return self._tokens.get(text)

    @cached_property
    def whole_words(self) -> tuple[int, int]:
        """Two tokens whose texts are whole: letters or digits of ASCII."""
        texts = ((token, self._engine.decode([token])) for token in range(self._engine.vocabulary))
        whole = (token for token, text in texts if text.isascii() and text.isalnum())
        return next(whole), next(whole)

    @cached_property
    def _tokens(self) -> dict[str, int]:
        found: dict[str, int] = {}
        shared = set()
        for token in range(self._engine.vocabulary):
            text = self._engine.decode([token])
            if text in found:
                shared.add(text)
            found[text] = token
        return {text: token for text, token in found.items() if text not in shared}
