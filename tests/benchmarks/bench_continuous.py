"""Continuous batching against static batches and transformers' own, and what its scheduler costs.

Run as a script, or with names of what to run: generation, scheduler. SmolLM2-135M in float32, CPU
seconds of one thread, of which waiting for other processes is no part.

Generation: 32 requests of 8 to 64 tokens, whose outputs are between 1 and 96 tokens long,
exponentially distributed about 24. All generate greedily, and the tokens are compared. A static
batch of 8 keeps room for 64 + 96 tokens in each of its rows, and runs until its longest output is
complete; continuous batching gets the same memory in blocks, once as it comes, and once with 8
requests at a time as well. Against transformers' continuous batching, both have room for all
requests and 128 tokens a step. Contenders take turns; a ratio is the median over the rounds.

Scheduler: a step of 32 running requests while 1,000 and 100,000 wait, and the bytes of each.
"""

from __future__ import annotations

import asyncio
import logging
import random
import statistics
import sys
import time
import tracemalloc
import warnings
from collections.abc import Callable
from typing import Any

import torch
from infopt_reference.batching.continuous import ContinuousBatcher
from infopt_reference.batching.request import Request
from infopt_reference.batching.sampling import SamplingParameters
from infopt_reference.batching.scheduler import Scheduler, SchedulerConfig

from pytest_infopt.engines.registry import load_engine
from pytest_infopt.release import ModelSource

REQUESTS, ROUNDS = 32, 3
LONGEST_PROMPT, LONGEST_OUTPUT, MEAN_OUTPUT = 64, 96, 24
ROWS, BLOCK, BUDGET = 8, 16, 128
STATIC_LIMIT, PEER_LIMIT, QUEUE_LIMIT = 2.0, 1.0, 1.3
RESERVED = ROWS * (LONGEST_PROMPT + LONGEST_OUTPUT)  # tokens of a static batch's cache
PEER_PAGES, PEER_PAGE = 32, 256  # of transformers, by its default
SMALL_QUEUE, LARGE_QUEUE = 1_000, 100_000
Trace = list[tuple[list[int], int]]
Outputs = list[list[int]]


def make_trace() -> Trace:
    """Prompts, and how many tokens each is to generate."""
    numbers = random.Random(0)
    trace = []
    for _ in range(REQUESTS):
        length = min(LONGEST_OUTPUT, 1 + int(numbers.expovariate(1 / MEAN_OUTPUT)))
        prompt = numbers.randint(8, LONGEST_PROMPT)
        trace.append(([numbers.randrange(1000, 40_000) for _ in range(prompt)], length))
    return trace


def continuous(model: Any, trace: Trace, tokens: int, requests: int) -> Outputs:
    """Ours, with room for so many tokens and requests at a time."""

    async def generate() -> Outputs:
        config = SchedulerConfig(tokens // BLOCK, BLOCK, requests, BUDGET)
        async with ContinuousBatcher(model, config) as batcher:
            calls = [
                batcher.submit(prompt, SamplingParameters(max_new_tokens=length))
                for prompt, length in trace
            ]
            return [list(result.token_ids) for result in await asyncio.gather(*calls)]

    return asyncio.run(generate())


def static(model: Any, trace: Trace, rows: int) -> Outputs:
    """Batches in the order of the trace, padded on the left, each until its last row is ready."""
    outputs = []
    for first in range(0, len(trace), rows):
        batch = trace[first : first + rows]
        width, longest = (
            max(sizes) for sizes in zip(*((len(p), n) for p, n in batch), strict=True)
        )
        ids = torch.tensor([[0] * (width - len(p)) + p for p, _ in batch])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p, _ in batch])
        generated = model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=longest,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        outputs += [
            row[width : width + n].tolist() for row, (_, n) in zip(generated, batch, strict=True)
        ]
    return outputs


def transformers_continuous(model: Any, trace: Trace) -> Outputs:
    """transformers' manager, which `generate_batch` uses; here each request has its own length."""
    from transformers import GenerationConfig
    from transformers.generation import ContinuousBatchingConfig

    # −1 is no token: nothing stops before its length.
    greedy = GenerationConfig(do_sample=False, eos_token_id=-1, max_new_tokens=LONGEST_OUTPUT)
    config = ContinuousBatchingConfig(num_blocks=PEER_PAGES, max_batch_tokens=BUDGET)
    with model.continuous_batching_context_manager(
        generation_config=greedy, continuous_batching_config=config, block=True, timeout=5
    ) as manager:
        names = [manager.add_request(prompt, max_new_tokens=length) for prompt, length in trace]
        finished: dict[str, list[int]] = {}
        while len(finished) < len(names):
            output = manager.get_result(timeout=1)
            if output is not None and output.is_finished():
                finished[output.request_id] = list(output.generated_tokens)
    return [finished[name] for name in names]


