"""A model's answer: what the cache keeps of it, and whether it is worth keeping.

Contract. An answer is kept when it is whole: it ended by itself (with a stop, or with calls of
tools), and it says something. An answer cut off at a length, filtered, failed or empty is passed
on and not kept, for the next try may do better.
Leaves out: several choices in one answer (a request with n > 1).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

WHOLE = frozenset({"stop", "tool_calls", "function_call"})


@dataclass(frozen=True)
class Answer:
    """One assistant message.

    Args:
        content: its text; None where there are only calls of tools.
        tool_calls: of the chat format, as plain data.
        finish_reason: of the chat format: stop, length, tool_calls, content_filter, …
        prompt_tokens: tokens of the prompt; with ``completion_tokens`` what a hit saves.
        completion_tokens: tokens that were generated.
        extra: whatever else came with it: reasoning, refusal, log-probabilities.
    """

    content: str | None
    tool_calls: list[dict[str, Any]] | None = None
    finish_reason: str | None = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        """Whether it is worth keeping."""
        says_something = bool(self.tool_calls) or bool(self.content and self.content.strip())
        return self.finish_reason in WHOLE and says_something
