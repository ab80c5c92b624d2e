"""The simulator against the batchers on virtual time, to the microsecond, and queueing theory."""

import asyncio
import math
import statistics

import async_solipsism
import pytest
import torch
from batching_cases import MICROSECOND, now, run, sleep_until
from hypothesis import given, settings
from hypothesis import strategies as st
from infopt_reference.batching import (
    STRATEGIES,
    BatchPolicy,
    ContinuousBatcher,
    CostModel,
    DynamicBatcher,
    SamplingParameters,
    SchedulerConfig,
    StaticBatcher,
    TraceRequest,
    poisson,
    simulate,
    trace,
)
from infopt_reference.batching.simulator import step_seconds
from transformers import AutoModelForCausalLM, LlamaConfig

# As in the test of the batchers: moments that could coincide are kept apart. All times are whole
# microseconds, here integers, so that sums are exact. There are some hundred steps at most, and
# their shifts stay below a tick.
TICK, TENTH, SHIFT = 10_000, 3_000, 10
LONGEST_OUTPUT = 5

requests = st.lists(
    st.builds(
        TraceRequest,
        st.integers(0, 30).map(lambda n: n * TICK),
        st.integers(1, 9),
        st.integers(1, LONGEST_OUTPUT),
    ),
    min_size=1,
    max_size=25,
)
coefficients = st.integers(0, 3).map(lambda n: n * TICK)
cost_models = st.builds(
    CostModel,
    coefficients.map(lambda n: n + SHIFT),  # every step shifts what follows from it
    coefficients,
    coefficients,
    coefficients,
)


@settings(max_examples=200)
@given(
    st.sampled_from(["none", "static", "dynamic"]),
    requests,
    cost_models,
    st.integers(1, 6),
    st.integers(0, 9),
    st.none() | st.integers(1, 6),
    st.integers(1, 3),
)
def test_batchers_complete_requests_when_the_simulator_says(
    strategy, requests, cost_model, size, wait, queue, slots
):
    window = wait * TICK + TENTH if wait else 0
    simulated = simulate(strategy, requests, cost_model, BatchPolicy(size, window, queue, slots))
    sizes, completions = [], {}

    async def batch_function(batch):
        sizes.append(len(batch))
        await asyncio.sleep(cost_model.batch([request for _, request in batch]) * MICROSECOND)
        return batch

    async def caller(batcher, number, request):
        assert await batcher.submit((number, request)) == (number, request)
        completions[number] = now()

    async def scenario():
        size_used = 1 if strategy == "none" else size
        policy = BatchPolicy(size_used, window * MICROSECOND, queue, slots)
        made = (StaticBatcher if strategy == "static" else DynamicBatcher)(batch_function, policy)
        async with made as batcher:
            callers = []
            for number, request in enumerate(simulated.requests):
                await sleep_until(request.arrival)
                callers.append(asyncio.ensure_future(caller(batcher, number, request)))
            await asyncio.sleep(0)
            if strategy == "static":
                batcher.flush()
            await asyncio.gather(*callers)

    run(scenario())
    assert [completions[number] for number in range(len(requests))] == list(simulated.completions)
    assert sizes == list(simulated.batch_sizes)


class TimedLoop(async_solipsism.EventLoop):
    """What runs in a thread takes as long as its step costs, and the loop goes on meanwhile."""

    cost_model: CostModel

    async def run_in_executor(self, executor, function, *args):
        await asyncio.sleep(step_seconds(args[0], self.cost_model) * MICROSECOND)
        return function(*args)


@pytest.fixture(scope="module")
def tiny_model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=1, max_position_embeddings=64,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config).eval()


