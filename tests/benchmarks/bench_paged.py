"""What paging costs: allocator operations, the search for a prefix; and the memory that it saves.

Run as a script; prints ratios of one run. The two sides of a ratio take turns, and the ratio is the
median over the pairs of rounds, with its quartiles; below 1 the first side is the faster. Times
are CPU times: all of it is Python on one thread, and other processes do not enter. The peer is the
allocator of transformers' continuous batching, called as its `PagedAttentionCache` does; a fork
takes a block for the last tokens at once there, and at the first append in ours.
"""

from __future__ import annotations

import functools
import importlib.metadata
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

from infopt_reference.attention import BlockAllocator, KVShape, PrefixCache, block_hashes

BLOCK, ROUNDS = 16, 31
SMALL, LARGE = 1_000, 1_000_000  # blocks
POOL_LIMIT, PEER_LIMIT, PREFIX_LIMIT = 1.3, 1.0, 2.0
REQUESTS, PROMPT, STEPS = 40, 100, 50  # of a round: 40 prompts of 100 tokens, 50 steps each
LONGEST = 4096  # tokens, what a server without paging has to be ready for
SMOLLM2 = KVShape(layers=30, kv_heads=3, head_dim=64)
Work = Callable[[], Any]


def our_round(allocator: BlockAllocator) -> None:
    """Prompts come, every request takes its steps, half are forked and go on, all end."""
    for request in range(REQUESTS):
        if allocator.can_allocate(PROMPT):
            allocator.allocate(request, PROMPT)
    for _ in range(STEPS):
        for request in range(REQUESTS):
            if allocator.can_append(request):
                allocator.append(request)
    for request in range(0, REQUESTS, 2):
        allocator.fork(request, -1 - request)
        if allocator.can_append(-1 - request):
            allocator.append(-1 - request)
    for request in range(REQUESTS):
        allocator.free(request)
    for request in range(0, REQUESTS, 2):
        allocator.free(-1 - request)


def transformers_round(num_blocks: int) -> Work:
    """The same through transformers' allocator."""
    import torch
    from transformers import LlamaConfig
    from transformers.generation.continuous_batching.cache_allocators import (
        CachePool,
        FullAttentionCacheAllocator,
    )

    config = LlamaConfig(num_hidden_layers=1, hidden_size=8, num_attention_heads=1)
    allocator = FullAttentionCacheAllocator(0, config, 1, torch.bfloat16, BLOCK, [0], True)
    allocator.blocks_per_sector = 1
    allocator.pool = pool = CachePool(num_blocks, 1)
    pool.set_blocks_per_sector(0, 1)

    def has_room(missing: int) -> bool:
        if pool.num_free_sectors < missing:
            return False
        for _ in range(missing):
            pool.allocate_sector(0)
        return True

    def grow(request: str, length: int, count: int) -> None:
        if has_room(allocator.needs_new_sectors(request, length, count)):
            allocator.allocate_cache_to_request(request, length, count)

    def round_of_requests() -> None:
        names = [str(request) for request in range(REQUESTS)]
        for name in names:
            grow(name, 0, PROMPT)
        for step in range(STEPS):
            for name in names:
                grow(name, PROMPT + step, 1)
        for name in names[::2]:
            if has_room(allocator.count_non_shareable_blocks(name, PROMPT + STEPS)):
                allocator.fork_blocks(name, f"fork of {name}", PROMPT + STEPS)
            grow(f"fork of {name}", PROMPT + STEPS, 1)
        for name in names:
            allocator.free_blocks(name)
        for name in names[::2]:
            allocator.free_blocks(f"fork of {name}")

    return round_of_requests


def in_use(num_blocks: int, share: float) -> BlockAllocator:
    """An allocator of which a share of the blocks is in use by other sequences of 64 blocks."""
    allocator = BlockAllocator(num_blocks, BLOCK)
    for sequence in range(int(num_blocks * share) // 64):
        allocator.allocate(("other", sequence), 64 * BLOCK)
    return allocator


def seconds(work: Work) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def compare(label: str, one: Work, other: Work, limit: float, count: int = 1) -> None:
    one(), other()  # first calls import, compile regular expressions, grow lists
    pairs = [(seconds(one), seconds(other)) for _ in range(ROUNDS)]
    low, ratio, high = statistics.quantiles([mine / theirs for mine, theirs in pairs], n=4)
    mine, theirs = (statistics.median(x) / count * 1e6 for x in zip(*pairs, strict=True))
    print(
        f"  {label:<44} {mine:7.2f} against {theirs:7.2f} µs: "
        f"ratio {ratio:.2f} ({low:.2f} to {high:.2f}), limit {limit}"
    )


def allocators() -> None:
    operations = REQUESTS * (STEPS + 1) + REQUESTS // 2 * 2 + REQUESTS * 3 // 2
    print(f"Allocator, µs an operation ({REQUESTS} requests of {PROMPT} + {STEPS} tokens)")
    for share in (0.0, 0.3):
        small, large = (functools.partial(our_round, in_use(n, share)) for n in (SMALL, LARGE))
        label = f"{LARGE:,} against {SMALL:,} blocks, {share:.0%} in use"
        compare(label, large, small, POOL_LIMIT, operations)
    ours = [functools.partial(our_round, BlockAllocator(n, BLOCK)) for n in (SMALL, LARGE)]
    try:
        version = importlib.metadata.version("transformers")
        theirs = [transformers_round(n) for n in (SMALL, LARGE)]
    except ImportError as error:
        print(f"  transformers' allocator: not there ({error})")
        return
    for mine, peer, blocks in zip(ours, theirs, (SMALL, LARGE), strict=True):
        label = f"against transformers {version}, {blocks:,} blocks"
        compare(label, mine, peer, PEER_LIMIT, operations)


def prefixes() -> None:
    tokens = [random.Random(0).randrange(50_000) for _ in range(4097)]
    allocator = BlockAllocator(1_000, BLOCK)
    cache = PrefixCache(allocator.pool, BLOCK)
    allocator.allocate("first", len(tokens))
    cache.insert(tokens, allocator.block_table("first"))
    allocator.free("first")

    def hit() -> None:
        match = cache.match(tokens)
        assert match.num_tokens == 4096
        cache.release(match)

    print("Prefix cache, a prompt of 4,096 cached tokens")
    hashing = functools.partial(block_hashes, tokens, BLOCK)
    compare("match and release, against hashing alone", hit, hashing, PREFIX_LIMIT)


def memory() -> None:
    generator = random.Random(0)
    lengths = [min(LONGEST, round(generator.lognormvariate(5.5, 0.9)) + 1) for _ in range(64)]
    needed = SMOLLM2.nbytes(sum(lengths))
    print(
        f"Memory, {len(lengths)} sequences of {min(lengths)} to {max(lengths)} tokens (mean "
        f"{statistics.mean(lengths):.0f}), SmolLM2's shape in 16 bits: {needed / 2**20:.0f} MiB"
    )
    rows = {
        f"allocated for {LONGEST} tokens each": SMOLLM2.nbytes(LONGEST, len(lengths)),
        "padded to the longest": SMOLLM2.nbytes(max(lengths), len(lengths)),
    }
    for size in (1, 16, 64, 256):
        paged = SMOLLM2.paged_nbytes(lengths, size)
        saved = ", ".join(f"{1 - paged / whole:.1%} less than {n}" for n, whole in rows.items())
        print(f"  blocks of {size:>3}: {paged / needed - 1:6.2%} wasted; {saved}")


if __name__ == "__main__":
    allocators()
    prefixes()
    memory()
