"""A chat request as a cache sees it: what changes the answer, and what does not.

    request = model, messages, tenant, adapter, parameters | stream, and what is irrelevant

Contract. Every field counts unless it is named in `IRRELEVANT` here: a field that nobody thought of
makes a cache miss too often, a list of fields that count makes it answer wrongly. Whether the
answer is streamed changes how it travels, not what it says. A request is data of its own: changing
the mapping it was made of does not change it.
Leaves out: fields of other APIs than chat completions; `ChatRequest` takes them as parameters.

Source: OpenAI API reference, "Create chat completion" (names and meaning of the fields).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# Who asks, how long they wait, how the answer travels and what is logged beside it.
IRRELEVANT = frozenset(
    {
        "extra_headers",
        "metadata",
        "prompt_cache_key",
        "request_id",
        "safety_identifier",
        "service_tier",
        "store",
        "stream_options",
        "timeout",
        "user",
    }
)
OWN_FIELDS = ("model", "messages", "tenant", "adapter", "stream")


@dataclass(frozen=True)
class ChatRequest:
    """One chat request. ``parameters`` are all its other fields that change the answer.

    Args:
        model: the model's name.
        messages: of the chat format: role, content, tool calls.
        parameters: temperature, top_p, max_tokens, tools, response_format, seed, …
        tenant: whose data the answer may hold; tenants share nothing.
        adapter: the adapter (LoRA) that the model runs with.
        stream: whether the answer is wanted in chunks; no part of the key.
    """

    model: str
    messages: Sequence[Mapping[str, Any]]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    tenant: str | None = None
    adapter: str | None = None
    stream: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "messages", copy.deepcopy(list(self.messages)))
        object.__setattr__(self, "parameters", copy.deepcopy(dict(self.parameters)))

    @classmethod
    def from_mapping(cls, body: Mapping[str, Any]) -> ChatRequest:
        """The request that a body of the chat format means, with ``tenant`` and ``adapter``.

        Raises:
            ValueError: it has no model or no messages.
        """
        for name in ("model", "messages"):
            if name not in body:
                raise ValueError(f"a request has no {name!r}; it has {sorted(body)}")
        own = {name: body[name] for name in OWN_FIELDS if name in body}
        others = {
            name: value
            for name, value in body.items()
            if name not in OWN_FIELDS and name not in IRRELEVANT
        }
        return cls(parameters=others, **own)

    @property
    def content(self) -> dict[str, Any]:
        """Everything that changes the answer, as data."""
        return {
            "model": self.model,
            "messages": self.messages,
            "parameters": self.parameters,
            "tenant": self.tenant,
            "adapter": self.adapter,
        }

    @property
    def is_sampled(self) -> bool:
        """Whether another answer is meant to come each time: drawn at random, and without a seed.

        A temperature that is left out is not 0: servers take 1 then.
        """
        temperature = self.parameters.get("temperature")
        greedy = type(temperature) in (int, float) and temperature == 0  # False is no number
        return not greedy and self.parameters.get("seed") is None
