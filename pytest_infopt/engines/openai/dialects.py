"""How servers are asked for tokens and log-probabilities, each in its own dialect.

    dialect     prompt as ids  ids of answers      scores of a text            of the next token
    vllm        yes            return_token_ids    prompt_logprobs             logprobs
    llama.cpp   yes            tokens              –                           n_probs
    openai      where taken    –                   echo and logprobs, if given  logprobs, if given
    chat        –              logprobs, if given  –                   logprobs, if given

`chats` has the last one. Sources: OpenAI API reference, "Completions"; vLLM, "OpenAI-compatible
server"; llama.cpp, tools/server/README.md. A row is the log-probabilities of one position's most
probable next tokens by id; row t is about the token t + 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from ...errors import NonFiniteLogitsError, ServerRefusedError
from .client import ServerClient
from .token_texts import TokenTexts

Row = Mapping[int, float]
Moment = TypeVar("Moment")
Prompt = str | list[int]
_CERTAINLY = 1e4  # added to a logit
_ROUNDING = 2.0**-8  # of probabilities that were computed in bfloat16


class Piece(NamedTuple):
    """A part of a streamed answer: its token ids, None where the server does not tell them, and
    their rows, where those were asked for. Each token of a load makes one, and a tuple takes half
    of a frozen dataclass's time."""

    text: str
    token_ids: tuple[int, ...] | None
    usage: Mapping[str, Any] = MappingProxyType({})
    rows: tuple[Row, ...] = ()


@dataclass(frozen=True)
class Answer:
    """A whole answer. ``tokens`` is the server's own count of them, None where it tells none."""

    text: str
    token_ids: tuple[int, ...] | None
    tokens: int | None
    prompt_tokens: int | None
    ended: bool  # by the model, not by the length


