"""One entry of the semantic cache's log: whose vector, of which context, for how long.

    record = BLAKE2b-64(rest) | entry (16 bytes) | context (16) | ttl in ms (8, 0: for ever) | D x 4

Numbers are little-endian, the vector float32. A record that was cut off or changed, or that has
another number of dimensions, is not read.
"""

from __future__ import annotations

import hashlib
import math
import struct

import numpy as np

from .embedder import Vectors

_HEAD = struct.Struct("<16s16sq")
_DIGEST_BYTES = 8


class RecordError(ValueError):
    """A record that is not what was written."""


def pack_record(entry: bytes, context: bytes, vector: Vectors, ttl: float | None) -> bytes:
    """The record of a vector; ``ttl`` is in seconds."""
    milliseconds = 0 if ttl is None else max(1, math.ceil(ttl * 1000))
    body = _HEAD.pack(entry, context, milliseconds) + vector.astype("<f4").tobytes()
    return _digest(body) + body


def unpack_record(record: bytes, dimension: int) -> tuple[bytes, bytes, Vectors, int | None]:
    """Entry, context, vector and time to live in milliseconds.

    Raises:
        RecordError: the record is not one, or has not ``dimension`` numbers.
    """
    body = record[_DIGEST_BYTES:]
    if len(body) != _HEAD.size + 4 * dimension:
        raise RecordError(f"{len(record)} bytes are no record of {dimension} dimensions")
    if record[:_DIGEST_BYTES] != _digest(body):
        raise RecordError("a record is not what was written")
    entry, context, milliseconds = _HEAD.unpack_from(body)
    vector: Vectors = np.frombuffer(body, "<f4", offset=_HEAD.size)
    return entry, context, vector, milliseconds or None


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest()
