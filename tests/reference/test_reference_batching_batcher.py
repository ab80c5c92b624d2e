"""The batchers against a plain simulation to the microsecond, and whatever may happen to a caller.

All on virtual time, where a caller that would wait for ever is an error.
"""

import asyncio
import contextvars
import gc
import math

import async_solipsism
import pytest
from batching_cases import MICROSECOND, Backend, now, result_of, run, sleep_until
from hypothesis import given, settings
from hypothesis import strategies as st
from infopt_reference.batching import (
    BatcherRunningError,
    BatcherStoppedError,
    BatchFunctionError,
    BatchPolicy,
    BatchResultError,
    DynamicBatcher,
    QueueFullError,
    StaticBatcher,
)

# Moments that never coincide, so that their order is no question: callers come at whole ticks and
# leave at half ones, windows end a tenth later, and what follows from n calls is n shifts later. A
# shift is more than the event loop's resolution, within which timers go off together.
TICK, HALF, TENTH, SHIFT = 10_000, 5_000, 1_000, 10  # microseconds
ticks = st.integers(0, 30)
callers = st.lists(
    st.tuples(ticks, st.none() | ticks, st.sampled_from([asyncio.CancelledError, TimeoutError])),
    min_size=1,
    max_size=25,
)  # (comes, stays, how it leaves)
policies = st.builds(
    BatchPolicy,
    max_batch_size=st.integers(1, 5),
    max_wait=st.one_of(
        st.just(0.0),
        st.integers(0, 12).map(lambda n: (n * TICK + TENTH) * MICROSECOND),
    ),
    max_queue_size=st.none() | st.integers(1, 8),
    max_concurrency=st.integers(1, 3),
)
durations = st.lists(st.integers(0, 15).map(lambda n: n * TICK + SHIFT), min_size=25, max_size=25)


def expected_calls(callers, policy, durations):
    """(start, items) of every call: goes from one moment at which something happens to the next.

    ``callers``: (comes, leaves or infinity) in microseconds, in the order of their calls.
    """
    window = round(policy.max_wait / MICROSECOND)
    line, calls, returns = [], [], []
    coming = list(enumerate(callers))
    moment = 0
    while coming or line:
        while coming and coming[0][1][0] <= moment:
            line.append(coming.pop(0)[0])
        line = [caller for caller in line if callers[caller][1] > moment]
        returns = [at for at in returns if at > moment]
        while line and len(returns) < policy.max_concurrency:
            batch = line[: policy.largest_batch]
            if len(batch) < policy.largest_batch and callers[batch[0]][0] + window > moment:
                break
            del line[: len(batch)]
            returns.append(moment + durations[len(calls)])
            calls.append((moment, batch))
        moments = [*returns, *[comes for _, (comes, _) in coming]]
        moments += [callers[caller][1] for caller in line]
        moments += [callers[caller][0] + window for caller in line[:1]]
        moment = min((at for at in moments if at > moment), default=math.inf)
    return calls


@settings(max_examples=300)
@given(callers, policies, durations)
def test_every_call_is_the_one_of_a_plain_simulation(callers, policy, durations):
    callers = sorted(callers, key=lambda caller: caller[0])
    moments = [
        (
            comes * TICK,
            math.inf if stays is None else (comes + stays) * TICK + HALF,
        )
        for comes, stays, _ in callers
    ]
    backend = Backend(durations)
    batcher = DynamicBatcher(backend, policy)

    async def caller(number):
        (comes, leaves), how = moments[number], callers[number][2]
        deadline = None
        if how is TimeoutError and leaves != math.inf:
            deadline = (leaves - comes) * MICROSECOND
        task = asyncio.ensure_future(batcher.submit(number, deadline))
        if how is asyncio.CancelledError and leaves != math.inf:
            asyncio.get_running_loop().call_at(leaves * MICROSECOND, task.cancel)
        try:
            return await task, now()
        except how:
            return how, now()

    async def scenario():
        tasks = []
        async with batcher:
            for number, (comes, _) in enumerate(moments):
                await sleep_until(comes)
                tasks.append(asyncio.ensure_future(caller(number)))
            return await asyncio.gather(*tasks)

    outcomes = run(scenario())
    calls = expected_calls(moments, policy, durations)
    assert backend.calls == calls
    returns = {
        item: start + duration
        for (start, items), duration in zip(calls, durations, strict=False)
        for item in items
    }
    for number, (outcome, at) in enumerate(outcomes):
        leaves = moments[number][1]
        served = returns.get(number, math.inf)
        assert at == min(served, leaves)
        assert outcome == (result_of(number) if served < leaves else callers[number][2])
    counted = batcher.statistics
    assert counted.num_pending == batcher.num_waiting == batcher.num_running == 0
    assert counted.num_submitted == len(callers)
    assert counted.num_expired == sum(outcome is TimeoutError for outcome, _ in outcomes)
    left = sum(outcome is asyncio.CancelledError for outcome, _ in outcomes)
    assert counted.num_withdrawn == counted.num_expired + left
    assert counted.num_completed == len(callers) - counted.num_withdrawn
    assert sorted(counted.batch_sizes.elements()) == sorted(len(items) for _, items in calls)
    waits = [(start - moments[item][0]) * MICROSECOND for start, items in calls for item in items]
    assert counted.longest_wait == pytest.approx(max(waits, default=0), abs=MICROSECOND)
    assert counted.total_wait == pytest.approx(sum(waits), abs=MICROSECOND * len(callers))


