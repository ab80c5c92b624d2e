"""What every batcher promises when a batch or an item fails: it fails alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from ..base import requires
from ..properties import noted
from .batcher_calls import MISCOUNTED, WRONG, Call, Caller, answer, others
from .batcher_trial import Trial
from .batcher_windows import BatcherWindowSuite, on_batcher, on_each_size


class UnusualError(BaseException):
    """A BaseException that is no Exception, like some cancellations and exits."""


class Demanding(Exception):
    """An error that cannot be made anew from its own arguments, and that no copy equals."""

    def __init__(self, *, reason: str) -> None:
        super().__init__(reason)


class Hostile:
    """An object that can be handed over, and nothing else."""

    def _refuse(self, *_: object) -> Any:
        raise ValueError("nobody has to look into an item")

    __len__ = __bool__ = __eq__ = __lt__ = __hash__ = __iter__ = __repr__ = _refuse
    __getitem__ = _refuse


OBJECTS: Mapping[str, Callable[[], Any]] = MappingProxyType(
    {
        "nothing": lambda: None,
        "zero": lambda: 0,
        "an empty text": lambda: "",
        "an empty list": list,
        "a list": lambda: [1, 2],
        "a pair": lambda: (1, 2),
        "an exception": lambda: ValueError("an item like any other"),
        "a future": lambda: asyncio.get_running_loop().create_future(),
        "an object that refuses all": Hostile,
    }
)


class BatcherFailureSuite(BatcherWindowSuite):
    """The part of `BatcherSuite` about calls that fail, and odd items and results."""

    topic = "batcher"

    @on_each_size(timeless=True, each={"failing": (0, 1, 2)})
    async def test_a_failing_call_fails_its_own_callers_alone(
        self, trial: Trial, failing: int
    ) -> None:
        """Each of its callers is told what happened; calls before and after work. With
        ``retries_one_by_one``, only the caller of the item at fault.

        Usual causes: no handler around the call, so that the worker is gone and all wait; an event
        that is set on success only; a lock that is kept.
        """
        error, bad = Demanding(reason="one of its inputs"), list[Any]()

        async def serve(call: Call) -> Any:
            await asyncio.sleep(1.0)
            bad.extend(call.items[-1:] if call.index == failing else [])
            if any(item is each for item in call.items for each in bad):
                raise error
            return call.answers()

        trial.serve = serve
        trial.submit_all(3 * trial.policy.max_batch_size)
        await trial.until_done()
        await trial.recover()
        later = trial.submit_all(trial.policy.max_batch_size + 1)
        await trial.until_served(later)
        assert len(trial.calls) > failing, f"{failing + 1} calls were to come; {trial.told()}"
        for caller in trial.callers:
            trial.check_outcome(caller)
        for item in trial.calls[failing].items if self.retries_one_by_one else []:
            caller = trial.callers[item.number]
            assert caller.served or item is bad[0], (
                f"{caller.name} of a call that failed got {caller.error!r}; alone, its item works"
            )

    @on_batcher(
        timeless=True,
        each={
            "make_error": (asyncio.CancelledError, TimeoutError, UnusualError, StopAsyncIteration)
        },
    )
    async def test_an_end_of_any_kind_leaves_nobody_waiting(
        self, trial: Trial, make_error: type[BaseException]
    ) -> None:
        """The batch function is cancelled, times out, raises what is no Exception: its callers are
        done, and the next call works.

        Usual causes: ``except Exception``, which lets CancelledError end the worker.
        """

        async def serve(call: Call) -> Any:
            await asyncio.sleep(1.0)
            if call.index == 0:
                raise make_error
            return call.answers()

        trial.serve = serve
        callers = trial.submit_all(trial.policy.max_batch_size)
        await trial.until_done(callers)
        for caller in callers:
            call = trial.last_call(caller)
            assert caller.error is not None or (call and not call.failed), (
                f"{caller.name} was served by a call that ended with {make_error.__name__}"
            )
        await trial.recover()
        await trial.until_served(trial.submit_all(trial.policy.max_batch_size))

    @on_batcher(timeless=True, each={"wrong": MISCOUNTED})
    async def test_a_wrong_number_of_results_fails_the_call(self, trial: Trial, wrong: str) -> None:
        """One less, one more, none: it cannot be known whose they are, so nobody gets any.

        Usual causes: zip without strict, which forgets the last callers.
        """
        await self._second_call_is_spoiled(trial, MISCOUNTED[wrong])

    @on_batcher(timeless=True)
    async def test_what_is_no_list_of_results_fails_the_call(self, trial: Trial) -> None:
        """A text of the right length holds no results, nor does a mapping.

        Usual causes: len() and iteration, which both of them have.
        """
        for name in sorted(self.wrong_results):
            with noted(f"with results = {name}"):
                await self._second_call_is_spoiled(trial, WRONG[name])

    @on_batcher(timeless=True, each={"name": OBJECTS, "place": range(3)})
    async def test_any_object_may_be_an_item(self, trial: Trial, name: str, place: int) -> None:
        """It is served, or fails alone, and does not end what serves the others.

        Usual causes: a size or a key that is computed outside of what is guarded, None as the sign
        to stop, ``if item``, a log of what came.
        """
        callers = trial.submit_all(place)
        odd = trial.submit_exactly(OBJECTS[name]())
        callers += trial.submit_all(2 - place)
        await trial.until_served(callers)
        await trial.until_done()
        assert not odd.task.cancelled(), f"{name} as an item was cancelled"
        if odd.served:
            trial.check_result(odd)
        await trial.recover()
        await trial.until_served(trial.submit_all(4))

    @on_batcher(judged=False)
    async def test_equal_items_have_an_outcome_each(self, trial: Trial) -> None:
        """In one batch, in two, and with one of their callers gone.

        Usual causes: futures in a dict under their items.
        """

        async def serve(call: Call) -> Any:
            await asyncio.sleep(1.0)
            return [f"answer to {item}" for item in call.items]

        trial.serve = serve
        items = ["same", "other", "same", "same", "same", "other"]
        callers = [trial.submit_exactly(item) for item in items]
        await trial.pause(0.5)
        await self._cancelled(trial, callers[2:3])
        left = others(callers, [2])
        await trial.until_done(left)
        for caller in left:
            assert caller.error is None, f"an item equal to another failed: {caller.error!r}"
            found = caller.task.result()
            assert found == f"answer to {caller.item}", f"{caller.item!r} got {found!r}"

    @on_batcher(timeless=True)
    async def test_any_object_may_be_a_result(self, trial: Trial) -> None:
        """None and 0 are results like others.

        Usual causes: ``if result``, None as the sign that there is none yet.
        """
        results = [None, 0, "", (), False, [1]]

        async def serve(call: Call) -> Any:
            return [results[item] for item in call.items]

        trial.serve = serve
        callers = [trial.submit_exactly(index) for index in range(len(results))]
        await trial.until_done()
        for caller in callers:
            assert caller.error is None, f"a result of {results[caller.item]!r} failed"
            found = caller.task.result()
            assert found is results[caller.item], f"{results[caller.item]!r} came as {found!r}"

    @requires("item-errors")
    @on_batcher(
        timeless=True,
        each={
            "make_error": (ValueError, StopIteration, asyncio.CancelledError),
            "bad": ({0}, {1}, {2}, {0, 2}, {0, 1, 2}),
        },
    )
    async def test_an_exception_among_the_results_fails_its_item_alone(
        self, trial: Trial, make_error: type[BaseException], bad: set[int]
    ) -> None:
        """At each place, several of them, and of a kind that futures refuse.

        Usual causes: delivered as a result, raised for all, set_exception outside of what is
        guarded: it raises TypeError for StopIteration.
        """

        async def serve(call: Call) -> Any:
            return [make_error() if x.number in bad else answer(x) for x in call.items]

        trial.serve = serve
        callers = trial.submit_all(3)
        await trial.until_done()
        for place, caller in enumerate(callers):
            if place not in bad:
                trial.check_result(caller)
            elif issubclass(make_error, Exception):
                assert caller.error is not None, (
                    f"{caller.name} was given {caller.task.result()!r} as a result"
                )
        await trial.recover()
        await trial.until_served(trial.submit_all(3))

    async def _second_call_is_spoiled(self, trial: Trial, wrong: Callable[[Call], Any]) -> None:
        """Three rounds of callers; the second one begins with a call of wrong results."""
        to_spoil = list[bool]()

        async def serve(call: Call) -> Any:
            if to_spoil and to_spoil.pop():
                call.spoiled = True
                return wrong(call)
            return call.answers()

        trial.serve = serve
        for spoiled in (False, True, False):
            to_spoil[:] = [True] * spoiled
            callers = trial.submit_all(trial.policy.max_batch_size)
            await trial.until_done(callers)
            for caller in callers:
                trial.check_outcome(caller)
            await trial.recover()

    async def _cancelled(self, trial: Trial, callers: list[Caller]) -> None:
        """Cancel callers, who must not wait for anything then."""
        for caller in callers:
            caller.task.cancel()
        await trial.until_done(callers, within=0.0)
        for caller in callers:
            assert caller.task.cancelled(), (
                f"{caller.name} was cancelled and ended otherwise: {caller.error!r}"
            )
