"""A continuous batcher at work: its callers, and what each of them must get."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, cast

from hypothesis import strategies as st

from .continuous_oracle import Oracle
from .continuous_protocol import (
    AbortingBatcher,
    ContinuousBatcher,
    ContinuousLimits,
    GenerationParameters,
    SamplingBatcher,
    StreamingBatcher,
)
from .contract import ProtocolError, ask, declared


@dataclass(frozen=True)
class Caller:
    """A request of a trace: when it comes, what it asks for, and whether it goes before its end."""

    delay: int  # turns
    prompt: int  # tokens
    new: int
    seed: int | None = None  # drawn, not greedy
    leaves: int | None = None  # turns after it came


class Serving:
    """A started batcher, and what its callers must get."""

    def __init__(
        self,
        batcher: ContinuousBatcher,
        limits: ContinuousLimits,
        oracle: Oracle,
        pause: Callable[[int], Awaitable[None]],
    ) -> None:
        self.batcher, self.limits, self.oracle, self._pause = batcher, limits, oracle, pause

    async def start(self) -> None:
        await ask(ContinuousBatcher, self.batcher, "start")

    async def stop(self) -> None:
        await ask(ContinuousBatcher, self.batcher, "stop")

    async def generate(
        self,
        length: int,
        parameters: GenerationParameters,
        seed: int = 0,
        request_id: str | None = None,
    ) -> list[int]:
        return await self.ask(self.oracle.prompt(length, seed), parameters, request_id)

    async def ask(
        self, prompt: list[int], parameters: GenerationParameters, request_id: str | None = None
    ) -> list[int]:
        """What the batcher generates, with the request's id where one is given."""
        protocol = ContinuousBatcher if request_id is None else AbortingBatcher
        named = {} if request_id is None else {"request_id": request_id}
        found = await ask(protocol, self.batcher, "generate", prompt, parameters, **named)
        return tokens_of(found, declared(protocol, "generate"))

    async def abort(self, request_id: str) -> None:
        await ask(AbortingBatcher, self.batcher, "abort", request_id)

    async def samples(
        self, length: int, parameters: GenerationParameters, count: int, seed: int = 0
    ) -> list[list[int]]:
        prompt, name = self.oracle.prompt(length, seed), "generate_samples"
        found = await ask(SamplingBatcher, self.batcher, name, prompt, parameters, count)
        outputs = [tokens_of(each, declared(SamplingBatcher, name)) for each in found]
        assert len(outputs) == count, f"{len(outputs)} samples of {count}"
        return outputs

    def streaming(self, length: int, parameters: GenerationParameters, seed: int = 0) -> Any:
        prompt = self.oracle.prompt(length, seed)
        tokens = cast(StreamingBatcher, self.batcher).stream(prompt, parameters)
        if not hasattr(tokens, "__aiter__") or not hasattr(tokens, "aclose"):
            raise ProtocolError(
                f"stream returned an object of {type(tokens).__name__}, which is no asynchronous "
                f"generator; {declared(StreamingBatcher, 'stream')}"
            )
        return tokens

    async def check(
        self, length: int, parameters: GenerationParameters, seed: int = 0, stream: bool = False
    ) -> None:
        """Generate, and raise AssertionError unless the tokens are the model's."""
        if stream:
            async with aclosing(self.streaming(length, parameters, seed)) as tokens:
                found = [token async for token in tokens]
            self.compare(length, parameters, seed, found, "streamed")
        else:
            self.compare(length, parameters, seed, await self.generate(length, parameters, seed))

    def compare(
        self,
        length: int,
        parameters: GenerationParameters,
        seed: int,
        found: Sequence[int],
        what: str = "",
    ) -> None:
        """Equal up to the first near-tie, and as long where there is none."""
        self.compare_prompt(self.oracle.prompt(length, seed), parameters, found, what)

    def compare_prompt(
        self, prompt: list[int], parameters: GenerationParameters, found: Sequence[int], what: str
    ) -> None:
        expected, certain = self.oracle.expected(prompt, parameters)
        same = list(found[:certain]) == expected[:certain]
        if certain == len(expected):
            same = same and len(found) == len(expected)
        assert same, (
            f"a prompt of {len(prompt)} tokens {what} gives {list(found)} for {parameters}, and "
            f"the model {expected}"
        )
        assert len(found) <= parameters.max_new_tokens, (
            f"{len(found)} tokens were generated for {parameters}"
        )

    async def check_prompt(
        self, prompt: list[int], parameters: GenerationParameters, what: str = ""
    ) -> None:
        self.compare_prompt(prompt, parameters, await self.ask(prompt, parameters), what)

    async def refused(self, prompt: list[int], parameters: GenerationParameters) -> None:
        found = await outcome(self.ask(prompt, parameters))
        assert isinstance(found, Exception), f"{found} was given for {prompt} and {parameters}"

    async def serve(self, callers: Sequence[Caller]) -> None:
        """All requests of a trace; those that stay get what is theirs."""
        await together(self._call(caller, seed) for seed, caller in enumerate(callers))

    async def _call(self, caller: Caller, seed: int) -> None:
        await self._pause(caller.delay)
        temperature = 0.0 if caller.seed is None else 1.0
        parameters = GenerationParameters(caller.new, temperature, seed=caller.seed)
        if caller.leaves is not None:
            task = asyncio.ensure_future(self.generate(caller.prompt, parameters, seed))
            await self._pause(caller.leaves)
            task.cancel()
            await asyncio.wait([task])
        elif caller.seed is None:
            await self.check(caller.prompt, parameters, seed)
        else:
            found = await self.generate(caller.prompt, parameters, seed)
            assert len(found) == caller.new, f"{len(found)} tokens, {caller.new} were asked for"


async def together(awaitables: Iterable[Awaitable[Any]]) -> list[Any]:
    """The results of coroutines or tasks at once; the others are cancelled when one raises."""
    tasks = [asyncio.ensure_future(each) for each in awaitables]
    try:
        return list(await asyncio.gather(*tasks))
    except (Exception, asyncio.CancelledError):  # and not GeneratorExit: the loop is gone then
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        raise


async def outcome(awaitable: Awaitable[Any]) -> Any:
    """What it gives, or the exception that it raises; ProtocolError is no outcome."""
    try:
        return await awaitable
    except ProtocolError:
        raise
    except Exception as error:
        return error


def tokens_of(found: Any, contract: str) -> list[int]:
    """Generated tokens as integers; ProtocolError where they are none."""
    try:
        return [operator.index(token) for token in found]
    except TypeError:
        told = repr(found) if found is None else f"an object of {type(found).__name__}"
        raise ProtocolError(f"{told} was given, and no tokens; {contract}") from None


@st.composite
def traces(draw: st.DrawFn, drawn: bool, leave: bool) -> tuple[Caller, ...]:
    """Up to seven requests that come within some steps."""
    callers = []
    for _ in range(draw(st.integers(2, 7))):
        caller = Caller(
            delay=draw(st.integers(0, 12)),
            prompt=draw(st.integers(1, 12)),
            new=draw(st.integers(1, 9)),
            seed=draw(st.none() | st.integers(0, 3)) if drawn else None,
            leaves=draw(st.none() | st.integers(0, 12)) if leave else None,
        )
        callers.append(caller)
    return tuple(callers)
