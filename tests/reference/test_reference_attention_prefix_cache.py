"""The prefix cache against its definition: a dictionary of whole prefixes.

Keys and values are simulated: those of a token are (salt, all tokens up to it), which is exactly
what they depend on in a model. A block that is shared wrongly then holds something visibly wrong.
"""

import hashlib
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from infopt_reference.attention.block_allocator import BlockAllocator
from infopt_reference.attention.block_pool import OutOfBlocksError
from infopt_reference.attention.prefix_cache import PrefixCache, block_hashes, sha256

SALTS = [
    {},
    {"adapter": "x"},
    {"tenant": "x"},
    {"adapter": "x", "tenant": ""},
    {"adapter": "x", "tenant": "y"},
    {"adaptertenant": "x"},
]
prompts = st.lists(st.integers(0, 1), max_size=13)
salts = st.sampled_from(SALTS)


def constant_hash(data):
    return bytes(32)


def one_bit_hash(data):
    return bytes([sha256(data)[0] & 1])


def computed(tokens, salt):
    """What a forward pass over all tokens stores for each of them."""
    return [(tuple(sorted(salt.items())), tuple(tokens[: end + 1])) for end in range(len(tokens))]


class Server(RuleBasedStateMachine):
    """Serves prompts from a small pool: match, evict, allocate, compute the rest, insert."""

    NUM_BLOCKS, BLOCK_SIZE, HASH = 7, 2, staticmethod(sha256)
    sequences = Bundle("sequences")

    def __init__(self):
        super().__init__()
        self.allocator = BlockAllocator(self.NUM_BLOCKS, self.BLOCK_SIZE)
        self.cache = PrefixCache(self.allocator.pool, self.BLOCK_SIZE, self.HASH)
        self.memory = [[None] * self.BLOCK_SIZE for _ in range(self.NUM_BLOCKS)]
        self.running = {}  # name: (tokens, salt)
        self.cached = {}  # what the last token of each cached block stores: when it was last used
        self.names, self.clock = itertools.count(), itertools.count()
        self.saved = 0

    @rule(target=sequences, tokens=prompts, salt=salts, remap=st.booleans())
    def serve(self, tokens, salt, remap):
        name = next(self.names)
        expected = self.longest_cached(tokens, salt)
        match = self.cache.match(tokens, salt)
        assert match.num_tokens == expected == len(match.blocks) * self.BLOCK_SIZE
        assert self.stored(match.blocks) == computed(tokens, salt)[:expected]
        self.use(tokens[:expected], salt)
        self.saved += expected
        missing = self.allocator.blocks_for(len(tokens)) - len(match.blocks)
        self.make_room(missing - self.allocator.num_free_blocks)
        try:
            self.allocator.allocate(name, len(tokens), match.blocks)
        except OutOfBlocksError:
            self.cache.release(match)
            self.allocator.allocate(name)
            self.running[name] = ([], salt)
            return name
        self.running[name] = (list(tokens), salt)
        self.compute(name, expected)
        self.insert(name, remap)
        return name

    @rule(name=sequences, tokens=prompts, remap=st.booleans())
    def go_on(self, name, tokens, remap):
        old, _ = self.running[name]
        if not self.allocator.can_append(name, len(tokens)):
            return
        copy = self.allocator.append(name, len(tokens))
        if copy is not None:
            self.memory[copy.destination] = list(self.memory[copy.source])
        start = len(old)
        old += tokens
        self.compute(name, start)
        self.insert(name, remap)

    @rule(name=sequences, data=st.data())
    def truncate(self, name, data):
        tokens, _ = self.running[name]
        length = data.draw(st.integers(0, len(tokens)))
        self.allocator.truncate(name, length)
        del tokens[length:]

    @rule(name=consumes(sequences))
    def finish(self, name):
        self.allocator.free(name)
        del self.running[name]

    @rule(count=st.integers(0, 4))
    def evict(self, count):
        self.make_room(count)

    @rule(tokens=prompts, salt=salts)
    def ask_and_give_back(self, tokens, salt):
        before = [self.allocator.pool.references(block) for block in range(self.NUM_BLOCKS)]
        match = self.cache.match(tokens, salt)
        self.use(tokens[: match.num_tokens], salt)
        self.saved += match.num_tokens
        self.cache.release(match)
        after = [self.allocator.pool.references(block) for block in range(self.NUM_BLOCKS)]
        assert after == before

    def longest_cached(self, tokens, salt):
        """The longest run of whole blocks in the dictionary, the last token left out."""
        prefixes, length = computed(tokens, salt), 0
        while (end := length + self.BLOCK_SIZE) < len(tokens) and prefixes[end - 1] in self.cached:
            length = end
        return length

    def use(self, tokens, salt):
        ends = computed(tokens, salt)[self.BLOCK_SIZE - 1 :: self.BLOCK_SIZE]
        self.cached.update(dict.fromkeys(ends, next(self.clock)))

    def insert(self, name, remap):
        tokens, salt = self.running[name]
        table = self.allocator.block_table(name)
        shared = self.cache.insert(tokens, table, salt)
        assert self.cache.insert(tokens, table, salt) == shared
        self.use(tokens, salt)
        assert len(shared) == len(table)
        for index, block in enumerate(shared if remap else ()):
            if block != table[index]:
                self.allocator.replace(name, index, block)

    def make_room(self, count):
        """Evicts; and the same in the dictionary: always the leaf that was used longest ago."""
        count = max(0, count)
        assert self.cache.num_evictable == len(self.evicted_by_definition(self.NUM_BLOCKS))
        expected = self.evicted_by_definition(count)
        free = self.allocator.num_free_blocks
        assert self.cache.evict(count) == len(expected)
        assert self.allocator.num_free_blocks == free + len(expected)
        for prefix in expected:
            del self.cached[prefix]
        self.forget_free_blocks()

    def evicted_by_definition(self, count):
        holders = {self.memory[block][-1]: block for block in self.cache.blocks}
        left, evicted = dict(self.cached), []
        for _ in range(count):
            leaves = [
                (used, prefix)
                for prefix, used in left.items()
                if self.allocator.pool.references(holders[prefix]) == 1
                and not any(self.extends(other, prefix) for other in left)
            ]
            if not leaves:
                break
            evicted.append(min(leaves)[1])
            del left[evicted[-1]]
        return evicted

    def extends(self, longer, prefix):
        return (
            longer != prefix
            and longer[0] == prefix[0]
            and (longer[1][: len(prefix[1])] == prefix[1])
        )

    def compute(self, name, start):
        tokens, salt = self.running[name]
        table = self.allocator.block_table(name)
        for position, stored in enumerate(computed(tokens, salt)):
            if position >= start:
                block = table[position // self.BLOCK_SIZE]
                self.memory[block][position % self.BLOCK_SIZE] = stored

    def stored(self, blocks):
        return [token for block in blocks for token in self.memory[block]]

    def forget_free_blocks(self):
        for block in range(self.NUM_BLOCKS):
            if not self.allocator.pool.references(block):
                self.memory[block] = [None] * self.BLOCK_SIZE

    @invariant()
    def every_sequence_reads_what_it_would_have_computed(self):
        self.forget_free_blocks()
        for name, (tokens, salt) in self.running.items():
            stored = self.stored(self.allocator.block_table(name))
            assert stored[: len(tokens)] == computed(tokens, salt)

    @invariant()
    def the_cache_holds_each_prefix_once(self):
        assert len(self.cache) == len(self.cached)
        assert {self.memory[block][-1] for block in self.cache.blocks} == set(self.cached)

    @invariant()
    def blocks_are_conserved(self):
        self.allocator.check_conservation(self.cache.blocks)

    @invariant()
    def saved_tokens_are_counted(self):
        assert self.cache.stats.num_saved_tokens == self.saved

    def teardown(self):
        for name in self.running:
            self.allocator.free(name)
        assert self.cache.num_evictable == len(self.cache)
        self.cache.evict(self.NUM_BLOCKS)
        assert self.allocator.num_free_blocks == self.NUM_BLOCKS
        assert not self.cache._by_hash


class ServerWithoutHash(Server):
    HASH = staticmethod(constant_hash)


class ServerWithOneBit(Server):
    NUM_BLOCKS, BLOCK_SIZE, HASH = 9, 1, staticmethod(one_bit_hash)


Server.TestCase.settings = settings(max_examples=80, stateful_step_count=25, deadline=None)
ServerWithoutHash.TestCase.settings = settings(
    max_examples=25, stateful_step_count=20, deadline=None
)
ServerWithOneBit.TestCase.settings = settings(
    max_examples=25, stateful_step_count=20, deadline=None
)
TestServer = Server.TestCase
TestServerWithoutHash = ServerWithoutHash.TestCase
TestServerWithOneBit = ServerWithOneBit.TestCase


def filled(tokens, block_size=4, num_blocks=16, salt=None):
    """A cache that holds the full blocks of one prompt, which nobody uses any longer."""
    allocator = BlockAllocator(num_blocks, block_size)
    cache = PrefixCache(allocator.pool, block_size)
    allocator.allocate("first", len(tokens))
    cache.insert(tokens, allocator.block_table("first"), salt)
    allocator.free("first")
    return allocator, cache


@pytest.mark.parametrize("length", [0, 1, 3, 4, 5, 7, 8, 9, 12, 13])
def test_a_repeated_prompt_saves_all_blocks_but_that_of_the_last_token(length):
    tokens = list(range(length))
    _, cache = filled(tokens)
    assert len(cache) == length // 4
    assert cache.match(tokens).num_tokens == max(0, length - 1) // 4 * 4
    assert cache.match([*tokens, 99]).num_tokens == length // 4 * 4


def test_a_matched_block_is_not_evicted_until_it_is_given_back():
    allocator, cache = filled(list(range(13)))
    match = cache.match(list(range(9)))  # two blocks of three
    assert cache.num_evictable == 1
    assert cache.evict(16) == 1
    assert cache.blocks == tuple(reversed(match.blocks))
    cache.release(match)
    assert cache.evict(16) == 2
    assert allocator.num_free_blocks == 16


def test_a_block_stays_while_one_behind_it_is_in_use():
    allocator, cache = filled(list(range(4)))
    allocator.allocate("second", 4)  # computed the same block at the same time, and kept its own
    allocator.append("second", 4)
    table = allocator.block_table("second")
    first, second = cache.insert(list(range(8)), table)
    assert (first != table[0], second == table[1]) == (True, True)
    assert cache.num_evictable == cache.evict(16) == 0
    assert cache.match(list(range(9))).blocks == (first, second)


def test_a_query_keeps_a_block_from_being_the_next_to_go():
    allocator, cache = filled([1, 2, 3, 4])
    allocator.allocate("second", 4)
    cache.insert([5, 6, 7, 8], allocator.block_table("second"))
    allocator.free("second")
    older, newer = cache.blocks
    cache.release(cache.match([1, 2, 3, 4, 9]))
    assert cache.blocks == (newer, older)
    assert cache.evict(1) == 1
    assert cache.blocks == (older,)


def test_nothing_is_found_behind_a_gap():
    allocator, cache = filled(list(range(8)))
    first, second = reversed(cache.blocks)
    other = PrefixCache(allocator.pool, 4)
    other.insert(list(range(4, 8)), [second])  # the second block's tokens, but nothing before them
    assert other.match(list(range(9))).num_tokens == 0
    assert cache.match(list(range(9))).blocks == (first, second)


def test_statistics_count_queries_hits_and_tokens():
    _, cache = filled(list(range(8)))
    for tokens in (list(range(10)), [5, 6], list(range(5))):
        cache.match(tokens)
    stats = cache.stats
    assert (stats.num_queries, stats.num_hits) == (3, 2)
    assert (stats.num_tokens, stats.num_saved_tokens) == (17, 12)
    assert stats.num_evicted_blocks == 0


@given(
    first=st.dictionaries(st.text(max_size=2), st.text(max_size=2), max_size=3),
    second=st.dictionaries(st.text(max_size=2), st.text(max_size=2), max_size=3),
    tokens=st.tuples(prompts, prompts),
    data=st.data(),
)
def test_hashes_are_equal_exactly_for_equal_salts_and_prefixes(first, second, tokens, data):
    second = data.draw(st.sampled_from([first, second]))
    size = data.draw(st.integers(1, 4))
    hashes = [block_hashes(t, size, salt) for t, salt in zip(tokens, (first, second), strict=True)]
    for index, (one, other) in enumerate(zip(*hashes, strict=False)):
        end = (index + 1) * size
        equal = first == second and tokens[0][:end] == tokens[1][:end]
        assert (one == other) == equal
    assert [len(h) for h in hashes] == [len(t) // size for t in tokens]


def test_the_order_in_which_a_salt_is_written_does_not_matter():
    one = {"model": "m", "tenant": "t"}
    other = {"tenant": "t", "model": "m"}
    assert block_hashes([1, 2], 2, one) == block_hashes([1, 2], 2, other)
    assert block_hashes([1, 2], 2, {}) == block_hashes([1, 2], 2, None)


def test_blocks_of_a_chain_differ_from_those_that_start_one():
    first, second = block_hashes([1, 2, 1, 2], 2)
    assert first != second
    assert block_hashes([1, 2], 2) == [first]


def test_hashes_are_sha256_of_bytes_that_no_process_chooses():
    # Python's own hash of text differs from process to process.
    def number(value):
        return value.to_bytes(8, "little", signed=True)

    salt = number(1) + number(5) + b"model" + number(2) + "é".encode()
    first = hashlib.sha256(bytes(32) + salt + number(3) + number(-1)).digest()
    second = hashlib.sha256(first + number(2**40) + number(7)).digest()
    assert block_hashes([3, -1, 2**40, 7, 9], 2, {"model": "é"}) == [first, second]


def test_bytes_are_tokens_like_any_other():
    assert block_hashes(b"abcdefgh", 4) == block_hashes(list(b"abcdefgh"), 4)


@pytest.mark.parametrize("tokens", [[1.5, 2], ["a", "b"], [2**63, 0]])
def test_tokens_that_are_no_integers_of_64_bits_are_refused(tokens):
    allocator, cache = filled(list(range(8)))
    with pytest.raises(ValueError, match="integers of 64 bits"):
        cache.match([*range(4), *tokens, 0, 0, 0])
    assert cache.stats.num_queries == 0
    allocator.check_conservation(cache.blocks)


def test_what_cannot_be_inserted_is_refused_and_changes_nothing():
    allocator = BlockAllocator(4, 2)
    cache = PrefixCache(allocator.pool, 2)
    allocator.allocate("sequence", 4)
    first, second = allocator.block_table("sequence")
    cache.insert([1, 2], [first])
    refusals = [
        (([1, 2, 3, 4], [first]), "4 tokens fill 2 blocks of 2, and the table has 1"),
        (([1, 2, 3, 4], [first, 3]), "block 3 is free"),
        (([5, 6], [first]), f"block {first} stands for other tokens"),
        (([5, 6, 7, 8], [second, second]), f"block {second} stands for other tokens"),
    ]
    for arguments, message in refusals:
        with pytest.raises(ValueError, match=message):
            cache.insert(*arguments)
        assert cache.blocks == (first,)
        allocator.check_conservation(cache.blocks)
    with pytest.raises(ValueError, match="block_size is 0"):
        PrefixCache(allocator.pool, 0)
