"""One forward pass for tokens of many sequences: a transformers model on a paged cache.

    ids, positions     [1, T]: the chunks of all sequences one after the other, without padding
    linear layers      once over all T tokens
    attention          keys and values go to their slots, then each chunk sees its own sequence:
                       single tokens as the rows of one product, longer chunks one by one

Contract. The logits of a chunk are those of its sequence alone, whatever runs beside it (but for
rounding). Only slots of tokens that exist are read. Logits are computed for the last token of those
chunks that sample, and for no other. The model itself is not changed, and may be used by others at
the same time: its modules are copied, without their weights, to get another attention.
Leaves out: soft-capped logits and attention sinks (they raise), layers without attention, encoders,
modules that call each other past their parents (hooks of accelerate), tensor parallelism, kernels
that follow the block table on the device (slots are gathered).
Source: Yu et al. 2022, "Orca", section 4.2 (selective batching).
Legend: T tokens of the step, B single tokens, S keys, H query heads, G kv heads, D head dim,
V vocabulary.
PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from ..attention.kv_size import kv_shape, layer_kinds
from ..attention.masks import visible_keys
from ..attention.paged import PagedKVCache

ATTENTION = "infopt_packed"  # the name under which transformers' layers find `_attention`
KINDS = {"full_attention", "sliding_attention"}


@dataclass(frozen=True)
class Chunk:
    """Tokens of a sequence, the first at position ``start``; there is room for them in the cache.

    ``samples``: the logits of the last one are wanted.
    """

    sequence: Hashable
    token_ids: Sequence[int]
    start: int
    samples: bool


class PackedModel:
    """A transformers causal model that computes chunks of many sequences at once.

    Raises:
        ValueError: the model is in training mode, its layers have other attention than full and
            windowed, or it does not let its attention be exchanged.
    """

    def __init__(self, model: Any, num_blocks: int, block_size: int) -> None:
        from transformers import AttentionInterface

        config = model.config.get_text_config(decoder=True)
        refusals = {
            "is in training mode: call eval()": model.training,
            "does not let its attention be exchanged": not model._supports_attention_backend,
            "has layers without attention": not set(layer_kinds(config)) <= KINDS,
            "has soft-capped attention": getattr(config, "attn_logit_softcapping", None),
        }
        for reason, refused in refusals.items():
            if refused:
                raise ValueError(f"the model {config.model_type!r} {reason}")
        AttentionInterface.register(ATTENTION, _attention)
        self._network = _copy_without_weights(model, {})
        self._network.config._attn_implementation = ATTENTION
        self.vocab_size: int = config.vocab_size
        self.max_length: int | None = getattr(config, "max_position_embeddings", None)
        self.pages = PagedKVCache(
            kv_shape(config), num_blocks, block_size, dtype=model.dtype, device=model.device
        )
        self._workspace = _Workspace(self.pages)
        parameters = inspect.signature(model.forward).parameters
        self._selects_logits = "logits_to_keep" in parameters

    @torch.inference_mode()
    def logits(self, chunks: Sequence[Chunk]) -> Tensor:
        """Logits [n, V] after the last tokens of the n chunks that sample, in their order."""
        step = _PackedStep.of(chunks, self.pages, self._workspace)
        wanted = {"logits_to_keep": step.sampled} if self._selects_logits else {}
        output = self._network(
            input_ids=step.ids,
            position_ids=step.positions,
            use_cache=False,
            packed_step=step,
            **wanted,
        )
        logits: Tensor = output.logits[0]  # [n, V], or [T, V]
        return logits if self._selects_logits else logits[step.sampled]


def _copy_without_weights(module: nn.Module, copies: dict[int, Any]) -> Any:
    """Modules and configurations of their own, around the same tensors.

    ``copies`` by id, so that what is the same object twice is so in the copy.
    """
    if id(module) not in copies:
        copies[id(module)] = clone = copy.copy(module)
        clone._modules = {
            name: None if child is None else _copy_without_weights(child, copies)
            for name, child in module._modules.items()
        }
        if "config" in vars(module):
            clone.config = copy.deepcopy(module.config, copies)
    return copies[id(module)]


class _Workspace:
    """Memory for gathered keys and values, the same in all layers and steps."""

    def __init__(self, pages: PagedKVCache) -> None:
        self._empty = pages.keys.new_empty(0)
        self._buffers = [self._empty, self._empty]

    def gather(self, stored: Tensor, slots: Tensor, which: int) -> Tensor:
        """Rows ``slots`` of keys (0) or values (1), [N, G · D] → [len(slots), G · D]."""
        size = len(slots) * stored.shape[1]
        if self._buffers[which].numel() < size:
            # Half as much again: contexts grow with every step.
            self._buffers[which] = self._empty.new_empty(size * 3 // 2)
        target = self._buffers[which][:size].view(len(slots), stored.shape[1])
        return torch.index_select(stored, 0, slots, out=target)


@dataclass(frozen=True)
class _Rows:
    """Single tokens, the first B of a step: rows of one product over their padded contexts."""

    key_slots: Tensor  # [B, S], the slot of a sequence's first token where it has no more
    query_positions: Tensor  # [B, 1]
    key_positions: Tensor  # [B, S], −1 where there is no token


@dataclass(frozen=True)
class _Piece:
    """A longer chunk: tokens ``first`` to ``first + count`` − 1 of a step."""

    first: int
    count: int
    key_slots: Tensor  # [S], its own tokens' the last
    positions: Tensor  # [S]

    @property
    def follows_others(self) -> bool:
        """Whether there are keys before the chunk's own."""
        return len(self.key_slots) > self.count

    @property
    def slots(self) -> Tensor:
        """Where its own tokens' keys and values go, [count]."""
        return self.key_slots[-self.count :]

    @property
    def queries(self) -> Tensor:
        """Positions of its own tokens, [count]."""
        return self.positions[-self.count :]


