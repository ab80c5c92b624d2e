"""The third part of `ContinuousBatchingSuite`: limits, slots, aborts by id, several samples."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from ..base import requires
from .clock import VirtualLoop
from .continuous_oracle import Gate
from .continuous_prefixes import ContinuousPrefixSuite
from .continuous_protocol import GenerationParameters, MakeContinuousBatcher
from .continuous_serving import Serving, outcome, together
from .continuous_tokens import DEFAULT, LATE, SETTLING, on_batcher
from .contract import ProtocolError

LONG = GenerationParameters(40)


class ContinuousOptionSuite(ContinuousPrefixSuite):
    """What `ContinuousBatchingSuite` asks of limits, and of what only some batchers offer."""

    topic = "continuous_batcher"

    @requires("passes")
    def test_no_more_requests_run_than_may(
        self, make_continuous_batcher: MakeContinuousBatcher
    ) -> None:
        """max_num_seqs of them compute in a step, however many wait, leave or come anew. Prompts of
        one token show it: then each request computes one token in a step.

        Usual causes: prompts that are counted apart from those that decode, a count that who leaves
        takes down twice, ``<=`` where ``<`` is meant.
        """

        async def holds(serving: Serving) -> None:
            most = serving.limits.max_num_seqs
            with serving.oracle.watched(self._step) as steps:
                gone = [asyncio.ensure_future(serving.generate(1, LONG, n)) for n in range(2)]
                parameters = [GenerationParameters(1 + n % 6) for n in range(3 * most)]
                tasks = [
                    asyncio.ensure_future(serving.check(1, each, n))
                    for n, each in enumerate(parameters)
                ]
                await self._pause(3)
                for task in gone:
                    task.cancel()
                await asyncio.wait(gone)
                await together(serving.check(1, each, n) for n, each in enumerate(parameters))
                await together(tasks)
            self._check_steps(steps, most, f"requests, max_num_seqs is {most}")

        for most in (1, 3, self.roomy.max_num_seqs):
            self._serve(make_continuous_batcher, holds, replace(self.roomy, max_num_seqs=most))

    @requires("passes")
    def test_a_step_computes_no_more_tokens_than_may(
        self, make_continuous_batcher: MakeContinuousBatcher
    ) -> None:
        """max_num_batched_tokens, of prompts and of those that decode, in all.

        Usual causes: a budget of each request, tokens that decode and are not counted, a prompt
        that is begun whole with what the budget has left.
        """

        async def holds(serving: Serving) -> None:
            most = serving.limits.max_num_batched_tokens
            longest = 3 * most if "chunked" in self.capabilities else most
            lengths = (1, most, most - 1, longest, 2, 3, most // 2, most, longest)
            with serving.oracle.watched(self._step) as steps:
                for delay in (0, 1):

                    async def call(place: int, length: int, delay: int = delay) -> None:
                        await self._pause(delay * place)
                        await serving.check(length, GenerationParameters(2 + place % 3), place)

                    await together(call(place, length) for place, length in enumerate(lengths))
            self._check_steps(steps, most, f"tokens, max_num_batched_tokens is {most}")

        for tokens in (5, 13):
            limits = replace(self.roomy, max_num_batched_tokens=tokens)
            self._serve(make_continuous_batcher, holds, limits)

    @requires("threaded")
    @on_batcher()
    async def test_a_slot_is_not_given_away_while_its_step_runs(self, serving: Serving) -> None:
        """Its owner leaves while a step is computed, and others wait for its place: the step that
        runs changes nothing of theirs.

        Usual causes: slots, rows or blocks that are freed by the caller who leaves, results that
        are handed out by their place in a list that has changed meanwhile.
        """
        for steps in (0, 1, 4):
            with serving.oracle.gated() as gate:
                gone = [asyncio.ensure_future(serving.generate(3, LONG, seed)) for seed in (9, 8)]
                stay = [
                    asyncio.ensure_future(serving.check(length, GenerationParameters(12), length))
                    for length in (2, 5)
                ]
                for _ in range(steps):
                    await self._at(gate)
                    gate.let_one_through()
                await self._at(gate)
                parameters = GenerationParameters(9)
                new = [asyncio.ensure_future(serving.check(n, parameters, n)) for n in (4, 6)]
                await self._pause(2)
                for task in gone:
                    task.cancel()
                await self._pause(2)
                new += [asyncio.ensure_future(serving.check(1, parameters, 1))]
                await self._pause(2)
            await asyncio.wait(gone)
            await together([*stay, *new])

    @requires("abort")
    @on_batcher("roomy", "tight")
    async def test_an_abort_ends_its_request_alone(self, serving: Serving) -> None:
        """At any point: its caller has an outcome, memory and place are free, and the tokens of all
        others stay the same.

        Usual causes: the request goes on for nobody, or its caller waits for ever; blocks that are
        given back by those alone that end by themselves; a place in a list in place of an id.
        """
        parameters = {n: GenerationParameters(30 if n in (2, 5) else 4) for n in range(1, 6)}
        for turns in (1, 2, 4, 9):
            tasks = [
                asyncio.ensure_future(outcome(serving.generate(n, each, n, f"{turns} {n}")))
                for n, each in parameters.items()
            ]
            await self._pause(turns)
            for n in (2, 5):
                await serving.abort(f"{turns} {n}")
            for _ in range(SETTLING if self.virtual else LATE * SETTLING):
                await self._pause(0 if tasks[1].done() and tasks[4].done() else 1)
            left = [place + 1 for place in (1, 4) if not tasks[place].done()]
            assert not left, (
                f"callers {left} still wait, whose requests were aborted {turns} turns after they "
                f"came"
            )
            for n, found in enumerate(await asyncio.gather(*tasks), 1):
                if n in (2, 5) and not isinstance(found, Exception):
                    expected, _ = serving.oracle.tokens(serving.oracle.prompt(n, n), len(found))
                    assert found == expected, f"an aborted request gave {found}, not {expected}"
                elif n not in (2, 5):
                    assert not isinstance(found, Exception), f"a neighbour's abort gave {found!r}"
                    serving.compare(n, parameters[n], n, found, "beside aborted ones")
            await self._settled(serving)

    @requires("abort")
    @on_batcher()
    async def test_an_abort_of_what_has_ended_changes_nothing(self, serving: Serving) -> None:
        """Nor does that of an unknown id, nor a second one; whoever uses an id again is served.

        Usual causes: ids that are kept to be aborted when they come, blocks that are given back
        twice, an error for an unknown id.
        """
        for _ in range(2):
            others = [
                asyncio.ensure_future(serving.check(n, GenerationParameters(12), n)) for n in (2, 4)
            ]
            await serving.generate(3, DEFAULT, request_id="again")
            for name in ("again", "unknown", "again"):
                await self._abort_for_nothing(serving, name)
            await self._check_id(serving, "again", 5)
            aborted = asyncio.ensure_future(outcome(serving.generate(3, LONG, request_id="twice")))
            await self._pause(2)
            await serving.abort("twice")
            await self._abort_for_nothing(serving, "twice")
            await aborted
            await self._check_id(serving, "twice", 4)
            await together(others)
            await self._settled(serving)

    @staticmethod
    async def _abort_for_nothing(serving: Serving, request_id: str) -> None:
        found = await outcome(serving.abort(request_id))
        assert found is None, f"an abort of {request_id!r}, which does not run, gave {found!r}"

    @staticmethod
    async def _check_id(serving: Serving, request_id: str, length: int) -> None:
        """A request under an id that was aborted before is served as any other."""
        found = await outcome(serving.generate(length, DEFAULT, request_id=request_id))
        assert not isinstance(found, Exception), f"who came later as {request_id!r} got {found!r}"
        serving.compare(length, DEFAULT, 0, found, f"as {request_id!r}, which was aborted before,")

    @requires("samples")
    @on_batcher("roomy", "tight")
    async def test_samples_of_one_prompt_are_as_many_requests(self, serving: Serving) -> None:
        """Greedy ones are the model's own, each; beside others, and more of them than run at once.

        Usual causes: outputs in one list, blocks that samples share and write to, samples that are
        cut to what fits a step.
        """
        for count in (1, 2, serving.limits.max_num_seqs + 2):
            found, *_ = await together(
                [
                    serving.samples(5, DEFAULT, count),
                    serving.check(3, DEFAULT, 1),
                    serving.check(9, DEFAULT, 2),
                ]
            )
            for tokens in found:
                serving.compare(5, DEFAULT, 0, tokens, f"as one of {count} samples")

    @requires("samples", "sampling")
    @on_batcher()
    async def test_samples_are_drawn_each_by_itself(self, serving: Serving) -> None:
        """They differ from one another, and are the same each time and beside others.

        Usual causes: one seed for all samples, one generator that neighbours draw from.
        """
        drawn = GenerationParameters(8, temperature=1.5, seed=5)
        alone = await serving.samples(4, drawn, 3)
        assert len({tuple(tokens) for tokens in alone}) == 3, (
            f"three samples at a temperature of 1.5 are {alone}"
        )
        beside, again, _ = await together(
            [
                serving.samples(4, drawn, 3),
                serving.samples(4, drawn, 3),
                serving.check(6, GenerationParameters(12)),
            ]
        )
        assert alone == beside == again, (
            f"three samples of one seed are {alone} alone, {beside} and {again} beside others"
        )

    @requires("samples")
    @on_batcher()
    async def test_who_leaves_takes_all_samples_along(self, serving: Serving) -> None:
        """Those that run, and those that wait.

        Usual causes: only the first one is aborted.
        """
        for turns in (0, 1, 4):
            task = asyncio.ensure_future(serving.samples(3, LONG, serving.limits.max_num_seqs + 2))
            await self._pause(turns)
            task.cancel()
            await asyncio.wait([task])
            await self._settled(serving)
            await serving.check(4, DEFAULT)

    def _step(self) -> int | None:
        """What passes of one step have in common: on virtual time, the turn of the event loop."""
        if not self.virtual:
            return None
        loop = asyncio.get_running_loop()
        return loop.turns if isinstance(loop, VirtualLoop) else None

    @staticmethod
    def _check_steps(steps: list[int], most: int, what: str) -> None:
        if not steps:
            raise ProtocolError(
                "no pass of the model was seen, and capability 'passes' says that they are the "
                "steps: compute with the model that the factory is given"
            )
        assert max(steps) <= most, f"a step computes {max(steps)} {what}; steps of {steps[:40]}"

    async def _at(self, gate: Gate) -> None:
        """Wait until a pass has come to the gate."""
        while not gate.waits.is_set():
            await self._pause(1)
            if self.virtual or gate.in_this_thread:
                raise ProtocolError(
                    "a step is computed in the event loop's thread, and capability 'threaded' says "
                    "beside it; it needs virtual = False"
                )
