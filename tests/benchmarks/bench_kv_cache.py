"""KV caches: time of a token against transformers' DynamicCache, growth with length, bytes.

Run as a script, or with names of what to run: token, length, bytes. SmolLM2-135M in float32, CPU
seconds of one thread.

Token: every contender takes the same token in turn, so that a machine that slows down slows all;
the ratio to transformers with its DynamicCache is the median over the steps, with its quartiles.
Length: one step behind so many tokens, with the cache and by computing everything anew; the
exponent is the slope of log time over log length. Bytes: what the formula says, and what is held.
"""

from __future__ import annotations

import logging
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from infopt_reference.attention import (
    Decoder,
    KVCache,
    KVShape,
    QuantizedCache,
    SlidingCache,
    StaticCache,
)
from infopt_reference.attention.paged import PagedKVCache, PagedRows
from infopt_reference.quantization import QuantizationScheme

from pytest_infopt.engines.registry import load_engine
from pytest_infopt.release import ModelSource

PROMPT, STEPS, BLOCK = 128, 40, 16
LIMIT, PAGED_LIMIT = 1.5, 2.0  # times that of a DynamicCache
LENGTHS, REPEATS = (64, 128, 256, 512, 1024), 5
MEBIBYTE = 2**20
INT8 = QuantizationScheme(bits=8, granularity="group", group_size=64)
Step = Callable[[torch.Tensor], Any]


