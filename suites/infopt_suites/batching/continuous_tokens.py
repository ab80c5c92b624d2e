"""The first part of `ContinuousBatchingSuite`: which tokens a request gets, and when it ends."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, ClassVar, cast

import torch

from ..base import Suite, requires
from ..properties import for_all, noted, tried
from .clock import run_virtual
from .continuous_oracle import VOCABULARY, Oracle
from .continuous_protocol import (
    ContinuousLimits,
    CountedBatcher,
    GenerationParameters,
    MakeContinuousBatcher,
)
from .continuous_serving import Caller, Serving, together, traces
from .contract import ProtocolError

ROOMY = ContinuousLimits(num_blocks=64, block_size=4, max_num_seqs=4, max_num_batched_tokens=64)
TIGHT = ContinuousLimits(num_blocks=9, block_size=4, max_num_seqs=4, max_num_batched_tokens=24)
HANG = 60.0  # seconds on a real clock, after which callers are said to wait for ever
SETTLING = 20  # turns in which a batcher notices that somebody has left
TURN = 0.005  # seconds on a real clock, on which other threads may be late
LATE = 20  # times as many turns
DEFAULT = GenerationParameters(5)
Service = Callable[[Serving], Awaitable[None]]
on_batcher = tried("make_continuous_batcher", by="_serve")  # a property that is a service


class ContinuousTokenSuite(Suite):
    """What `ContinuousBatchingSuite` asks of generated tokens, and how properties are tried."""

    topic = "continuous_batcher"
    fixture = "make_continuous_batcher"
    fixture_returns = "a callable: model, ContinuousLimits -> batcher"
    offers = {  # noqa: RUF012  # read only
        "stream": "stream(prompt, parameters): tokens as soon as they are known",
        "chunked": "prompts may be longer than a step",
        "stop": "stop tokens of each request",
        "stop-sequences": "runs of tokens that end a request",
        "sampling": "temperature, top_k, top_p and a seed of each request",
        "blocks": "num_free_blocks counts the blocks that no request holds",
        "isolated": "a step that raises is blamed on the request that makes it raise",
        "memory": "a request that could never fit into the memory is refused",
        "restart": "start() after stop() serves again",
        "idle": "nothing is done while nobody asks; seen on virtual time alone",
        "passes": "the model's passes show the steps: no padding, nothing that is computed already",
        "threaded": "a step is computed beside the event loop; seen where virtual is False",
        "abort": "generate(…, request_id=…), and abort(request_id)",
        "prefixes": "prompts that begin alike share the blocks of their beginning",
        "samples": "generate_samples(…, count): several outputs of one prompt",
    }
    dtype: ClassVar[torch.dtype] = torch.float64
    device: ClassVar[str] = "cpu"
    virtual: ClassVar[bool] = True
    roomy: ClassVar[ContinuousLimits] = ROOMY
    tight: ClassVar[ContinuousLimits] = TIGHT
    examples: ClassVar[int] = 12

    # What is generated

    @on_batcher()
    async def test_tokens_are_those_of_the_model(self, serving: Serving) -> None:
        """For prompts around the edges of blocks, and outputs from one token on.

        Usual causes: positions that begin again at each step, a block too few or too many, one
        token more or less, the first token sampled from the wrong row of the prompt's logits.
        """
        size = self.roomy.block_size
        for length in (1, 2, size - 1, size, size + 1, 2 * size, 3 * size + 1):
            for new in (1, 2, size + 1):
                await serving.check(length, GenerationParameters(new))

    @on_batcher()
    async def test_neighbours_change_no_token(self, serving: Serving) -> None:
        """Requests of different lengths in one batch, of equal ones, and of one beginning.

        Usual causes: one row of positions for all, padding that is attended to, logits of another
        row, a slot that is shared, results given out in another order.
        """
        for lengths in ((1, 9), (9, 1, 4), (5, 5, 5, 5), (2, 13, 3, 8), (1, 2, 3, 4, 5, 6)):
            for seeds in ([0] * 6, range(6)):
                parameters = [GenerationParameters(3 + i % 4) for i in range(6)]
                await together(
                    serving.check(*request)
                    for request in zip(lengths, parameters, seeds, strict=False)
                )

    def test_joining_and_leaving_change_no_token(
        self, make_continuous_batcher: MakeContinuousBatcher
    ) -> None:
        """Whenever a request comes, and whoever has just ended or begun.

        Usual causes: rows that are moved when one ends and not the cache's, state of the former
        owner of a slot, a prompt and single tokens in one step that share a mask.
        """
        self._serve_traces(make_continuous_batcher, "roomy", leave=False)

    @on_batcher("tight")
    async def test_preemption_changes_no_token(self, serving: Serving) -> None:
        """Where there is memory for less than all: whoever has to wait, or is computed again.

        Usual causes: output that is forgotten or doubled, a cache that was not computed again, a
        generator that goes on where it should not, requests that wait for ever.
        """
        most = self.tight.num_blocks * self.tight.block_size
        for new in (most // 4, most // 2):
            await together(
                serving.check(length, GenerationParameters(new), length)
                for length in (2, 5, 3, 7, 4)
            )

    @requires("chunked")
    @on_batcher("tight")
    async def test_a_prompt_in_parts_changes_no_token(self, serving: Serving) -> None:
        """One that is longer than a step, alone and while others decode.

        Usual causes: a token sampled after each part, a part that does not see those before it.
        """
        tokens = self.tight.max_num_batched_tokens
        for length in (tokens - 1, tokens, tokens + 1, tokens + 5):
            await serving.check(length, GenerationParameters(3))
            short = [serving.check(n, GenerationParameters(6), n) for n in (1, 2)]
            await together([*short, serving.check(length, GenerationParameters(2))])

    @requires("sampling")
    def test_drawn_tokens_do_not_depend_on_neighbours(
        self, make_continuous_batcher: MakeContinuousBatcher
    ) -> None:
        """The same seed gives the same tokens, alone and beside others; other seeds give others;
        and greedy neighbours stay greedy.

        Usual causes: one generator for the batch, one that is seeded at each step, the parameters
        of the first row for all.
        """
        drawn = [GenerationParameters(8, temperature=1.5, seed=seed) for seed in (1, 2, 3)]
        alone: list[Sequence[int]] = []

        async def by_itself(serving: Serving) -> None:
            for parameters in drawn:
                alone.append(await serving.generate(5, parameters))
            assert len({tuple(x) for x in alone}) == len(alone), (
                f"three seeds give {alone}, at a temperature of 1.5"
            )

        async def beside_others(serving: Serving) -> None:
            requests = [drawn[0], drawn[0], drawn[1], drawn[2], GenerationParameters(8)]
            found = await together(serving.generate(5, parameters) for parameters in requests)
            expected = [alone[0], alone[0], alone[1], alone[2]]
            assert [list(x) for x in found[:4]] == [list(x) for x in expected], (
                f"seeds 1, 1, 2 and 3 give {found[:4]} beside one another, {expected} alone"
            )
            serving.compare(5, requests[4], 0, found[4])
            await together(serving.generate(n, GenerationParameters(9 - n)) for n in range(1, 5))

        for limits in ("roomy", "tight"):
            alone.clear()
            self._serve(make_continuous_batcher, by_itself, limits)
            self._serve(make_continuous_batcher, beside_others, limits)

    @requires("sampling")
    @on_batcher()
    async def test_drawn_tokens_follow_their_own_distribution(self, serving: Serving) -> None:
        """Each temperature its own, in one batch.

        With n draws of V tokens, the shares are off their probabilities by no more than
        √(2·(V·ln 2 + ln 10⁶) / n) in all, but once in a million (Weissman et al. 2003).

        Usual causes: one temperature for the batch, logits multiplied by it.
        """
        count, temperatures = 250, (0.5, 3.0)
        hot = [
            GenerationParameters(1, temperature=temperatures[i % 2], seed=i)
            for i in range(2 * count)
        ]
        found = await together(serving.generate(6, parameters) for parameters in hot)
        for index, temperature in enumerate(temperatures):
            tokens = torch.tensor([x[0] for x in found[index::2]])
            shares = tokens.bincount(minlength=VOCABULARY).double() / count
            prompt = serving.oracle.prompt(6)
            off = shares - serving.oracle.probabilities(prompt, temperature).cpu()
            allowed = math.sqrt(2 * (VOCABULARY * math.log(2) + math.log(1e6)) / count)
            assert float(off.abs().sum()) <= allowed, (
                f"{count} tokens at temperature {temperature} are off their probabilities by "
                f"{float(off.abs().sum()):.3g} in all; chance explains {allowed:.3g}"
            )

    @requires("sampling")
    @on_batcher()
    async def test_filters_leave_the_most_likely_tokens(self, serving: Serving) -> None:
        """top_k so many, top_p the fewest that reach it; each request its own, in one batch.

        Usual causes: a filter that is ignored, that of another row, one token too many or too few
        where the sum of probabilities is looked at.
        """
        chances = serving.oracle.probabilities(serving.oracle.prompt(6), 2.0)
        likely = chances.sort(descending=True)
        third = float(likely.values[2])
        reached = float(likely.values[:3].sum())
        filters = {
            (None, reached - third / 2): 3,  # reached with the third, and not before
            (None, float(likely.values[0]) / 2): 1,
            (1, 1.0): 1,
            (3, 1.0): 3,
        }
        requests = [
            GenerationParameters(1, temperature=2.0, top_k=top_k, top_p=top_p, seed=seed)
            for seed in range(60)
            for top_k, top_p in filters
        ]
        found = await together(serving.generate(6, parameters) for parameters in requests)
        drawn: dict[tuple[int | None, float], set[int]] = {each: set() for each in filters}
        for parameters, tokens in zip(requests, found, strict=True):
            drawn[parameters.top_k, parameters.top_p].add(tokens[0])
        for (top_k, top_p), count in filters.items():
            expected = set(likely.indices[:count].tolist())
            # The third has a chance of .23 then: 60 draws miss it once in seven million.
            assert drawn[top_k, top_p] == expected, (
                f"top_k {top_k} and top_p {top_p} give {sorted(drawn[top_k, top_p])} at a "
                f"temperature of 2, {sorted(expected)} are likely enough"
            )

    # When it ends

    @requires("stop")
    @on_batcher()
    async def test_a_stop_token_ends_its_request_alone(self, serving: Serving) -> None:
        """With the token, the first one that stops included; the same token in the prompt, or in
        another request, ends nothing.

        Usual causes: the rule of one request for the batch, a rule that looks at the prompt, a
        token that is cut off or one that comes after it.
        """
        for length in (3, 8):
            prompt = serving.oracle.prompt(length)
            tokens, _ = serving.oracle.tokens(prompt, 8)
            requests = [
                GenerationParameters(8),
                GenerationParameters(8, stop_token_ids=(prompt[0], prompt[-1])),
                *(GenerationParameters(8, stop_token_ids=(x,)) for x in tokens[:4]),
                GenerationParameters(8, stop_token_ids=(tokens[5], tokens[2])),
            ]
            await together(serving.check(length, parameters) for parameters in requests)

    @requires("stop-sequences")
    @on_batcher()
    async def test_a_stop_sequence_ends_its_request_alone(self, serving: Serving) -> None:
        """With its last token, and only where all of it was generated.

        Usual causes: its first or last token alone, a run that began in the prompt.
        """
        prompt = serving.oracle.prompt(7)
        tokens, _ = serving.oracle.tokens(prompt, 8)
        for run in (tokens[1:3], tokens[2:5], [prompt[-1], tokens[0]], [tokens[2], 0, 0]):
            parameters = GenerationParameters(8, stop_sequences=(tuple(run),))
            await together([serving.check(7, parameters), serving.check(7, DEFAULT)])

    @requires("stream")
    def test_a_stream_gives_the_same_tokens_as_they_come(
        self, make_continuous_batcher: MakeContinuousBatcher
    ) -> None:
        """All of them, once, in order; the first one long before the last.

        Usual causes: everything at the end, a last token that is not given, tokens of two requests
        in one stream, tokens given again after a preemption.
        """

        async def holds(serving: Serving) -> None:
            await together(
                serving.check(length, GenerationParameters(length), length, stream=True)
                for length in (1, 4, 9, 6)
            )
            long, order = GenerationParameters(40), []

            async def streamed() -> None:
                async with aclosing(serving.streaming(3, long)) as tokens:
                    async for token in tokens:
                        order.append(token)

            async def short() -> None:
                while not order:
                    await self._pause(1)
                await serving.check(2, GenerationParameters(1), 1)
                order.append("short")

            await together([streamed(), short()])
            assert order[-1] != "short", (
                "a request of one token that came with the first token of a stream of 40 ended "
                "after it"
            )

        self._serve(make_continuous_batcher, holds)

        async def tight(serving: Serving) -> None:
            new = GenerationParameters(self.tight.num_blocks * self.tight.block_size // 2)
            await together(serving.check(n, new, n, stream=True) for n in (2, 5, 3, 4))

        self._serve(make_continuous_batcher, tight, "tight")

    @on_batcher()
    async def test_short_requests_do_not_wait_for_long_ones(self, serving: Serving) -> None:
        """They leave when they end, and others take their places between two steps.

        Usual causes: a batch that ends with its longest, one that is filled when it is empty.
        """
        ended: list[int] = []

        async def request(index: int, new: int) -> None:
            await serving.check(2, GenerationParameters(new), index)
            ended.append(index)

        await together(request(i, 60 if i == 0 else 2) for i in range(9))
        assert ended[-1] == 0, f"request 0 of 60 tokens ended before others, of 2: {ended}"

    # How properties are tried

    def _oracle(self) -> Oracle:
        if not hasattr(self, "_made"):
            self._made = Oracle(self.dtype, self.device)
        return self._made

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        __tracebackhide__ = True
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # for a model so small, more of them wait for one another
        try:
            run_virtual(coroutine) if self.virtual else asyncio.run(_bounded(coroutine))
        finally:
            torch.set_num_threads(threads)

    def _serve(
        self, make: MakeContinuousBatcher, service: Service, *limits: str | ContinuousLimits
    ) -> None:
        """Start a batcher, use it, see that nothing is held, and stop it.

        ``limits``: "roomy", "tight", others or several; "roomy" where none are given.
        """
        __tracebackhide__ = True
        oracle = self._oracle()

        async def run(limits: ContinuousLimits) -> None:
            serving = Serving(make(oracle.served, limits), limits, oracle, self._pause)
            await serving.start()
            try:
                await service(serving)
                await self._settled(serving)
            finally:
                await serving.stop()

        for each in limits or ("roomy",):
            chosen = getattr(self, each) if isinstance(each, str) else each
            with noted(f"on a batcher of {chosen}"):
                self._run(run(chosen))

    def _serve_traces(self, make: MakeContinuousBatcher, *limits: str, leave: bool) -> None:
        """Serve drawn callers; some go before their end where they may ``leave``."""
        __tracebackhide__ = True

        def holds(callers: tuple[Caller, ...]) -> None:
            self._serve(make, partial(Serving.serve, callers=callers), *limits)

        for_all(holds, traces("sampling" in self.capabilities, leave), examples=self.examples)

    async def _settled(self, serving: Serving) -> None:
        """Wait for the step in which those who left are noticed; raise if memory is held then."""
        if "blocks" not in self.capabilities:
            return
        batcher, blocks = cast(CountedBatcher, serving.batcher), serving.limits.num_blocks
        if not hasattr(batcher, "num_free_blocks"):
            raise ProtocolError("num_free_blocks is not there; capability 'blocks' promises it")
        for _ in range(SETTLING if self.virtual else LATE * SETTLING):
            if batcher.num_free_blocks == blocks:
                return
            await self._pause(1)
        raise AssertionError(
            f"{batcher.num_free_blocks} of {blocks} blocks are free, and nobody is left"
        )

    async def _pause(self, turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0 if self.virtual else TURN)


async def _bounded(coroutine: Coroutine[Any, Any, None]) -> None:
    """Raise AssertionError where it never ends."""
    task = asyncio.ensure_future(coroutine)
    done, _ = await asyncio.wait([task], timeout=HANG)
    if not done:
        task.cancel()
        await asyncio.wait([task], timeout=HANG)
    assert done, f"callers still wait after {HANG:.0f} seconds"
    await task