@settings(max_examples=40, deadline=None)
@given(
    requests=requests,
    cost_model=cost_models,
    config=st.builds(
        SchedulerConfig,
        num_blocks=st.integers(4, 12),
        block_size=st.integers(4, 6),  # so that every request could run alone
        max_num_seqs=st.integers(1, 5),
        max_num_batched_tokens=st.integers(1, 20),
        policy=st.sampled_from(["fcfs", "skip"]),
    ),
)
def test_the_continuous_batcher_completes_requests_when_the_simulator_says(
    tiny_model, requests, cost_model, config
):
    simulated = simulate("continuous", requests, cost_model, config=config)
    completions = {}

    async def caller(batcher, number, request):
        parameters = SamplingParameters(max_new_tokens=request.output_tokens)
        await batcher.submit([1] * request.prompt_tokens, parameters)
        completions[number] = now()

    async def scenario():
        async with ContinuousBatcher(tiny_model, config) as batcher:
            callers = []
            for number, request in enumerate(simulated.requests):
                await sleep_until(request.arrival)
                callers.append(asyncio.ensure_future(caller(batcher, number, request)))
            await asyncio.gather(*callers)

    loop = TimedLoop()
    loop.cost_model = cost_model
    loop.run_until_complete(scenario())
    loop.close()
    assert [completions[number] for number in range(len(requests))] == list(simulated.completions)


@given(requests, cost_models)
def test_batches_of_one_follow_lindleys_recursion_whatever_the_strategy(requests, cost_model):
    config = SchedulerConfig(num_blocks=4, block_size=4, max_num_seqs=1)
    policy = BatchPolicy(1, max_wait=10 * TICK)
    results = [simulate(s, requests, cost_model, policy, config) for s in STRATEGIES]
    free, expected = 0, []
    for request in sorted(requests, key=lambda request: request.arrival):
        free = max(free, request.arrival) + cost_model.batch([request])
        expected.append(free)
    for result in results:
        assert list(result.completions) == expected
        assert result.busy_seconds == sum(map(cost_model.batch, [[r] for r in requests]))


def test_waits_without_batching_are_those_of_the_pollaczek_khinchine_formula():
    rate, service, count = 0.7, 1.0, 40_000
    result = simulate(
        "none", trace(poisson(rate, count, seed=5)), CostModel(service), BatchPolicy(1)
    )
    expected = rate * service**2 / (2 * (1 - rate * service))
    waits = [latency - service for latency in result.latencies]
    size = count // 40  # neighbours wait together: means of long stretches are independent
    means = [statistics.mean(waits[i : i + size]) for i in range(0, count, size)]
    error = statistics.stdev(means) / math.sqrt(len(means))
    assert abs(statistics.mean(waits) - expected) < 4 * error
    assert error < 0.1 * expected
    assert result.utilisation == pytest.approx(rate, rel=4 / math.sqrt(count))


def test_a_result_measures_the_time_from_the_first_arrival_to_the_last_completion():
    requests = trace([10, 10, 14], output_tokens=[1, 3, 2])
    result = simulate("dynamic", requests, CostModel(1), BatchPolicy(2, max_concurrency=2))
    assert result.completions == (13, 13, 16)
    assert result.latencies == (3, 3, 2)
    assert result.batch_sizes == (2, 1)
    assert result.mean_latency == pytest.approx(8 / 3)
    assert (result.latency(50), result.latency(0), result.latency(75)) == (3, 2, 3)
    assert (result.seconds, result.busy_seconds) == (6, 5)
    assert (result.requests_per_second, result.tokens_per_second) == (0.5, 1.0)
    assert result.utilisation == pytest.approx(5 / 12)
    assert result.mean_batch_size == 1.5


def test_short_requests_leave_before_long_ones_only_under_continuous_batching():
    requests = trace([0] * 4, prompt_tokens=1, output_tokens=[1, 2, 3, 10])
    policy, config = BatchPolicy(4), SchedulerConfig(num_blocks=16)
    completions = {
        s: simulate(s, requests, CostModel(1), policy, config).completions for s in STRATEGIES
    }
    assert completions == {
        "none": (1, 3, 6, 16),
        "static": (10, 10, 10, 10),
        "dynamic": (10, 10, 10, 10),
        "continuous": (1, 2, 3, 10),
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("none", [], CostModel(1), BatchPolicy(1)), "no request"),
        (("dynamic", trace([0]), CostModel(1)), "needs the batcher's policy"),
        (("continuous", trace([0]), CostModel(1), BatchPolicy(1)), "give config"),
        (("adaptive", trace([0]), CostModel(1), BatchPolicy(1)), "'adaptive'; give one of none"),
        (("static", trace([0]), CostModel(1), BatchPolicy(1, 0, 1, 1, True)), "turned away"),
        (("continuous", trace([0], 9, 9), CostModel(1), None, SchedulerConfig(1)), "blocks"),
    ],
)
def test_what_cannot_be_simulated_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        simulate(*arguments)
