"""PrefixCacheSuite: does a warm answer read what a cold one would have computed?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar

from ..base import Suite, requires
from ..machines import run_machine
from ..properties import tried
from .prefix_machine import PrefixMachine
from .prefix_protocol import Extra, MakePrefixCache, PrefixGeometry
from .prefix_serving import Serving

on_each_size = tried("make_prefix_cache")  # a property of a new `Serving`, and its blocks' size


class PrefixCacheSuite(Suite):
    """Properties of prefix caches over blocks of keys and values.

    Give a fixture ``make_prefix_cache``: a `prefix_protocol.MakePrefixCache`. What a block holds is
    simulated: its own tokens and all before them, on which its keys and values depend. ``extras``
    are those that the cache can tell apart: ``({},)`` where it takes tokens alone.
    """

    topic = "prefix_cache"
    fixture = "make_prefix_cache"
    fixture_returns = "a callable: PrefixGeometry -> prefix cache"
    offers = {  # noqa: RUF012  # read only
        "hash": "hashes with the function that it is given",
        "counts": "num_free, num_evictable and num_held account for all blocks",
        "store": "calls ``store`` for each block that insert makes known",
        "lru": "what was used last is evicted last",
        "unknown-first": "blocks that hold nothing known are given before known ones are evicted",
    }
    block_sizes: ClassVar[Sequence[int]] = (1, 3)
    extras: ClassVar[Sequence[Extra]] = (
        {},
        {"adapter": "x"},
        {"salt": "x"},
        {"adapter": "x", "salt": "y"},
        {"adapter": "y", "salt": "x"},
    )
    examples: ClassVar[int] = 40
    steps: ClassVar[int] = 30

    @on_each_size(each={"busy": (False, True)})
    def test_a_repeated_prompt_is_found_but_for_its_last_token(
        self, serving: Serving, size: int, busy: bool
    ) -> None:
        """A cache that never hits is of no use. The last token's logits are needed, so it is
        computed again: of a prompt of 2·P tokens one block is found, of 2·P + 1 tokens two.

        Usual causes: a prompt of whole blocks that leaves nothing to compute, a ratio of 0 / 0
        where nothing is held, a key that differs at each call.
        """
        for length in _edges(size):
            prompt = [length, *range(100, 99 + length)][:length]  # begins like no other
            request = serving.begin(prompt, {})
            serving.insert(request)
            if not busy:
                serving.end(request)
            found, expected = len(serving.match(prompt, {})), max(length - 1, 0) // size
            assert found == expected, (
                f"{found} blocks of {size} found for a repeated prompt of {length} tokens, "
                f"not {expected}"
            )

    @on_each_size()
    def test_the_longest_common_beginning_is_found(self, serving: Serving, size: int) -> None:
        """In whole blocks, also of a prompt that goes on otherwise, and no more than that.

        Usual causes: all or nothing, a last partial block that is compared by its length.
        """
        for common in range(3 * size + 1):
            known = [common] * (3 * size + 1)
            serving.run(known, {})
            found = len(serving.match([*known[:common], *range(900, 900 + 2 * size)], {}))
            assert found == common // size, f"{found} blocks of {size}, {common} tokens agree"

    @on_each_size()
    def test_whole_blocks_serve_longer_prompts(self, serving: Serving, size: int) -> None:
        """A prompt of exactly k blocks is found whole by one that goes on: its last token is then
        not the last.

        Usual causes: the last block left out when a prompt is inserted, as it is when one is
        matched; prompts of whole blocks that are not inserted at all.
        """
        for blocks in (1, 2, 3):
            known = [blocks] * (blocks * size)
            serving.run(known, {})
            for more in (1, size, size + 1):
                found = len(serving.match([*known, *[70] * more], {}))
                assert found == blocks, f"{found} of {blocks} whole blocks found, {more} tokens on"

    @on_each_size()
    def test_nothing_is_matched_before_it_is_inserted(self, serving: Serving, size: int) -> None:
        """Between allocation and write a block holds what its last owner left; and of a request
        that was given up, nothing was computed.

        Usual causes: keys that are entered when blocks are allocated, or when they are released.
        """
        prompt = list(range(2 * size + 1))
        request = serving.begin(prompt, {})
        found = serving.match(prompt, {})
        assert not found, f"{len(found)} blocks were found that are allocated and not written"
        serving.end(request)
        found = serving.match(prompt, {})
        assert not found, f"{len(found)} blocks were found of a request that was given up"

    @requires("unknown-first")
    @on_each_size(num_blocks=6)
    def test_blocks_that_hold_nothing_known_go_first(self, serving: Serving, size: int) -> None:
        """As long as there are others, nothing is evicted that could still be found.

        Usual causes: one list of free and evictable blocks, by the time of their release.
        """
        known = [1] * (2 * size)
        serving.run(known, {})
        for _ in range(2):  # four blocks hold nothing known, before and after they were used
            serving.run([2] * (4 * size), {}, insert=False)
            found = len(serving.match([*known, 0], {}))
            assert found == 2, f"{2 - found} known blocks were evicted while 4 held nothing"

    @on_each_size(num_blocks=99)
    def test_equal_tokens_under_another_salt_share_nothing(
        self, serving: Serving, size: int
    ) -> None:
        """Keys and values depend on model, adapter, image and tenant as well.

        Usual causes: a hash of the tokens alone, fields joined without their names, so that the
        adapter "x" is the tenant "x".
        """
        prompt = list(range(2 * size + 1))
        for extra in self.extras:
            found = serving.match(prompt, extra)
            assert not found, f"{len(found)} blocks of another salt were found for {extra}"
            serving.run(prompt, extra)
        for extra in self.extras:
            found = serving.match(prompt, extra)
            assert len(found) == 2, f"{len(found)} blocks, not 2, are found again for {extra}"

    @on_each_size(num_blocks=99)
    def test_equal_blocks_behind_others_share_nothing(self, serving: Serving, size: int) -> None:
        """Keys and values of a token depend on all before it.

        Usual causes: a hash of the block's own tokens, positions that are not hashed, tokens joined
        as text.
        """
        for tokens in ([1, 1, 2], [2, 1, 1], [1, 2, 1], [12, 1, 1], [1, 21, 1]):
            prompt = [token for token in tokens for _ in range(size)]
            serving.run([*prompt, 0], {})
            serving.match([*prompt, 7], {})
        for digits in ([1, 12, 3], [11, 2, 3], [1, 1, 23]):
            serving.run([*digits * size, 0], {})

    @requires("hash")
    def test_colliding_hashes_share_nothing(self, make_prefix_cache: MakePrefixCache) -> None:
        """With a hash that is always 0, or one of two values, all that is lost is time.

        Usual causes: a hash that is trusted without comparing tokens and what stands before them.
        """
        for size in self.block_sizes:
            for values in (1, 2):

                def collide(data: bytes, values: int = values) -> bytes:
                    return bytes([sum(data) % values])

                serving = self._serving(make_prefix_cache, size, 99, hash_function=collide)
                for first in range(4):
                    for second in range(3):
                        prompt = [first] * size + [second] * size + [0]
                        serving.run(prompt, self.extras[second % len(self.extras)])

    @on_each_size(num_blocks=5)
    def test_what_is_held_is_never_given_away(self, serving: Serving, size: int) -> None:
        """Blocks of a running request stay, whatever is evicted to make room for others.

        Usual causes: a lock that skips the matched node itself, a duplicate that is freed while a
        table points at it, a block that is counted as evictable.
        """
        prompt = list(range(2 * size))
        serving.run([*prompt, 0], {})
        running = serving.begin([*prompt, 1], {})  # holds the cached beginning
        for other in range(4):
            serving.run([500 + other] * (2 * size), {})  # needs what else there is
            serving.check()
        serving.insert(running)
        serving.end(running)

    @on_each_size(num_blocks=12)
    def test_equal_prompts_computed_at_once_keep_their_blocks(
        self, serving: Serving, size: int
    ) -> None:
        """Both were begun before either was inserted; each has what it holds until it ends.

        Usual causes: a duplicate's pages freed without moving the table to the kept ones.
        """
        prompt = list(range(2 * size + 1))
        requests = [serving.begin(prompt, {}) for _ in range(3)]
        for request in requests:
            serving.insert(request)
            serving.check()
            other = serving.begin([800] * size, {})
            serving.check()
            serving.end(other)
        for request in requests:
            serving.end(request)
            serving.check()

    @on_each_size(num_blocks=4)
    def test_nothing_stale_is_found_after_eviction(self, serving: Serving, size: int) -> None:
        """A block that was given to another request no longer answers for the first one; warm
        equals cold through any churn.

        Usual causes: a hash that still points at its block after reuse, hits that are counted
        beyond a gap.
        """
        prompts = [[first] * size + [second] * (2 * size + 1) for first, second in _PAIRS]
        short = [[9] * size, [8] * size]  # makes room for one or two blocks, not for all
        for prompt in (*prompts, *prompts[::-1], *short, prompts[0], *short, *prompts):
            serving.run(prompt, {})
            serving.check()

    @on_each_size(num_blocks=4)
    def test_inserting_again_changes_nothing(self, serving: Serving, size: int) -> None:
        """A request may be inserted at each step, and after it was found.

        Usual causes: a second reference or entry for the same block.
        """
        request = serving.begin(list(range(3 * size)), {})
        for _ in range(3):
            serving.insert(request)
            serving.check()
        serving.end(request)
        serving.begin([700] * (4 * size), {})  # all blocks, so all had come back
        serving.check()

    def test_any_interleaving_reads_what_was_written(
        self, make_prefix_cache: MakePrefixCache
    ) -> None:
        """Requests with common beginnings begin, are inserted and end in any order, in a pool that
        is too small: each reads its own tokens, and no block is lost or has two owners.

        Usual causes: all of the above, together.
        """
        for size in self.block_sizes:
            make = partial(self._serving, make_prefix_cache, size, num_blocks=6)
            members = {"make_serving": staticmethod(make), "extras": self.extras}
            run_machine(PrefixMachine, members, examples=self.examples, steps=self.steps)

    @requires("counts")
    @on_each_size(num_blocks=9)
    def test_counts_account_for_every_block(self, serving: Serving, size: int) -> None:
        """Free, evictable and held are all there are, after each step and with nothing running.

        Usual causes: tokens counted for blocks, prompts shorter than a block, shared blocks counted
        for each request.
        """
        for length in _edges(size):
            for _ in range(2):
                request = serving.begin(list(range(length)), {})
                serving.check()
                other = serving.begin([*range(length), 0], {})
                serving.insert(request)
                serving.insert(other)
                serving.check()
                for each in (request, other):
                    serving.end(each)
                    serving.check()

    @requires("lru")
    @on_each_size(num_blocks=6)
    def test_what_was_used_last_is_evicted_last(self, serving: Serving, size: int) -> None:
        """And the end of a prompt before its beginning, without which it is never found.

        Usual causes: insertion order for order of use, a match that is no use, blocks freed from
        the first to the last.
        """
        old, new = [1] * (3 * size), [2] * (3 * size)
        for prompt in (old, new):
            serving.run(prompt, {})
        serving.match([*old, 0], {})
        serving.run([3], {}, insert=False)  # takes one block
        assert len(serving.match([*old, 0], {})) == 3, "what was just used was evicted"
        assert len(serving.match([*new, 0], {})) == 2, "not the end of the older prompt"

    @requires("store")
    def test_what_could_not_be_stored_is_not_found(
        self, make_prefix_cache: MakePrefixCache
    ) -> None:
        """A store that fails half way through leaves no entry that leads to nothing.

        Usual causes: the key is entered before the copy has succeeded.
        """
        for size in self.block_sizes:
            for good in range(3):
                stored: list[int] = []

                def store(block: int, stored: list[int] = stored, good: int = good) -> None:
                    if len(stored) == good:
                        raise OSError("the store is full")
                    stored.append(block)

                serving = self._serving(make_prefix_cache, size, 9, store=store)
                prompt = list(range(3 * size + 1))
                request = serving.begin(prompt, {})
                try:
                    serving.insert(request)
                except OSError:
                    pass
                else:
                    raise AssertionError("insert did not say that the store failed")
                found = serving.match(prompt, {})
                assert len(found) <= good, f"{len(found)} blocks found, {good} were stored"

    def _hold(
        self,
        make_prefix_cache: MakePrefixCache,
        holds: Callable[[Serving, int], None],
        **geometry: int,
    ) -> None:
        __tracebackhide__ = True
        for size in self.block_sizes:
            holds(self._serving(make_prefix_cache, size, **geometry), size)

    def _serving(
        self,
        make_prefix_cache: MakePrefixCache,
        size: int,
        num_blocks: int = 24,
        **options: object,
    ) -> Serving:
        geometry = PrefixGeometry(num_blocks, size, **options)  # type: ignore[arg-type]  # its own fields
        return Serving(make_prefix_cache(geometry), geometry, frozenset(self.capabilities))


_PAIRS = [(first, second) for first in (1, 2) for second in (3, 4)]


def _edges(size: int) -> list[int]:
    """Lengths around the edges of blocks: 0, 1, P − 1, P, P + 1, 2·P and one more."""
    return sorted({0, 1, size - 1, size, size + 1, 2 * size, 2 * size + 1})