def cpu_seconds(work: Callable[[], Any]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def random_ids(count: int) -> torch.Tensor:
    return torch.randint(1000, 40_000, (1, count), generator=torch.Generator().manual_seed(0))


def shape_of(config: Any) -> KVShape:
    return KVShape(
        config.num_hidden_layers,
        config.num_key_value_heads,
        config.hidden_size // config.num_attention_heads,
    )


def pages(config: Any, tokens: int) -> PagedRows:
    """A paged cache with room for a sequence of so many tokens."""
    return PagedRows(PagedKVCache(shape_of(config), -(-tokens // BLOCK), BLOCK))


def contenders(model: Any) -> dict[str, tuple[Step, float | None]]:
    """Name → step, and the share of a DynamicCache's time that it may take."""
    from infopt_reference.attention.transformers_cache import TransformersCache
    from transformers import DynamicCache

    decoder, config, longest = Decoder.from_transformers(model), model.config, PROMPT + STEPS

    def ours(cache: KVCache) -> Step:
        return lambda ids: decoder(ids, cache)

    def theirs(cache: Any) -> Step:
        return lambda ids: model(ids, past_key_values=cache)

    return {
        "transformers, DynamicCache": (theirs(DynamicCache(config=config)), None),
        "transformers, KVCache": (theirs(TransformersCache.of(config, KVCache)), LIMIT),
        "decoder, KVCache": (ours(KVCache()), LIMIT),
        "decoder, StaticCache": (ours(StaticCache(longest)), LIMIT),
        "decoder, SlidingCache": (ours(SlidingCache(longest)), LIMIT),
        "decoder, PagedRows": (ours(pages(config, longest)), PAGED_LIMIT),
        "decoder, QuantizedCache int8": (ours(QuantizedCache(INT8)), None),
    }


def time_of_a_token(model: Any) -> None:
    print(f"a token behind {PROMPT} to {PROMPT + STEPS - 1}")
    ids, steps = random_ids(PROMPT + STEPS), contenders(model)
    for step, _ in steps.values():
        step(ids[:, :PROMPT])
    times: dict[str, list[float]] = {name: [] for name in steps}
    for position in range(PROMPT, PROMPT + STEPS):
        for name, (step, _) in steps.items():
            token = ids[:, position : position + 1]
            times[name].append(cpu_seconds(lambda step=step, token=token: step(token)))
    baseline = times["transformers, DynamicCache"]
    for name, (_, limit) in steps.items():
        ratios = [ours / theirs for ours, theirs in zip(times[name], baseline, strict=True)]
        low, ratio, high = statistics.quantiles(ratios, n=4)
        milliseconds = statistics.median(times[name]) * 1e3
        allowed = "" if limit is None else f", limit {limit}"
        print(
            f"  {name:<30} {milliseconds:6.1f} ms: {ratio:.2f} ({low:.2f} to {high:.2f}){allowed}"
        )


def exponent(lengths: tuple[int, ...], times: list[float]) -> float:
    """Slope of log time over log length, by least squares."""
    return statistics.linear_regression(
        [math.log(length) for length in lengths], [math.log(seconds) for seconds in times]
    ).slope


def time_against_length(model: Any) -> None:
    decoder, config = Decoder.from_transformers(model), model.config
    ids = random_ids(max(LENGTHS) + 1)
    made: dict[str, Callable[[], KVCache]] = {
        "KVCache": KVCache,
        "StaticCache": lambda: StaticCache(max(LENGTHS) + 1),
        "PagedRows": lambda: pages(config, max(LENGTHS) + 1),
        "QuantizedCache int8": lambda: QuantizedCache(INT8),
    }
    times: dict[str, list[float]] = {name: [] for name in ("no cache", *made)}
    for length in LENGTHS:
        times["no cache"].append(cpu_seconds(lambda end=length + 1: decoder(ids[:, :end])))
    for name, make in made.items():
        cache, held = make(), 0
        for length in LENGTHS:
            decoder(ids[:, held:length], cache)
            tries = []
            for _ in range(REPEATS):
                cache.crop(length)
                token = ids[:, length : length + 1]
                tries.append(cpu_seconds(lambda token=token, cache=cache: decoder(token, cache)))
            times[name].append(statistics.median(tries))
            cache.crop(length)
            held = length
    print("milliseconds of a step behind " + ", ".join(map(str, LENGTHS)) + " tokens")
    for name, seconds in times.items():
        shown = " ".join(f"{1e3 * x:8.1f}" for x in seconds)
        # The last doubling alone: weights, the same for every length, hide a cache's share before.
        last = exponent(LENGTHS[-2:], seconds[-2:])
        print(f"  {name:<20} {shown}   exponent {exponent(LENGTHS, seconds):.2f}, last {last:.2f}")


def bytes_held(model: Any) -> None:
    from transformers import DynamicCache

    config, tokens, window = model.config, 200, 64
    shape, decoder = shape_of(config), Decoder.from_transformers(model)
    size = {"bytes_per_number": 4}
    rows = [
        ("KVCache", KVCache(), shape.nbytes(tokens, **size)),
        ("StaticCache of 256", StaticCache(256), shape.nbytes(256, **size)),
        ("SlidingCache of 64", SlidingCache(window), shape.sliding_nbytes(tokens, window, **size)),
        ("PagedRows of 16", pages(config, 256), shape.paged_nbytes([tokens], BLOCK, **size)),
        ("QuantizedCache int8", QuantizedCache(INT8), shape.quantized_nbytes(tokens, INT8)),
    ]
    print(f"MiB behind {tokens} tokens: predicted, held")
    for name, cache, predicted in rows:
        decoder(random_ids(tokens), cache)
        print(f"  {name:<20} {predicted / MEBIBYTE:7.3f} {cache.nbytes() / MEBIBYTE:7.3f}")
    theirs = DynamicCache(config=config)
    model(random_ids(tokens), past_key_values=theirs)
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in theirs.layers)
    predicted = shape.nbytes(tokens, **size)
    print(f"  {'DynamicCache':<20} {predicted / MEBIBYTE:7.3f} {held / MEBIBYTE:7.3f}")
    lengths = [int(64 * 1.5 ** (i % 8)) for i in range(32)]
    paged, padded = shape.paged_nbytes(lengths, BLOCK), shape.nbytes(max(lengths), len(lengths))
    print(
        f"  {len(lengths)} sequences of {min(lengths)} to {max(lengths)} tokens: pages take "
        f"{paged / padded:.0%} of rows as long as the longest"
    )


PARTS = {"token": time_of_a_token, "length": time_against_length, "bytes": bytes_held}


def main() -> None:
    names = sys.argv[1:] or list(PARTS)
    torch.set_num_threads(1)
    # transformers warns of what it may lack.
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    engine = load_engine(
        ModelSource("reference", "embedded:smollm2", dtype="float32", device="cpu")
    )
    with torch.no_grad():
        for name in names:
            PARTS[name](engine.module)


if __name__ == "__main__":
    main()
