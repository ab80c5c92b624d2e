"""The documents that models are compared on: a user's files, or the embedded corpus."""

from .documents import Document, corpus_fingerprint, load_corpus, read_objects
from .tokens import TokenisedCorpus, TokenisedDocument, shuffled, tokenise

__all__ = [
    "Document",
    "TokenisedCorpus",
    "TokenisedDocument",
    "corpus_fingerprint",
    "load_corpus",
    "read_objects",
    "shuffled",
    "tokenise",
]
