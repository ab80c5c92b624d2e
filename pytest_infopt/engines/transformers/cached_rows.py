"""Rows of a batch on their way through a transformers model's KV cache, pass by pass.

Legend: B rows, T columns of the padded batch, V vocabulary. PYTEST_DONT_REWRITE: it times.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from ..base import CacheReading
from .kv_caches import cache_bytes, take_back

__all__ = ["CachedRows", "left_padded", "positions_of"]


def left_padded(rows: Sequence[torch.Tensor], pad: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Ids [B, T] with each row at the right edge, and the mask [B, T] of its tokens.

    The mask is None where no row is padded.
    """
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), pad, dtype=torch.long, device=rows[0].device)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, longest - len(row) :] = row
        mask[index, longest - len(row) :] = 1
    return ids, None if bool(mask.all()) else mask


def positions_of(mask: torch.Tensor) -> torch.Tensor:
    """Positions [B, T] that count a row's tokens from 0 and leave its padding at 0."""
    return (mask.cumsum(dim=1) - 1).clamp(min=0)


class CachedRows:
    """A left-padded batch that goes through the KV cache as far as it is told to.

    ``forward`` is the model's, with keyword arguments; ``takes_positions`` says whether it knows
    ``position_ids``, ``cache_argument`` what it calls its cache. A model without one computes all
    columns anew in every pass. Padding is never seen: every pass carries the mask up to its last
    column.
    """

    def __init__(
        self,
        forward: Callable[..., Any],
        ids: torch.Tensor,
        mask: torch.Tensor | None = None,
        *,
        takes_positions: bool = True,
        cache_argument: str | None = "past_key_values",
    ) -> None:
        self._forward = forward
        self._ids = ids
        self._mask = mask
        self._takes_positions = takes_positions
        self._cache_argument = cache_argument
        self.cache: Any = None
        self.done = 0

    def advance(self, count: int, **options: Any) -> torch.Tensor:
        """Logits [B, count, V] of the next columns; ``options`` go to the model's forward."""
        columns = self._ids[:, self.done : self.done + count]
        logits = self._pass(columns, self._mask, **options)
        self.done += count
        return logits

    def append(self, tokens: torch.Tensor) -> None:
        """Put tokens [B, n] behind what is there; `advance` then computes them."""
        self._ids = torch.cat([self._ids, tokens], dim=1)
        if self._mask is not None:
            self._mask = torch.cat([self._mask, torch.ones_like(tokens)], dim=1)

    def greedy(self, count: int, **options: Any) -> Iterator[torch.Tensor]:
        """Each row's next ``count`` greedy tokens, [B, 1] at a time; the first comes of all columns
        that are still to be computed."""
        for _ in range(count):
            logits = self.advance(self._ids.shape[1] - self.done, **options)
            tokens = logits[:, -1:].argmax(-1)
            self.append(tokens)
            yield tokens

    def reject(self, tokens: Sequence[int]) -> None:
        """Compute wrong tokens and take them back, as speculative decoding does.

        Raises CannotCropError where the cache refuses; errors of the computation are its own.
        """
        wrong = self._ids.new_tensor(list(tokens)).expand(len(self._ids), -1)
        mask = self._mask
        if mask is not None:
            mask = torch.cat([mask[:, : self.done], torch.ones_like(wrong)], dim=1)
        take_back(self.cache, len(tokens), lambda: self._pass(wrong, mask))

    def now(self) -> float:
        """Seconds of `time.perf_counter`, once the device has done what it was given."""
        if self._ids.device.type == "cuda":
            torch.cuda.synchronize(self._ids.device)
        return time.perf_counter()

    def timed(self, count: int, **options: Any) -> float:
        """Advance; the seconds that it took."""
        started = self.now()
        self.advance(count, **options)
        return self.now() - started

    def reading(self, tokens: int, steps: int, **options: Any) -> CacheReading:
        """The cache once it holds ``tokens`` columns, the last ``steps`` decoded one by one."""
        steps = min(steps, tokens - self.done)
        if tokens - steps > self.done:
            self.advance(tokens - steps - self.done, **options)
        seconds = sum(self.timed(1, **options) for _ in range(steps)) / steps
        nbytes = cache_bytes(self.cache)
        return CacheReading(tokens, len(self._ids), nbytes, seconds)

    def _pass(
        self, columns: torch.Tensor, mask: torch.Tensor | None, **options: Any
    ) -> torch.Tensor:
        end = self.done + columns.shape[1]
        if mask is not None:
            options["attention_mask"] = mask[:, :end]
            if self._takes_positions:
                options["position_ids"] = positions_of(mask[:, :end])[:, self.done :]
        if self._cache_argument is None:
            return self._pass_anew(columns.shape[1], **options)
        cache = {self._cache_argument: self.cache}
        output = self._forward(input_ids=columns, use_cache=True, **cache, **options)
        self.cache = getattr(output, self._cache_argument)
        logits: torch.Tensor = output.logits
        return logits

    def _pass_anew(self, count: int, **options: Any) -> torch.Tensor:
        """The logits of the last ``count`` of all columns so far."""
        end = self.done + count
        if "position_ids" in options and self._mask is not None:
            options["position_ids"] = positions_of(self._mask[:, :end])
        logits: torch.Tensor = self._forward(input_ids=self._ids[:, :end], **options).logits
        return logits[:, -count:]
