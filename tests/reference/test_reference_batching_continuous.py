"""Tokens as alone whatever happens beside, one outcome for each caller, nothing left at the end."""

import asyncio
import copy
import functools
import threading
from contextlib import aclosing

import pytest
import torch
from batching_cases import run
from hypothesis import given, settings
from hypothesis import strategies as st
from infopt_reference.batching.continuous import ContinuousBatcher
from infopt_reference.batching.errors import (
    BatcherRunningError,
    BatcherStoppedError,
    QueueFullError,
)
from infopt_reference.batching.sampling import Sampler, SamplingParameters
from infopt_reference.batching.scheduler import SchedulerConfig
from infopt_reference.decoding.stopping import FinishReason
from tiny_models import VOCABULARY, make_model

from pytest_infopt.engines.registry import load_engine
from pytest_infopt.release import ModelSource

LONGEST = 24
PROMPTS = [[(41 * i + 11 * t + 3) % 120 for t in range(1 + (5 * i) % 19)] for i in range(8)]
# Enough for the longest request alone: 19 + 24 − 1 tokens in 11 blocks.
SCARCE = SchedulerConfig(num_blocks=12, block_size=4, max_num_seqs=5, max_num_batched_tokens=12)
AMPLE = SchedulerConfig(num_blocks=128, block_size=4)
GREEDY, DRAWN = SamplingParameters(max_new_tokens=LONGEST), "drawn"


def parameters_of(which, way, **changes):
    values = {"max_new_tokens": LONGEST}
    if way == DRAWN:
        values |= {"temperature": 1.5, "top_k": 20, "top_p": 0.95, "seed": 100 + which}
    return SamplingParameters(**values | changes)


@functools.cache
def model():
    return make_model("qwen2").double()


@functools.cache
def alone(which, way="greedy"):
    """What follows a prompt, each token from a pass over all tokens before it, without a cache."""
    ids, sampler = list(PROMPTS[which]), Sampler(parameters_of(which, way))
    with torch.no_grad():
        for _ in range(LONGEST):
            ids.append(sampler(model()(torch.tensor([ids])).logits[0, -1]))
    return ids[len(PROMPTS[which]) :]


class Paced(ContinuousBatcher):
    """Every step takes a second of virtual time."""

    def __init__(self, config=AMPLE, network=None, **options):
        super().__init__(network or model(), config, threaded=False, **options)

    async def _step(self):
        await asyncio.sleep(1)
        await super()._step()


def check_idle(batcher):
    """Nothing waits, runs or holds a block."""
    assert not batcher.scheduler.has_unfinished
    assert not batcher._generations
    scheduler = batcher.scheduler
    scheduler.blocks.check_conservation(scheduler.prefixes.blocks if scheduler.prefixes else ())
    assert scheduler.num_free_blocks == scheduler.config.num_blocks
    counted = batcher.statistics
    ended = counted.num_finished + counted.num_failed + counted.num_aborted
    assert counted.num_submitted == ended


CLIENTS = st.lists(
    st.fixed_dictionaries(
        {
            "which": st.integers(0, len(PROMPTS) - 1),
            "way": st.sampled_from(["greedy", DRAWN]),
            "arrival": st.integers(0, 12),
            "length": st.integers(1, LONGEST),
            "leaves": st.one_of(st.none(), st.integers(0, 20)),  # seconds after its arrival
            "streams": st.booleans(),
        }
    ),
    min_size=1,
    max_size=7,
)
CONFIGS = st.sampled_from(
    [
        AMPLE,
        SCARCE,
        SchedulerConfig(11, 4, max_num_seqs=3, max_num_batched_tokens=5, policy="skip"),
        SchedulerConfig(12, 4, max_num_batched_tokens=48, chunked_prefill=False),
        SchedulerConfig(50, 1, max_num_seqs=4, max_num_batched_tokens=3),
        SchedulerConfig(22, 2, max_num_seqs=4, max_num_batched_tokens=9, prefix_caching=True),
    ]
)


