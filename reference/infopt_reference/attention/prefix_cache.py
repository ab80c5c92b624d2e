"""Prefix cache: blocks of keys and values that sequences with the same beginning share.

Keys and values of a token depend on all tokens before it, so a block can stand in for another one
only if everything up to its end is equal. Its hash says so:

    hash(block 0) = h(0 … 0, salt, tokens)        hash(block i) = h(hash(block i − 1), tokens)

with h = SHA-256 and tokens as 64-bit integers: equal in every process and on every machine. The
*salt* is everything else that changes keys and values: model, adapter, tenant, the digest of an
image whose placeholder tokens look like any other's. Field names and values are written with their
lengths, so an adapter "x" and a tenant "x" differ.

Contract
- `match` returns the longest run of cached blocks from the start, never one behind a gap. The last
  token is never part of it: its logits are needed, and only a forward pass gives them.
- Hashes only find candidates. The tokens, the salt and the block before are compared too: a
  collision costs time, never another prompt's keys and values.
- Only full blocks are shared, so what is shared is never written again.
- A block is in the cache under one content at most; when it is evicted, its entry goes first.
- Only blocks that nobody uses, and that no cached block follows, are evicted, the least recently
  used first. The cache holds one reference to each block of its own.

Left out: sharing of parts of blocks (a radix tree over tokens), salts for parts of a prompt, tiers
on other devices.

Source: Kwon et al. 2023 (PagedAttention), section 4.4; Zheng et al. 2024, "SGLang: Efficient
Execution of Structured Language Model Programs", section 3 (eviction of leaves).
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from .block_pool import BlockPool

HashFunction = Callable[[bytes], bytes]
TOKEN_BYTES = 8
ROOT = bytes(32)  # what stands before the first block


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def block_hashes(
    tokens: Sequence[int],
    block_size: int,
    salt: Mapping[str, str] | None = None,
    hash_function: HashFunction = sha256,
) -> list[bytes]:
    """The chained hashes of all full blocks of a prompt.

    Raises:
        ValueError: a token is no integer of 64 bits.
    """
    hashes, parent = [], ROOT
    for content in _block_contents(tokens, len(tokens) // block_size, block_size, salt):
        parent = hash_function(parent + content)
        hashes.append(parent)
    return hashes


@dataclass(frozen=True)
class PrefixMatch:
    """The cached beginning of a prompt. Its blocks are referenced once more, for who asked."""

    blocks: tuple[int, ...]
    num_tokens: int


@dataclass
class PrefixCacheStats:
    """Counted since the cache was made, over all calls."""

    num_queries: int = 0
    num_hits: int = 0  # queries with at least one block
    num_tokens: int = 0  # asked for
    num_saved_tokens: int = 0  # that need not be computed
    num_evicted_blocks: int = 0


@dataclass(eq=False, slots=True)
class _Node:
    block: int
    parent: _Node | None
    content: bytes  # tokens, and the salt before them in a first block
    digest: bytes
    num_children: int = 0


class PrefixCache:
    """Full blocks of a pool, found by the tokens that they and all blocks before them hold.

    ``hash_function`` is for tests; any function of bytes to bytes gives right answers.

    Raises:
        ValueError: ``block_size`` is less than 1.
    """

    def __init__(
        self, pool: BlockPool, block_size: int, hash_function: HashFunction = sha256
    ) -> None:
        if block_size < 1:
            raise ValueError(f"block_size is {block_size}; give 1 or more tokens")
        self.pool = pool
        self.block_size = block_size
        self.stats = PrefixCacheStats()
        self._hash_function = hash_function
        self._by_hash: dict[bytes, list[_Node]] = {}  # more than one only where hashes collide
        # By block, least recently used first. Whoever uses a block uses those before it as well,
        # and they move to the end after it: children always stand before their parents.
        self._nodes: OrderedDict[int, _Node] = OrderedDict()

    def __len__(self) -> int:
        return len(self._nodes)

    @property
    def blocks(self) -> tuple[int, ...]:
        """The cached blocks, least recently used first; the cache holds one reference to each."""
        return tuple(self._nodes)

    @property
    def num_evictable(self) -> int:
        """Blocks that `evict` could free now. Goes over all blocks of the cache."""
        kept: set[int] = set()
        for block, node in self._nodes.items():  # children before parents
            if block in kept or self.pool.references(block) > 1:
                kept.update([block] if node.parent is None else [block, node.parent.block])
        return len(self._nodes) - len(kept)

    def match(self, tokens: Sequence[int], salt: Mapping[str, str] | None = None) -> PrefixMatch:
        """The longest cached beginning of a prompt, at most all but its last token.

        Every block gets one more reference, so that it stays while it is used: the caller hands
        them on to `BlockAllocator.allocate` or gives them back with `release`.

        Raises:
            ValueError: a token is no integer of 64 bits.
        """
        limit = max(0, len(tokens) - 1) // self.block_size
        path: list[_Node] = []
        for node in self._walk(tokens, limit, salt):
            self.pool.share(node.block)
            path.append(node)
        self._touch(path)
        matched = len(path) * self.block_size
        self.stats.num_queries += 1
        self.stats.num_hits += bool(path)
        self.stats.num_tokens += len(tokens)
        self.stats.num_saved_tokens += matched
        return PrefixMatch(tuple(node.block for node in path), matched)

    def release(self, match: PrefixMatch) -> None:
        """Gives back the references of a match that no sequence took over."""
        for block in reversed(match.blocks):
            self.pool.release(block)

    def insert(
        self,
        tokens: Sequence[int],
        blocks: Sequence[int],
        salt: Mapping[str, str] | None = None,
    ) -> tuple[int, ...]:
        """Makes the full blocks of a sequence known, once their keys and values are written.

        ``tokens`` are those whose keys and values are stored, ``blocks`` the sequence's table.
        Returns the table with each full block replaced by the cached one of the same content:
        where they differ, the sequence's own is a duplicate, which it may give up by
        `BlockAllocator.replace`. Inserting again changes nothing but the order of eviction.

        Raises:
            ValueError: the tokens need more blocks than there are, a block is free, or a block
                stands for other tokens already. Nothing was changed.
        """
        full = len(tokens) // self.block_size
        if len(blocks) < full:
            raise ValueError(
                f"{len(tokens)} tokens fill {full} blocks of {self.block_size}, and the table has "
                f"{len(blocks)}"
            )
        path = list(self._walk(tokens, full, salt))
        fresh = blocks[len(path) : full]
        self._require_insertable(fresh)
        contents = list(_block_contents(tokens, full, self.block_size, salt))
        for block, content in zip(fresh, contents[len(path) :], strict=True):
            path.append(self._add(block, path[-1] if path else None, content))
        self._touch(path)
        return (*[node.block for node in path], *blocks[full:])

    def evict(self, num_blocks: int) -> int:
        """Frees up to ``num_blocks`` blocks that only the cache holds; how many it were.

        The cost is one step for each evicted block and for each one in use that was used earlier.
        """
        evicted: list[_Node] = []
        for block, node in self._nodes.items():
            if len(evicted) >= num_blocks:
                break
            # The block behind this one may be in use by a sequence that kept its duplicate of this.
            if self.pool.references(block) == 1 and not node.num_children:
                self._forget(node)
                evicted.append(node)
        for node in evicted:
            del self._nodes[node.block]
            self.pool.release(node.block)
        self.stats.num_evicted_blocks += len(evicted)
        return len(evicted)

    def _walk(
        self, tokens: Sequence[int], limit: int, salt: Mapping[str, str] | None
    ) -> Iterator[_Node]:
        """The nodes of the first ``limit`` blocks, up to the first one that is not cached."""
        node: _Node | None = None
        digest = ROOT
        for content in _block_contents(tokens, limit, self.block_size, salt):
            digest = self._hash_function(digest + content)
            for candidate in self._by_hash.get(digest, ()):
                if candidate.parent is node and candidate.content == content:
                    node = candidate
                    break
            else:
                return
            yield node

    def _add(self, block: int, parent: _Node | None, content: bytes) -> _Node:
        digest = self._hash_function((parent.digest if parent else ROOT) + content)
        node = _Node(block, parent, content, digest)
        self.pool.share(block)
        self._nodes[block] = node
        self._by_hash.setdefault(digest, []).append(node)
        if parent:
            parent.num_children += 1
        return node

    def _forget(self, node: _Node) -> None:
        same_hash = self._by_hash[node.digest]
        same_hash.remove(node)
        if not same_hash:
            del self._by_hash[node.digest]
        if node.parent:
            node.parent.num_children -= 1

    def _touch(self, path: Sequence[_Node]) -> None:
        for node in reversed(path):
            self._nodes.move_to_end(node.block)

    def _require_insertable(self, blocks: Sequence[int]) -> None:
        known = set(self._nodes.keys() & blocks)
        for block in blocks:
            if not self.pool.references(block):
                raise ValueError(f"block {block} is free; insert a sequence before it is freed")
            if block in known:
                raise ValueError(
                    f"block {block} stands for other tokens already; what is cached must not be "
                    f"written: append through the allocator, which copies it first"
                )
            known.add(block)


def _block_contents(
    tokens: Sequence[int], count: int, block_size: int, salt: Mapping[str, str] | None
) -> Iterator[bytes]:
    """What is hashed and compared: tokens of ``count`` blocks, the first one's behind the salt."""
    width = block_size * TOKEN_BYTES
    encoded = _encode_tokens(tokens[: count * block_size])
    for index in range(count):
        content = encoded[index * width : (index + 1) * width]
        yield content if index else _encode_salt(salt or {}) + content


def _encode_tokens(tokens: Sequence[int]) -> bytes:
    try:
        # A list in any case: array takes bytes for raw memory. Torch's machines are little-endian.
        return array("q", [*tokens]).tobytes()
    except (TypeError, OverflowError) as error:
        raise ValueError(f"tokens are integers of 64 bits: {error}") from error


def _encode_salt(salt: Mapping[str, str]) -> bytes:
    """Injective: the number of fields, then each name and value behind its length."""
    parts = [len(salt).to_bytes(TOKEN_BYTES, "little")]
    for name in sorted(salt):
        for text in (name, salt[name]):
            encoded = text.encode()
            parts += [len(encoded).to_bytes(TOKEN_BYTES, "little"), encoded]
    return b"".join(parts)
