"""ContinuousBatchingSuite: does each caller get what the model says to it alone?"""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from ..base import requires
from .clock import VirtualLoop
from .continuous_options import ContinuousOptionSuite
from .continuous_oracle import LENGTH, VOCABULARY
from .continuous_protocol import GenerationParameters, MakeContinuousBatcher
from .continuous_serving import Serving, outcome, together
from .continuous_tokens import DEFAULT, SETTLING, on_batcher

IDLE_TURNS = 10


class ContinuousBatchingSuite(ContinuousOptionSuite):
    """Properties of continuous batching on a real model, a tiny Llama that the suite brings.

    Give a fixture ``make_continuous_batcher``: a `continuous_protocol.MakeContinuousBatcher`.
    Greedy tokens are compared with the model's own without a cache, up to the first near-tie of
    ``dtype``. Class attributes say how it is tried:

    | attribute | default | meaning |
    |---|---|---|
    | ``virtual`` | True | on virtual time; False: on the real clock, as threads need it |
    | ``dtype``, ``device`` | float64, "cpu" | of the model |
    | ``roomy`` | 64 blocks | the sizes asked for where there is memory for all requests |
    | ``tight`` | 9 blocks | those where there is not |
    | ``examples`` | 12 | drawn traces of callers |
    """

    topic = "continuous_batcher"

    @on_batcher()
    async def test_a_bad_request_fails_alone(self, serving: Serving) -> None:
        """No tokens, or one that the model does not have: an error for its caller, and all others
        go on.

        Usual causes: an index error that ends the loop, an error for the whole batch, a caller who
        is never told.
        """
        for _ in range(2):
            await together(
                [
                    serving.refused([], DEFAULT),
                    serving.check(5, DEFAULT),
                    serving.refused([1, VOCABULARY, 2], DEFAULT),
                    serving.check(2, DEFAULT, 3),
                    serving.refused([-1], DEFAULT),
                ]
            )
        await serving.check(3, DEFAULT)

    @requires("memory")
    @on_batcher("tight")
    async def test_what_could_never_fit_is_refused(self, serving: Serving) -> None:
        """And does not stand before the others.

        Usual causes: admission that waits for room that will never be there.
        """
        most = self.tight.num_blocks * self.tight.block_size
        prompt = serving.oracle.prompt(min(most + 2, LENGTH - 2))
        await together(
            [
                serving.check(4, DEFAULT),
                serving.refused(prompt, DEFAULT),
                serving.check(2, DEFAULT, 1),
                serving.refused(prompt[:3], GenerationParameters(most)),
            ]
        )

    @on_batcher()
    async def test_a_step_that_raises_leaves_nobody_waiting(self, serving: Serving) -> None:
        """Each of its callers gets an outcome, and the next requests are served. With "isolated",
        only the one that made it raise gets an error.

        Usual causes: a loop that ends with the error, futures that nobody completes, blocks of the
        failed step that stay.
        """
        poison = serving.oracle.prompt(6)[5]
        # A prompt's first tokens are without it; it is the sixth of this seed.
        clean = [x for x in range(1, 9) if poison not in serving.oracle.prompt(4, x)]
        parameters = GenerationParameters(1)
        with serving.oracle.failing_on(poison):
            found = await together(
                [
                    outcome(serving.generate(6, GenerationParameters(4))),
                    *(outcome(serving.generate(4, parameters, seed)) for seed in clean[:3]),
                ]
            )
            assert isinstance(found[0], Exception), (
                f"{found[0]} was given for a request of which no step can be computed"
            )
            if "isolated" in self.capabilities:
                for seed, each in zip(clean[:3], found[1:], strict=True):
                    assert not isinstance(each, Exception), (
                        f"a request got {each!r}, which another one caused"
                    )
                    serving.compare(4, parameters, seed, each)
        await serving.check(6, DEFAULT)

    def test_who_leaves_takes_the_request_along(
        self, make_continuous_batcher: MakeContinuousBatcher
    ) -> None:
        """At any point: memory and place are free for others, whose tokens stay the same.

        Usual causes: a cancelled future that ends the loop, a request that is computed on for
        nobody, blocks given back by those alone that end.
        """
        self._serve_traces(make_continuous_batcher, "roomy", "tight", leave=True)

        async def all_leave(serving: Serving) -> None:
            for turns in (0, 1, 3, 8):
                tasks = [
                    asyncio.ensure_future(serving.generate(n, GenerationParameters(60), n))
                    for n in range(1, 7)
                ]
                await self._pause(turns)
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
                await self._settled(serving)
            await serving.check(4, DEFAULT)

        self._serve(make_continuous_batcher, all_leave)

    @on_batcher()
    async def test_nothing_is_computed_for_nobody(self, serving: Serving) -> None:
        """No pass is one of no tokens, and on virtual time none begins when all callers have left.

        Usual causes: a step that is made although its requests have left since somebody looked, a
        pass that closes a batch, requests that are computed on without their callers.
        """
        for turns in (0, 1, 2, 3, 8):
            with serving.oracle.watched(lambda: None) as passes:
                tasks = [
                    asyncio.ensure_future(serving.generate(n, GenerationParameters(60), n))
                    for n in (1, 4, 6)
                ]
                await self._pause(turns)
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
                await self._pause(SETTLING)
                before = len(passes)
                await self._pause(SETTLING)
                later = len(passes) - before
            assert 0 not in passes, f"{passes.count(0)} of {len(passes)} passes had no tokens"
            assert not later or not self.virtual, (
                f"{later} passes began more than {SETTLING} turns after the last caller had left"
            )
        await serving.check(4, DEFAULT)

    @requires("stream")
    @on_batcher()
    async def test_a_stream_that_is_left_takes_the_request_along(self, serving: Serving) -> None:
        """After any number of tokens.

        Usual causes: only the consumer ends, the producer goes on into a queue without a reader.
        """
        for count in (1, 2, 5):
            async with aclosing(serving.streaming(3, GenerationParameters(60))) as tokens:
                read = [await anext(tokens) for _ in range(count)]
            expected, _ = serving.oracle.tokens(serving.oracle.prompt(3), count)
            assert read == expected, f"a stream gave {read}, and the model {expected}"
            await self._settled(serving)

    def test_a_stop_leaves_nobody_waiting(
        self, make_continuous_batcher: MakeContinuousBatcher
    ) -> None:
        """Whoever runs or waits gets tokens or an error; afterwards there is an error at once.

        Usual causes: a task that is cancelled and nothing done to its callers, a queue that is
        still filled and never read.
        """
        oracle = self._oracle()

        async def holds(turns: int) -> None:
            batcher = make_continuous_batcher(oracle.served, self.roomy)
            serving = Serving(batcher, self.roomy, oracle, self._pause)
            await serving.start()
            tasks = [
                asyncio.ensure_future(outcome(serving.generate(n, GenerationParameters(20), n)))
                for n in range(1, 8)
            ]
            await self._pause(turns)
            await serving.stop()
            for n, found in enumerate(await asyncio.gather(*tasks), 1):
                if not isinstance(found, Exception):
                    serving.compare(n, GenerationParameters(20), n, found, "at a stop")
            late = await outcome(serving.generate(2, DEFAULT))
            assert isinstance(late, Exception), f"{late} was given after the stop"

        for turns in (0, 1, 5):
            self._run(holds(turns))

    @requires("restart")
    @on_batcher("roomy", "tight")
    async def test_a_restarted_batcher_serves_as_a_new_one(self, serving: Serving) -> None:
        """Whoever ran, waited or had left when it was stopped.

        Usual causes: slots, blocks or places of requests that the stop ended, an event of the
        first run, two loops on one queue.
        """
        for turns in (1, 2, 6):
            tasks = [
                asyncio.ensure_future(outcome(serving.generate(n, GenerationParameters(9), n)))
                for n in range(1, 8)
            ]
            await self._pause(turns)
            tasks[2].cancel()
            await serving.stop()
            await asyncio.wait(tasks)
            await self._settled(serving)
            await serving.start()
            await together(serving.check(n, GenerationParameters(6), n) for n in (3, 8, 1, 5))

    @requires("idle")
    @on_batcher()
    async def test_nothing_is_done_while_nobody_asks(self, serving: Serving) -> None:
        """On virtual time, ten minutes without requests are no turns of the event loop.

        Usual causes: a loop that looks every few milliseconds whether somebody is there.
        """
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop), "claim idle where virtual is True"
        for _ in range(2):
            await serving.check(3, DEFAULT)
            await self._pause(3)
            before = loop.turns
            await asyncio.sleep(600.0)
            turns = loop.turns - before
            assert turns <= IDLE_TURNS, f"{turns} turns of the event loop in ten idle minutes"
