"""The block allocator against plain lists: what is written through tables is read back from them.

Memory is simulated with Python lists, one a block, so that a missing copy on write or a block with
two owners shows as a wrong token, and not only as a wrong count.
"""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from infopt_reference.attention.block_allocator import BlockAllocator
from infopt_reference.attention.block_pool import BlockPool, OutOfBlocksError

FREED = "freed"  # what a token that is read from a free block looks like


class PagedLists(RuleBasedStateMachine):
    """Sequences of numbers kept in the allocator's blocks, and beside them as plain lists."""

    sequences = Bundle("sequences")
    NUM_BLOCKS, BLOCK_SIZE = 6, 3

    def __init__(self):
        super().__init__()
        self.allocator = BlockAllocator(self.NUM_BLOCKS, self.BLOCK_SIZE)
        self.memory = [[FREED] * self.BLOCK_SIZE for _ in range(self.NUM_BLOCKS)]
        self.contents = {}
        self.names, self.tokens = itertools.count(), itertools.count()

    @rule(target=sequences, length=st.integers(0, 20))
    def allocate(self, length):
        name, before = next(self.names), self.allocator.num_free_blocks
        possible = -(-length // self.BLOCK_SIZE) <= before
        assert self.allocator.can_allocate(length) == possible
        if not possible:
            with pytest.raises(OutOfBlocksError, match=f"{before} of {self.NUM_BLOCKS} are free"):
                self.allocator.allocate(name, length)
            assert self.allocator.num_free_blocks == before
            length = 0
        self.allocator.allocate(name, length)
        self.contents[name] = []
        self.write(name, length)
        return name

    @rule(name=sequences, count=st.integers(0, 8))
    def append(self, name, count):
        state = self.state()
        possible = self.allocator.can_append(name, count)
        try:
            copy = self.allocator.append(name, count)
        except OutOfBlocksError:
            assert not possible
            assert self.state() == state
            return
        assert possible
        if copy is not None:
            self.memory[copy.destination] = list(self.memory[copy.source])
        self.write(name, count)

    @rule(target=sequences, parent=sequences)
    def fork(self, parent):
        child, free = next(self.names), self.allocator.num_free_blocks
        self.allocator.fork(parent, child)
        assert self.allocator.num_free_blocks == free
        self.contents[child] = list(self.contents[parent])
        return child

    @rule(name=sequences, data=st.data())
    def truncate(self, name, data):
        length = data.draw(st.integers(0, len(self.contents[name])))
        self.allocator.truncate(name, length)
        del self.contents[name][length:]

    @rule(name=consumes(sequences))
    def free(self, name):
        self.allocator.free(name)
        del self.contents[name]
        with pytest.raises(ValueError, match=f"no sequence {name}"):
            self.allocator.free(name)

    @rule(name=sequences)
    def share_equal_blocks(self, name):
        # What a prefix cache does when two sequences were filled with the same tokens.
        for other, index in itertools.product(self.contents, range(self.NUM_BLOCKS)):
            mine, theirs = self.allocator.block_table(name), self.allocator.block_table(other)
            if index < min(len(mine), len(theirs)):
                end = (index + 1) * self.BLOCK_SIZE
                if self.contents[name][:end] == self.contents[other][:end]:
                    self.allocator.replace(name, index, theirs[index])

    @rule(name=sequences)
    def preempt_and_recompute(self, name):
        tokens = self.contents[name]
        self.allocator.free(name)
        self.forget_free_blocks()
        if not self.allocator.can_allocate(len(tokens)):  # its blocks were shared, and still are
            self.allocator.allocate(name)
            self.contents[name] = []
            return
        self.allocator.allocate(name, len(tokens))
        for position, token in enumerate(tokens):
            self.place(name, position, token)

    def write(self, name, count):
        for _ in range(count):
            token = next(self.tokens)
            self.place(name, len(self.contents[name]), token)
            self.contents[name].append(token)

    def place(self, name, position, token):
        block = self.allocator.block_table(name)[position // self.BLOCK_SIZE]
        self.memory[block][position % self.BLOCK_SIZE] = token

    def state(self):
        tables = {name: self.allocator.block_table(name) for name in self.contents}
        references = [self.allocator.pool.references(b) for b in range(self.NUM_BLOCKS)]
        return tables, references, self.allocator.num_free_blocks

    def forget_free_blocks(self):
        for block in range(self.NUM_BLOCKS):
            if not self.allocator.pool.references(block):
                self.memory[block] = [FREED] * self.BLOCK_SIZE

    @invariant()
    def what_was_written_is_read(self):
        self.forget_free_blocks()
        assert set(self.allocator.sequences) == set(self.contents)
        for name, tokens in self.contents.items():
            table = self.allocator.block_table(name)
            stored = [token for block in table for token in self.memory[block]]
            assert stored[: len(tokens)] == tokens
            assert self.allocator.num_tokens(name) == len(tokens)

    @invariant()
    def less_than_a_block_is_wasted(self):
        for name, tokens in self.contents.items():
            slots = len(self.allocator.block_table(name)) * self.BLOCK_SIZE
            assert slots - len(tokens) == -len(tokens) % self.BLOCK_SIZE

    @invariant()
    def blocks_are_conserved(self):
        tables = [self.allocator.block_table(name) for name in self.contents]
        held = list(itertools.chain(*tables))
        counts = [self.allocator.pool.references(block) for block in range(self.NUM_BLOCKS)]
        assert counts == [held.count(block) for block in range(self.NUM_BLOCKS)]
        assert self.allocator.num_free_blocks == counts.count(0)
        assert self.allocator.pool.num_used == self.NUM_BLOCKS - counts.count(0)
        self.allocator.check_conservation()

    def teardown(self):
        for name in self.contents:
            self.allocator.free(name)
        assert self.allocator.num_free_blocks == self.NUM_BLOCKS
        assert sorted(self.allocator.pool.take(self.NUM_BLOCKS)) == list(range(self.NUM_BLOCKS))


class PagedListsOfOne(PagedLists):
    """Blocks of one token are never partly filled: nothing is ever copied."""

    NUM_BLOCKS, BLOCK_SIZE = 12, 1


PagedLists.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
PagedListsOfOne.TestCase.settings = settings(max_examples=20, stateful_step_count=20, deadline=None)
TestPagedLists = PagedLists.TestCase
TestPagedListsOfOne = PagedListsOfOne.TestCase


@pytest.mark.parametrize("size", [1, 2, 5])
def test_tables_have_as_many_blocks_as_tokens_need(size):
    for length in (0, 1, size - 1, size, size + 1, 2 * size, 2 * size + 1):
        allocator = BlockAllocator(8, size)
        allocator.allocate("grown")
        for _ in range(length):
            allocator.append("grown")
        allocator.allocate("at once", length)
        for sequence in ("grown", "at once"):
            assert len(allocator.block_table(sequence)) == -(-length // size)
        assert allocator.blocks_for(length) == -(-length // size)


def test_the_second_of_two_forks_writes_in_place():
    allocator = BlockAllocator(4, 4)
    allocator.allocate("parent", 6)
    allocator.fork("parent", "child")
    full, partial = allocator.block_table("parent")
    copy = allocator.append("child")
    assert copy is not None
    assert copy.source == partial
    assert allocator.block_table("child") == (full, copy.destination)
    assert allocator.append("parent") is None
    assert allocator.block_table("parent") == (full, partial)


def test_appending_behind_a_shared_full_block_copies_nothing():
    allocator = BlockAllocator(3, 4)
    allocator.allocate("parent", 4)
    allocator.fork("parent", "child")
    assert allocator.append("child", 4) is None
    assert allocator.append("parent", 4) is None
    assert allocator.num_free_blocks == 0


def test_nothing_is_copied_when_nothing_is_appended():
    allocator = BlockAllocator(1, 4)
    allocator.allocate("parent", 3)
    allocator.fork("parent", "child")
    assert allocator.append("child", 0) is None  # a copy would need a block, and there is none
    assert not allocator.can_append("child", 1)


def test_a_prefix_passes_to_the_sequence():
    allocator = BlockAllocator(5, 2)
    prefix = allocator.pool.take(2)
    allocator.allocate("warm", 5, prefix)
    assert allocator.block_table("warm")[:2] == tuple(prefix)
    assert allocator.num_free_blocks == 2
    allocator.free("warm")
    assert allocator.num_free_blocks == 5


@pytest.mark.parametrize(
    ("tokens", "error", "message"),
    [
        (3, ValueError, "2 full blocks of 2 is longer than the sequence of 3 tokens"),
        (20, OutOfBlocksError, "8 blocks are needed, 3 of 5 are free"),
    ],
)
def test_a_prefix_that_was_refused_stays_with_the_caller(tokens, error, message):
    allocator = BlockAllocator(5, 2)
    prefix = allocator.pool.take(2)
    with pytest.raises(error, match=message):
        allocator.allocate("warm", tokens, prefix)
    assert "warm" not in allocator
    allocator.check_conservation(prefix)
    assert [allocator.pool.release(block) for block in prefix] == [True, True]


def test_a_free_block_is_no_prefix():
    allocator = BlockAllocator(5, 2)
    with pytest.raises(ValueError, match="prefix block 3 is free"):
        allocator.allocate("warm", 4, [3])
    assert allocator.num_free_blocks == 5


@given(count=st.integers(0, 9), data=st.data())
def test_blocks_come_once_and_the_last_to_return_goes_out_first(count, data):
    pool = BlockPool(9)
    blocks = pool.take(count)
    assert len(set(blocks)) == count
    assert set(blocks) <= set(range(9))
    returned = data.draw(st.lists(st.sampled_from(blocks), unique=True)) if blocks else []
    assert all(pool.release(block) for block in returned)
    again = pool.take(9 - count + len(returned))
    assert again[: len(returned)] == returned[::-1]
    assert sorted({*blocks, *again}) == list(range(9))
    assert pool.num_free == 0


@pytest.mark.parametrize("operation", ["share", "release"])
def test_free_and_unknown_blocks_are_refused(operation):
    pool = BlockPool(3)
    (block,) = pool.take(1)
    assert pool.release(block)
    with pytest.raises(ValueError, match=f"block {block} is free"):
        getattr(pool, operation)(block)
    with pytest.raises(ValueError, match="block 2 is free"):  # never handed out
        getattr(pool, operation)(2)
    for unknown in (-1, 3):
        with pytest.raises(ValueError, match=f"no block {unknown}; ids are 0…2"):
            getattr(pool, operation)(unknown)
        with pytest.raises(ValueError, match=f"no block {unknown}; ids are 0…2"):
            pool.references(unknown)
    pool.check_conservation([])
    assert pool.num_free == 3


def test_arguments_that_make_no_sense_are_refused():
    allocator = BlockAllocator(4, 2)
    allocator.allocate("here", 3)
    refusals = [
        (lambda: BlockAllocator(4, 0), "block_size is 0"),
        (lambda: BlockAllocator(-1, 2), "num_blocks is -1"),
        (lambda: allocator.allocate("here"), "'here' exists"),
        (lambda: allocator.allocate("new", -1), "-1 tokens"),
        (lambda: allocator.fork("here", "here"), "'here' exists"),
        (lambda: allocator.fork("gone", "new"), "no sequence 'gone'"),
        (lambda: allocator.append("here", -1), "-1 tokens cannot be appended"),
        (lambda: allocator.append("gone"), "no sequence 'gone'"),
        (lambda: allocator.truncate("here", 4), "has 3 tokens and cannot be cut to 4"),
        (lambda: allocator.truncate("here", -1), "has 3 tokens and cannot be cut to -1"),
        (lambda: allocator.replace("here", 2, 0), "has 2 blocks, and none at 2"),
        (lambda: allocator.replace("here", 0, 3), "block 3 is free"),
        (lambda: allocator.block_table("gone"), "no sequence 'gone'"),
        (lambda: allocator.pool.take(-1), "-1 blocks"),
    ]
    for call, message in refusals:
        with pytest.raises(ValueError, match=message):
            call()
    allocator.check_conservation()
    assert allocator.sequences == ("here",)
    assert allocator.num_free_blocks == 2


def test_conservation_names_what_is_wrong():
    allocator = BlockAllocator(4, 2)
    allocator.allocate("sequence", 3)
    first, last = allocator.block_table("sequence")
    with pytest.raises(RuntimeError, match=f"block {first} is held 2 times, but 1 references"):
        allocator.check_conservation([first])
    allocator.pool.release(last)  # behind the allocator's back
    with pytest.raises(RuntimeError, match=f"block {last} is held 1 times, but 0 references"):
        allocator.check_conservation()
    allocator.pool._returned.append(last)
    with pytest.raises(RuntimeError, match=f"block {last} is listed 2 times"):
        allocator.pool.check_conservation([first])


def test_a_table_of_the_wrong_length_is_reported():
    allocator = BlockAllocator(4, 2)
    allocator.allocate("sequence", 3)
    allocator._allocations["sequence"].num_tokens = 2
    with pytest.raises(RuntimeError, match="of 2 tokens has 2 blocks of 2"):
        allocator.check_conservation()


def test_the_free_list_is_not_built_before_it_is_used():
    # Ten thousand million blocks: whatever costs a word for each would not fit the memory.
    allocator = BlockAllocator(10**10, 16)
    allocator.allocate("sequence", 100)
    allocator.append("sequence", 100)
    allocator.free("sequence")
    allocator.check_conservation()
    assert allocator.num_free_blocks == 10**10