@settings(max_examples=40)
@given(clients=CLIENTS, config=CONFIGS)
def test_each_gets_its_tokens_whoever_joins_leaves_or_preempts(clients, config):
    async def client(batcher, which, way, arrival, length, leaves, streams):
        await asyncio.sleep(arrival)
        parameters = parameters_of(which, way, max_new_tokens=length)
        expected, got = alone(which, way)[:length], []
        try:
            # Between two steps, as a timer does not tell a step from another at the same time.
            async with asyncio.timeout(None if leaves is None else leaves + 0.5):
                if streams:
                    async with aclosing(batcher.stream(PROMPTS[which], parameters)) as tokens:
                        async for token in tokens:
                            got.append(token)
                            assert got == expected[: len(got)]
                else:
                    result = await batcher.submit(PROMPTS[which], parameters)
                    got = list(result.token_ids)
                    assert result.finish_reason is FinishReason.LENGTH
            assert got == expected
        except TimeoutError:
            assert leaves is not None

    async def main():
        async with Paced(config) as batcher:
            await asyncio.gather(*(client(batcher, **each) for each in clients))
            check_idle(batcher)
        assert batcher.statistics.num_submitted == len(clients)

    run(main())


def test_requests_that_preempt_each_other_get_their_tokens():
    async def main():
        async with Paced(SCARCE) as batcher:
            results = await asyncio.gather(
                *(
                    batcher.submit(PROMPTS[i], parameters_of(i, way))
                    for i in range(len(PROMPTS))
                    for way in ("greedy", DRAWN)
                )
            )
        check_idle(batcher)
        assert sum(result.num_preemptions for result in results) > 3
        for number, result in enumerate(results):
            assert list(result.token_ids) == alone(number // 2, ("greedy", DRAWN)[number % 2])

    run(main())


def test_a_thread_computes_the_same():
    async def main():
        async with ContinuousBatcher(model(), SCARCE) as batcher:
            results = await asyncio.gather(*(batcher.submit(prompt, GREEDY) for prompt in PROMPTS))
        check_idle(batcher)
        assert [list(result.token_ids) for result in results] == [
            alone(i) for i in range(len(PROMPTS))
        ]
        assert threading.active_count() == before

    before = threading.active_count()
    asyncio.run(main())


def hold_steps(batcher):
    """Lets each forward pass of a batcher wait in its thread: (it has begun, it may go on)."""
    begun, go_on, logits = threading.Event(), threading.Event(), batcher._model.logits

    def held(chunks):
        begun.set()
        assert go_on.wait(60)
        return logits(chunks)

    batcher._model.logits = held
    return begun, go_on


async def until(event):
    while not event.is_set():
        await asyncio.sleep(0)


@pytest.mark.parametrize("other_is_there", [False, True])
def test_a_caller_who_leaves_during_a_step_keeps_its_blocks_until_the_step_ends(other_is_there):
    async def main():
        async with ContinuousBatcher(model(), AMPLE) as batcher:
            begun, go_on = hold_steps(batcher)
            leaving = asyncio.create_task(batcher.submit(PROMPTS[3], GREEDY))
            staying = []
            if other_is_there:
                staying.append(asyncio.create_task(batcher.submit(PROMPTS[2], GREEDY)))
            await until(begun)
            leaving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await leaving
            held = batcher.scheduler.blocks.num_free_blocks
            assert held < AMPLE.num_blocks, "the thread may still write to them"
            go_on.set()
            for task in staying:
                assert list((await task).token_ids) == alone(2)
        check_idle(batcher)
        assert batcher.statistics.num_aborted == 1

    asyncio.run(main())


def test_the_event_loop_goes_on_while_a_step_is_computed():
    async def main():
        async with ContinuousBatcher(model(), AMPLE) as batcher:
            begun, go_on = hold_steps(batcher)
            first = asyncio.create_task(batcher.submit(PROMPTS[0], GREEDY))
            await until(begun)
            second = asyncio.create_task(batcher.submit(PROMPTS[1], GREEDY))
            await asyncio.sleep(0)
            assert batcher.num_queued == 1
            go_on.set()
            assert [list((await task).token_ids) for task in (first, second)] == [
                alone(0),
                alone(1),
            ]

    asyncio.run(main())


def test_a_drain_that_is_given_up_ends_with_the_step_that_is_computed():
    async def main():
        batcher = ContinuousBatcher(model(), AMPLE)
        await batcher.start()
        logits, computed = batcher._model.logits, []

        def recorded(chunks):
            begun.set()
            assert go_on.wait(60)
            computed.append(logits(chunks))
            return computed[-1]

        begun, go_on = threading.Event(), threading.Event()
        batcher._model.logits = recorded
        call = asyncio.create_task(batcher.submit(PROMPTS[0], GREEDY))
        await until(begun)
        draining = asyncio.create_task(batcher.stop())
        await asyncio.sleep(0)
        draining.cancel()
        # From another thread: this one waits for the step, whose blocks must not be used before.
        threading.Timer(0.1, go_on.set).start()
        with pytest.raises(asyncio.CancelledError):
            await draining
        assert len(computed) == 1
        with pytest.raises(BatcherStoppedError):
            await call
        check_idle(batcher)
        async with batcher:
            assert list((await batcher.submit(PROMPTS[0], GREEDY)).token_ids) == alone(0)

    asyncio.run(main())


@pytest.mark.parametrize("threaded", [False, True])
def test_tokens_are_given_while_others_are_computed(threaded):
    async def main():
        async with ContinuousBatcher(model(), AMPLE, threaded=threaded) as batcher:
            given = 0
            async for _ in batcher.stream(PROMPTS[0], GREEDY):
                given += 1
                assert batcher.scheduler.statistics.num_steps <= given + 1

    run(main())


def test_times_are_those_of_the_steps():
    async def main():
        config = SchedulerConfig(64, 4, max_num_seqs=1)
        async with Paced(config, max_queue_size=1) as batcher:
            results = await asyncio.gather(
                *(
                    batcher.submit(PROMPTS[i], parameters_of(i, "greedy", max_new_tokens=length))
                    for i, length in enumerate((3, 2, 1))
                )
            )
        # The third one waits for a place in the queue as well.
        assert [(r.time_in_queue, r.time_to_first_token, r.latency) for r in results] == [
            (1, 1, 3),
            (4, 4, 5),
            (6, 6, 6),
        ]
        assert batcher.scheduler.statistics.num_steps == 6
        assert batcher.statistics.num_generated_tokens == 6
        assert batcher.statistics.max_batch_size == 1

    run(main())


def test_a_long_prompt_does_not_hold_up_those_that_decode():
    async def main():
        config = SchedulerConfig(64, 4, max_num_batched_tokens=4)
        long = max(range(len(PROMPTS)), key=lambda i: len(PROMPTS[i]))
        async with Paced(config) as batcher:
            short = asyncio.create_task(
                batcher.submit(PROMPTS[0], parameters_of(0, "greedy", max_new_tokens=8))
            )
            await asyncio.sleep(1.5)
            late = await batcher.submit(PROMPTS[long], parameters_of(long, "greedy"))
        assert (await short).latency == 8, "a token in each step"
        # Three tokens of its prompt beside one of the short request's.
        assert late.time_to_first_token == -(-len(PROMPTS[long]) // 3) - 0.5
        assert list(late.token_ids) == alone(long)

    run(main())


def first_stop():
    """A prompt, and the first place where its output has a token that it did not have before."""
    output = alone(1)
    place = next(i for i in range(3, LONGEST) if output[i] not in output[:i])
    return output, place


@pytest.mark.parametrize("rule", ["token", "sequence", "both", "length"])
def test_a_stop_rule_ends_a_request_with_the_token_that_completes_it(rule):
    output, place = first_stop()
    rules = {
        "token": {"stop_token_ids": (output[place], 127)},
        "sequence": {
            "stop_sequences": ((127, output[place]), tuple(output[place - 1 : place + 1]))
        },
        "both": {"stop_token_ids": (output[place],), "stop_sequences": ((output[place],),)},
        "length": {"max_new_tokens": place + 1},
    }

    async def main():
        async with Paced() as batcher:
            parameters = parameters_of(1, "greedy", **rules[rule])
            result, other = await asyncio.gather(
                batcher.submit(PROMPTS[1], parameters), batcher.submit(PROMPTS[2], GREEDY)
            )
            streamed = [token async for token in batcher.stream(PROMPTS[1], parameters)]
        assert list(result.token_ids) == streamed == output[: place + 1]
        expected = FinishReason.LENGTH if rule == "length" else FinishReason.STOP
        assert result.finish_reason is expected
        assert list(other.token_ids) == alone(2)

    run(main())


def test_a_stream_gives_each_token_in_the_step_that_samples_it():
    async def main():
        async with Paced() as batcher:
            loop, times = asyncio.get_running_loop(), []
            async for _ in batcher.stream(PROMPTS[0], GREEDY):
                times.append(loop.time())
        assert times == list(range(1, LONGEST + 1))

    run(main())


def test_a_slow_reader_misses_nothing():
    async def main():
        async with Paced() as batcher:
            got = []
            async for token in batcher.stream(PROMPTS[4], GREEDY):
                got.append(token)
                await asyncio.sleep(7)
        assert got == alone(4)

    run(main())


def test_no_pass_is_made_for_those_who_left_before_their_step(caplog):
    async def main():
        async with Paced() as batcher:
            passes, logits = [], batcher._model.logits
            batcher._model.logits = lambda chunks: passes.append(len(chunks)) or logits(chunks)
            leaving = [asyncio.create_task(batcher.submit(each, GREEDY)) for each in PROMPTS[:2]]
            await asyncio.sleep(0.5)  # in the middle of the pause before their first step
            for task in leaving:
                task.cancel()
            await asyncio.sleep(2)
            check_idle(batcher)
            assert passes == []
            result = await batcher.submit(PROMPTS[2], GREEDY)
            assert list(result.token_ids) == alone(2)

    run(main())
    assert caplog.records == []


def test_leaving_a_stream_aborts_its_request():
    async def main():
        async with Paced() as batcher:
            async with aclosing(batcher.stream(PROMPTS[4], GREEDY)) as tokens:
                async for _ in tokens:
                    break
            check_idle(batcher)
            assert batcher.scheduler.statistics.num_steps == 1

    run(main())


BAD = {
    "empty": ([], {}, "no prompt"),
    "too large a token": ([VOCABULARY], {}, "0…127"),
    "a negative token": ([3, -1], {}, "token -1"),
    "no number": (["3"], {}, "integers"),
    "a fraction": ([0.5], {}, "integers"),
    "beyond the model's positions": ([1], {"max_new_tokens": 97}, "96 positions"),
    "beyond the memory": ([1] * 40, {"max_new_tokens": 10}, "13 blocks of 4"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("streams", [False, True])
def test_a_request_that_cannot_run_is_refused_alone(kind, streams):
    prompt, changes, message = BAD[kind]

    async def main():
        async with Paced(SCARCE) as batcher:
            good = asyncio.create_task(batcher.submit(PROMPTS[0], GREEDY))
            await asyncio.sleep(2.5)
            parameters = parameters_of(0, "greedy", **changes)
            call = batcher.submit(prompt, parameters)
            if streams:
                call.close()
                call = anext(batcher.stream(prompt, parameters))
            with pytest.raises(ValueError, match=message):
                await call
            assert list((await good).token_ids) == alone(0)
        check_idle(batcher)
        assert batcher.statistics.num_submitted == 1

    run(main())


BAD_TOKEN = 125


def raising_for_the_bad_token():
    batcher = Paced(SCARCE)
    logits = batcher._model.logits

    def picky(chunks):
        if any(BAD_TOKEN in chunk.token_ids for chunk in chunks):
            raise RuntimeError("a token that this model cannot stand")
        return logits(chunks)

    batcher._model.logits = picky
    return batcher


def with_nan_for_the_bad_token():
    network = make_model("qwen2").double()
    network.get_input_embeddings().weight.data[BAD_TOKEN] = torch.nan
    return Paced(SCARCE, network)


@pytest.mark.parametrize(
    ("make_batcher", "error", "message"),
    [
        (raising_for_the_bad_token, RuntimeError, "cannot stand"),
        (with_nan_for_the_bad_token, ValueError, "largest logit is nan"),
    ],
)
@pytest.mark.parametrize("place", [0, 9, 17])  # the last one is in a prompt's second chunk
def test_only_the_request_fails_that_the_model_cannot_compute(make_batcher, error, message, place):
    bad = [*PROMPTS[7][:5] * 4]
    bad[place] = BAD_TOKEN

    async def main():
        async with make_batcher() as batcher:
            good = [
                asyncio.create_task(batcher.submit(PROMPTS[i], parameters_of(i, way)))
                for i, way in ((1, "greedy"), (2, DRAWN))
            ]
            await asyncio.sleep(1.5)
            with pytest.raises(error, match=message):
                await batcher.submit(bad, GREEDY)
            # Its blocks are used again, whatever it has left in them.
            again = await batcher.submit(PROMPTS[3], GREEDY)
            results = [list((await task).token_ids) for task in good]
        assert results == [alone(1), alone(2, DRAWN)]
        assert list(again.token_ids) == alone(3)
        check_idle(batcher)
        assert batcher.statistics.num_failed == 1

    run(main())


@pytest.mark.parametrize("streams", [False, True])
def test_a_deadline_ends_a_request_wherever_it_is(streams):
    async def main():
        config = SchedulerConfig(64, 4, max_num_seqs=1)
        async with Paced(config, max_queue_size=1) as batcher:
            calls = [
                ("runs", 0, 4.5),
                ("waits", 1, 3.5),
                ("at the door", 2, 2.5),
                ("last", 3, None),
            ]
            got = {name: [] for name, *_ in calls}

            async def call(name, which, deadline):
                if not streams:
                    result = await batcher.submit(PROMPTS[which], GREEDY, deadline=deadline)
                    got[name] = list(result.token_ids)
                    return
                async for token in batcher.stream(PROMPTS[which], GREEDY, deadline=deadline):
                    got[name].append(token)

            outcomes = await asyncio.gather(
                *(call(*each) for each in calls), return_exceptions=True
            )
        assert [type(outcome) for outcome in outcomes] == [TimeoutError] * 3 + [type(None)]
        assert got["last"] == alone(3)
        assert got["runs"] == (alone(0)[:4] if streams else [])
        assert got["waits"] == got["at the door"] == []
        check_idle(batcher)
        # The one at the door was never a request of the scheduler.
        assert batcher.statistics.num_submitted == 3

    run(main())


def test_a_full_queue_lets_callers_wait_in_their_order():
    async def main():
        config = SchedulerConfig(64, 4, max_num_seqs=1)
        async with Paced(config, max_queue_size=2) as batcher:
            ended = []

            async def call(number):
                await batcher.submit(PROMPTS[number], parameters_of(0, "greedy", max_new_tokens=2))
                ended.append(number)

            tasks = [asyncio.create_task(call(number)) for number in range(7)]
            for _ in range(10):
                await asyncio.sleep(1)
                assert batcher.num_queued <= 2
            tasks[5].cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        assert ended == [0, 1, 2, 3, 4, 6]
        check_idle(batcher)

    run(main())


def test_a_full_queue_turns_callers_away_when_told_so():
    async def main():
        config = SchedulerConfig(64, 4, max_num_seqs=1)
        async with Paced(config, max_queue_size=2, reject_when_full=True) as batcher:
            tasks = [asyncio.create_task(batcher.submit(p, GREEDY)) for p in PROMPTS[:2]]
            await asyncio.sleep(0.5)
            with pytest.raises(QueueFullError, match="2 requests wait"):
                await batcher.submit(PROMPTS[2], GREEDY)
            await asyncio.sleep(1)  # the first one runs
            assert list((await batcher.submit(PROMPTS[2], GREEDY)).token_ids) == alone(2)
            await asyncio.gather(*tasks)

    run(main())


@pytest.mark.parametrize("drain", [False, True])
@pytest.mark.parametrize("moment", [0.5, 4.5])
def test_stopping_gives_everybody_an_outcome(drain, moment):
    async def main():
        config = SchedulerConfig(64, 4, max_num_seqs=2)
        batcher = Paced(config, max_queue_size=3)
        for _ in range(2):  # it can be started again
            await batcher.start()
            calls = [
                asyncio.create_task(batcher.submit(PROMPTS[i], GREEDY)) for i in range(len(PROMPTS))
            ]
            await asyncio.sleep(moment)
            inside = batcher.statistics.num_submitted - batcher.statistics.num_aborted
            inside -= batcher.statistics.num_finished
            await batcher.stop(drain=drain)
            check_idle(batcher)
            await asyncio.sleep(0)
            assert all(call.done() for call in calls)
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            served = inside if drain else 0
            for which, outcome in enumerate(outcomes):
                if which < served:
                    assert list(outcome.token_ids) == alone(which)
                else:
                    assert isinstance(outcome, BatcherStoppedError)
            with pytest.raises(BatcherStoppedError, match="start it first"):
                await batcher.submit(PROMPTS[0], GREEDY)

    run(main())


def test_a_second_stop_need_not_wait_for_the_drain_of_the_first():
    async def main():
        batcher = Paced()
        await batcher.start()
        call = asyncio.create_task(batcher.submit(PROMPTS[0], GREEDY))
        await asyncio.sleep(1.5)
        draining = asyncio.create_task(batcher.stop())
        await asyncio.sleep(1)
        with pytest.raises(BatcherRunningError):
            await batcher.start()
        await batcher.stop(drain=False)
        await draining
        with pytest.raises(BatcherStoppedError):
            await call
        assert asyncio.get_running_loop().time() < 5
        check_idle(batcher)

    run(main())


def test_an_error_in_the_body_stops_at_once():
    async def main():
        batcher = Paced()

        async def body():
            async with batcher:
                calls.append(asyncio.create_task(batcher.submit(PROMPTS[0], GREEDY)))
                await asyncio.sleep(2.5)
                raise ZeroDivisionError

        calls = []
        with pytest.raises(ZeroDivisionError):
            await body()
        (call,) = calls
        with pytest.raises(BatcherStoppedError):
            await call
        check_idle(batcher)

    run(main())


@pytest.mark.parametrize("broken", ["scheduler.step", "scheduler.update", "_compute"])
def test_a_step_loop_that_breaks_leaves_nobody_waiting(broken, monkeypatch):
    def fail(*args):
        if not mended:
            raise LookupError("broken")
        return whole(*args)

    async def main():
        await batcher.start()
        calls = [asyncio.create_task(batcher.submit(p, GREEDY)) for p in PROMPTS[:3]]
        await asyncio.sleep(2.5)
        monkeypatch.setattr(owner, name, fail)
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [str(outcome) for outcome in outcomes] == ["broken"] * 3
        with pytest.raises(BatcherStoppedError):
            await batcher.submit(PROMPTS[0], GREEDY)
        with pytest.raises(LookupError):
            await batcher.stop()
        if name == "update":
            return  # the scheduler itself cannot go on
        mended.append(True)
        async with batcher:
            assert list((await batcher.submit(PROMPTS[0], GREEDY)).token_ids) == alone(0)
        check_idle(batcher)

    mended = []
    batcher = Paced()
    *path, name = broken.split(".")
    owner = getattr(batcher, path[0]) if path else batcher
    whole = getattr(owner, name)
    run(main())


def test_nothing_is_done_while_there_is_nothing_to_do():
    async def main():
        async with Paced() as batcher:
            await batcher.submit(PROMPTS[0], GREEDY)
            await asyncio.sleep(1)
            loop = asyncio.get_running_loop()
            turns, run_once = 0, loop._run_once

            def counted():
                nonlocal turns
                turns += 1
                run_once()

            loop._run_once = counted
            await asyncio.sleep(1000)
            assert turns <= 3
            assert batcher.scheduler.statistics.num_steps == LONGEST

    run(main())


def test_a_batcher_runs_once_and_its_queue_has_room():
    with pytest.raises(ValueError, match="max_queue_size is 0"):
        Paced(max_queue_size=0)
    with pytest.raises(ValueError, match="needs a bound"):
        Paced(reject_when_full=True)

    async def main():
        async with Paced() as batcher:
            with pytest.raises(BatcherRunningError, match="stop it before"):
                await batcher.start()
        await batcher.stop()  # nothing to do

    run(main())


def legal_difference(network, exact, ids, token, other):
    """Whether rounding may decide between two greedy tokens: their gap in float64 is within twice
    what the model's float32 logits are off there."""
    ids = torch.tensor([ids])
    with torch.no_grad():
        truth, rounded = exact(ids).logits[0, -1], network(ids).logits[0, -1].double()
    error = (truth - rounded)[[token, other]].abs().max()
    return (truth[token] - truth[other]).abs() <= 2 * 2 * error


@pytest.mark.slow
def test_smollm2_generates_for_many_what_it_does_for_each():
    source = ModelSource("reference", "embedded:smollm2", dtype="float32", device="cpu")
    engine = load_engine(source)
    network, tokenizer = engine.module, engine.tokenizer
    questions = [
        "The capital of France is",
        "Two plus two equals four, and three plus three",
        "Once upon a time, in a village by the sea,",
        "def fibonacci(n):",
        "Water boils at",
        "My favourite colour has always been",
    ]
    prompts = [tokenizer(question)["input_ids"] for question in questions]
    lengths = [24, 9, 17, 30, 1, 12]
    # Little enough memory that some are preempted.
    config = SchedulerConfig(10, 8, max_num_seqs=4, max_num_batched_tokens=16)

    async def main():
        async with ContinuousBatcher(network, config) as batcher:
            results = await asyncio.gather(
                *(
                    batcher.submit(prompt, SamplingParameters(max_new_tokens=length))
                    for prompt, length in zip(prompts, lengths, strict=True)
                )
            )
        check_idle(batcher)
        assert batcher.scheduler.statistics.num_preemptions > 0
        return [list(result.token_ids) for result in results]

    exact = None
    for prompt, length, output in zip(prompts, lengths, asyncio.run(main()), strict=True):
        expected = network.generate(
            torch.tensor([prompt]),
            max_new_tokens=length,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )[0, len(prompt) :].tolist()
        assert len(output) == length
        if output != expected:
            exact = exact or copy.deepcopy(network).double()
            place = next(i for i in range(length) if output[i] != expected[i])
            seen = [*prompt, *expected[:place]]
            assert legal_difference(network, exact, seen, output[place], expected[place])
