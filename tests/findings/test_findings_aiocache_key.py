"""aiocache 0.12.3: the default key depends on the order in which a dictionary was filled.

`cached._key_from_args` sorts keyword arguments and writes everything with str(): options that are
equal are two keys, and the answer is computed twice. Costly, not wrong. No public thread found.
Breaks ResponseCacheSuite.test_the_order_of_keys_makes_no_difference.
"""

from __future__ import annotations

from recorded import recorded

aiocache = recorded("aiocache", "aiocache>=0.12.3,<0.13")


async def ask(options: dict[str, int]) -> str:
    return ""


def test_equal_options_have_two_keys() -> None:
    options = {"top_k": 1, "seed": 2}
    reordered = dict(reversed(options.items()))
    assert options == reordered
    keys = [aiocache.cached().get_cache_key(ask, (each,), {}) for each in (options, reordered)]
    assert keys[0] != keys[1]
