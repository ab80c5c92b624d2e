"""How a server that completes chats only is asked: a prompt is one message of a user.

The server renders the chat by the model's template, and so does the tokenizer here; the server's
count of the prompt's tokens says whether both render the same. Source: OpenAI API reference, "Chat
completions".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import takewhile
from typing import Any

from ...errors import InvalidComparisonError
from .dialects import Answer, Completions, Prompt
from .token_texts import TokenTexts

__all__ = ["ChatCompletions", "ChatTexts"]


class ChatTexts(TokenTexts):
    """The messages of prompts, which are whole chats as the tokenizer's template renders them."""

    def text_of(self, token_ids: Sequence[int]) -> str:
        """The message whose chat these ids are. Raises InvalidComparisonError where they are
        none."""
        message = self._message(list(token_ids))
        if message is None:
            raise InvalidComparisonError(
                f"a server that completes chats only cannot be asked for these {len(token_ids)} "
                "tokens: they are no message of a user as the chat template renders it"
            )
        return message

    def nearest_text(self, token_ids: Sequence[int]) -> str:
        message = self._message(list(token_ids))
        return super().nearest_text(token_ids) if message is None else message

    def _message(self, ids: list[int]) -> str | None:
        before, behind = self._frame
        end = len(ids) - behind
        message = self._engine.decode(ids[before:end])
        return message if end > before and self._engine.encode(message, "chat") == ids else None

    @cached_property
    def _frame(self) -> tuple[int, int]:
        """How many tokens the template puts before a message and behind it: what two chats have in
        common."""
        words = (self._engine.decode([token]) for token in self.whole_words)
        one, other = (self._engine.encode(word, "chat") for word in words)
        return _common(one, other), _common(one[::-1], other[::-1])


class ChatCompletions(Completions):
    """OpenAI's chats. Of an answer, ``logprobs`` tell tokens by their texts; llama.cpp's server
    adds ids."""

    name = "chat"
    path = "chat/completions"
    begins_with = "chat"

    def body(self, prompt: Prompt, count: int, **more: Any) -> dict[str, Any]:
        body = super().body(prompt, count, **more)
        return {"messages": [{"role": "user", "content": body.pop("prompt")}], **body}

    def answer(self, prompt: Prompt, count: int, **more: Any) -> Answer:
        scored = self.scored_fields() if self.top else {}
        return super().answer(prompt, count, **scored, **more)

    def scored_fields(self) -> dict[str, Any]:
        return {"logprobs": True, "top_logprobs": self.top}

    def _text(self, choice: Mapping[str, Any]) -> str:
        said = choice.get("delta") or choice.get("message") or {}
        return str(said.get("content") or "")

    def _ids(self, choice: Mapping[str, Any]) -> tuple[int, ...] | None:
        """Of a whole answer, where each token's text is its alone."""
        if "delta" in choice:
            return None
        content = (choice.get("logprobs") or {}).get("content") or ()
        ids = [self._id(token) for token in content]
        known = tuple(token for token in ids if token is not None)
        return known if known and len(known) == len(ids) else None

    def _tops(self, logprobs: Mapping[str, Any]) -> list[dict[int, float]]:
        found = []
        for each in self._told(logprobs, "content"):
            tops = ((self._id(top), top["logprob"]) for top in each.get("top_logprobs") or ())
            found.append({token: value for token, value in tops if token is not None})
        return found

    def _id(self, token: Mapping[str, Any]) -> int | None:
        return token["id"] if "id" in token else self.texts.id_of(token["token"])


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many first ids two sequences share."""
    equal = (a == b for a, b in zip(one, other, strict=False))
    return sum(takewhile(bool, equal))
