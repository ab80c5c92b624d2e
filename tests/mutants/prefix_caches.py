"""A small prefix cache that is right, and the same with faults that real ones have shipped."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from infopt_suites.attention import PrefixGeometry
from infopt_suites.attention.prefix_protocol import Extra

AREA = "2 prefix caches"


@dataclass
class Node:
    """A cached block: its key, its own tokens, and the block before it."""

    key: bytes
    tokens: tuple[int, ...]
    extra: Extra
    parent: int | None
    used: int = 0


class SmallPrefixCache:
    """Chained hashes to blocks; leaves that nobody holds are evicted, the least used first."""

    capabilities: Any = frozenset({"hash", "counts", "store", "lru", "unknown-first"})

    def __init__(self, geometry: PrefixGeometry) -> None:
        self.geometry = geometry
        self.free = list(range(geometry.num_blocks))
        self.holders: Counter[int] = Counter()
        self.nodes: dict[int, Node] = {}
        self.by_key: dict[bytes, list[int]] = {}
        self.clock = 0

    # Keys

    def key(self, parent: bytes, tokens: tuple[int, ...], extra: Extra) -> bytes:
        content = repr((parent, tokens, self.fields(extra))).encode()
        return self.hash(content)

    def fields(self, extra: Extra) -> Any:
        return sorted(extra.items())

    def hash(self, content: bytes) -> bytes:
        if self.geometry.hash_function is not None:
            return self.geometry.hash_function(content)
        return hashlib.sha256(content).digest()

    def verified(self, block: int, tokens: tuple[int, ...], extra: Extra, parent: Any) -> bool:
        node = self.nodes.get(block)
        return node is not None and (node.tokens, node.extra, node.parent) == (
            tokens,
            extra,
            parent,
        )

    # Requests

    def match(self, tokens: Sequence[int], extra: Extra) -> Sequence[int]:
        found = self.walk(tokens, self.limit(len(tokens)), extra)
        self.hold_matched(found)
        for block in reversed(found):
            self.touch(block)
        return found

    def limit(self, length: int) -> int:
        return max(length - 1, 0) // self.geometry.block_size

    def walk(self, tokens: Sequence[int], count: int, extra: Extra) -> list[int]:
        found: list[int] = []
        key, size = b"", self.geometry.block_size
        for index in range(count):
            chunk = tuple(tokens[index * size : (index + 1) * size])
            key = self.key(key, chunk, extra)
            parent = found[-1] if found else None
            block = self.find(key, chunk, extra, parent)
            if block is None:
                if self.stops_at_a_gap():
                    break
                continue
            found.append(block)
        return found

    def find(self, key: bytes, chunk: tuple[int, ...], extra: Extra, parent: Any) -> int | None:
        for block in self.by_key.get(key, []):
            if self.verified(block, chunk, extra, parent):
                return block
        return None

    def stops_at_a_gap(self) -> bool:
        return True

    def hold_matched(self, blocks: Sequence[int]) -> None:
        self.holders.update(blocks)

    def touch(self, block: int) -> None:
        self.clock += 1
        if block in self.nodes:
            self.nodes[block].used = self.clock

    def allocate(self, count: int) -> Sequence[int]:
        while len(self.free) < count:
            evictable = self.evictable()
            if len(self.free) + self.num_evictable < count or not evictable:
                raise MemoryError(f"{count} blocks are needed")
            self.evict(min(evictable, key=self.order))
        blocks = [self.free.pop() for _ in range(count)]
        self.holders.update(blocks)
        return blocks

    def order(self, block: int) -> int:
        return self.nodes[block].used

    def evictable(self) -> list[int]:
        parents = {node.parent for node in self.nodes.values()}
        return [b for b in self.nodes if not self.holders[b] and b not in parents]

    def evict(self, block: int) -> None:
        self.forget(self.nodes.pop(block), block)
        self.free.append(block)

    def forget(self, node: Node, block: int) -> None:
        self.by_key[node.key].remove(block)

    def insert(self, tokens: Sequence[int], blocks: Sequence[int], extra: Extra) -> Sequence[int]:
        size, table, key = self.geometry.block_size, list(blocks), b""
        for index in range(len(tokens) // size):
            chunk = tuple(tokens[index * size : (index + 1) * size])
            key = self.key(key, chunk, extra)
            parent = table[index - 1] if index else None
            known = self.find(key, chunk, extra, parent)
            if known is None:
                self.add(table[index], Node(key, chunk, extra, parent))
            elif known != table[index]:
                table[index] = self.exchange(table[index], known)
        for block in reversed(table):
            self.touch(block)
        return table

    def add(self, block: int, node: Node) -> None:
        if self.geometry.store is not None:
            self.geometry.store(block)
        self.enter(block, node)

    def enter(self, block: int, node: Node) -> None:
        self.nodes[block] = node
        self.by_key.setdefault(node.key, []).append(block)

    def exchange(self, own: int, known: int) -> int:
        """Hold the known block for the caller's own; the one that is held from now on."""
        self.holders[known] += 1
        self.release([own])
        return known

    def release(self, blocks: Sequence[int]) -> None:
        for block in reversed(list(blocks)):
            self.holders[block] -= 1
            if self.holders[block] <= 0:
                self.holders[block] = 0
                if block not in self.nodes:
                    self.free.append(block)

    # Counts

    @property
    def num_free(self) -> int:
        return len(self.free)

    @property
    def num_evictable(self) -> int:
        return sum(not self.holders[block] for block in self.nodes)

    @property
    def num_held(self) -> int:
        return sum(count > 0 for count in self.holders.values())


