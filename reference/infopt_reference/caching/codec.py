"""The stored form of an answer.

    value = magic, version | BLAKE2b-128(key, payload) | payload: JSON in UTF-8

Contract. `decode` returns what was encoded, equal in every part, or raises: a value that was cut
off, changed, written by another version or program, or under another key is not read. `encode`
refuses what would read back otherwise (tuples, bytes, names that are no strings, NaN).
Leaves out: secrecy. The digest finds accidents; who can write to the store can write a valid value.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from .answer import Answer
from .keys import VERSION

MAGIC = b"infopt" + VERSION.to_bytes(2, "big")
DIGEST_BYTES = 16
HEADER_BYTES = len(MAGIC) + DIGEST_BYTES


class CodecError(ValueError):
    """A value that cannot be stored, or a stored value that is not what was written."""


def encode(key: str, answer: Answer) -> bytes:
    """The answer as it is stored under ``key``.

    Raises:
        CodecError: it would not read back equal.
    """
    try:
        payload = json.dumps(vars(answer), separators=(",", ":")).encode()
        reads_equal = json.loads(payload) == vars(answer)
    except (TypeError, ValueError, RecursionError) as error:
        raise CodecError(f"an answer that is not plain JSON is not stored: {error}") from None
    if not reads_equal:
        raise CodecError(
            "an answer is not stored, as it would read back otherwise: give lists for tuples, "
            "strings for names, and no NaN"
        )
    return MAGIC + _checksum(key, payload) + payload


def decode(key: str, value: bytes) -> Answer:
    """The answer that was stored under ``key``.

    Raises:
        CodecError: the value is not what `encode` wrote for this key.
    """
    if not value.startswith(MAGIC):
        raise CodecError(f"{key} holds {value[:8]!r}…, no value of version {VERSION}")
    payload = value[HEADER_BYTES:]
    if value[len(MAGIC) : HEADER_BYTES] != _checksum(key, payload):
        raise CodecError(f"{key} holds a value of {len(value)} bytes that is not what was written")
    content: dict[str, Any] = json.loads(payload)
    return Answer(**content)


def _checksum(key: str, payload: bytes) -> bytes:
    """Over key and payload; a key has no line break, so none can be taken for another."""
    return hashlib.blake2b(key.encode() + b"\n" + payload, digest_size=DIGEST_BYTES).digest()
