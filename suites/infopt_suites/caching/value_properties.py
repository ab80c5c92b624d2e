"""Answers come back as they were kept, whatever is in them and whatever is done to them."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from ..base import requires
from ..properties import for_all
from .protocol import Answer
from .requests import BASE, TRAPS_OF_ANSWERS, ask, changed, replies, reply
from .trial import Caches, CacheSuite, Trial, nothing, on_caches, same


class ValueProperties(CacheSuite):
    topic = ""

    def test_answers_come_back_equal(self, caches: Caches) -> None:
        """Any text, tool calls, no content, empty content, large answers; types and all.

        Usual causes: ``if value`` for ``if value is not None``, text taken for JSON or a literal,
        ``decode`` with errors ignored, ``default=str``, integers through floats.
        """

        def law_of(answer: Answer) -> None:
            async def holds(trial: Trial) -> None:
                cache = await trial.open()
                await cache.set(BASE, copy.deepcopy(answer))
                same(await cache.get(BASE), answer)

            caches.check(holds)

        for_all(law_of, replies(), traps=TRAPS_OF_ANSWERS, examples=25)

    @requires("values")
    @on_caches()
    async def test_python_values_come_back_equal(self, trial: Trial) -> None:
        """Bytes, tuples, arrays, NaN: an answer may have any value of Python in it.

        Usual causes: JSON, which knows none of them, with a ``default`` that hides it.
        """
        values: list[Any] = [
            b"",
            b"\xff\x00\xfe",
            (),
            (1, (2.5, "a")),
            [],
            {},
            0,
            False,
            True,
            1.0,
            -0.0,
            float("inf"),
            float("nan"),
            np.arange(6, dtype=np.float32).reshape(2, 3),
            np.array([], dtype=np.float64),
            np.array([np.nan, np.inf], dtype=np.float16),
        ]
        cache = await trial.open()
        for number, value in enumerate(values):
            request = ask(f"Value {number}?")
            await cache.set(request, reply("kept", value=value, nested=[{"value": value}]))
            wanted = reply("kept", value=value, nested=[{"value": value}])
            same(await cache.get(request), wanted, repr(value))

    @on_caches()
    async def test_changing_a_request_does_not_change_what_is_kept(self, trial: Trial) -> None:
        """Conversations grow in place: the list of messages is the caller's.

        Usual causes: the request itself kept as the key, compared when it has changed.
        """
        cache = await trial.open()
        request = changed(BASE, messages=copy.deepcopy(BASE["messages"]))
        await cache.set(request, reply("kept"))
        request["messages"].append({"role": "user", "content": "And of Germany?"})
        nothing(await cache.get(request), "the conversation has grown since")
        same(await cache.get(BASE), reply("kept"))
