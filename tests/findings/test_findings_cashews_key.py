"""cashews 7.6.0: the default key joins arguments by ":" and their names, and escapes nothing.

Who may choose one argument can hit the answer to another call: a model "a:prompt:b" asked "c" has
the key of a model "a" asked "b:prompt:c". No public thread found; cashews#38, on arguments that
were left out, is mended. Found by hand; `test_values_that_look_like_fields_are_told_apart` of
ResponseCacheSuite has found it since.
"""

from __future__ import annotations

from recorded import recorded

key = recorded("cashews.key", "cashews>=7.6,<7.7")


async def ask(model: str, prompt: str) -> str:
    return ""


def test_two_calls_share_a_key() -> None:
    calls = [("a:prompt:b", "c"), ("a", "b:prompt:c")]
    first, second = (key.get_cache_key(ask, args=call) for call in calls)
    assert first == second
