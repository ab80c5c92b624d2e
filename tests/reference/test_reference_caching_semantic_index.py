"""The packed index against a list that is searched one by one, in float64."""

import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from infopt_reference.caching import LogId, SemanticIndex
from infopt_reference.caching.embedder import Vectors, unit_vector
from infopt_reference.caching.packed_vectors import PackedVectors
from infopt_reference.caching.semantic_index import MOST, NEVER
from infopt_reference.caching.vector_record import RecordError, pack_record, unpack_record

DIMENSION = 3
# Few directions, so that equal ones and equal similarities come often.
DIRECTIONS = [(1, 0, 0), (0, 1, 0), (1, 1, 0), (-1, 0, 0), (3, 4, 0), (1, 2, 2), (5, 0, 12)]
directions = st.sampled_from(DIRECTIONS)
contexts = st.sampled_from([b"a", b"b", b"c"])


def unit(vector: Any) -> Vectors:
    found = unit_vector(vector, len(vector))
    assert found is not None
    return found


def cosine(one: Any, other: Any) -> float:
    a, b = np.asarray(one, np.float64), np.asarray(other, np.float64)
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


class IndexMachine(RuleBasedStateMachine):
    """Adds, removes, uses; every search finds what a list of the same entries has."""

    def __init__(self) -> None:
        super().__init__()
        self.index = SemanticIndex(DIMENSION)
        self.entries: dict[bytes, tuple[bytes, Vectors, LogId, int]] = {}  # least used first
        self.time = 0
        self.added = 0

    @rule(name=st.integers(0, 40), context=contexts, direction=directions, ttl=st.integers(0, 9))
    def add(self, name: int, context: bytes, direction: Any, ttl: int) -> None:
        self.time += name % 2  # now and then within one millisecond
        self.added += 1
        entry, log_id = b"%d" % name, LogId(self.time, self.added)
        ends = NEVER if ttl == 0 else self.time + ttl
        self.entries.pop(entry, None)
        self.entries[entry] = (context, unit(direction), log_id, ends)
        self.index.add(entry, context, unit(direction), log_id, ends)

    @precondition(lambda self: self.entries)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(sorted(self.entries)))
        assert self.index.log_id(entry) == self.entries[entry][2]
        assert self.index.remove(entry) == self.entries.pop(entry)[2]

    @precondition(lambda self: self.entries)
    @rule(data=st.data())
    def use(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(sorted(self.entries)))
        self.entries[entry] = self.entries.pop(entry)
        self.index.touch(entry)

    @rule(context=contexts, direction=directions, threshold=st.sampled_from([-1, 0.5, 0.7, 1]))
    def search(self, context: bytes, direction: Any, threshold: float) -> None:
        question = unit(direction)
        expected = [
            (-cosine(vector, question), log_id, entry)
            for entry, (where, vector, log_id, _) in self.entries.items()
            if where == context and cosine(vector, question) >= threshold - 1e-9
        ]
        found = self.index.search(context, question, threshold)
        assert [match.entry for match in found] == [entry for *_, entry in sorted(expected)][:MOST]

    @invariant()
    def the_order_of_use_and_the_ends_are_known(self) -> None:
        assert len(self.index) == len(self.entries)
        if self.entries:
            assert self.index.least_recently_used() == next(iter(self.entries))
        expected = {entry for entry, (*_, ends) in self.entries.items() if ends <= self.time}
        assert set(self.index.expired(self.time)) == expected


TestIndex = IndexMachine.TestCase
TestIndex.settings = settings(max_examples=60, stateful_step_count=60)


