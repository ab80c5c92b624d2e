"""The paged cache against contiguous ones: equal to the last bit, whatever happened to its blocks.

Free blocks are filled with NaN after every step: whoever reads or keeps one is found out.
"""

import itertools
import math

import pytest
import torch
from attention_cases import HEADS, normal, rounding_bound
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from infopt_reference.attention import Decoder, DecoderConfig, KVCache, Rope, attend, causal_mask
from infopt_reference.attention.block_pool import OutOfBlocksError
from infopt_reference.attention.kv_size import KVShape
from infopt_reference.attention.paged import PagedKVCache, PagedRows
from infopt_reference.attention.prefix_cache import PrefixCache

SHAPE = KVShape(layers=2, kv_heads=3, head_dim=4)
LENGTHS = [0, 1, 3, 4, 5, 8, 9]  # around the ends of blocks of 4
fresh_seeds = itertools.count()


def new_tokens(count, rows=1, shape=SHAPE, seeds=fresh_seeds):
    """Keys and values [B, G, T, D] that no other call with these seeds gives."""
    return tuple(
        normal(rows, shape.kv_heads, count, shape.head_dim, seed=next(seeds)).float()
        for _ in range(2)
    )


def poison_free_blocks(pages):
    for block in range(pages.num_blocks):
        if not pages.pool.references(block):
            pages.keys[:, block] = pages.values[:, block] = math.nan


def fill(pages, sequence, count):
    """A sequence of ``count`` tokens, and what was written: keys and values of each layer."""
    pages.allocate(sequence, count)
    written = [new_tokens(count) for _ in range(pages.shape.layers)]
    for layer, (keys, values) in enumerate(written):
        pages.write(sequence, layer, 0, keys[0], values[0])
    return written


class PagedBatches(RuleBasedStateMachine):
    """Three batches in the blocks of one cache, each beside a contiguous cache of its own."""

    BATCHES = 3
    batches = st.integers(0, BATCHES - 1)

    def __init__(self):
        super().__init__()
        self.pages = PagedKVCache(SHAPE, 12, 4)
        self.paged = [PagedRows(self.pages) for _ in range(self.BATCHES)]
        self.contiguous = [KVCache() for _ in range(self.BATCHES)]
        self.seeds = itertools.count()

    @rule(batch=batches, count=st.integers(0, 9), rows=st.integers(1, 3))
    def update(self, batch, count, rows):
        paged, contiguous = self.paged[batch], self.contiguous[batch]
        length, rows = paged.get_seq_length(), paged.rows() or rows
        free = self.pages.num_free_blocks
        for layer in range(SHAPE.layers):
            keys, values = new_tokens(count, rows, seeds=self.seeds)
            try:
                given_back = paged.update(keys, values, layer)
            except OutOfBlocksError:
                assert layer == 0
                assert paged.get_seq_length() == length
                self.preempt(batch)
                assert self.pages.num_free_blocks >= free
                return
            expected = contiguous.update(keys, values, layer)
            assert all(map(torch.equal, given_back, expected))

    @rule(batch=batches, data=st.data())
    def crop(self, batch, data):
        length = data.draw(st.integers(0, self.paged[batch].get_seq_length()))
        self.paged[batch].crop(length)
        self.contiguous[batch].crop(length)

    @rule(batch=batches, data=st.data())
    def reorder(self, batch, data):
        rows = self.paged[batch].rows()
        if rows:
            chosen = data.draw(st.lists(st.integers(0, rows - 1), min_size=1, max_size=4))
            free = self.pages.num_free_blocks
            self.paged[batch].reorder(torch.tensor(chosen))
            self.contiguous[batch].reorder(torch.tensor(chosen))
            assert self.pages.num_free_blocks >= free  # shared, not copied

    @rule(batch=batches)
    def preempt(self, batch):
        self.paged[batch].reset()
        self.contiguous[batch].reset()
        assert self.paged[batch].nbytes() == 0

    @precondition(lambda self: any(rows.rows() for rows in self.paged))
    @rule(data=st.data(), count=st.integers(0, 3))
    def go_on_from_a_shared_prefix(self, data, count):
        """Another batch starts with one row of this one, as after a hit of a prefix cache."""
        source = data.draw(st.sampled_from([i for i in range(3) if self.paged[i].rows()]))
        target = (source + 1) % self.BATCHES
        self.preempt(target)
        row = data.draw(st.integers(0, self.paged[source].rows() - 1))
        sequence = object()
        self.pages.fork(self.paged[source].sequences[row], sequence)
        self.paged[target] = PagedRows(self.pages, [sequence])
        for layer in range(SHAPE.layers if self.paged[source].get_seq_length() else 0):
            kept = (x[row][None] for x in self.contiguous[source].logical_kv(layer))
            self.contiguous[target].update(*kept, layer)
        self.update(target, count, 1)

    @invariant()
    def paged_equals_contiguous(self):
        poison_free_blocks(self.pages)
        for paged, contiguous in zip(self.paged, self.contiguous, strict=True):
            for layer in range(SHAPE.layers):
                assert paged.get_seq_length(layer) == contiguous.get_seq_length(layer)
                if contiguous.get_seq_length(layer):
                    pairs = zip(paged.logical_kv(layer), contiguous.logical_kv(layer), strict=True)
                    assert all(torch.equal(one, other) for one, other in pairs)

    @invariant()
    def blocks_are_conserved(self):
        self.pages.check_conservation()
        held = {s for rows in self.paged for s in rows.sequences}
        assert set(self.pages.sequences) == held

    def teardown(self):
        for batch in range(self.BATCHES):
            self.preempt(batch)
        assert self.pages.num_free_blocks == self.pages.num_blocks


