"""agno 3.1: of the tools, the key of a cached model response holds only that there are some.

`Model._get_model_cache_key` writes "has_tools": an answer that calls one tool is given to a caller
that has another (agno#10138, open). Temperature and the like, which are attributes of the model,
are left out altogether. Breaks
ResponseCacheSuite.test_every_field_is_told_apart.
"""

from __future__ import annotations

from typing import Any

from recorded import recorded

base = recorded("agno.models.base", "agno>=3.1,<3.2")
message = recorded("agno.models.message", "agno")


def key(tools: list[dict[str, str]], **attributes: Any) -> str:
    members = dict.fromkeys(base.Model.__abstractmethods__)
    model = type("AnyModel", (base.Model,), members)(id="m")
    for name, value in attributes.items():
        setattr(model, name, value)
    question = [message.Message(role="user", content="question")]
    return str(model._get_model_cache_key(question, stream=False, tools=tools))


def test_other_tools_and_another_temperature_share_a_key() -> None:
    books, news = [{"name": "search_books"}], [{"name": "search_news"}]
    assert key(books) == key(news) != key([])
    assert key(books, temperature=0.0) == key(books, temperature=1.0)
