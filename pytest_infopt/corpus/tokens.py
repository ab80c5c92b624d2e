"""From documents to token ids, with the tokenizer of the engine that scores them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..errors import ConfigurationError
from ..release import CorpusSource
from .documents import Document


@dataclass(frozen=True)
class TokenisedDocument:
    """A document's token ids, cut to the length that is scored."""

    id: str
    token_ids: list[int]


@dataclass(frozen=True)
class TokenisedCorpus:
    """Token ids of the documents, in their order, and what tokenising left out."""

    documents: list[TokenisedDocument]
    tokens: int
    too_short: int
    cut: int


def tokenise(
    documents: Iterable[Document],
    encode: Callable[[str, str], list[int]],
    source: CorpusSource,
    context_window: int | None = None,
) -> TokenisedCorpus:
    """Token ids of the first ``source.max_documents`` documents that have enough of them, each
    behind what ``source.begins_with`` says.

    Documents below ``source.min_tokens`` are dropped and counted, those above ``source.max_tokens``
    or the context window are cut and counted. Raises ConfigurationError where nothing is left.
    """
    longest = min(source.max_tokens, context_window or source.max_tokens)
    if longest < source.min_tokens:
        raise ConfigurationError(
            f"[corpus] min_tokens = {source.min_tokens} is above the {longest} tokens that fit "
            "(max_tokens, or the model's context window)"
        )
    kept: list[TokenisedDocument] = []
    too_short = cut = 0
    for document in documents:
        if len(kept) == source.max_documents:
            break
        token_ids = encode(document.text, source.begins_with)
        if len(token_ids) < source.min_tokens:
            too_short += 1
            continue
        cut += len(token_ids) > longest
        kept.append(TokenisedDocument(document.id, token_ids[:longest]))
    if not kept:
        raise ConfigurationError(
            f"the corpus is empty: all {too_short} documents are shorter than "
            f"min_tokens = {source.min_tokens} tokens; see [corpus]"
        )
    return TokenisedCorpus(kept, sum(len(d.token_ids) for d in kept), too_short, cut)


def shuffled(ids: Iterable[str], seed: int) -> list[str]:
    """Documents, by id, in an order that depends on nothing but their ids and the seed.

    Early stopping needs a random order drawn before anything is measured. It starts from sorted
    ids, and `random.Random` keeps its sequence for a seed across Python versions.
    """
    ordered = sorted(ids)
    random.Random(seed).shuffle(ordered)
    return ordered
