"""Reference and candidate, loaded when they are first needed, and the texts that both read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

from ..corpus import TokenisedDocument, load_corpus, shuffled, tokenise
from ..engines.base import Engine
from ..engines.registry import load_engine
from ..errors import ConfigurationError, InvalidComparisonError, NoChatTemplateError
from ..measure.asked_ahead import Answer, AskedAhead, Unit
from ..release import ModelSource, Release
from .turns import Turns


def documents_of(
    release: Release, root: Path, encode: Callable[[str, str], list[int]], window: int
) -> list[TokenisedDocument]:
    """The release's documents in the order of measuring: random, decided by the seed."""
    by_id = {d.id: d for d in load_corpus(release.corpus, root)}
    if release.corpus.population and len(by_id) > release.corpus.max_documents:
        raise ConfigurationError(
            f"[corpus] population = true, and max_documents = {release.corpus.max_documents} of "
            f"{len(by_id)} documents are compared; raise max_documents"
        )
    order = shuffled(by_id, release.statistics.seed)
    documents = [by_id[name] for name in order]  # max_documents cuts a random sample
    return tokenise(documents, encode, release.corpus, window).documents


class PairTexts:
    """The documents of ``release`` as the reference's tokenizer makes tokens of them; relative
    globs begin at ``root``."""

    def __init__(self, release: Release, candidate: ModelSource, root: Path) -> None:
        self.release = release
        self.source = candidate
        self.root = root
        self._turns = Turns()

    @cached_property
    def reference(self) -> Engine:
        return self._turns.loaded(self.release.reference)

    @cached_property
    def candidate(self) -> Engine:
        return self._turns.loaded(self.source)

    def by_reference(
        self, units: Sequence[Unit], ask: Callable[[Engine, Unit], Answer]
    ) -> AskedAhead[Unit, Answer]:
        """The reference's answers to units in the order of measuring; its replicas answer at
        once."""
        return AskedAhead(self._reference_replicas, units, ask, whole=self.in_turns)

    def by_candidate(
        self, units: Sequence[Unit], ask: Callable[[Engine, Unit], Answer]
    ) -> AskedAhead[Unit, Answer]:
        """As `by_reference`."""
        return AskedAhead(self._candidate_replicas, units, ask, whole=self.in_turns)

    @cached_property
    def _reference_replicas(self) -> list[Engine]:
        return [self.reference, *map(load_engine, self.release.reference.replicas)]

    @cached_property
    def _candidate_replicas(self) -> list[Engine]:
        return [self.candidate, *map(load_engine, self.source.replicas)]

    @property
    def in_turns(self) -> bool:
        """Whether the servers of the two are never up together."""
        return self.source.in_turns and self.release.reference.in_turns

    @cached_property
    def documents_by_id(self) -> dict[str, TokenisedDocument]:
        """The release's documents in the order of measuring: random, decided by the seed."""
        window = min(self.reference.context_window, self.candidate.context_window)
        documents = documents_of(self.release, self.root, self.reference.encode, window)
        return {document.id: document for document in documents}

    @cached_property
    def document_lengths(self) -> list[int]:
        """Tokens of the release's documents as they are, before any cut."""
        texts = {d.id: d.text for d in load_corpus(self.release.corpus, self.root)}
        begins_with = self.release.corpus.begins_with
        return [
            len(self.reference.encode(texts[name], begins_with)) for name in self.documents_by_id
        ]

    @cached_property
    def token_stream(self) -> list[int]:
        """All documents, joined."""
        return [token for document in self.documents_by_id.values() for token in document.token_ids]

    def text_of(self, count: int, index: int) -> list[int]:
        """The index-th stretch of ``count`` tokens of the corpus, its documents joined."""
        stream = self.token_stream
        if count > len(stream):
            raise InvalidComparisonError(
                f"a text of {count} tokens: the corpus has {len(stream)} in documents cut to "
                f"{self.release.corpus.max_tokens}; add files, or raise corpus.max_tokens"
            )
        start = index * count % (len(stream) - count + 1)
        return stream[start : start + count]

    def request(self, length: int, index: int) -> list[int]:
        """The index-th prompt of ``length`` tokens to time: the corpus read round and round."""
        stream = self.token_stream
        start = index * length % max(1, len(stream) - length)
        return stream[start : start + length]

    def prompts_of(self, count: int, tokens: int, most: int = 0) -> list[list[int]]:
        """The first documents that are long enough, cut to so many tokens, or, where there are too
        few, any: ``count`` of them, or up to ``most`` where so many are long enough. Every second
        one is a chat, where the reference has a template.

        Raises InvalidComparisonError where the corpus has fewer documents than prompts.
        """
        documents = list(self.documents_by_id.values())
        if len(documents) < count:
            raise InvalidComparisonError(
                f"{count} prompts, each of another document: the corpus has {len(documents)} of "
                f"corpus.min_tokens = {self.release.corpus.min_tokens} tokens or more; add files, "
                "or ask for fewer prompts"
            )
        long_enough = [d for d in documents if len(d.token_ids) >= tokens]
        chosen = documents[:count] if len(long_enough) < count else long_enough
        prompts = [
            self._chat_of(document, tokens) if index % 2 else document.token_ids
            for index, document in enumerate(chosen[: max(count, most)])
        ]
        return [list(token_ids[:tokens]) for token_ids in prompts]

    def _chat_of(self, document: TokenisedDocument, tokens: int) -> list[int]:
        """The document's beginning as a chat of about ``tokens`` tokens: what serving puts around a
        text is computed, too. The document itself where there is no template, or no room in it."""
        reference = self.reference
        try:
            room = tokens - len(reference.encode("", "chat"))
        except NoChatTemplateError:
            return document.token_ids
        text = reference.decode(document.token_ids[: max(1, room)])
        return reference.encode(text, "chat")