turns = st.integers(0, 12)


@settings(max_examples=300)
@given(
    st.lists(st.tuples(turns, st.none() | turns), min_size=1, max_size=12),  # comes, stays
    st.integers(1, 4),
    st.sampled_from([0.0, 3 * MICROSECOND, math.inf]),
    st.none() | st.integers(1, 4),
    st.integers(1, 2),
    st.integers(0, 4),
    st.sets(st.integers(0, 11)),
    st.sampled_from([[True], [False], [True, False]]),
    st.integers(0, 20),
)
def test_whoever_leaves_in_any_turn_of_the_loop_hurts_nobody(
    callers, size, wait, queue, slots, duration, bad, stops, stop_turn
):
    backend = Backend(duration, bad)
    policy = BatchPolicy(size, wait, queue, slots)
    batcher = DynamicBatcher(backend, policy)

    async def pass_turns(count):
        for _ in range(count):
            await asyncio.sleep(0)

    async def caller(number, comes, leaves):
        await pass_turns(comes)
        task = asyncio.ensure_future(batcher.submit(number))
        if leaves is not None:
            await pass_turns(leaves)
            task.cancel()
        await asyncio.wait([task])
        if task.cancelled():
            assert leaves is not None
            return "cancelled"
        if (error := task.exception()) is None:
            assert task.result() == result_of(number)
            return "completed"
        if isinstance(error, KeyError):
            assert number in bad
            assert error.args == (number,)
            return "failed"
        assert isinstance(error, BatcherStoppedError)
        return "stopped"

    async def scenario():
        await batcher.start()
        tasks = [asyncio.ensure_future(caller(i, *c)) for i, c in enumerate(callers)]
        await pass_turns(stop_turn)
        await asyncio.gather(*map(batcher.stop, stops))
        ends = await asyncio.gather(*tasks)
        assert backend.num_running == 0
        async with batcher:  # and it is as good as new
            items = range(100, 100 + policy.largest_batch)
            outcomes = await asyncio.gather(*map(batcher.submit, items))
            assert outcomes == [result_of(item) for item in items]
        return ends

    outcomes = run(scenario())
    sent = [item for _, items in backend.calls for item in items]
    assert len(sent) == len(set(sent))
    assert backend.most_running <= slots
    counted = batcher.statistics
    assert counted.num_pending == batcher.num_waiting == batcher.num_running == 0
    for item, outcome in enumerate(outcomes):
        if outcome in ("completed", "failed"):
            assert item in sent
    if all(stops):
        assert counted.num_stopped == 0  # those that came too late were never submitted


def simultaneous(batcher_class, policy, items, backend=None):
    backend = backend or Backend()

    async def scenario():
        async with batcher_class(backend, policy) as batcher:
            outcomes = await asyncio.gather(*map(batcher.submit, items), return_exceptions=True)
            return outcomes, batcher

    return *run(scenario()), backend


@pytest.mark.parametrize("wait", [0, 0.01])
@pytest.mark.parametrize("count", [1, 3, 4, 5, 8, 9])
def test_callers_of_one_moment_share_as_few_calls_as_possible(count, wait):
    outcomes, _, backend = simultaneous(DynamicBatcher, BatchPolicy(4, wait), range(count))
    assert outcomes == [result_of(i) for i in range(count)]
    assert backend.batches == [list(range(count))[i : i + 4] for i in range(0, count, 4)]


