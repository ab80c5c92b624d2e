"""The embedding batcher: every caller its vectors, every text once, nothing for those who left."""

import asyncio
import gc

import pytest
from batching_cases import MICROSECOND, Backend, now, result_of, run
from hypothesis import given, settings
from hypothesis import strategies as st
from infopt_reference.batching import (
    BatcherStoppedError,
    BatchPolicy,
    BatchResultError,
    EmbeddingBatcher,
    QueueFullError,
)

texts = st.lists(st.sampled_from("abcdefgh"), max_size=12)
turns = st.integers(0, 10)


@settings(max_examples=300)
@given(
    st.lists(st.tuples(turns, texts, st.none() | turns), min_size=1, max_size=8),
    st.integers(1, 5),
    st.sampled_from([0.0, 3 * MICROSECOND]),
    st.none() | st.integers(1, 6),
    st.integers(1, 3),
    st.integers(0, 3),
    st.sets(st.sampled_from("abcdefgh"), max_size=2),
)
def test_every_caller_gets_its_vectors_and_no_text_is_computed_twice_at_a_time(
    callers, size, wait, queue, slots, duration, bad
):
    """``callers``: (comes, texts, leaves), in turns of the event loop."""
    computing, asked, alone = set(), set(), Backend(duration, bad)

    async def backend(texts):
        assert len(texts) <= size
        assert len(set(texts)) == len(texts)
        assert computing.isdisjoint(texts)
        computing.update(texts)
        try:
            return await alone(texts)
        finally:
            computing.difference_update(texts)

    async def caller(batcher, comes, texts, leaves):
        for _ in range(comes):
            await asyncio.sleep(0)
        asked.update(texts)
        task = asyncio.ensure_future(batcher.embed(texts))
        if leaves is not None:
            for _ in range(leaves):
                await asyncio.sleep(0)
            task.cancel()
        await asyncio.wait([task])
        if task.cancelled():
            assert leaves is not None
        elif error := task.exception():
            assert isinstance(error, KeyError)
            assert error.args[0] in bad.intersection(texts)
        else:
            assert bad.isdisjoint(texts)
            assert task.result() == [result_of(text) for text in texts]

    async def scenario():
        policy = BatchPolicy(size, wait, queue, slots)
        async with EmbeddingBatcher(backend, policy) as batcher:
            await asyncio.gather(*[caller(batcher, *call) for call in callers])
        assert batcher.statistics.num_pending == batcher.num_waiting == batcher.num_running == 0
        if bad.isdisjoint(asked) and all(leaves is None for _, _, leaves in callers):
            assert batcher.statistics.num_submitted == batcher.statistics.num_completed

    run(scenario())
    assert {text for _, texts in alone.calls for text in texts} <= asked


def scenario_of(calls, policy, backend):
    async def scenario():
        async with EmbeddingBatcher(backend, policy) as batcher:
            return await asyncio.gather(*map(batcher.embed, calls), return_exceptions=True)

    return run(scenario())


def test_callers_of_one_moment_share_one_call_and_equal_texts_one_vector():
    backend = Backend()
    calls = [["a", "b", "a"], ["c"], [], ["b", "d"]]
    outcomes = scenario_of(calls, BatchPolicy(8, max_wait=0.001), backend)
    assert outcomes == [[result_of(text) for text in texts] for texts in calls]
    assert backend.batches == [["a", "b", "c", "d"]]
    assert outcomes[0][1] is outcomes[3][0]


@pytest.mark.parametrize("count", [1, 3, 4, 5, 8, 11])
def test_a_list_longer_than_a_batch_is_split_and_its_rest_is_served(count):
    backend = Backend()
    texts = [str(i) for i in range(count)]
    assert scenario_of([texts], BatchPolicy(4, 0.01), backend) == [[*map(result_of, texts)]]
    assert backend.batches == [texts[i : i + 4] for i in range(0, count, 4)]


def test_batches_that_return_out_of_order_are_joined_in_order():
    backend = Backend(duration=[3000, 1000, 2000])
    texts = list("abcdefghi")
    policy = BatchPolicy(3, max_concurrency=3)
    assert scenario_of([texts], policy, backend) == [[*map(result_of, texts)]]


def test_whoever_asks_while_a_text_is_computed_waits_for_the_same_and_afterwards_for_another():
    backend = Backend(duration=1000)

    async def scenario():
        async with EmbeddingBatcher(backend, BatchPolicy(4)) as batcher:
            first = asyncio.ensure_future(batcher.embed(["a"]))
            await asyncio.sleep(0.0005)
            assert await batcher.embed(["a"]) == [result_of("a")]
            assert now() == 1000
            await first
            await batcher.embed(["a"])
            assert now() == 2000

    run(scenario())
    assert backend.batches == [["a"], ["a"]]