class Completions:
    """OpenAI's own dialect: text, and log-probabilities by the tokens' texts.

    ``top`` is how many tokens of a position the server tells. What it offers is found out by
    `probe.observed`: ``takes_ids``, ``scores_texts``, ``scores_next``, ``ignores_end``.
    """

    name = "openai"
    path = "completions"
    begins_with = "tokenizer"  # how prompts have to begin, as `Engine.encode` has it
    takes_ids = scores_texts = scores_next = ignores_end = False
    top = 0

    def __init__(self, client: ServerClient, model: str, texts: TokenTexts) -> None:
        self.client = client
        self.model = model
        self.texts = texts

    def body(self, prompt: Prompt, count: int, **more: Any) -> dict[str, Any]:
        """A request of at most ``count`` greedy tokens."""
        asked = {"model": self.model, "prompt": prompt, "max_tokens": count}
        ends = {"ignore_eos": True} if more.pop("to_the_length", False) else {}
        return {**asked, "temperature": 0.0, "seed": 0, **ends, **more}

    def answer(self, prompt: Prompt, count: int, **more: Any) -> Answer:
        """The greedy answer to a prompt; ``more`` are further fields of the request."""
        found = self.client.ask(self.path, self.body(prompt, count, **more))
        choice, usage = self._choice(found), found.get("usage") or {}
        return Answer(
            self._text(choice),
            self._ids(choice),
            usage.get("completion_tokens"),
            usage.get("prompt_tokens"),
            choice.get("finish_reason") == "stop",
        )

    def pieces(
        self, prompt: Prompt, count: int, *, to_the_length: bool = True, scored: bool = False
    ) -> Iterator[Piece]:
        """The greedy answer as it arrives; ``to_the_length`` goes on behind an end token, where the
        server can, and ``scored`` asks for rows, where it tells them."""
        body = self.stream_body(prompt, count, to_the_length=to_the_length)
        if scored and self.top:
            body |= self.scored_fields()
        events = self.client.events(self.path, body)
        for piece, _ in self.pieces_of((event, None) for event in events):
            yield piece

    def stream_body(
        self, prompt: Prompt, count: int, *, to_the_length: bool = True
    ) -> dict[str, Any]:
        """A request of a streamed greedy answer."""
        more: dict[str, Any] = {"stream_options": {"include_usage": True}}
        return self.body(prompt, count, to_the_length=to_the_length and self.ignores_end, **more)

    def pieces_of(
        self, events: Iterable[tuple[Mapping[str, Any], Moment]]
    ) -> Iterator[tuple[Piece, Moment]]:
        """What the events of a streamed answer bring, each with its moment."""
        for event, moment in events:
            for choice in event.get("choices") or [{}]:
                logprobs = choice.get("logprobs")
                rows = self._rows(logprobs) if logprobs else ()
                usage = event.get("usage") or {}
                if usage and "timings" in event:
                    usage = {**usage, "timings": event["timings"]}
                yield Piece(self._text(choice), self._ids(choice), usage, rows), moment

    def text_rows(self, token_ids: Sequence[int]) -> list[Row]:
        """Row t for each token of the text but its last, from one request."""
        prompt = list(token_ids) if self.takes_ids else self.texts.text_of(token_ids)
        body = self.body(prompt, 1, echo=True, logprobs=self.top)
        told = self._told(self._choice(self.client.ask(self.path, body)), "logprobs")
        tops, own = self._told(told, "top_logprobs"), self._told(told, "token_logprobs")
        if len(own) == 1 < len(token_ids) - 1:
            raise ServerRefusedError("the server does not echo prompts")
        if len(tops) != len(own) or len(own) not in (len(token_ids), len(token_ids) + 1):
            raise self.client.wrong(
                f"scored {len(own)} tokens of a text of {len(token_ids)}: its tokenizer is another"
            )
        return [
            self._row({**self._by_id(tops[place] or {}), token_ids[place]: own[place]})
            for place in range(1, len(token_ids))
        ]

    def next_row(self, token_ids: Sequence[int]) -> Row:
        """The row of the token behind the text."""
        prompt = list(token_ids) if self.takes_ids else self.texts.text_of(token_ids)
        found = self.client.ask(self.path, self.body(prompt, 1, **self.scored_fields()))
        return self._row(self._tops(self._told(self._choice(found), "logprobs"))[0])

    def scored_fields(self) -> dict[str, Any]:
        """What a request says to be told of ``top`` tokens at each position of its answer."""
        return {"logprobs": self.top}

    def _choice(self, found: Mapping[str, Any]) -> Mapping[str, Any]:
        choices = found.get("choices")
        if not isinstance(choices, list) or len(choices) != 1:
            raise self.client.wrong(f"answers with no single choice: {str(found)[:200]}")
        choice: Mapping[str, Any] = choices[0]
        return choice

    def _told(self, found: Mapping[str, Any], name: str) -> Any:
        """What an answer has under a name; ServerRefusedError where it leaves it out."""
        if not found.get(name):
            raise ServerRefusedError(f"server {self.client.source.url} tells no {name}")
        return found[name]

    def _text(self, choice: Mapping[str, Any]) -> str:
        return str(choice.get("text") or "")

    def _ids(self, choice: Mapping[str, Any]) -> tuple[int, ...] | None:
        return None

    def _tops(self, logprobs: Mapping[str, Any]) -> list[dict[int, float]]:
        """What is told of each position of an answer."""
        return [self._by_id(top or {}) for top in self._told(logprobs, "top_logprobs")]

    def _rows(self, logprobs: Mapping[str, Any]) -> tuple[Row, ...]:
        """The rows of a part of an answer, empty ones where no token's text is its alone."""
        if not any(logprobs.values()):
            return ()
        return tuple(self._row(top) if top else top for top in self._tops(logprobs))

    def _by_id(self, top: Mapping[str, float]) -> dict[int, float]:
        """Log-probabilities of texts by id; a text that several tokens share is left out, and its
        probability counts to the rest."""
        ids = ((self.texts.id_of(text), value) for text, value in top.items())
        return {token: value for token, value in ids if token is not None}

    def _row(self, row: Mapping[int, Any]) -> Row:
        """The row, checked to be part of a distribution."""
        if not row or any(value is None or math.isnan(value) for value in row.values()):
            raise NonFiniteLogitsError(
                f"server {self.client.source.url} tells log-probabilities {dict(row)}; every "
                "position takes numbers"
            )
        total = math.fsum(map(math.exp, row.values()))
        if total > 1 + _ROUNDING:
            raise self.client.wrong(
                f"tells log-probabilities of one position that add up to {total:.6g}, not to 1 at "
                "most; it penalises or scales them"
            )
        return row


