"""Training data from a teacher that answers over a service: all of it, or what is missing.

Contract
- Every prompt ends as an example or as a failure, in the order of the prompts. An error, an empty
  answer, one that was cut off or filtered is a failure, and never an example.
- At most ``concurrency`` calls run at once, begun at most ``per_second`` a second. A call that
  fails is repeated, up to ``attempts`` in all, after waits that double and are drawn at random. A
  request that the service cannot do (ValueError) is not repeated.
- With a path, every example is stored as soon as it is there. A run over the same prompts asks for
  those that are missing alone; so does one after a run that was cancelled or killed.
- Cancelled, it cancels its calls and stores no more.

Leaves out: several answers to one prompt (give it under several ids); a service's own retries.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..caching import Answer, ChatRequest, LLMService, ServiceError
from .example import Example, Failure, Prompt, TeacherData
from .example_store import ExampleStore
from .reasoning import part_reasoning

_WHOLE = ("stop", None)  # some servers give no reason
_REASONING = ("reasoning_content", "reasoning")  # fields of servers that part it themselves


class NoAnswerError(Exception):
    """The teacher gave no answer that can be learnt from."""


@dataclass
class RateLimit:
    """Lets at most ``per_second`` calls begin in a second, evenly; None lets all."""

    per_second: float | None
    _next: float = field(default=0.0, init=False)

    async def wait(self) -> None:
        """Until the next call may begin."""
        if self.per_second is None:
            return
        now = asyncio.get_running_loop().time()
        begins = max(self._next, now)
        self._next = begins + 1 / self.per_second
        await asyncio.sleep(begins - now)


@dataclass(frozen=True)
class TeacherDataGenerator:
    """Asks a teacher for answers.

    Args:
        service: where the teacher answers.
        model: its name there.
        parameters: of every request: temperature, max_tokens, …
        concurrency: calls at once.
        attempts: calls of a prompt, at most.
        per_second: calls begun in a second, at most.
        timeout: seconds for a call; None waits for ever.
        first_wait, longest_wait: seconds, of the waits between calls of one prompt.
        tag: of reasoning in the teacher's text.

    Raises:
        ValueError: concurrency, attempts or per_second are below what lets a call begin.
    """

    service: LLMService
    model: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    concurrency: int = 8
    attempts: int = 4
    per_second: float | None = None
    timeout: float | None = 120.0
    first_wait: float = 1.0
    longest_wait: float = 60.0
    tag: str = "think"

    def __post_init__(self) -> None:
        if self.concurrency < 1 or self.attempts < 1:
            raise ValueError(
                f"concurrency {self.concurrency} and attempts {self.attempts} have to be 1 or more"
            )
        if self.per_second is not None and not self.per_second > 0:
            raise ValueError(f"per_second is {self.per_second}; it has to be above 0, or None")

    async def generate(self, prompts: Sequence[Prompt], path: Path | None = None) -> TeacherData:
        """What becomes of the prompts; with a path, of those that are not answered there.

        Raises:
            ValueError: an id comes twice, or the file holds something else.
        """
        ids = [prompt.id for prompt in prompts]
        if len({*ids}) < len(ids):
            twice = next(name for name in ids if ids.count(name) > 1)
            raise ValueError(f"the id {twice!r} comes twice; each prompt needs one of its own")
        store = None if path is None else ExampleStore(path)
        if store is not None:
            store.check(prompts)
        outcomes: dict[str, Example | Failure] = {} if store is None else {**store.examples}
        missing = iter([prompt for prompt in prompts if prompt.id not in outcomes])
        rate = RateLimit(self.per_second)

        async def work() -> None:
            for prompt in missing:  # shared: each takes the next
                outcome = await self._outcome(prompt, rate)
                if store is not None and isinstance(outcome, Example):
                    store.add(outcome)
                outcomes[prompt.id] = outcome

        async with asyncio.TaskGroup() as group:
            for _ in range(min(self.concurrency, len(prompts))):
                group.create_task(work())
        found = [outcomes[name] for name in ids]
        return TeacherData(
            [outcome for outcome in found if isinstance(outcome, Example)],
            [outcome for outcome in found if isinstance(outcome, Failure)],
        )

    async def _outcome(self, prompt: Prompt, rate: RateLimit) -> Example | Failure:
        from tenacity import (  # of the extra "distillation", which losses do without
            AsyncRetrying,
            retry_if_exception_type,
            stop_after_attempt,
            wait_random_exponential,
        )

        calls = 0
        retrying = AsyncRetrying(
            stop=stop_after_attempt(self.attempts),
            wait=wait_random_exponential(self.first_wait, self.longest_wait),
            retry=retry_if_exception_type((ServiceError, TimeoutError, NoAnswerError)),
            reraise=True,
        )
        try:
            async for attempt in retrying:
                with attempt:
                    await rate.wait()
                    calls += 1
                    async with asyncio.timeout(self.timeout):
                        answer = await self.service.complete(self._request(prompt))
                    return self._example(prompt, answer)
        except TimeoutError:
            return Failure(prompt.id, f"no answer within {self.timeout} s", calls)
        except Exception as error:  # whatever a service raises is this prompt's failure alone
            return Failure(prompt.id, f"{type(error).__name__}: {error}", calls)
        raise AssertionError("the last attempt returns or raises")

    def _request(self, prompt: Prompt) -> ChatRequest:
        return ChatRequest(self.model, prompt.messages, self.parameters)

    def _example(self, prompt: Prompt, answer: Answer) -> Example:
        """The example that an answer makes; NoAnswerError where it makes none."""
        if answer.finish_reason not in _WHOLE:
            raise NoAnswerError(f"the answer ended by {answer.finish_reason!r}")
        parted = part_reasoning(answer.content or "", self.tag)
        if not parted.answer:
            raise NoAnswerError("the answer is empty")
        told = next((answer.extra[name] for name in _REASONING if answer.extra.get(name)), "")
        return Example(
            prompt.id,
            [dict(message) for message in prompt.messages],
            parted.answer,
            "\n".join(part for part in (told, parted.reasoning) if part),
            answer.prompt_tokens,
            answer.completion_tokens,
        )