def test_whoever_asks_as_the_outcome_comes_gets_a_new_one():
    alone, late = Backend(), []

    async def backend(texts):
        results = await alone(texts)
        if not late:  # begins in the turn in which the callers wake up
            late.append(asyncio.ensure_future(batcher.embed(["a"])))
        return results

    async def scenario():
        async with batcher:
            await batcher.embed(["a"])
            await late[0]

    batcher = EmbeddingBatcher(backend, BatchPolicy(2))
    run(scenario())
    assert alone.batches == [["a"], ["a"]]


def test_a_text_whose_callers_left_the_backend_computes_for_the_next():
    backend = Backend(duration=1000, bad={"bad"})

    async def scenario():
        async with EmbeddingBatcher(backend, BatchPolicy(2)) as batcher:
            left = asyncio.ensure_future(batcher.embed(["a", "bad"]))
            await asyncio.sleep(0.0005)
            left.cancel()
            await asyncio.wait([left])
            assert await batcher.embed(["a"]) == [result_of("a")]
            assert now() == 1000

    run(scenario())
    assert backend.batches == [["a", "bad"]]


def test_a_text_that_fails_fails_those_who_ask_for_it():
    policy = BatchPolicy(2, max_wait=0.001)
    calls = [["a", "bad"], ["b"], ["bad"], ["a", "b"]]
    outcomes = scenario_of(calls, policy, Backend(bad={"bad"}))
    assert [type(outcome) for outcome in outcomes] == [KeyError, list, KeyError, list]


def test_what_a_failed_call_leaves_behind_is_not_computed():
    backend = Backend(duration=1000, bad={"bad"})

    async def scenario():
        async with EmbeddingBatcher(backend, BatchPolicy(1)) as batcher:
            failing = asyncio.ensure_future(batcher.embed(["bad", "a", "b", "c"]))
            other = asyncio.ensure_future(batcher.embed(["c"]))
            with pytest.raises(KeyError):
                await failing
            assert now() == 1000
            assert await other == [result_of("c")]

    run(scenario())
    assert backend.batches == [["bad"], ["a"], ["c"]]


@pytest.mark.parametrize("wrong", [lambda x: x[1:], lambda x: dict.fromkeys(x), lambda x: "ab"])
def test_a_backend_that_does_not_return_one_vector_each_fails_its_callers_alone(wrong):
    calls = []

    async def backend(texts):
        calls.append(texts)
        return wrong(texts) if len(calls) == 1 else list(texts)

    outcomes = scenario_of([["a", "b", "c"], ["c"], ["d"]], BatchPolicy(3, 0.001), backend)
    assert [type(outcome) for outcome in outcomes] == [BatchResultError, BatchResultError, list]


def test_a_call_is_turned_away_as_a_whole():
    backend = Backend()

    async def scenario():
        policy = BatchPolicy(2, 0.001, max_queue_size=3, reject_when_full=True)
        async with EmbeddingBatcher(backend, policy) as batcher:
            outcomes = await asyncio.gather(
                batcher.embed(list("aabbcc")),
                batcher.embed(list("cdef")),
                batcher.embed(list("abcde")),
                return_exceptions=True,
            )
            assert batcher.statistics.num_rejected == 3
            return outcomes

    first, rejected, last = run(scenario())
    assert isinstance(rejected, QueueFullError)
    assert "3 new texts, and room for 2" in str(rejected)
    assert (first, last) == ([*map(result_of, "aabbcc")], [*map(result_of, "abcde")])
    assert sorted(text for batch in backend.batches for text in batch) == list("abcde")


def test_a_deadline_ends_a_call_and_its_texts():
    backend = Backend(duration=1000)

    async def scenario():
        async with EmbeddingBatcher(backend, BatchPolicy(1)) as batcher:
            with pytest.raises(TimeoutError, match="deadline of"):
                await batcher.embed(["a", "b", "c"], deadline=1500 * MICROSECOND)
            assert now() == 1500

    run(scenario())
    assert backend.batches == [["a"], ["b"]]


def test_a_stop_at_once_tells_all_callers():
    backend = Backend(duration=10**9)

    async def scenario():
        batcher = EmbeddingBatcher(backend, BatchPolicy(2))
        await batcher.start()
        calls = [asyncio.ensure_future(batcher.embed(list(texts))) for texts in ("ab", "bc", "cd")]
        left = asyncio.ensure_future(batcher.embed(["a", "e"]))
        await asyncio.sleep(0.001)
        left.cancel()
        await batcher.stop(drain=False)
        outcomes = await asyncio.gather(*calls, left, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes[:-1]] == [BatcherStoppedError] * 3
        assert now() == 1000
        gc.collect()  # when asyncio reports exceptions that nobody has seen

    run(scenario())
    assert backend.batches == [["a", "b"]]


def test_a_single_string_is_no_list_of_texts():
    with pytest.raises(TypeError, match="'abc'; give a list"):
        run(EmbeddingBatcher(Backend(), BatchPolicy(1)).embed("abc"))


@pytest.mark.parametrize("texts", [[], ["a"]])
def test_nobody_embeds_with_a_batcher_that_does_not_run(texts):
    with pytest.raises(BatcherStoppedError):
        run(EmbeddingBatcher(Backend(), BatchPolicy(1)).embed(texts))