class VllmCompletions(Completions):
    """vLLM's dialect: token ids both ways, and the scores of prompts."""

    name = "vllm"

    def body(self, prompt: Prompt, count: int, **more: Any) -> dict[str, Any]:
        return super().body(prompt, count, return_token_ids=True, **more)

    def text_rows(self, token_ids: Sequence[int]) -> list[Row]:
        body = self.body(list(token_ids), 1, prompt_logprobs=self.top)
        choice = self._choice(self.client.ask(self.path, body))
        rows = self._told(choice, "prompt_logprobs")
        if len(rows) != len(token_ids):
            raise self.client.wrong(f"scored {len(rows)} tokens of a text of {len(token_ids)}")
        return [
            self._row({int(token): each["logprob"] for token, each in row.items()})
            for row in rows[1:]
        ]

    def scored_fields(self) -> dict[str, Any]:
        return {"logprobs": self.top, "return_tokens_as_token_ids": True}

    def _ids(self, choice: Mapping[str, Any]) -> tuple[int, ...] | None:
        ids = choice.get("token_ids")
        return None if ids is None else tuple(ids)


HELD_BACK = "held_back"  # of a piece's usage: tokens at the answer's end that are not told


class LlamaCppCompletions(Completions):
    """The dialect of llama.cpp's server: its own path, and the scores of the next token alone."""

    name = "llama.cpp"
    path = "/completion"

    def body(self, prompt: Prompt, count: int, **more: Any) -> dict[str, Any]:
        more.pop("stream_options", None)
        body = super().body(prompt, count, **more)
        return {**body, "n_predict": body.pop("max_tokens"), "return_tokens": True}

    def answer(self, prompt: Prompt, count: int, **more: Any) -> Answer:
        found = self.client.ask(self.path, self.body(prompt, count, **more))
        ended = found.get("stop_type", "eos" if found.get("stopped_eos") else "") == "eos"
        return Answer(
            str(found.get("content") or ""),
            self._ids(found),
            found.get("tokens_predicted"),
            found.get("tokens_evaluated"),
            ended,
        )

    def pieces_of(
        self, events: Iterable[tuple[Mapping[str, Any], Moment]]
    ) -> Iterator[tuple[Piece, Moment]]:
        seen = told = 0
        for event, moment in events:
            if event.get("stop"):  # repeats nothing of what it streamed
                usage = {
                    "completion_tokens": event.get("tokens_predicted"),
                    "prompt_tokens": event.get("tokens_evaluated"),
                    "timings": event.get("timings"),
                    # At its length an answer may end in the midst of a character: the tokens that
                    # make its beginning are counted, and not told.
                    HELD_BACK: event.get("stop_type") == "limit"
                    and event.get("tokens_predicted", told) - told,
                }
                yield Piece("", (), {key: value for key, value in usage.items() if value}), moment
            else:
                piece = self._piece(event, seen)
                yield piece, moment
                told += len(piece.token_ids or ())
                seen = event.get("tokens_predicted", seen)

    def _piece(self, event: Mapping[str, Any], seen: int) -> Piece:
        """What arrived. Of a character that several tokens make, the server tells the last token,
        and counts all; the text is then read here."""
        text, ids = str(event.get("content") or ""), self._ids(event)
        arrived = event.get("tokens_predicted", seen) - seen
        if ids is not None and len(ids) < arrived:
            read = self.texts.ids_of(text, None)
            ids = tuple(read) if len(read) == arrived else ids
        count = len(ids or ())
        rows: tuple[Row, ...] = tuple(map(self._top, event.get("completion_probabilities") or ()))
        return Piece(text, ids, rows=rows if len(rows) == count else ({},) * count)

    def text_rows(self, token_ids: Sequence[int]) -> list[Row]:
        raise ServerRefusedError("llama.cpp's server scores no texts")

    def next_row(self, token_ids: Sequence[int]) -> Row:
        body = self.body(list(token_ids), 1, **self.scored_fields())
        found = self.client.ask(self.path, body)
        if not found.get("completion_probabilities"):
            # It tells none of an end token, and none of a token that holds half of a character.
            # Made to say another token, it tells the probabilities of before it was made to.
            forced = [[self.texts.whole_words[0], _CERTAINLY]]
            found = self.client.ask(self.path, {**body, "logit_bias": forced})
        return self._top(self._told(found, "completion_probabilities")[0])

    def scored_fields(self) -> dict[str, Any]:
        return {"n_probs": self.top}

    def _top(self, told: Mapping[str, Any]) -> Row:
        top = self._told(told, "top_logprobs")
        return self._row({int(each["id"]): each["logprob"] for each in top})

    def _ids(self, choice: Mapping[str, Any]) -> tuple[int, ...] | None:
        ids = choice.get("tokens")
        return None if ids is None else tuple(ids)
