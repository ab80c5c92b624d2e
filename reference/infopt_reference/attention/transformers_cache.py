"""A transformers model decodes through any of our caches.

    cache = TransformersCache.of(model.config, KVCache)
    model.generate(ids, **{cache_argument(model): cache})

Contract. A `transformers.Cache`: greedy decoding, sampling, beams and assisted decoding work as
with `DynamicCache`, and give the same wherever the cache keeps numbers as they are. The mask is
made for as many keys as `update` gives: the tokens held and the new ones, the first of them at the
position ``get_seq_length() − held``. Padding, windows and positions are the model's business.
Leaves out: compiled decoding, offloading, layers without attention (they raise).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

from .cache import KVCache, SlidingCache
from .kv_size import layer_kinds

# What forwards call their cache: the first since transformers 5.24, before it the last in models of
# state spaces alone. Outputs give the cache back by the same name.
_ARGUMENTS = ("cache", "past_key_values", "cache_params")


def forward_parameters(model: Any) -> frozenset[str]:
    """Names of what a model's forward takes.

    A forward put before that of the model's class, which hands ``**kwargs`` on, takes its names.
    """
    parameters = inspect.signature(model.forward).parameters
    names = frozenset(parameters)
    if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        names |= inspect.signature(type(model).forward).parameters.keys()
    return names


def cache_argument(model: Any) -> str | None:
    """The parameter of a model's forward that takes the cache; None where it has none we know."""
    parameters = forward_parameters(model)
    return next((name for name in _ARGUMENTS if name in parameters), None)


class CacheLayer(CacheLayerMixin):  # type: ignore[misc]  # transformers is untyped here
    """What transformers asks of one layer: layer ``layer`` of one of our caches."""

    is_croppable = True
    supports_early_init = False

    def __init__(self, cache: KVCache, layer: int) -> None:
        super().__init__()
        self.cache, self.layer = cache, layer
        self.is_sliding = isinstance(cache, SlidingCache)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.is_initialized = True  # the caches allocate by themselves

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        return self.cache.update(key_states, value_states, self.layer)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        held = self.cache.held_length(self.layer)
        return held + query_length, self.get_seq_length() - held

    def get_seq_length(self) -> int:
        return self.cache.get_seq_length(self.layer)

    def get_max_length(self) -> int:
        return int(getattr(self.cache, "max_length", -1))

    get_max_cache_shape = get_max_length  # its name before transformers 5.20 or so


class TransformersCache(Cache):  # type: ignore[misc]  # transformers is untyped here
    """A `transformers.Cache` whose layers keep their tokens in our caches.

    Args:
        caches: the cache of each layer. The same one may serve any number of layers.
    """

    def __init__(self, caches: Sequence[KVCache]) -> None:
        super().__init__(layers=[CacheLayer(cache, i) for i, cache in enumerate(caches)])
        # The operations below concern all layers of a cache: each is told once.
        self._first_layers = {id(layer.cache): layer for layer in reversed(self.layers)}

    @classmethod
    def of(cls, config: Any, make: Callable[[], KVCache] = KVCache) -> Self:
        """The caches of a model: one from ``make``, and one `SlidingCache` for windowed layers.

        Raises:
            ValueError: a layer has no attention, or another than full or windowed.
        """
        kinds = layer_kinds(config)
        other = set(kinds) - {"full_attention", "sliding_attention", "dummy"}
        if other:
            raise ValueError(f"layers of {', '.join(sorted(other))} have no cache here")
        served = {"full_attention": make()}
        served["dummy"] = served["full_attention"]  # reads another layer's keys, writes none
        if "sliding_attention" in kinds:
            window = config.get_text_config(decoder=True).sliding_window
            served["sliding_attention"] = SlidingCache(window)
        return cls([served[kind] for kind in kinds])

    def crop(self, tokens: int) -> None:
        """Takes −``tokens`` of the newest tokens back; a positive number is how many remain."""
        for layer in self._first_layers.values():
            length = layer.get_seq_length()
            layer.cache.crop(min(tokens, length) if tokens > 0 else length + tokens)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Row i becomes what row ``beam_idx[i]`` was."""
        for layer in self._first_layers.values():
            layer.cache.reorder(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keeps these rows."""
        self.reorder_cache(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each row becomes ``repeats`` rows, side by side."""
        for layer in self._first_layers.values():
            if layer.get_seq_length():
                rows = torch.arange(layer.cache.rows(layer.layer))
                layer.cache.reorder(rows.repeat_interleave(repeats))

    def reset(self) -> None:
        """Forgets everything."""
        for layer in self._first_layers.values():
            layer.cache.reset()

    def nbytes(self) -> int:
        """Bytes of all tensors that are kept."""
        return sum(layer.cache.nbytes() for layer in self._first_layers.values())
