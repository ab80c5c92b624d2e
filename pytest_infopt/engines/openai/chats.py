"""How a server that completes chats only is asked: a prompt is one message of a user.

The server renders the chat by the model's template, and so does the tokenizer here; the server's
count of the prompt's tokens says whether both render the same. Source: OpenAI API reference, "Chat
completions".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import takewhile
from typing import Any

from ...errors import InvalidComparisonError, ServerRefusedError
from .dialects import Answer, Completions, Prompt, Row
from .token_texts import TokenTexts

__all__ = ["ChatCompletions", "ChatTexts"]


_CERTAINLY = 100  # the most that may be added to a logit


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
        """The text between what the template puts around a message, by tokens, or, where a message
        begins or ends within one of the template's tokens, by letters."""
        before, behind = self._frame
        first, last = self._letters
        by_tokens = self._engine.decode(ids[before : len(ids) - behind])
        whole = self._engine.decode(ids)
        for message in (by_tokens, whole[first : len(whole) - last]):
            if self._engine.encode(message, "chat") == ids:
                return message
        return None

    @cached_property
    def _frame(self) -> tuple[int, int]:
        """How many tokens the template puts before a message and behind it: what two chats have in
        common."""
        words = (self._engine.decode([token]) for token in self.whole_words)
        one, other = (self._engine.encode(word, "chat") for word in words)
        return _common(one, other), _common(one[::-1], other[::-1])

    @cached_property
    def _letters(self) -> tuple[int, int]:
        """The same in letters."""
        before, behind = self._frame
        ids = self._engine.encode(self._engine.decode(self.whole_words[:1]), "chat")
        around = ids[:before], ids[len(ids) - behind :]
        return len(self._engine.decode(around[0])), len(self._engine.decode(around[1]))


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
        found = super().answer(prompt, count, **scored, **more)
        told = len(found.token_ids or ())
        # Of a character that several tokens make, llama.cpp tells none; the text has them.
        return found if found.tokens in (None, told, told + 1) else replace(found, token_ids=None)

    def next_row(self, token_ids: Sequence[int]) -> Row:
        """Of a token that holds half of a character llama.cpp's server tells nothing. Made to say
        another, it tells the probabilities of before it was made to; a server that tells those of
        behind it would tell that one."""
        try:
            return super().next_row(token_ids)
        except ServerRefusedError:
            if not self.scores_next:
                raise  # it tells of no token at all
        forced = self.texts.whole_words[0]
        body = self.body(self.texts.text_of(token_ids), 1, **self.scored_fields())
        found = self.client.ask(self.path, {**body, "logit_bias": {str(forced): _CERTAINLY}})
        row = self._row(self._tops(self._told(self._choice(found), "logprobs"))[0])
        if forced in row:
            raise ServerRefusedError(f"server {self.client.source.url} tells no logprobs")
        return row

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
