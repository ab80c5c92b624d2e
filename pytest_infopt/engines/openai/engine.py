"""A model behind a URL: what its server tells of it. PYTEST_DONT_REWRITE: it times."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ...errors import InfoptError, InvalidComparisonError
from ..base import Capability, CountedAnswer, TokenEvent
from ..tokenizer_texts import TokenizerTexts
from .dialects import Answer, Completions, Piece, Prompt, Row
from .streams import StreamConnections
from .token_events import token_events, untold_tokens
from .usage import cached_tokens


class OpenAIEngine(TokenizerTexts):
    """`engines.base.CountedEngine`, `StreamingEngine`, `LoadEngine` and, where the server tells
    log-probabilities, `TopScoresEngine`, over a server. The tokenizer is a local copy of the
    server's."""

    device = "server"

    def __init__(
        self,
        name: str,
        tokenizer: Any,
        *,
        vocabulary: int,
        context_window: int,
        dtype: str,
        fingerprint: str,
    ) -> None:
        self.name = name
        self.fingerprint = fingerprint
        self.dtype = dtype
        self.vocabulary = vocabulary
        self.context_window = context_window
        self.capabilities: frozenset[Capability] = frozenset()  # until it is connected
        self._tokenizer = tokenizer
        self._dialect: Completions | None = None
        self._connections: StreamConnections | None = None

    def connect(self, dialect: Completions) -> None:
        """Serve from now on what the server was found to offer."""
        self._dialect = dialect
        found = {Capability.GREEDY, Capability.COUNTS, Capability.STREAM, Capability.LOAD}
        if dialect.scores_texts or dialect.scores_next:
            found.add(Capability.TOP_SCORES)
        self.capabilities = frozenset(found)

    @property
    def tokenizer(self) -> Any:
        return self._tokenizer

    @property
    def dialect(self) -> Completions:
        """How the server is asked; raises InfoptError where the engine is closed."""
        if self._dialect is None:
            raise InfoptError(f"the engine of model {self.name!r} is closed; load it again")
        return self._dialect

    @property
    def prompts_begin_with(self) -> str:
        return self.dialect.begins_with

    @property
    def scores_texts(self) -> bool:
        return self.dialect.scores_texts

    def top_scores(
        self, token_ids: Sequence[int], positions: Sequence[int]
    ) -> list[Mapping[int, float]]:
        dialect, ids = self.dialect, list(token_ids)
        if dialect.scores_texts:
            # The row behind the last token takes a token more, whichever.
            behind = ids if max(positions) < len(ids) - 1 else [*ids, ids[-1]]
            rows: list[Row] = dialect.text_rows(behind)
            return [rows[position] for position in positions]
        return [dialect.next_row(ids[: position + 1]) for position in positions]

    def greedy_tokens(self, token_ids: Sequence[int], count: int) -> list[int]:
        dialect = self.dialect
        answer = dialect.client.retried(lambda: dialect.answer(self._prompt(token_ids), count))
        self._check_counts(answer, len(token_ids), count)
        if answer.token_ids is not None:
            return list(answer.token_ids[:count])
        return dialect.texts.ids_of(answer.text, answer.tokens)[:count]

    def counted_answer(self, token_ids: Sequence[int], count: int) -> CountedAnswer:
        dialect, usage, rows = self.dialect, dict[str, Any](), list[Row]()
        started = time.perf_counter()

        def arriving() -> Iterator[tuple[Piece, float]]:
            prompt = self._prompt(token_ids)
            for piece in dialect.pieces(prompt, count, to_the_length=False, scored=True):
                usage.update(piece.usage)
                rows.extend(piece.rows)
                yield piece, time.perf_counter()

        events = list(self._events(arriving()))
        self._check_read(usage.get("prompt_tokens"), len(token_ids))
        told = rows if len(rows) in (len(events), len(events) + 1) else ()  # or of no token's place
        return CountedAnswer(
            tuple(event.token_id for event in events[:count]),
            cached_tokens(usage),
            events[0].arrived - started if events else math.nan,
            tuple(told[: len(events[:count])]),
        )

    def stream(self, prompt_ids: Sequence[int], max_new_tokens: int) -> Iterator[TokenEvent]:
        # Not repeated: the time of a repetition is not that of a request.
        pieces = self.dialect.pieces(self._nearest_prompt(prompt_ids), max_new_tokens)
        yield from self._events((piece, time.perf_counter()) for piece in pieces)

    async def open_streams(self, count: int) -> None:
        self._connections = StreamConnections(self.dialect.client)
        await self._connections.open(count)

    async def load_stream(self, prompt_ids: Sequence[int], max_new_tokens: int) -> list[TokenEvent]:
        dialect, connections = self.dialect, self._connections
        if connections is None:
            raise InfoptError(f"model {self.name!r}: streams were not opened; call open_streams")
        body = dialect.stream_body(self._nearest_prompt(prompt_ids), max_new_tokens)
        pieces = list(dialect.pieces_of(await connections.events(dialect.path, body)))
        return [*self._events(pieces), *untold_tokens(pieces)]

    def close_streams(self) -> None:
        if self._connections is not None:
            self._connections.close()
        self._connections = None

    def _nearest_prompt(self, prompt_ids: Sequence[int]) -> Prompt:
        dialect, ids = self.dialect, list(prompt_ids)
        return ids if dialect.takes_ids else dialect.texts.nearest_text(ids)

    def _events(self, pieces: Iterable[tuple[Piece, float]]) -> Iterator[TokenEvent]:
        return token_events(pieces, self.dialect.texts, self)

    def close(self) -> None:
        if self._dialect is not None:
            self._dialect.client.close()
        self._dialect = None

    def _prompt(self, token_ids: Sequence[int]) -> Prompt:
        dialect = self.dialect
        return list(token_ids) if dialect.takes_ids else dialect.texts.text_of(token_ids)

    def _check_counts(self, answer: Answer, sent: int, count: int) -> None:
        """Whether the server counts the tokens that there are."""
        self._check_read(answer.prompt_tokens, sent)
        told = answer.tokens
        if told is not None and told > count:
            raise InvalidComparisonError(
                f"model {self.name!r}: the server counts {told} tokens of an answer of {count} at "
                "most"
            )
        there = told if answer.token_ids is None else len(answer.token_ids)
        if told is not None and told not in (there, (there or 0) + 1):
            raise InvalidComparisonError(
                f"model {self.name!r}: the server counts {told} tokens of an answer in which it "
                f"tells {there}"
            )

    def _check_read(self, read: int | None, sent: int) -> None:
        if read is not None and read != sent:
            raise InvalidComparisonError(
                f"model {self.name!r}: the server read {read} prompt tokens where {sent} were "
                "sent; its tokenizer or chat template is another, or it puts special tokens before "
                "them"
            )