@dataclass
class _PackedStep:
    """What all layers need to know about a step."""

    pages: PagedKVCache
    workspace: _Workspace
    ids: Tensor  # [1, T]
    positions: Tensor  # [1, T]
    slots: Tensor  # [T], where the tokens' keys and values go
    sampled: Tensor  # [n], the tokens after which logits are wanted
    rows: _Rows | None
    pieces: list[_Piece]
    _masks: dict[tuple[int, int | None], Tensor | None] = field(default_factory=dict)

    @classmethod
    def of(cls, chunks: Sequence[Chunk], pages: PagedKVCache, workspace: _Workspace) -> _PackedStep:
        device = pages.keys.device
        single = [chunk for chunk in chunks if len(chunk.token_ids) == 1]
        longer = [chunk for chunk in chunks if len(chunk.token_ids) != 1]
        rows = _single_rows(single, pages) if single else None
        pieces = _pieces(longer, len(single), pages)
        slots, positions = [piece.slots for piece in pieces], [piece.queries for piece in pieces]
        if rows is not None:
            slots.insert(0, rows.key_slots.gather(1, rows.query_positions)[:, 0])
            positions.insert(0, rows.query_positions[:, 0])
        ids = [token for chunk in (*single, *longer) for token in chunk.token_ids]
        return cls(
            pages=pages,
            workspace=workspace,
            ids=torch.tensor([ids], device=device),
            positions=torch.cat(positions)[None],
            slots=torch.cat(slots),
            sampled=torch.tensor(_ends(chunks, single, longer), dtype=torch.int64, device=device),
            rows=rows,
            pieces=pieces,
        )

    def row_mask(self, window: int | None) -> Tensor:
        """Which keys the single tokens see, as numbers to add: [B, 1, 1, S]."""
        if (-1, window) not in self._masks:
            assert self.rows is not None
            seen = visible_keys(self.rows.query_positions, self.rows.key_positions, window=window)
            self._masks[-1, window] = _additive(seen, self.pages.keys.dtype)
        mask = self._masks[-1, window]
        assert mask is not None
        return mask

    def piece_mask(self, index: int, window: int | None) -> Tensor | None:
        """Which keys the queries of a longer chunk see, [1, 1, T, S]; None: plainly causal."""
        if (index, window) not in self._masks:
            piece, mask = self.pieces[index], None
            if piece.follows_others or (window is not None and window < piece.count):
                seen = visible_keys(piece.queries[None], piece.positions[None], window=window)
                mask = _additive(seen, self.pages.keys.dtype)
            self._masks[index, window] = mask
        return self._masks[index, window]


def _single_rows(chunks: Sequence[Chunk], pages: PagedKVCache) -> _Rows:
    device = pages.keys.device
    last = torch.tensor([[chunk.start] for chunk in chunks], device=device)  # [B, 1]
    slots = _slots(pages, chunks)
    places = torch.arange(slots.shape[1], device=device)[None]
    held = places <= last
    # A slot without a token may hold NaN, which a weight of 0 does not hide.
    return _Rows(slots.where(held, slots[:, :1]), last, places.where(held, -1))