PagedBatches.TestCase.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
TestPagedBatches = PagedBatches.TestCase


@pytest.mark.parametrize("length", LENGTHS)
def test_memory_is_that_of_the_blocks_and_less_than_one_is_wasted(length):
    rows = PagedRows(PagedKVCache(SHAPE, 9, 4))
    for layer in range(SHAPE.layers):
        rows.update(*new_tokens(length, rows=3), layer)
    needed = SHAPE.nbytes(length, rows=3, bytes_per_number=4)
    assert rows.nbytes() == SHAPE.paged_nbytes([length] * 3, 4, bytes_per_number=4)
    assert rows.nbytes() - needed == 3 * SHAPE.nbytes(-length % 4, bytes_per_number=4)
    assert rows.pages.block_nbytes == SHAPE.nbytes(4, bytes_per_number=4)
    assert rows.pages.keys.nbytes + rows.pages.values.nbytes == 9 * rows.pages.block_nbytes


def test_rows_that_share_blocks_count_them_once():
    rows = PagedRows(PagedKVCache(SHAPE, 9, 4))
    for layer in range(SHAPE.layers):
        rows.update(*new_tokens(6, rows=2), layer)
    rows.reorder(torch.tensor([1, 1, 1]))
    assert rows.nbytes() == 2 * rows.pages.block_nbytes
    assert rows.pages.num_free_blocks == 7
    for layer in range(SHAPE.layers):
        rows.update(*new_tokens(1, rows=3), layer)
    assert rows.nbytes() == 4 * rows.pages.block_nbytes  # a full one, and the last of each row


def test_forks_that_differ_are_two_sequences():
    pages = PagedKVCache(SHAPE, 6, 4)
    common = fill(pages, "parent", 6)
    pages.fork("parent", "child")
    added = {}
    for name in ("child", "parent"):
        pages.append(name, 3)
        added[name] = [new_tokens(3) for _ in common]
        for layer, (keys, values) in enumerate(added[name]):
            pages.write(name, layer, 6, keys[0], values[0])
    for name, layer in itertools.product(added, range(SHAPE.layers)):
        for index, actual in enumerate(pages.gather([name], layer, 9)):
            expected = torch.cat([common[layer][index], added[name][layer][index]], dim=2)
            assert torch.equal(actual, expected)


def test_slots_without_a_token_hold_nan_and_no_one_sees_it():
    pages = PagedKVCache(SHAPE, 3, 4)
    assert pages.keys.isnan().all()
    assert pages.values.isnan().all()
    fill(pages, "sequence", 5)
    for numbers in pages.gather(["sequence"], 1, 5):
        assert numbers.isfinite().all()
    assert pages.attend(normal(3, 5, 4, seed=0).float(), "sequence", 1).isfinite().all()


