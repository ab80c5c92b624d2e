"""Where an output ends: at a stop token, a stop sequence, a stop string, or its full length.

Contract. The rules are asked with each token, in order: an output ends with the first token that
completes one of them, which stays part of it; nothing follows, however many tokens came at once.
The prompt is part of no stop sequence or string.
Leaves out: a minimum length, text cut in front of a stop string.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum


class FinishReason(StrEnum):
    """Why an output has ended."""

    STOP = "stop"  # a stop token, or the last token of a stop sequence or string
    LENGTH = "length"  # max_new_tokens
    ABORT = "abort"


@dataclass(frozen=True)
class StoppingRules:
    """When an output ends.

    Args:
        max_new_tokens: the most tokens, 1 or more.
        stop_token_ids: tokens that end it, such as the end of the sequence.
        stop_sequences: runs of tokens that end it.
        stop_strings: texts that end it, as soon as the output's text has one.
        decode: the text of token ids; asked for by ``stop_strings``.

    Raises:
        ValueError: a number is out of its range, a rule is empty, or strings lack ``decode``.
    """

    max_new_tokens: int
    stop_token_ids: Collection[int] = ()
    stop_sequences: Collection[Sequence[int]] = ()
    stop_strings: Collection[str] = ()
    decode: Callable[[Sequence[int]], str] | None = None

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens}; give 1 or more")
        if not all(map(len, self.stop_sequences)):
            raise ValueError("a stop sequence is empty; leave it out")
        if not all(self.stop_strings):
            raise ValueError("a stop string is empty; leave it out")
        if self.stop_strings and self.decode is None:
            raise ValueError("stop_strings are searched in text; give decode, a tokenizer's")

    def reason(self, output: Sequence[int]) -> FinishReason | None:
        """Why an output ends with its last token, if it does."""
        if output[-1] in self.stop_token_ids:
            return FinishReason.STOP
        if any([*output[-len(run) :]] == [*run] for run in self.stop_sequences):
            return FinishReason.STOP
        if self.decode is not None and self.stop_strings:
            text = self.decode(output)  # all of it: a token may be part of a character
            if any(string in text for string in self.stop_strings):
                return FinishReason.STOP
        return FinishReason.LENGTH if len(output) >= self.max_new_tokens else None

    def extended(
        self, output: Sequence[int], tokens: Sequence[int]
    ) -> tuple[list[int], FinishReason | None]:
        """An output with tokens that came at once, up to the first with which it ends."""
        longer = [*output]
        for token in tokens:
            longer.append(token)
            reason = self.reason(longer)
            if reason is not None:
                return longer, reason
        return longer, None