def test_a_window_is_no_debounce():
    backend = Backend(duration=0)

    async def scenario():
        async with DynamicBatcher(backend, BatchPolicy(100, max_wait=0.010)) as batcher:
            tasks = []
            for _ in range(40):
                tasks.append(asyncio.ensure_future(batcher.submit(now())))
                await asyncio.sleep(0.009)
            await asyncio.gather(*tasks)

    run(scenario())
    assert all(start - items[0] == 10_000 for start, items in backend.calls)
    assert {len(items) for items in backend.batches} == {2}


@pytest.mark.parametrize("wait", [1, 3, 7, 300, 1_100, 123_457])
def test_a_window_that_ends_as_a_slot_is_free_ends_in_that_moment(wait):
    """In floating point, neither of the two moments is the other.

    The callers of the first batch have left: nothing else keeps the loop awake.
    """

    async def scenario(comes):
        backend = Backend(duration=[comes + wait, 0])
        async with DynamicBatcher(backend, BatchPolicy(2, wait * MICROSECOND)) as batcher:
            callers = [asyncio.ensure_future(batcher.submit(item)) for item in (1, 2)]
            await sleep_until(comes)
            for caller in callers:
                caller.cancel()
            await batcher.submit(3)
        assert backend.calls == [(0, [1, 2]), (comes + wait, [3])]

    for comes in range(1, 100):
        run(scenario(comes))


def test_a_static_batcher_waits_for_full_batches_and_flushes_when_told():
    backend = Backend()

    async def scenario():
        async with StaticBatcher(backend, BatchPolicy(3, max_wait=0.001)) as batcher:
            tasks = [asyncio.ensure_future(batcher.submit(i)) for i in range(4)]
            await asyncio.sleep(1)
            assert backend.calls == [(0, [0, 1, 2])]
            batcher.flush()
            await asyncio.sleep(1)
            assert backend.calls[1:] == [(1_000_000, [3])]
            batcher.flush()  # nothing is there
            tasks += [asyncio.ensure_future(batcher.submit(i)) for i in (4, 5)]
            await asyncio.sleep(1)
            assert len(backend.calls) == 2
        assert await asyncio.gather(*tasks) == [result_of(i) for i in range(6)]

    run(scenario())
    assert backend.calls[2:] == [(3_000_000, [4, 5])]


def test_a_static_batcher_without_an_end_waits_for_ever():
    async def scenario():
        async with StaticBatcher(Backend(), BatchPolicy(2)) as batcher:
            await batcher.submit("alone")

    loop = async_solipsism.EventLoop()
    task = loop.create_task(scenario())
    with pytest.raises(async_solipsism.SleepForeverError):
        loop.run_until_complete(task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)
    loop.close()


def test_what_is_flushed_while_no_slot_is_free_goes_when_one_is():
    backend = Backend(duration=5000)

    async def scenario():
        async with StaticBatcher(backend, BatchPolicy(2)) as batcher:
            tasks = [asyncio.ensure_future(batcher.submit(i)) for i in range(3)]
            await asyncio.sleep(0.001)
            batcher.flush()
            await asyncio.gather(*tasks)

    run(scenario())
    assert backend.calls == [(0, [0, 1]), (5000, [2])]


async def leave(batcher):
    """A caller that is cancelled while it waits."""
    caller = asyncio.ensure_future(batcher.submit("cancelled"))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.wait([caller])


@pytest.mark.parametrize(
    ("count", "leaves", "idle"),
    [
        (4, False, 0.001),
        (8, False, 0.002),
        (7, False, 0.01 + 0.001),  # three of the seven go when their window ends
        (4, True, 0.001),
    ],
)
def test_an_idle_batcher_has_no_timer(count, leaves, idle):
    async def scenario():
        async with DynamicBatcher(Backend(), BatchPolicy(4, max_wait=0.01)) as batcher:
            await asyncio.gather(*map(batcher.submit, range(count)))
            if leaves:
                await leave(batcher)
            await asyncio.get_running_loop().create_future()  # nothing ever wakes the loop

    loop = async_solipsism.EventLoop()
    task = loop.create_task(scenario())
    with pytest.raises(async_solipsism.SleepForeverError):
        loop.run_until_complete(task)
    assert loop.time() == pytest.approx(idle)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)
    loop.close()


