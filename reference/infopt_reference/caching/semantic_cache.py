"""Semantic cache: the answer of a request that asks the same in other words.

    hit  <=>  contexts equal  and  cos(embedding(question), embedding(stored)) >= threshold

The *question* is the text of the last message, which must be the user's. The *context* is all else
that changes the answer, and the embedder: model, system prompt, history, parameters, tenant,
adapter. It must be equal, as in the response cache; only the question may be similar.

Contract
- The most similar stored question answers, of equally similar ones the oldest. The question itself,
  word for word, always hits.
- An embedding without a direction (zeros, NaN) or of another dimension hits nothing and is not
  stored.
- What the store no longer has is never found: an entry whose answer has ended, was removed or is
  not what was written is dropped where it is met, and the next best answers.
- ``capacity`` bounds the entries; the one that this process used least recently goes first.
- A restarted cache, or another one of this namespace, finds all entries: it reads the vectors from
  the store's log, once, and then what is new at each look-up.
- All else is what caches of answers share (answer_cache.py).

Leaves out: search on the server (vector_set_cache.py); similarity of contexts; telling "X" from
"not X", which no threshold does well.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .answer import Answer
from .answer_cache import AnswerCache
from .codec import encode
from .embedder import Embedder, Vectors, unit_vector
from .keys import VERSION, canonical
from .request import ChatRequest
from .semantic_index import NEVER, SemanticIndex
from .store import LOG_START, LogId, Store
from .vector_record import RecordError, pack_record, unpack_record

PAGE = 1000  # entries of the log that are read at once
REMEMBERED = 64  # questions whose embedding a look-up leaves for the write that follows it
TRIES = 8  # answers that are fetched at once
logger = logging.getLogger(__name__)


class Question(NamedTuple):
    """What is compared: ``context`` exactly, ``text`` by its embedding."""

    context: bytes
    text: str

    @property
    def entry(self) -> bytes:
        """The name of its entry, 16 bytes."""
        return hashlib.blake2b(self.context + self.text.encode(), digest_size=16).digest()


class SemanticCache(AnswerCache):
    """Answers to similar questions; other arguments are those of `AnswerCache`.

    Args:
        embedder: see `Embedder`.
        threshold: the least cosine similarity of a hit, −1 to 1.
        capacity: the most entries; None for no limit.

    Raises:
        ValueError: the threshold is no cosine, or the capacity is less than 1.
    """

    kind = "semantic"

    def __init__(
        self,
        store: Store,
        embedder: Embedder,
        threshold: float = 0.95,
        namespace: str = "infopt",
        ttl: float | None = 3600.0,
        cache_sampled: bool = False,
        capacity: int | None = 100_000,
    ) -> None:
        super().__init__(store, namespace, ttl, cache_sampled)
        if not -1 <= threshold <= 1:
            raise ValueError(f"threshold is {threshold}; give a cosine, −1 to 1 (0.95, say)")
        if capacity is not None and capacity < 1:
            raise ValueError(f"capacity is {capacity}; give 1 or more entries, or None")
        self.embedder = embedder
        self.threshold = threshold
        self.capacity = capacity
        self.index = SemanticIndex(embedder.dimension)
        self._log = f"{self.prefix}v{VERSION}:log"
        self._read_to = LOG_START
        self._sweep_at = 64
        self._embeddings: OrderedDict[str, Vectors] = OrderedDict()

    def entry_key(self, request: ChatRequest) -> str | None:
        # Results of tools, pictures and the like come by the dozen: no matter for a warning.
        return None if question_text(request.messages) is None else super().entry_key(request)

    def key(self, request: ChatRequest) -> str:
        return self._answer_key(self._question(request).entry)

    async def clear(self) -> None:
        await super().clear()
        self.index = SemanticIndex(self.embedder.dimension)

    async def _read(self, request: ChatRequest, key: str) -> Answer | None:
        await self._catch_up()
        question = self._question(request)
        if self._may_have(question):
            answer = await self._first_answer(question.context, [question.entry])
            if answer is not None:
                return answer
        vector = await self._embedding(question.text)
        if vector is None:
            return None
        entries = await self._similar(question.context, vector)
        for start in range(0, len(entries), TRIES):
            answer = await self._first_answer(question.context, entries[start : start + TRIES])
            if answer is not None:
                return answer
        return None

    async def _write(
        self, request: ChatRequest, key: str, answer: Answer, ttl: float | None
    ) -> bool:
        question = self._question(request)
        vector = await self._embedding(question.text)
        if vector is None:
            return False
        value = encode(key, answer)
        await self.store.set(key, value, ttl)  # first: what is found must have its answer
        await self._add(question, vector, ttl)
        return True

    def _may_have(self, question: Question) -> bool:
        """Whether it is worth looking for the question itself."""
        return question.entry in self.index

    async def _similar(self, context: bytes, vector: Vectors) -> list[bytes]:
        """The entries of a context that are similar enough, the most similar first."""
        return [match.entry for match in self.index.search(context, vector, self.threshold)]

    async def _add(self, question: Question, vector: Vectors, ttl: float | None) -> None:
        """Makes an entry known, to this process and to others."""
        record = pack_record(question.entry, question.context, vector, ttl)
        log_id = await self.store.append(self._log, record)
        await self._admit(log_id, record)
        await self._make_room(log_id)

    async def _drop(self, context: bytes, entries: Sequence[bytes]) -> None:
        """Removes entries of a context with their answers."""
        await self._forget(entries)
        await self.store.delete(*map(self._answer_key, entries))

    async def _first_answer(self, context: bytes, entries: Sequence[bytes]) -> Answer | None:
        """The answer of the first entry that has one; those before it are dropped."""
        keys = [self._answer_key(entry) for entry in entries]
        if len(keys) == 1:
            values = [await self.store.get(keys[0])]
        else:
            values = await self.store.get_many(keys)
        for entry, key, value in zip(entries, keys, values, strict=True):
            answer = self._decode(key, value)
            if answer is not None:
                if entry in self.index:  # it may have been dropped while its answer came
                    self.index.touch(entry)
                return answer
            await self._drop(context, [entry])
        return None

    async def _embedding(self, text: str) -> Vectors | None:
        """The unit vector of a text, or None, with a warning, where it has none."""
        if text in self._embeddings:
            return self._embeddings.pop(text)  # a look-up leaves it, a write takes it
        vectors = await self.embedder.embed([text])
        vector = unit_vector(vectors[0], self.embedder.dimension)
        if vector is None:
            logger.warning(
                "the embedding of %r has no direction, or not %d dimensions; it hits nothing",
                text[:50],
                self.embedder.dimension,
            )
            return None
        self._embeddings[text] = vector
        if len(self._embeddings) > REMEMBERED:
            self._embeddings.popitem(last=False)
        return vector

    async def _catch_up(self) -> None:
        """Reads what was added to the log since the last time, by whomever."""
        while True:
            after = self._read_to
            page = await self.store.read_log(self._log, after, PAGE)
            for log_id, record in page:
                if log_id > self._read_to:  # else another look-up has read it meanwhile
                    self._read_to = log_id
                    await self._admit(log_id, record)
            if page:
                await self._make_room(page[-1][0])
            if len(page) < PAGE:
                return

    async def _admit(self, log_id: LogId, record: bytes) -> None:
        """Adds an entry of the log to the index; of two of one name, the later stays."""
        try:
            entry, context, vector, ttl = unpack_record(record, self.embedder.dimension)
        except RecordError as error:
            self._counters.add(corrupt=1)
            logger.warning("an entry of %s is not read: %s", self._log, error)
            await self.store.remove(self._log, [log_id])
            return
        if entry in self.index:
            known = self.index.log_id(entry)
            if known == log_id:
                return
            await self.store.remove(self._log, [min(known, log_id)])
            if log_id < known:
                return
        ends = NEVER if ttl is None else log_id.milliseconds + ttl
        self.index.add(entry, context, vector, log_id, ends)

    async def _make_room(self, now: LogId) -> None:
        """Drops what has ended by now, and what exceeds the capacity."""
        if len(self.index) >= self._sweep_at:
            await self._forget(self.index.expired(now.milliseconds))
            self._sweep_at = max(64, 2 * len(self.index))
        while self.capacity is not None and len(self.index) > self.capacity:
            entry = self.index.least_recently_used()
            await self._drop(self.index.context(entry), [entry])

    async def _forget(self, entries: Sequence[bytes]) -> None:
        """Removes vectors, from the index and from the log."""
        known = [entry for entry in entries if entry in self.index]
        await self.store.remove(self._log, [self.index.remove(entry) for entry in known])

    def _question(self, request: ChatRequest) -> Question:
        content = request.content
        text = question_text(content["messages"])
        if text is None:
            raise ValueError("the last message is no text of the user; give one, it is compared")
        *history, last = content.pop("messages")
        rest = {name: value for name, value in last.items() if name != "content"}
        kind = type(last["content"]).__name__
        compared = [content, history, rest, kind, self.embedder.name]
        context = hashlib.blake2b(canonical(compared), digest_size=16).digest()
        return Question(context, text)

    def _answer_key(self, entry: bytes) -> str:
        return f"{self.prefix}v{VERSION}:answer:{entry.hex()}"


def question_text(messages: Sequence[Mapping[str, Any]]) -> str | None:
    """The text of the last message, where the user wrote it and it is text and nothing else."""
    last = messages[-1] if messages else {}
    content = last.get("content")
    if isinstance(content, list) and all(map(_is_text_part, content)):
        content = "\n".join(part["text"] for part in content)
    question = last.get("role") == "user" and isinstance(content, str) and content.strip()
    return content if question else None


def _is_text_part(part: Any) -> bool:
    return (
        isinstance(part, dict)
        and part.keys() == {"type", "text"}
        and part["type"] == "text"
        and isinstance(part["text"], str)
    )
