"""What holds of one way into a cache and one way out of it holds of all of them."""

from __future__ import annotations

from typing import Any

from ..base import requires
from .requests import ask, reply
from .trial import CacheSuite, Trial, nothing, on_caches, same
from .ways import find, pairs_of_ways, put


class WayProperties(CacheSuite):
    topic = ""

    @on_caches()
    async def test_every_way_out_finds_what_came_in_by_any(self, trial: Trial) -> None:
        """Set or computed, alone or in a batch, with an event loop or without.

        Usual causes: keys that two methods make in two ways, a method with a store of its own.
        """
        cache = await trial.open()
        for into, out in pairs_of_ways(self.capabilities):
            where, request = f"in by {into}, out by {out}", ask(f"In by {into}, out by {out}?")
            nothing(await find(cache, out, request), where)
            await put(cache, into, request, reply(where))
            same(await find(cache, out, request), reply(where), where)

    @requires("ttl")
    @on_caches(mortal=True)
    async def test_every_way_keeps_to_the_time_to_live(self, trial: Trial) -> None:
        """The entry ends on time whichever way it came in, and no way out makes it live longer.

        Usual causes: a time to live that one method passes on and another does not; an expiry set
        anew by hits of one method.
        """
        cache, asked = await trial.open(), {}
        for into, out in pairs_of_ways(self.capabilities):
            asked[into, out] = ask(f"In by {into}, out by {out}?")
            await put(cache, into, asked[into, out], reply(into))
        await trial.advance(0.75 * self.ttl)
        for (into, out), request in asked.items():
            where = f"in by {into}, out by {out}, at 0.75 of its time"
            same(await find(cache, out, request), reply(into), where)
        await trial.advance(0.5 * self.ttl)
        for (into, out), request in asked.items():
            where = f"in by {into}, out by {out}, at 1.25 times its time"
            nothing(await find(cache, out, request), where)

    @requires("policy")
    @on_caches(cache_sampled=False)
    async def test_every_way_keeps_to_the_policy(self, trial: Trial) -> None:
        """Neither cut off answers nor sampled ones are kept by any way in, or found by any way out.

        Usual causes: the policy in one method alone.
        """
        cache = await trial.open()
        cut_off = reply("Once upon a", finish_reason="length")
        for into, out in pairs_of_ways(self.capabilities):
            question = f"In by {into}, out by {out}?"
            for kind, answer, temperature in (
                ("sampled", reply("sampled"), 1.0),
                ("cut off", cut_off, 0.0),
                ("whole", reply("whole"), 0.0),
            ):
                request, where = ask(question, temperature=temperature), f"{kind}, {question}"
                await put(cache, into, request, {**answer})
                found = await find(cache, out, request)
                if kind == "whole":
                    same(found, answer, where)
                else:
                    nothing(found, where)

    @requires("copies")
    @on_caches()
    async def test_changing_an_answer_does_not_change_the_kept_one(self, trial: Trial) -> None:
        """Callers may do with their answers what they like, at any depth; the one who kept it and
        those who found it, by any way.

        Usual causes: references in place of copies, shallow copies, copies in one method alone.
        """
        cache = await trial.open()
        for into, out in pairs_of_ways(self.capabilities):
            request, where = ask(f"{into} and {out}?"), f"in by {into}, out by {out}"
            for handed in await put(cache, into, request, nested_reply()):
                spoil(handed)
            for _ in range(3):
                found = await find(cache, out, request)
                same(found, nested_reply(), where)
                spoil(found)


def nested_reply() -> dict[str, Any]:
    """An answer with mappings and lists in it."""
    return reply("kept", tool_calls=[{"function": {"name": "find", "arguments": "{}"}}])


def spoil(answer: Any) -> None:
    """Change it at every depth."""
    answer["content"] = "spoilt"
    answer["usage"]["prompt_tokens"] = -1
    answer["tool_calls"][0]["function"]["name"] = "spoilt"
    answer["tool_calls"].append("spoilt")
    answer["more"] = "spoilt"
