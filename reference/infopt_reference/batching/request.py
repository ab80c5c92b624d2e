"""One request of a continuous batcher: a prompt, what was generated so far, and when it ends.

    tokens = prompt, output             computed ≤ tokens: whose keys and values lie in the cache
    a step computes some of those that are not; with the last of them it samples the next token

Contract. A request is waiting, running or finished. It finishes with the token that completes one
of its stop rules, which stays part of the output, or with its ``max_new_tokens``-th; the token
sampled last is never computed. A preempted request has its output still, and nothing computed.
Leaves out: several samples of one prompt, rules on text (token ids only), a minimum length.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from ..decoding.stopping import FinishReason, StoppingRules


class RequestState(StrEnum):
    """Where a request is. It is in exactly one state."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(slots=True, eq=False, repr=False)
class Request:
    """A request, and how far it has come.

    Args:
        request_id: any hashable name that no other unfinished request has.
        prompt_ids: token ids, one at least.
        max_new_tokens: the most tokens to generate, 1 or more.
        stop_token_ids: tokens that end the output, such as the end of the sequence.
        stop_sequences: runs of tokens that end the output; the prompt is no part of them.

    Raises:
        ValueError: the prompt or a stop sequence is empty, or ``max_new_tokens`` is less than 1.
    """

    request_id: Hashable
    prompt_ids: Sequence[int]
    max_new_tokens: int
    stop_token_ids: Collection[int] = ()
    stop_sequences: Collection[Sequence[int]] = ()
    stopping: StoppingRules = field(init=False)
    output_ids: list[int] = field(init=False, default_factory=list)
    state: RequestState = field(init=False, default=RequestState.WAITING)
    finish_reason: FinishReason | None = field(init=False, default=None)
    num_computed_tokens: int = field(init=False, default=0)
    num_preemptions: int = field(init=False, default=0)
    num_passes: int = field(init=False, default=0)  # later ones admitted while this one waited

    def __post_init__(self) -> None:
        if not len(self.prompt_ids):
            raise ValueError(f"request {self.request_id!r} has no prompt; give one token at least")
        self.prompt_ids = tuple(self.prompt_ids)
        self.stop_token_ids = frozenset(self.stop_token_ids)
        self.stopping = StoppingRules(
            self.max_new_tokens,
            self.stop_token_ids,
            [list(sequence) for sequence in self.stop_sequences],
        )

    @property
    def num_tokens(self) -> int:
        """Tokens of prompt and output so far."""
        return len(self.prompt_ids) + len(self.output_ids)

    @property
    def max_computed_tokens(self) -> int:
        """Tokens whose keys and values are needed at the end: all but the one sampled last."""
        return len(self.prompt_ids) + self.max_new_tokens - 1

    def token_ids(self, start: int, end: int) -> list[int]:
        """Tokens ``start`` to ``end`` − 1 of prompt and output."""
        prompt = len(self.prompt_ids)
        if start >= prompt:
            return self.output_ids[start - prompt : end - prompt]
        return [*self.prompt_ids[start:end], *self.output_ids[: max(0, end - prompt)]]

    @property
    def is_new(self) -> bool:
        """Whether it waits and was never scheduled."""
        return (
            self.state is RequestState.WAITING
            and not self.output_ids
            and not self.num_computed_tokens
            and not self.num_preemptions
        )

    def append(self, token: int) -> FinishReason | None:
        """Adds a token to the output; why the request finishes with it, if it does."""
        self.output_ids.append(token)
        return self.stopping.reason(self.output_ids)

    def __repr__(self) -> str:
        return (
            f"Request({self.request_id!r}, {self.state}, {self.num_computed_tokens} computed of "
            f"{len(self.prompt_ids)} + {len(self.output_ids)} tokens)"
        )