def _pieces(chunks: Sequence[Chunk], first: int, pages: PagedKVCache) -> list[_Piece]:
    pieces = []
    for chunk in chunks:
        slots = _slots(pages, [chunk])[0]
        positions = torch.arange(len(slots), device=slots.device)
        pieces.append(_Piece(first, len(chunk.token_ids), slots, positions))
        first += len(chunk.token_ids)
    return pieces


def _ends(chunks: Sequence[Chunk], single: Sequence[Chunk], longer: Sequence[Chunk]) -> list[int]:
    """Where in a step the last tokens lie of those chunks that sample, in the chunks' order."""
    ends, end = {}, -1
    for chunk in (*single, *longer):
        end += len(chunk.token_ids)
        ends[chunk.sequence] = end
    return [ends[chunk.sequence] for chunk in chunks if chunk.samples]


def _slots(pages: PagedKVCache, chunks: Sequence[Chunk]) -> Tensor:
    """The slots of all tokens of each chunk's sequence, up to the chunk's last: [B, S]."""
    length = max(chunk.start + len(chunk.token_ids) for chunk in chunks)
    blocks = pages.blocks_for(length)
    tables = [pages.block_table(chunk.sequence)[:blocks] for chunk in chunks]
    padded = [(*table, *[0] * (blocks - len(table))) for table in tables]
    starts = torch.tensor(padded, device=pages.keys.device) * pages.block_size  # [B, blocks]
    places = torch.arange(pages.block_size, device=starts.device)
    return (starts[:, :, None] + places).flatten(1)[:, :length]


def _additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, -torch.inf)


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    *,
    packed_step: _PackedStep,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **ignored: Any,
) -> tuple[Tensor, None]:
    """What a transformers layer calls: queries [1, H, T, D], keys and values [1, G, T, D].

    Returns [1, T, H, D].
    """
    if softcap is not None or s_aux is not None:
        raise ValueError("soft-capped attention and attention sinks are left out")
    step, layer = packed_step, module.layer_idx
    keys, values = (
        pages[layer].view(-1, pages.shape[3] * pages.shape[4])  # [slots, G · D]
        for pages in (step.pages.keys, step.pages.values)
    )
    keys[step.slots] = key[0].transpose(0, 1).flatten(1)  # [T, G · D]
    values[step.slots] = value[0].transpose(0, 1).flatten(1)
    outputs = []
    if step.rows is not None:
        outputs.append(_attend_rows(step, query, keys, values, sliding_window, scaling))
    for index, piece in enumerate(step.pieces):
        end = piece.first + piece.count
        if piece.follows_others:
            seen = _gathered(step, keys, values, piece.key_slots[None])
        else:
            seen = (key[:, :, piece.first : end], value[:, :, piece.first : end])
        mask = step.piece_mask(index, sliding_window)
        output = scaled_dot_product_attention(
            query[:, :, piece.first : end],
            *seen,
            attn_mask=mask,
            is_causal=mask is None,
            scale=scaling,
            enable_gqa=True,
        )
        outputs.append(output[0].transpose(0, 1))  # [count, H, D]
    return torch.cat(outputs)[None], None


def _attend_rows(
    step: _PackedStep,
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    window: int | None,
    scaling: float | None,
) -> Tensor:
    """Attention of the first B tokens, [B, H, D]."""
    assert step.rows is not None
    batch, kv_heads = len(step.rows.key_slots), step.pages.shape.kv_heads
    seen = _gathered(step, keys, values, step.rows.key_slots)  # [B, G, S, D] each
    heads = query[0, :, :batch].transpose(0, 1)  # [B, H, D]
    # The query heads that share a kv head are queries of it: nothing is repeated.
    grouped = heads.reshape(batch, kv_heads, -1, heads.shape[2])  # [B, G, H / G, D]
    mask = step.row_mask(window)
    output = scaled_dot_product_attention(grouped, *seen, attn_mask=mask, scale=scaling)
    return output.flatten(1, 2)


def _gathered(
    step: _PackedStep, keys: Tensor, values: Tensor, slots: Tensor
) -> tuple[Tensor, Tensor]:
    """Keys and values in slots [B, S]: [B, G, S, D] each."""
    shape = step.pages.shape
    flat = slots.flatten()
    gathered = (step.workspace.gather(x, flat, which) for which, x in enumerate((keys, values)))
    by_head = (*slots.shape, shape.kv_heads, shape.head_dim)
    stored_keys, stored_values = (x.view(by_head).transpose(1, 2) for x in gathered)
    return stored_keys, stored_values
