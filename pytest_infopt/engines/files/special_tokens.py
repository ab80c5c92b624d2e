"""The special tokens with which a tokenizer begins a text."""

from __future__ import annotations

from typing import Any


def beginning_of(tokenizer: Any) -> list[int]:
    """The ids that ``tokenizer`` puts before every text, such as BOS; what it puts behind one
    (EOS, a separator) would end it and is left out. Read off an encoded letter, because tokenizers
    tell it in as many ways as there are."""
    whole: list[int] = tokenizer.encode("a", verbose=False)
    plain: list[int] = tokenizer.encode("a", add_special_tokens=False, verbose=False)
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return whole[:start]
    return []