@given(st.integers(0, 300), st.integers(0, 2**32 - 1))
@settings(max_examples=30)
def test_the_most_similar_are_found_among_many(count: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    vectors = [unit(vector) for vector in generator.normal(size=(count, 48))]
    index = SemanticIndex(48)
    for number, vector in enumerate(vectors):
        index.add(b"%d" % number, b"c", vector, LogId(number, 0))
    question = unit(generator.normal(size=48))
    expected = sorted((-cosine(vector, question), number) for number, vector in enumerate(vectors))
    found = index.search(b"c", question, -1)
    assert [match.entry for match in found] == [b"%d" % number for _, number in expected[:MOST]]
    for match, (similarity, _) in zip(found, expected, strict=False):
        assert match.similarity == pytest.approx(
            -similarity, rel=0, abs=48 * sys.float_info.epsilon
        )


@pytest.mark.parametrize("count", [2, 3, 7, 8, 9, 63])
def test_of_equal_vectors_the_oldest_comes_first_wherever_it_stands(count: int) -> None:
    vector = unit(np.random.default_rng(0).normal(size=384))
    index = SemanticIndex(384)
    order = np.random.default_rng(1).permutation(count)
    for number in order:
        index.add(b"%d" % number, b"c", vector, LogId(int(number), 0))
    found = index.search(b"c", vector, 0.99)
    assert [match.entry for match in found] == [b"%d" % number for number in range(count)]


@pytest.mark.parametrize("cosine_of_both", [0.5, 0.9, 0.95, 0.999])
def test_the_threshold_is_respected_on_both_sides(cosine_of_both: float) -> None:
    question = unit([1.0] + [0.0] * 383)
    stored = unit([cosine_of_both, (1 - cosine_of_both**2) ** 0.5] + [0.0] * 382)
    index = SemanticIndex(384)
    index.add(b"x", b"c", stored, LogId(1, 0))
    step = 2 * float(np.finfo(np.float32).eps)  # what rounding the vectors to float32 may do
    assert index.search(b"c", question, cosine_of_both - step)
    assert not index.search(b"c", question, cosine_of_both + step)


def test_the_same_direction_has_similarity_1_at_any_length() -> None:
    generator = np.random.default_rng(0)
    for _ in range(200):
        vector = generator.normal(size=384)
        index = SemanticIndex(384)
        index.add(b"x", b"c", unit(vector), LogId(1, 0))
        assert index.search(b"c", unit(vector * generator.uniform(1e-3, 1e3)), 1.0)


@pytest.mark.parametrize("count", [16, 17, 100, 1000, 5000])
def test_memory_is_little_more_than_the_vectors(count: int) -> None:
    index = SemanticIndex(384)
    vector = unit(np.ones(384))
    for number in range(count):
        index.add(number.to_bytes(16, "little"), b"c", vector, LogId(number, 0))
        if 16 <= number <= 64:
            assert index.nbytes <= 1.3 * (number + 1) * 384 * 4
    assert index.nbytes <= 1.3 * count * 384 * 4
    for number in range(count - 16):
        index.remove(number.to_bytes(16, "little"))
    assert index.nbytes <= (16 + 40) * 384 * 4 + sys.getsizeof(index._slots)


def test_a_context_that_is_empty_again_leaves_nothing() -> None:
    index = SemanticIndex(384)
    for number in range(1000):
        index.add(b"x", b"%d" % number, unit(np.ones(384)), LogId(number, 0))
        index.remove(b"x")
    assert len(index._packed) == 1
    assert not index._contexts


@pytest.mark.parametrize(
    "vector",
    [
        np.zeros(3),
        np.full(3, np.nan),
        np.array([1, np.inf, 0]),
        np.array([1, np.nan, 0]),
        np.ones(2),
        np.ones(4),
        np.ones((1, 3)),
        np.ones(0),
    ],
)
def test_a_vector_without_direction_or_of_another_dimension_is_none(vector: Any) -> None:
    assert unit_vector(vector, 3) is None


@given(st.lists(st.floats(-1, 1), min_size=3, max_size=3), st.integers(-280, 280))
def test_a_unit_vector_has_length_1_however_long_the_vector_was(
    numbers: list[float], power: int
) -> None:
    vector = np.array(numbers) * 10.0**power
    found = unit_vector(vector, 3)
    if np.abs(vector).max() == 0:
        assert found is None
    else:
        assert found is not None
        assert abs(float(np.linalg.norm(found.astype(np.float64))) - 1) <= np.finfo(np.float32).eps


def test_records_read_back_and_broken_ones_do_not() -> None:
    entry, context, vector = bytes(range(16)), bytes(range(16, 32)), unit([1, 2, 3])
    for ttl, expected in ((None, None), (1.5, 1500), (1e-9, 1)):
        record = pack_record(entry, context, vector, ttl)
        found = unpack_record(record, 3)
        assert found[:2] == (entry, context)
        assert found[2].tobytes() == vector.tobytes()
        assert found[3] == expected
        for length in range(len(record)):
            with pytest.raises(RecordError):
                unpack_record(record[:length], 3)
        for position in range(len(record)):
            changed = bytearray(record)
            changed[position] ^= 1
            with pytest.raises(RecordError):
                unpack_record(bytes(changed), 3)
        with pytest.raises(RecordError, match="4 dimensions"):
            unpack_record(record, 4)


class VectorsMachine(RuleBasedStateMachine):
    """Packed vectors against a list, over the sizes at which chunks come and go."""

    dimension = 2

    def __init__(self) -> None:
        super().__init__()
        bytes_of_a_row = 4 * (self.dimension + 1)
        self.packed = PackedVectors(self.dimension, single_bytes=1024 * bytes_of_a_row)
        self.rows: list[tuple[float, float]] = []
        self.added = 0

    @rule(count=st.sampled_from([1, 2, 15, 300, 1024, 3000]))
    def append(self, count: int) -> None:
        for _ in range(count):
            self.added += 1
            self.rows.append((self.added, 1.0))
            self.packed.append(self.vector(self.rows[-1]))

    def vector(self, ends: tuple[float, float]) -> Vectors:
        """Its first and its last number; the others are 0."""
        vector = np.zeros(self.dimension, np.float32)
        vector[0], vector[-1] = ends
        return vector

    @precondition(lambda self: self.rows)
    @rule(count=st.sampled_from([1, 2, 15, 300, 1024, 3000]), place=st.floats(0, 1))
    def remove(self, count: int, place: float) -> None:
        for _ in range(min(count, len(self.rows))):
            row = int(place * (len(self.rows) - 1))
            last = self.rows.pop()
            if row < len(self.rows):
                self.rows[row] = last
            self.packed.remove(row)

    @invariant()
    def rows_products_and_reserve_are_right(self) -> None:
        count = self.packed.count
        assert count == len(self.rows)
        expected = [one + 0.5 for one, _ in self.rows]  # exact in float32
        for least in (-np.inf, self.added - 20.0):
            rows, products = self.packed.near(self.vector((1, 0.5)), least)
            near = [row for row in range(count) if expected[row] >= least]
            assert rows.tolist() == near
            assert products.tolist() == [expected[row] for row in near]
        assert self.packed.rows(range(0, count, 7)).tolist() == [
            self.vector(row).tolist() for row in self.rows[::7]
        ]
        assert self.packed.capacity <= count + count / 8 + 18


class SplitVectorsMachine(VectorsMachine):
    """Of vectors that have a head and a tail."""

    dimension = 13


TestVectors = VectorsMachine.TestCase
TestSplitVectors = SplitVectorsMachine.TestCase
TestVectors.settings = TestSplitVectors.settings = settings(max_examples=25, stateful_step_count=15)


@given(
    st.sampled_from([1, 2, 5, 6, 7, 12, 13, 48, 100]),
    st.integers(1, 60),
    st.sampled_from([0.0, 1e-7, 1e-3, 0.3]),
    st.one_of(st.floats(-1, 1), st.just(None)),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=300)
def test_heads_and_tails_find_what_one_float64_product_finds(
    dimension: int, count: int, distance: float, threshold: float | None, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    question = unit(generator.normal(size=dimension))
    noise = generator.normal(size=(count, dimension))
    # Near duplicates of the question, ones with its tail or its head turned round, and strangers.
    signs = np.ones((count, dimension))
    head = dimension // 6 or dimension
    signs[1::4, head:] = signs[2::4, :head] = -1
    kept = np.where(np.arange(count) % 4 == 3, 0, 1)[:, None]
    vectors = [unit(vector) for vector in kept * question * signs + (distance or 1 - kept) * noise]
    similarities = np.array([cosine(vector, question) for vector in vectors])
    if threshold is None:  # the similarity of one of them, which just counts
        threshold = float(generator.choice(similarities))
    index, packed = SemanticIndex(dimension), PackedVectors(dimension, single_bytes=1024)
    for number, vector in enumerate(vectors):
        index.add(b"%d" % number, b"c", vector, LogId(number, 0))
        packed.append(vector)

    rounding = dimension * sys.float_info.epsilon
    found = {
        int(match.entry): match.similarity for match in index.search(b"c", question, threshold)
    }
    assert set(np.flatnonzero(similarities >= threshold)) <= set(found)
    assert set(found) <= set(np.flatnonzero(similarities >= threshold - 2 * rounding))
    assert all(abs(found[row] - similarities[row]) <= rounding for row in found)
    assert list(found) == sorted(found, key=lambda row: (-found[row], row))

    rows, products = packed.near(question, threshold)  # in several chunks
    assert set(found) <= set(rows.tolist())
    margin = (dimension + 5) * float(np.finfo(np.float32).eps)
    exact = np.stack(vectors).astype(np.float64) @ question.astype(np.float64)
    assert np.all(np.abs(products - exact[rows]) <= margin)
    assert np.all(exact[rows] >= threshold - 2 * margin)