def compare_generation(model: Any) -> None:
    trace, ample = make_trace(), PEER_PAGES * PEER_PAGE
    contenders: dict[str, Callable[[], Outputs]] = {
        f"static, {ROWS} rows": lambda: static(model, trace, ROWS),
        "continuous, as much memory": lambda: continuous(model, trace, RESERVED, REQUESTS),
        f"continuous, {ROWS} at a time": lambda: continuous(model, trace, RESERVED, ROWS),
        f"static, {REQUESTS} rows": lambda: static(model, trace, REQUESTS),
        "continuous, all at a time": lambda: continuous(model, trace, ample, REQUESTS),
        "transformers, continuous": lambda: transformers_continuous(model, trace),
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    outputs: dict[str, Outputs] = {}
    for _ in range(ROUNDS):
        for name, generate in contenders.items():
            started = time.process_time()
            outputs[name] = generate()
            times[name].append(time.process_time() - started)
    prompts, lengths = (sum(sizes) for sizes in zip(*((len(p), n) for p, n in trace), strict=True))
    print(f"{REQUESTS} requests: {prompts} tokens of prompts, {lengths} to generate")
    reference = outputs["continuous, all at a time"]
    for name, seconds in times.items():
        median = statistics.median(seconds)
        same = sum(a == b for a, b in zip(outputs[name], reference, strict=True))
        print(
            f"  {name:<28} {median:6.1f} s, {lengths / median:5.1f} tokens/s, {same} same outputs"
        )

    def ratio(slower: str, faster: str) -> float:
        return statistics.median(a / b for a, b in zip(times[slower], times[faster], strict=True))

    few, all_rows = f"static, {ROWS} rows", f"static, {REQUESTS} rows"
    same_memory = ratio(few, "continuous, as much memory")
    same_rows = ratio(few, f"continuous, {ROWS} at a time")
    every_row = ratio(all_rows, "continuous, all at a time")
    peer = ratio("transformers, continuous", "continuous, all at a time")
    print("throughput of continuous batching, times that of")
    print(f"  static batches in as much memory      {same_memory:.2f}, limit {STATIC_LIMIT}")
    print(f"  static batches of as many requests    {same_rows:.2f}")
    print(f"  one static batch of all requests      {every_row:.2f}")
    print(f"  transformers' continuous batching     {peer:.2f}, limit {PEER_LIMIT}")


def loaded_scheduler(waiting: int) -> Scheduler:
    scheduler = Scheduler(SchedulerConfig(REQUESTS * 8, BLOCK, REQUESTS, REQUESTS * 32))
    for number in range(REQUESTS + waiting):
        scheduler.add(Request(number, [1] * 32, 96))
    scheduler.update(scheduler.step(), dict.fromkeys(range(REQUESTS), 0))
    return scheduler


def milliseconds_of_steps(scheduler: Scheduler, count: int) -> float:
    started = time.process_time()
    for _ in range(count):
        step = scheduler.step()
        scheduler.update(step, dict.fromkeys(step.samples, 0))
    return (time.process_time() - started) / count * 1e3


def compare_schedulers() -> None:
    times: dict[int, list[float]] = {SMALL_QUEUE: [], LARGE_QUEUE: []}
    for _ in range(9):
        for waiting, steps in times.items():
            steps.append(milliseconds_of_steps(loaded_scheduler(waiting), 90))
    small, large = (statistics.median(steps) for steps in times.values())
    ratio = statistics.median(
        a / b for a, b in zip(times[LARGE_QUEUE], times[SMALL_QUEUE], strict=True)
    )
    print(f"scheduler: a step of {REQUESTS} requests while others wait")
    print(f"  {SMALL_QUEUE:>7,}  {small:.3f} ms")
    print(f"  {LARGE_QUEUE:>7,}  {large:.3f} ms, {ratio:.2f} times, limit {QUEUE_LIMIT}")
    sizes = []
    for waiting in (SMALL_QUEUE, LARGE_QUEUE):
        tracemalloc.start()
        held = loaded_scheduler(waiting)
        sizes.append(tracemalloc.get_traced_memory()[0] / held.num_waiting)
        tracemalloc.stop()
    print(f"bytes of a waiting request of 32 tokens: {sizes[0]:.0f} and {sizes[1]:.0f}")


def main() -> int:
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    names = sys.argv[1:] or ["generation", "scheduler"]
    if "scheduler" in names:
        compare_schedulers()
    if "generation" in names:
        source = ModelSource("smollm2", "embedded:smollm2", dtype="float32", device="cpu")
        compare_generation(load_engine(source).module)
    return 0


if __name__ == "__main__":
    sys.exit(main())