def test_an_item_that_fails_fails_alone():
    outcomes, batcher, _ = simultaneous(DynamicBatcher, BatchPolicy(4), range(4), Backend(bad={2}))
    assert [type(outcome) for outcome in outcomes] == [tuple, tuple, KeyError, tuple]
    assert (batcher.statistics.num_completed, batcher.statistics.num_failed) == (3, 1)


class Fatal(BaseException):
    pass


def returning(value):
    async def batch_function(items):
        return value(items)

    return batch_function


def raising(error):
    def batch_function(items):
        raise error

    return batch_function


@pytest.mark.parametrize(
    ("broken", "error", "message"),
    [
        (returning(lambda x: x[1:]), BatchResultError, "returned 2 results for 3 items"),
        (returning(lambda x: [*x, 1]), BatchResultError, "returned 4 results for 3 items"),
        (returning(lambda x: "abc"), BatchResultError, "returned a str for 3 items"),
        (returning(lambda x: b"abc"), BatchResultError, "returned a bytes for 3 items"),
        (returning(lambda x: dict.fromkeys(x)), BatchResultError, "returned a dict for 3 items"),
        (returning(set), BatchResultError, "returned a set for 3 items"),
        (returning(iter), BatchResultError, "returned a list_iterator for 3 items"),
        (returning(lambda x: None), BatchResultError, "returned a NoneType for 3 items"),
        (returning(lambda x: x.clear()), BatchResultError, "NoneType"),
        (lambda items: items, TypeError, "await"),
        (raising(ValueError("broken")), ValueError, "broken"),
        (raising(StopIteration()), BatchFunctionError, "StopIteration"),
        (raising(asyncio.CancelledError()), BatchFunctionError, "CancelledError"),
        (raising(Fatal("broken")), Fatal, "broken"),
    ],
)
def test_what_a_batch_function_does_wrong_fails_its_batch_and_no_other(broken, error, message):
    calls = []

    def batch_function(items):
        calls.append(items)
        return (broken if len(calls) == 2 else returning(list))(items)

    async def scenario():
        async with DynamicBatcher(batch_function, BatchPolicy(3)) as batcher:
            outcomes = await asyncio.gather(*map(outcome_of, [batcher] * 9, range(9)))
            return outcomes, await batcher.submit("after")

    outcomes, after = run(scenario())
    assert outcomes[:3] == [0, 1, 2]
    assert outcomes[6:] == [6, 7, 8]
    assert after == "after"
    for outcome in outcomes[3:6]:
        assert type(outcome) is error
        assert message in str(outcome)


async def outcome_of(batcher, item):
    try:
        return await batcher.submit(item)
    except (Exception, Fatal) as error:
        return error


def test_a_batch_whose_task_is_cancelled_before_it_begins_tells_its_callers():
    async def scenario():
        backend = Backend()
        async with DynamicBatcher(backend, BatchPolicy(2)) as batcher:
            calls = [asyncio.ensure_future(batcher.submit(item)) for item in range(3)]
            others = asyncio.all_tasks()
            await asyncio.sleep(0)
            for task in asyncio.all_tasks() - others:
                task.cancel()
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert backend.batches == [[2]]
        return outcomes

    *cancelled, served = run(scenario())
    assert served == result_of(2)
    assert [type(outcome) for outcome in cancelled] == [BatchFunctionError] * 2


def test_an_error_that_comes_as_its_caller_is_cancelled_is_not_reported_as_unseen():
    async def batch_function(items):
        asyncio.get_running_loop().call_soon(caller.cancel)  # it has its outcome by then
        raise OSError("gone")

    async def scenario():
        nonlocal caller
        async with DynamicBatcher(batch_function, BatchPolicy(1)) as batcher:
            caller = asyncio.ensure_future(batcher.submit(1))
            await asyncio.wait([caller])
            assert caller.cancelled()
            assert batcher.statistics.num_failed == 1
        gc.collect()  # when asyncio reports them

    caller = None
    run(scenario())


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_ends_the_loop_and_reaches_no_caller(interrupt):
    loop = async_solipsism.EventLoop()
    batcher = DynamicBatcher(raising(interrupt()), BatchPolicy(2))
    loop.run_until_complete(batcher.start())
    caller = loop.create_task(batcher.submit(1))
    with pytest.raises(interrupt):
        loop.run_until_complete(caller)
    with pytest.raises(BatchFunctionError, match=interrupt.__name__):
        loop.run_until_complete(caller)
    loop.run_until_complete(batcher.stop())
    loop.close()