@settings(max_examples=60, deadline=None)
@given(
    heads=st.sampled_from(HEADS),
    length=st.integers(1, 14),
    data=st.data(),
    window=st.none() | st.integers(1, 9),
    size=st.integers(1, 5),
)
def test_attention_through_the_table_is_that_of_contiguous_keys(heads, length, data, window, size):
    count = data.draw(st.integers(1, length))
    scale = data.draw(st.none() | st.just(0.3))
    shape = KVShape(layers=1, kv_heads=heads[1], head_dim=4)
    pages = PagedKVCache(shape, 20, size, dtype=torch.float64)
    pages.allocate("other", 1)  # so that blocks are not those of the same number
    pages.allocate("sequence", length)
    keys, values = (x.double() for x in new_tokens(length, shape=shape, seeds=itertools.count(9)))
    pages.write("sequence", 0, 0, keys[0], values[0])
    queries = normal(1, heads[0], count, 4, seed=length)
    expected = attend(queries, keys, values, causal_mask(count, length, window=window), scale=scale)
    actual = pages.attend(queries[0], "sequence", 0, window=window, scale=scale)
    assert (actual - expected[0]).abs().max() <= rounding_bound(
        queries, keys, values, torch.float64
    )


def test_attention_through_the_table_does_not_touch_blocks_before_the_window():
    pages = PagedKVCache(SHAPE, 4, 4)
    fill(pages, "sequence", 14)
    queries = normal(3, 2, 4, seed=0).float()
    before = pages.attend(queries, "sequence", 0, window=3)  # tokens 10 to 13
    for block in pages.block_table("sequence")[:2]:
        pages.keys[:, block] = pages.values[:, block] = math.nan
    assert torch.equal(pages.attend(queries, "sequence", 0, window=3), before)


def test_half_precision_is_rounded_once():
    shape = KVShape(layers=1, kv_heads=1, head_dim=8)
    pages = PagedKVCache(shape, 40, 2, dtype=torch.bfloat16)
    pages.allocate("sequence", 64)
    keys, values = (x.bfloat16() for x in new_tokens(64, shape=shape))
    pages.write("sequence", 0, 0, keys[0], values[0])
    queries = normal(1, 2, 1, 8, seed=0, dtype=torch.bfloat16)
    exact = attend(queries.double(), keys.double(), values.double())
    actual = pages.attend(queries[0], "sequence", 0)
    assert actual.dtype is torch.bfloat16
    rounded = torch.finfo(torch.bfloat16).eps / 2 * exact.abs()
    within = rounding_bound(queries.double(), keys.double(), values.double(), torch.float32)
    assert ((actual - exact[0]).abs() <= rounded[0] + within).all()


def make_decoder():
    torch.manual_seed(3)
    config = DecoderConfig(
        vocab_size=50,
        hidden_size=24,
        intermediate_size=32,
        layers=SHAPE.layers,
        heads=6,
        kv_heads=SHAPE.kv_heads,
        rope=Rope(SHAPE.head_dim),
    )
    return Decoder(config).double().requires_grad_(False)


class WarmServer:
    """Prefills prompts with a prefix cache over a paged one; frees every sequence afterwards."""

    def __init__(self, decoder, num_blocks, hash_function=None):
        self.decoder = decoder
        self.pages = PagedKVCache(SHAPE, num_blocks, 4, dtype=torch.float64)
        options = {} if hash_function is None else {"hash_function": hash_function}
        self.prefixes = PrefixCache(self.pages.pool, 4, **options)

    def logits(self, prompt, salt=None):
        """The logits of the prompt's tokens that had to be computed, [T, V]."""
        match = self.prefixes.match(prompt, salt)
        needed = self.pages.blocks_for(len(prompt)) - len(match.blocks)
        self.prefixes.evict(needed - self.pages.num_free_blocks)
        poison_free_blocks(self.pages)
        self.pages.allocate("prompt", match.num_tokens, match.blocks)
        rows = PagedRows(self.pages, ["prompt"])
        logits = self.decoder(torch.tensor([prompt[match.num_tokens :]]), rows)[0]
        self.prefixes.insert(prompt, self.pages.block_table("prompt"), salt)
        self.pages.free("prompt")
        self.pages.check_conservation(self.prefixes.blocks)
        return logits