class KeepsDuplicates(SmallPrefixCache):
    """Sound in another way: each request keeps its own copy until it ends."""

    capabilities = frozenset({"hash", "store", "unknown-first"})

    def insert(self, tokens: Sequence[int], blocks: Sequence[int], extra: Extra) -> Sequence[int]:
        size, key, parent = self.geometry.block_size, b"", None
        for index in range(len(tokens) // size):
            chunk = tuple(tokens[index * size : (index + 1) * size])
            key = self.key(key, chunk, extra)
            known = self.find(key, chunk, extra, parent)
            if known is None and blocks[index] not in self.nodes:
                self.add(blocks[index], Node(key, chunk, extra, parent))
                known = blocks[index]
            parent = known
        return blocks

    @property
    def num_evictable(self) -> int:
        return len(self.nodes)


class AnyBlockEvicted(SmallPrefixCache):
    """Sound in another way: beginnings may be evicted before ends, which are then not found."""

    capabilities = frozenset({"hash", "store", "counts", "unknown-first"})

    def evictable(self) -> list[int]:
        return [block for block in self.nodes if not self.holders[block]]

    def order(self, block: int) -> int:
        return -self.nodes[block].used

    def evict(self, block: int) -> None:
        super().evict(block)
        # Its number may come back as another's parent: who stood behind it stands behind nothing.
        for node in self.nodes.values():
            if node.parent == block:
                node.parent = -1


class HashTrusted(SmallPrefixCache):
    """K23: a collision is a hit (openvinotoolkit/openvino.genai#3722)."""

    def verified(self, block: int, tokens: tuple[int, ...], extra: Extra, parent: Any) -> bool:
        return True


class TokensOfTheBlockCompared(SmallPrefixCache):
    """K23, half repaired: what stands before the block is not compared."""

    def verified(self, block: int, tokens: tuple[int, ...], extra: Extra, parent: Any) -> bool:
        return self.nodes[block].tokens == tokens


class TokensAlone(HashTrusted):
    """K24: no adapter, no image in the key (LMCache/LMCache#690)."""

    def fields(self, extra: Extra) -> Any:
        return None


class FieldsWithoutNames(HashTrusted):
    """K24: adapter "x" equals salt "x" (vllm-project/vllm#44701)."""

    def fields(self, extra: Extra) -> Any:
        return sorted(extra.values())


class StaleKey(HashTrusted):
    """K26: a recycled block keeps its old key (Wenyueh/MinivLLM#87, vllm-project/vllm#4764)."""

    def forget(self, node: Node, block: int) -> None:
        pass


class MatchedNodeNotLocked(SmallPrefixCache):
    """K29: the lock begins at the parent (sgl-project/mini-sglang#52)."""

    def hold_matched(self, blocks: Sequence[int]) -> None:
        super().hold_matched(blocks[:-1])


class DuplicateFreedAndUsed(SmallPrefixCache):
    """K30: own pages are freed, the table still points at them (sgl-project/mini-sglang#142)."""

    def exchange(self, own: int, known: int) -> int:
        super().exchange(own, known)
        return own


class ShortPromptsCounted(SmallPrefixCache):
    """K31: a prompt shorter than a page counts as one (sgl-project/sglang#10637)."""

    short = 0

    def insert(self, tokens: Sequence[int], blocks: Sequence[int], extra: Extra) -> Sequence[int]:
        self.short += 0 < len(tokens) < self.geometry.block_size
        return super().insert(tokens, blocks, extra)

    @property
    def num_evictable(self) -> int:
        return super().num_evictable + self.short


class SharedBlocksCountedTwice(SmallPrefixCache):
    """K31: a shared block is held as often as there are requests (sgl-project/sglang#35270)."""

    @property
    def num_held(self) -> int:
        return sum(self.holders.values())


class CountedBeyondAGap(AnyBlockEvicted):
    """K32: blocks 2 and 3 are hits though 1 is gone (llm-d/llm-d-inference-sim#705)."""

    capabilities = frozenset({"hash"})

    def stops_at_a_gap(self) -> bool:
        return False

    def verified(self, block: int, tokens: tuple[int, ...], extra: Extra, parent: Any) -> bool:
        node = self.nodes.get(block)
        return node is not None and (node.tokens, node.extra) == (tokens, extra)


class EnteredBeforeStored(SmallPrefixCache):
    """K39: a store that failed stays visible (LMCache/LMCache#4991)."""

    def add(self, block: int, node: Node) -> None:
        self.enter(block, node)
        if self.geometry.store is not None:
            self.geometry.store(block)


class NothingByNothing(SmallPrefixCache):
    """K62: the share of what is held that is found, 0 / 0 where nothing is held
    (am17an/llama.cpp#34)."""

    def match(self, tokens: Sequence[int], extra: Extra) -> Sequence[int]:
        held = self.num_held
        found = list(super().match(tokens, extra))
        share = len(found) / held if held else math.nan
        if share >= 0.0:
            return found
        self.release(found)
        return []


class WholePromptFound(SmallPrefixCache):
    """Not listed: of a prompt of whole blocks nothing is left to compute."""

    def limit(self, length: int) -> int:
        return length // self.geometry.block_size


class LastBlockNeverFound(SmallPrefixCache):
    """Not listed, safe and of little use: one block less than there is."""

    def limit(self, length: int) -> int:
        return max(length - 1, 0) // self.geometry.block_size - 1


class AllOrNothing(SmallPrefixCache):
    """Not listed, safe and of little use: only whole prompts are found."""

    def match(self, tokens: Sequence[int], extra: Extra) -> Sequence[int]:
        found = super().match(tokens, extra)
        if len(found) == self.limit(len(tokens)):
            return found
        self.release(found)
        return []


class HashOfTheBlockAlone(SmallPrefixCache):
    """Not listed: nothing of what stands before it."""

    def key(self, parent: bytes, tokens: tuple[int, ...], extra: Extra) -> bytes:
        return super().key(b"", tokens, extra)

    def verified(self, block: int, tokens: tuple[int, ...], extra: Extra, parent: Any) -> bool:
        return self.nodes[block].tokens == tokens and self.nodes[block].extra == extra


class TokensAsText(HashTrusted):
    """Not listed: 12 1 and 1 21 are the same string of digits."""

    def key(self, parent: bytes, tokens: tuple[int, ...], extra: Extra) -> bytes:
        text = "".join(map(str, tokens)) + repr(self.fields(extra))
        return parent + text.encode()


class NewKeyEachTime(SmallPrefixCache):
    """Not listed, safe and useless: a salt that nobody asked for."""

    def hash(self, content: bytes) -> bytes:
        self.clock += 1
        return super().hash(content + bytes([self.clock % 251]))


class HeldForEver(SmallPrefixCache):
    """Not listed: insert holds each known block once more."""

    def add(self, block: int, node: Node) -> None:
        super().add(block, node)
        self.holders[block] += 1


class FirstInFirstOut(SmallPrefixCache):
    """Not listed: order of insertion, not of use."""

    def match(self, tokens: Sequence[int], extra: Extra) -> Sequence[int]:
        found = self.walk(tokens, self.limit(len(tokens)), extra)
        self.hold_matched(found)
        return found


class LastBlockNotInserted(SmallPrefixCache):
    """Of a prompt of whole blocks the last is left out, as if it were to be computed again."""

    def insert(self, tokens: Sequence[int], blocks: Sequence[int], extra: Extra) -> Sequence[int]:
        kept = self.limit(len(tokens)) * self.geometry.block_size
        return super().insert(tokens[:kept], blocks, extra)


class WholeBlocksNotInserted(SmallPrefixCache):
    """Not listed: a prompt without a rest is taken for one that goes on."""

    def insert(self, tokens: Sequence[int], blocks: Sequence[int], extra: Extra) -> Sequence[int]:
        if len(tokens) % self.geometry.block_size == 0:
            return blocks
        return super().insert(tokens, blocks, extra)


class KnownWhenAllocated(SmallPrefixCache):
    """Blocks are entered for the prompt that was asked for last, before anything is written."""

    def match(self, tokens: Sequence[int], extra: Extra) -> Sequence[int]:
        found = list(super().match(tokens, extra))
        self.asked = tokens, extra, found
        return found

    def allocate(self, count: int) -> Sequence[int]:
        blocks = list(super().allocate(count))
        tokens, extra, found = self.asked
        self.insert(tokens, [*found, *blocks], extra)
        return blocks


class KnownWhenReleased(KnownWhenAllocated):
    """What a request that was given up would have computed."""

    def allocate(self, count: int) -> Sequence[int]:
        blocks = SmallPrefixCache.allocate(self, count)
        self.given = self.asked, blocks
        return blocks

    def release(self, blocks: Sequence[int]) -> None:
        (tokens, extra, found), given = getattr(self, "given", (((), {}, []), []))
        if given and {*given} <= {*blocks}:
            self.insert(tokens, [*found, *given], extra)
        super().release(blocks)


class EvictsBeforeItTakes(SmallPrefixCache):
    """Not listed: what was released first goes first, known or not."""

    def allocate(self, count: int) -> Sequence[int]:
        for block in self.evictable()[:count]:
            self.evict(block)
        return super().allocate(count)


class KeepsOneBlockFree(SmallPrefixCache):
    """Not listed: a known block is evicted while there is one that is free."""

    def allocate(self, count: int) -> Sequence[int]:
        while len(self.free) <= count and self.evictable():
            self.evict(min(self.evictable(), key=self.order))
        return super().allocate(count)


class TypoInTheRefusal(SmallPrefixCache):
    """Not listed: a slip where blocks are too few."""

    def allocate(self, count: int) -> Sequence[int]:
        if len(self.free) + self.num_evictable < count:
            raise MemoryError(f"{self.num_blocks} blocks")  # type: ignore[attr-defined]
        return super().allocate(count)


class RefusesWhatItCouldEvict(SmallPrefixCache):
    """Not listed: cached blocks are never given up, so a full cache serves nobody."""

    def evictable(self) -> list[int]:
        return []


@dataclass(frozen=True)
class PrefixMutant:
    fault: type[SmallPrefixCache]
    broken: str


REPEATED = "test_a_repeated_prompt_is_found_but_for_its_last_token"
COLLIDING = "test_colliding_hashes_share_nothing"
SALTED = "test_equal_tokens_under_another_salt_share_nothing"
BEHIND = "test_equal_blocks_behind_others_share_nothing"
STALE = "test_nothing_stale_is_found_after_eviction"
HELD = "test_what_is_held_is_never_given_away"
AT_ONCE = "test_equal_prompts_computed_at_once_keep_their_blocks"
WHOLE = "test_whole_blocks_serve_longer_prompts"
BEFORE = "test_nothing_is_matched_before_it_is_inserted"
UNKNOWN_FIRST = "test_blocks_that_hold_nothing_known_go_first"
COUNTS = "test_counts_account_for_every_block"
AGAIN = "test_inserting_again_changes_nothing"
ANY = "test_any_interleaving_reads_what_was_written"
MUTANTS = [
    PrefixMutant(HashTrusted, COLLIDING),
    PrefixMutant(TokensOfTheBlockCompared, COLLIDING),
    PrefixMutant(TokensAlone, SALTED),
    PrefixMutant(TokensAlone, ANY),
    PrefixMutant(FieldsWithoutNames, SALTED),
    PrefixMutant(StaleKey, STALE),
    PrefixMutant(StaleKey, ANY),
    PrefixMutant(MatchedNodeNotLocked, HELD),
    PrefixMutant(MatchedNodeNotLocked, ANY),
    PrefixMutant(DuplicateFreedAndUsed, AT_ONCE),
    PrefixMutant(ShortPromptsCounted, COUNTS),
    PrefixMutant(SharedBlocksCountedTwice, COUNTS),
    PrefixMutant(CountedBeyondAGap, STALE),
    PrefixMutant(EnteredBeforeStored, "test_what_could_not_be_stored_is_not_found"),
    PrefixMutant(NothingByNothing, REPEATED),
    PrefixMutant(WholePromptFound, REPEATED),
    PrefixMutant(LastBlockNeverFound, REPEATED),
    PrefixMutant(AllOrNothing, "test_the_longest_common_beginning_is_found"),
    PrefixMutant(HashOfTheBlockAlone, BEHIND),
    PrefixMutant(TokensAsText, BEHIND),
    PrefixMutant(NewKeyEachTime, REPEATED),
    PrefixMutant(HeldForEver, AGAIN),
    PrefixMutant(FirstInFirstOut, "test_what_was_used_last_is_evicted_last"),
    PrefixMutant(RefusesWhatItCouldEvict, STALE),
    PrefixMutant(LastBlockNotInserted, WHOLE),
    PrefixMutant(WholeBlocksNotInserted, WHOLE),
    PrefixMutant(KnownWhenAllocated, BEFORE),
    PrefixMutant(KnownWhenReleased, BEFORE),
    PrefixMutant(EvictsBeforeItTakes, UNKNOWN_FIRST),
    PrefixMutant(KeepsOneBlockFree, UNKNOWN_FIRST),
    PrefixMutant(TypoInTheRefusal, ANY),
]
SOUND = [SmallPrefixCache, KeepsDuplicates, AnyBlockEvicted]