def test_an_item_may_fail_with_what_futures_refuse():
    async def batch_function(items):
        return [StopIteration(), 2]

    async def scenario():
        async with DynamicBatcher(batch_function, BatchPolicy(2)) as batcher:
            return await asyncio.gather(*map(batcher.submit, "ab"), return_exceptions=True)

    failed, served = run(scenario())
    assert isinstance(failed, BatchFunctionError)
    assert isinstance(failed.__cause__, StopIteration)
    assert served == 2


def test_results_that_break_off_fail_the_rest():
    class Results:
        def __len__(self):
            return 3

        def __getitem__(self, index):
            if index == 2:
                raise OSError("gone")
            return index

    outcomes, _, _ = simultaneous(
        DynamicBatcher, BatchPolicy(3), "abc", returning(lambda _: Results())
    )
    assert outcomes[:2] == [0, 1]
    assert isinstance(outcomes[2], OSError)


@pytest.mark.parametrize("state", ["before", "after", "while it drains"])
def test_nobody_submits_to_a_batcher_that_does_not_run(state):
    async def scenario():
        batcher = DynamicBatcher(Backend(), BatchPolicy(2))
        if state != "before":
            await batcher.start()
            served = asyncio.ensure_future(batcher.submit(1))
            await asyncio.sleep(0)
            stopping = asyncio.ensure_future(batcher.stop())
            await asyncio.sleep(0 if state == "while it drains" else 1)
            if state == "while it drains":
                with pytest.raises(BatcherRunningError, match="stopping"):
                    await batcher.start()
        with pytest.raises(BatcherStoppedError):
            await batcher.submit(2)
        if state != "before":
            await stopping
            assert await served == result_of(1)

    run(scenario())


def test_a_batcher_is_started_once():
    async def scenario():
        async with DynamicBatcher(Backend(), BatchPolicy(2)) as batcher:
            with pytest.raises(BatcherRunningError, match="running"):
                await batcher.start()
        await batcher.stop()  # has ended already

    run(scenario())


def test_a_drain_serves_all_and_sends_what_waits_at_once():
    backend = Backend(duration=1000)

    async def scenario():
        batcher = DynamicBatcher(backend, BatchPolicy(2, max_wait=100, max_queue_size=3))
        await batcher.start()
        tasks = [asyncio.ensure_future(batcher.submit(i)) for i in range(9)]
        await asyncio.sleep(0)
        assert batcher.num_waiting == 7
        await asyncio.gather(batcher.stop(), batcher.stop())
        assert now() == 5000
        assert all(task.done() for task in tasks)
        return await asyncio.gather(*tasks)

    assert run(scenario()) == [result_of(i) for i in range(9)]


def test_a_stop_at_once_tells_all_callers_and_cancels_the_call():
    backend = Backend(duration=10**9)

    async def scenario():
        batcher = DynamicBatcher(backend, BatchPolicy(2, max_queue_size=3, max_concurrency=2))
        await batcher.start()
        tasks = [asyncio.ensure_future(batcher.submit(i)) for i in range(9)]
        await asyncio.sleep(0.001)
        await batcher.stop(drain=False)
        assert now() == 1000
        assert backend.num_running == 0
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {BatcherStoppedError}
        assert batcher.statistics.num_stopped == 9

    run(scenario())


def test_a_stop_at_once_cuts_a_drain_short():
    async def scenario():
        batcher = DynamicBatcher(Backend(duration=10**9), BatchPolicy(1))
        await batcher.start()
        tasks = [asyncio.ensure_future(batcher.submit(i)) for i in range(3)]
        await asyncio.sleep(0)
        drain = asyncio.ensure_future(batcher.stop())
        await asyncio.sleep(1)
        await batcher.stop(drain=False)
        await drain
        assert now() == 10**6
        for task in tasks:
            with pytest.raises(BatcherStoppedError):
                await task

    run(scenario())


def test_a_block_that_is_cancelled_while_it_drains_stops_at_once():
    backend = Backend(duration=10**9)

    async def block(batcher):
        async with batcher:
            caller = asyncio.ensure_future(batcher.submit(1))
            await asyncio.sleep(0)
        return caller

    async def scenario():
        batcher = DynamicBatcher(backend, BatchPolicy(1))
        task = asyncio.ensure_future(block(batcher))
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert now() == 10**6
        assert backend.num_running == 0
        assert batcher.statistics.num_stopped == 1

    loop = async_solipsism.EventLoop()
    loop.set_exception_handler(lambda *_: None)  # nobody awaits that caller any more
    loop.run_until_complete(scenario())
    loop.close()