@settings(max_examples=25, deadline=None)
@given(
    prompts=st.lists(
        st.tuples(
            st.lists(st.integers(0, 1), min_size=1, max_size=21),
            st.sampled_from([None, {"tenant": "x"}]),
        ),
        min_size=2,
        max_size=8,
    ),
    weak_hash=st.booleans(),
)
def test_warm_equals_cold_however_much_was_cached_or_evicted(prompts, weak_hash):
    decoder = make_decoder()
    server = WarmServer(decoder, 7, (lambda data: b"") if weak_hash else None)
    operations = SHAPE.layers * (2 * 24 + 32 + 4 * SHAPE.head_dim) + 24
    for prompt, salt in [*prompts, *prompts[:1]]:
        cold = decoder(torch.tensor([prompt]))[0]
        warm = server.logits(prompt, salt)
        bound = 8 * operations * torch.finfo(torch.float64).eps * float(cold.abs().max())
        assert 1 <= len(warm) <= len(prompt)
        assert (warm - cold[-len(warm) :]).abs().max() <= bound


def test_a_repeated_prompt_computes_the_last_block_only():
    server = WarmServer(make_decoder(), 8)
    prompt = list(range(18))
    assert len(server.logits(prompt)) == 18
    assert len(server.logits(prompt)) == 2
    assert len(server.logits(prompt[:16])) == 4  # the last token is always computed
    assert len(server.logits(prompt, {"adapter": "other"})) == 18
    assert server.prefixes.stats.num_saved_tokens == 16 + 12


def test_rows_of_a_batch_get_room_together_or_not_at_all():
    rows = PagedRows(PagedKVCache(SHAPE, 5, 4))
    for layer in range(SHAPE.layers):
        rows.update(*new_tokens(4, rows=3), layer)
    before = rows.logical_kv(0)
    with pytest.raises(OutOfBlocksError, match="1 blocks are needed, 0 of 5 are free"):
        rows.update(*new_tokens(1, rows=3), 0)
    assert rows.get_seq_length() == 4
    assert rows.pages.num_free_blocks == 2
    assert all(map(torch.equal, rows.logical_kv(0), before))


def test_what_does_not_fit_is_refused():
    pages = PagedKVCache(SHAPE, 6, 4)
    fill(pages, "sequence", 6)
    pages.allocate("shorter", 2)
    keys, values = (x[0] for x in new_tokens(1))
    queries = normal(3, 7, 4, seed=0).float()
    rows = PagedRows(pages, ["sequence"])
    refusals = [
        (lambda: PagedKVCache(SHAPE, 6, 4, dtype=torch.int8), "the dtype is torch.int8"),
        (lambda: PagedKVCache(SHAPE, 6, 0), "block_size is 0"),
        (lambda: pages.write("sequence", 0, 6, keys, values), "0…5, not for 6…6"),
        (lambda: pages.write("sequence", 0, -1, keys, values), "0…5, not for -1…-1"),
        (lambda: pages.write("sequence", 0, 0, keys.double(), values), "keys are torch.float64"),
        (lambda: pages.gather(["sequence", "shorter"], 0, 6), "'shorter' has 2 tokens, not 6"),
        (lambda: pages.attend(queries, "sequence", 0), "7 queries of a sequence of 6 tokens"),
        (lambda: pages.attend(queries[:, :0], "sequence", 0), "0 queries"),
        (lambda: PagedRows(pages, ["sequence", "shorter"]), r"rows have \[2, 6\] tokens"),
        (lambda: rows.update(*new_tokens(1, rows=2), 0), r"give \(1, 3, 1, 4\)"),
        (lambda: rows.crop(7), "7 tokens cannot be kept of 6"),
        (lambda: rows.crop(-1), "-1 tokens cannot be kept of 6"),
    ]
    for call, message in refusals:
        with pytest.raises(ValueError, match=message):
            call()
    pages.fork("sequence", "fork")
    with pytest.raises(ValueError, match="is shared; what is shared must not be written"):
        pages.write("sequence", 0, 5, keys, values)
    pages.append("sequence")
    pages.write("sequence", 0, 5, keys, values)  # its last block is its own now
    with pytest.raises(ValueError, match="is shared"):
        pages.write("sequence", 0, 3, keys, values)
