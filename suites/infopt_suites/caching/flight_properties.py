"""Equal requests at once are computed once, and a leader that fails takes no other with it."""

from __future__ import annotations

import asyncio
from typing import Any

from ..base import requires
from .computing_properties import TOGETHER, Unavailable, all_of, others_have_come
from .counted import Computation
from .protocol import Answer
from .requests import BASE, ask, changed, reply
from .trial import CacheSuite, Trial, nothing, on_caches, same


class FlightProperties(CacheSuite):
    topic = ""

    @requires("single flight")
    @on_caches()
    async def test_equal_requests_at_once_compute_once(self, trial: Trial) -> None:
        """All that come while it is computed wait for it, and nobody can change another's answer.

        Usual causes: a lock about the look-up alone, one answer object for all.
        """
        cache, compute = await trial.open(), Computation(held=True)
        ways = [_asking(cache, compute) for _ in range(TOGETHER)]
        await compute.begun.wait()
        await others_have_come(cache)
        compute.go()
        for answer in await all_of(ways):
            same(answer, reply("computed 1"))
            answer["content"] = answer["usage"]["prompt_tokens"] = "spoilt"
        assert compute.calls == 1, f"{TOGETHER} equal requests were computed {compute.calls} times"

    @requires("single flight")
    @on_caches(each={"turns": range(10), "late": (False, True)})
    async def test_who_comes_as_the_computation_ends_computes_nothing(
        self, trial: Trial, turns: int, late: bool
    ) -> None:
        """It looked before the answer was kept and goes on when the computation is over, or it
        looks while the answer is being kept. Each turn of the event loop is tried.

        Usual causes: a look-up, then a look at the table of flights, with other tasks in between;
        a flight that lands before its answer is kept.
        """
        cache, compute = await trial.open(), Computation(held=True)
        leader = _asking(cache, compute)
        await compute.begun.wait()
        if late:
            compute.go()
            await _turns(turns)
        follower = _asking(cache, compute)
        if not late:
            await _turns(turns)
            compute.go()
        for answer in await all_of([leader, follower]):
            same(answer, reply("computed 1"))
        when = f"{turns} turns of the loop {'after' if late else 'before'} the end of the first"
        assert compute.calls == 1, f"computed twice; the second came {when}"

    @requires("single flight", "redis")
    @on_caches(proxied=True, redis_timeout=5.0, each={"held": range(1, 5), "late": (False, True)})
    async def test_who_waits_for_the_store_as_it_ends_computes_nothing(
        self, trial: Trial, held: int, late: bool
    ) -> None:
        """The store's reply to a look-up comes when the computation is over, or the answer gets to
        the store after the next has looked.

        Usual causes: as above.
        """
        cache, compute = await trial.open(), Computation(held=True)
        await cache.get(ask("Is a connection made?"))
        leader = _asking(cache, compute)
        await compute.begun.wait()

        async def lands() -> Answer:
            compute.go()
            answer: Answer = await leader
            return answer

        follows = cache.get_or_compute(BASE, compute)
        # The one is held up before or after one of its commands, and the other goes on meanwhile.
        ways = (lands(), follows) if late else (follows, lands())
        for answer in await trial.held_up(*ways, command=held, before=late):
            same(answer, reply("computed 1"))
        assert compute.calls == 1, "computed again, though both asked while it was computed"

    @requires("single flight")
    @on_caches()
    async def test_other_requests_do_not_wait(self, trial: Trial) -> None:
        """Two that differ are computed at the same time, even if each needs the other to end.

        Usual causes: one lock for all.
        """
        cache, meeting = await trial.open(), asyncio.Barrier(2)

        async def meet() -> Answer:
            await meeting.wait()
            return reply("met")

        asked = [cache.get_or_compute(ask(word), meet) for word in ("One?", "Other?")]
        for answer in await all_of(asked, "the second began only after the first had ended"):
            same(answer, reply("met"))

    @requires("single flight")
    @on_caches()
    async def test_a_failing_leader_leaves_nobody_waiting(self, trial: Trial) -> None:
        """Those who waited for it get its error or an answer that was computed anew, in any case
        something, and the next request is computed.

        Usual causes: followers that wait on an event which only success sets, a lock or entry in
        the table of flights that stays, an error that is kept.
        """
        cache, error = await trial.open(), Unavailable("the model is down")
        failing = Computation(error, held=True)
        ways = [_asking(cache, failing) for _ in range(8)]
        await failing.begun.wait()
        await others_have_come(cache)
        failing.go()
        for outcome in await all_of(ways):
            assert outcome is error, f"{outcome!r} where the model raised {error!r}"
        nothing(await cache.get(BASE), "after an error")
        compute = Computation()
        for outcome in await all_of([_asking(cache, compute) for _ in range(8)]):
            same(outcome, reply("computed 1"), "after the failure")
        assert compute.calls == 1, f"computed {compute.calls} times after the failure"

    @requires("single flight")
    @on_caches(each={"end": ("fails", "is cancelled")})
    async def test_when_the_leader_ends_the_others_do_not_all_compute(
        self, trial: Trial, end: str
    ) -> None:
        """They get its error, or what one of them computes anew: a model that fails under its load
        is not asked by all of them at once.

        Usual causes: followers that go on by themselves when the flight has failed, or was never
        to be found again.
        """
        cache, model = await trial.open(), _FailsFirst(fails=end == "fails")
        leader = _asking(cache, model)
        await model.begun.wait()
        followers = [_asking(cache, model) for _ in range(TOGETHER)]
        await others_have_come(cache)
        if end == "fails":
            model.first_ends.set()
        else:
            leader.cancel()
        await others_have_come(cache)
        model.first_ends.set()
        await others_have_come(cache)
        model.others_end.set()
        for outcome in await all_of(followers):
            if outcome is not model.error:
                assert isinstance(outcome, dict), f"a follower got {outcome!r}"
        assert model.calls <= 2, (
            f"the first of {TOGETHER + 1} equal requests {end}, and {model.calls - 1} others were "
            "computed"
        )

    @requires("single flight")
    @on_caches(each={"cancelled": range(4)})
    async def test_a_cancelled_request_takes_no_other_with_it(
        self, trial: Trial, cancelled: int
    ) -> None:
        """Whoever it is that gives up, the one who computes or one who waits.

        Usual causes: the leader's cancellation passed to all, a shared future that a follower
        cancels (no ``asyncio.shield``), a flight that never lands.
        """
        cache, compute = await trial.open(), Computation(held=True)
        tasks = [_asking(cache, compute)]
        await compute.begun.wait()
        tasks += [_asking(cache, compute) for _ in range(3)]
        await others_have_come(cache)
        tasks[cancelled].cancel()
        await others_have_come(cache)
        compute.go()
        for number, outcome in enumerate(await all_of(tasks)):
            if number == cancelled:
                assert isinstance(outcome, (asyncio.CancelledError, dict))
                continue
            assert isinstance(outcome, dict), (
                f"request {cancelled} was cancelled, and request {number} got {outcome!r}"
            )
        found = await cache.get(BASE)
        same(await cache.get_or_compute(BASE, Computation()), found or reply("computed 1"))


class _FailsFirst:
    """A model whose first call ends in an error or an answer, and the others in answers, when it
    is told."""

    def __init__(self, *, fails: bool) -> None:
        self.fails, self.calls, self.error = fails, 0, Unavailable("the model is down")
        self.begun, self.first_ends, self.others_end = (asyncio.Event() for _ in range(3))

    async def __call__(self) -> Answer:
        self.calls += 1
        number = self.calls
        self.begun.set()
        await (self.first_ends if number == 1 else self.others_end).wait()
        if number == 1 and self.fails:
            raise self.error
        return reply(f"computed {number}")


def _asking(cache: Any, compute: Any) -> asyncio.Task[Any]:
    """A request like all others, under way."""
    return asyncio.create_task(cache.get_or_compute(changed(BASE), compute))


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)
