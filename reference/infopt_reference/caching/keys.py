"""Cache keys: one name for everything that changes an answer.

    key = {namespace}:kind:v(version):SHA-256(canonical JSON of the content)

Canonical JSON has sorted names, no spaces, and tells 1, 1.0, true and "1" apart; so equal keys mean
equal content, and the key is the same in every process and on every machine.

Contract. Content without one spelling is refused: NaN and infinities, names that are no strings
(JSON would write 1 and "1" alike), half characters of UTF-16, objects. Nobody else's key begins
with ``{namespace}:kind:``, which is what clearing goes by; the braces end a namespace where it ends
and keep its keys on one node of a Redis cluster.
Leaves out: normalising of text. Two spellings of one question are two questions to a model.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

VERSION = 1  # of the key's content and of the stored form: another version's entries are not read

_ENCODER = json.JSONEncoder(
    sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":")
)


def canonical(content: Any) -> bytes:
    """Canonical JSON in UTF-8.

    Raises:
        ValueError: the content has no canonical form; the message says what of it.
    """
    try:
        _require_names(content)
        return _ENCODER.encode(content).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"no cache key for this content, which is not plain JSON: {error}"
        ) from None


def digest(content: Any) -> str:
    """SHA-256 of the canonical form, 64 hexadecimal digits."""
    return hashlib.sha256(canonical(content)).hexdigest()


def prefix(namespace: str, kind: str) -> str:
    """What all keys of one kind in one namespace begin with, and no others.

    Raises:
        ValueError: the namespace is empty or has braces.
    """
    if not namespace or "{" in namespace or "}" in namespace:
        raise ValueError(f"namespace {namespace!r} is not allowed: give a name without braces")
    return f"{{{namespace}}}:{kind}:"


def _require_names(content: Any) -> None:
    """json writes names that are no strings as if they were: 1 and "1", None and "null"."""
    if isinstance(content, dict):
        for name, value in content.items():
            if not isinstance(name, str):
                raise ValueError(f"the name {name!r} is no string")
            _require_names(value)
    elif isinstance(content, list | tuple):
        for value in content:
            _require_names(value)