def test_a_batch_function_cannot_wait_for_its_own_end():
    async def batch_function(items):
        await batcher.stop()

    async def scenario():
        async with batcher:
            with pytest.raises(RuntimeError, match="call it elsewhere"):
                await batcher.submit(1)

    batcher = DynamicBatcher(batch_function, BatchPolicy(1))
    run(scenario())


def test_a_batch_function_may_submit_to_its_own_batcher():
    async def batch_function(items):
        return [await batcher.submit(x - 1) if x else 0 for x in items]

    async def scenario():
        async with batcher:
            return await batcher.submit(3)

    batcher = DynamicBatcher(batch_function, BatchPolicy(1, max_concurrency=4))
    assert run(scenario()) == 0


def test_a_full_queue_turns_callers_away_or_lets_them_wait():
    async def scenario(reject):
        backend = Backend()
        policy = BatchPolicy(2, 0.0, max_queue_size=2, reject_when_full=reject)
        async with DynamicBatcher(backend, policy) as batcher:
            outcomes = await asyncio.gather(*map(batcher.submit, range(6)), return_exceptions=True)
            assert await batcher.submit("later") == result_of("later")
        return outcomes, backend.batches

    outcomes, batches = run(scenario(reject=False))
    assert outcomes == [result_of(i) for i in range(6)]
    assert batches == [[0, 1], [2, 3], [4, 5], ["later"]]
    outcomes, batches = run(scenario(reject=True))
    assert outcomes[:4] == [result_of(i) for i in range(4)]
    for outcome in outcomes[4:]:
        assert isinstance(outcome, QueueFullError)
        assert "max_queue_size is 2" in str(outcome)
    assert batches == [[0, 1], [2, 3], ["later"]]


def test_a_deadline_that_has_passed_is_over_at_once_and_the_functions_own_timeout_is_not_ours():
    async def scenario():
        backend = Backend()
        async with DynamicBatcher(backend, BatchPolicy(4, max_wait=1)) as batcher:
            for deadline in (0, -1, math.nan):
                with pytest.raises(TimeoutError, match=f"deadline of {deadline} s"):
                    await batcher.submit(1, deadline=deadline)
            assert now() == 0
        assert not backend.calls
        own = TimeoutError("the database's")
        async with DynamicBatcher(raising(own), BatchPolicy(1)) as batcher:
            with pytest.raises(TimeoutError) as caught:
                await batcher.submit(1, deadline=10)
        assert caught.value is own
        assert batcher.statistics.num_expired == 0

    run(scenario())


def test_a_batch_runs_in_the_context_of_the_start():
    variable = contextvars.ContextVar("tenant", default="nobody")

    async def batch_function(items):
        seen = variable.get()
        variable.set("changed by a batch")
        return [seen] * len(items)

    async def caller(batcher, tenant):
        variable.set(tenant)
        return await batcher.submit(tenant)

    async def scenario():
        variable.set("the server")
        async with DynamicBatcher(batch_function, BatchPolicy(2)) as batcher:
            calls = [asyncio.ensure_future(caller(batcher, tenant)) for tenant in "abcd"]
            return await asyncio.gather(*calls)

    assert run(scenario()) == ["the server"] * 4


def test_a_batcher_serves_one_event_loop_after_the_other():
    batcher = DynamicBatcher(Backend(), BatchPolicy(2, max_wait=0.01))

    async def scenario():
        async with batcher:
            await asyncio.gather(*map(batcher.submit, range(3)))
            served = now()
            await asyncio.sleep(1)
            batcher.flush()
        return served

    # Their clocks begin anew: what was flushed in the first is nothing to the second.
    assert [run(scenario()) for _ in range(3)] == [11_000] * 3


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({"max_batch_size": 0}, "max_batch_size is 0"),
        ({"max_batch_size": 1, "max_wait": -1}, "max_wait is -1"),
        ({"max_batch_size": 1, "max_wait": math.nan}, "max_wait is nan"),
        ({"max_batch_size": 1, "max_queue_size": 0}, "max_queue_size is 0"),
        ({"max_batch_size": 1, "max_concurrency": 0}, "max_concurrency is 0"),
        ({"max_batch_size": 1, "reject_when_full": True}, "needs a bound"),
    ],
)
def test_a_policy_out_of_range_is_refused(bounds, message):
    with pytest.raises(ValueError, match=message):
        BatchPolicy(**bounds)
