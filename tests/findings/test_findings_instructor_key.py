"""instructor 1.17: options that are not on a list of twenty are left out of the cache's key.

Sampling parameters came in by instructor#2585, as a list of names; what is not on it, as OpenAI's
``verbosity`` or what ``extra_body`` hands to a server of one's own, is sent and not told apart.
Breaks ResponseCacheSuite.test_every_field_is_told_apart.
"""

from __future__ import annotations

from typing import Any

import pytest
from recorded import recorded

cache = recorded("instructor.cache", "instructor>=1.17,<1.18")


def key(**options: Any) -> str:
    request = {"messages": [], "model": "m", "response_model": None}
    return str(cache.make_cache_key(**request, request_kwargs=options))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"verbosity": "low"}, {"verbosity": "high"}),
        ({"extra_body": {"top_k": 1}}, {"extra_body": {"top_k": 50}}),
    ],
)
def test_other_options_share_a_key(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert key(**first) == key(**second)
    assert key(temperature=0.0) != key(temperature=1.0)
