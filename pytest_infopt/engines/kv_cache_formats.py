"""The formats in which a candidate may keep its KV cache, by name. Imports no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .base import Capability
from .formats import OWN_LOADER, unknown

__all__ = ["KV_CACHES", "KVCacheFormat", "kept_with", "kv_cache_format"]

# The model itself, and the library's own paths, know nothing of the cache.
_WITHOUT_CACHE = frozenset(
    {
        Capability.HIDDEN_STATES,
        Capability.SERVING_PATHS,
        Capability.DRAFTS,
        Capability.MODULES,
    }
)
# A cache that keeps tokens in common gives other logits where a text is cut elsewhere.
_BY_TOKEN = frozenset({Capability.CACHE, Capability.BATCHES})

# Mean KL in nats that SmolLM2-135M loses on 5 texts of 300 tokens: int8 .0007, fp8 .0042,
# transformers-fp8 .0039, int4 .061, quanto-int4 .0094, quanto-int2 .67, and on others
# hqq-int8 .0004, hqq-int4 .090. Weights in 4 bits lose .36.
_MAKERS = "pytest_infopt.engines.transformers.kv_cache_makers:"


@dataclass(frozen=True)
class KVCacheFormat:
    """A format of keys and values.

    ``make`` names "module:function", which makes an empty cache of a model's configuration.
    ``bits`` are those of a number, None where nothing is known; ``loses_as`` the bits of weights
    that lose at least as much. ``by_token``: each token is kept by itself, so that what is kept
    does not depend on how a text is cut into passes. ``module`` is the library that it takes,
    ``extra`` the extra that brings it.
    """

    name: str
    bits: int | None
    summary: str
    make: str
    loses_as: int | None = None
    by_token: bool = True
    module: str | None = None
    extra: str | None = None


def _in_library(backend: str, module: str, bits: int, loses_as: int) -> KVCacheFormat:
    return KVCacheFormat(
        f"{backend}-int{bits}",
        bits,
        f"transformers' QuantizedCache with {backend}, {bits} bits, up to 128 tokens as they are",
        f"{_MAKERS}{backend}_int{bits}",
        loses_as=loses_as,
        by_token=False,
        module=module,
        extra=backend,
    )


KV_CACHES: dict[str, KVCacheFormat] = {
    each.name: each
    for each in (
        KVCacheFormat("int8", 8, "integers, absmax of a token's head", f"{_MAKERS}int8"),
        KVCacheFormat(
            "int4", 4, "integers with zero points, in groups of 32", f"{_MAKERS}int4", loses_as=6
        ),
        KVCacheFormat("fp8", 8, "8-bit floats E4M3FN, absmax of a token's head", f"{_MAKERS}fp8"),
        KVCacheFormat(
            "transformers-fp8",
            8,
            "transformers' QuantizedCache in E4M3FN, one scale from the first pass on",
            f"{_MAKERS}transformers_fp8",
            by_token=False,
        ),
        _in_library("quanto", "optimum.quanto", 4, loses_as=6),
        _in_library("quanto", "optimum.quanto", 2, loses_as=4),
        _in_library("hqq", "hqq", 8, loses_as=8),
        _in_library("hqq", "hqq", 4, loses_as=5),
    )
}


def kv_cache_format(name: str) -> KVCacheFormat:
    """The format of that name, or of a maker of one's own, "module:function", of which nothing is
    known; ConfigurationError, with the nearest name, for anything else."""
    if name in KV_CACHES:
        return KV_CACHES[name]
    if not re.fullmatch(OWN_LOADER, name):
        raise unknown("kv_cache", name, KV_CACHES)
    return KVCacheFormat(name, None, "a cache of your own", name, by_token=False)


def kept_with(form: KVCacheFormat) -> frozenset[Capability]:
    """What an engine offers whose KV cache is of this format."""
    return frozenset(Capability) - _WITHOUT_CACHE - (frozenset() if form.by_token else _BY_TOKEN)
