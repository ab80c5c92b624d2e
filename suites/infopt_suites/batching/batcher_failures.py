"""What every batcher promises when a batch or an item fails: it fails alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from ..base import requires
from .batcher_trial import Call, Caller, Trial, answer
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

# What is no list of one result for each of n items.
WRONG: Mapping[str, Callable[[Call], Any]] = MappingProxyType(
    {
        "none": lambda call: None,
        "number": lambda call: len(call.items),
        "string": lambda call: "x" * len(call.items),
        "bytes": lambda call: b"x" * len(call.items),
        "mapping": lambda call: dict.fromkeys(range(len(call.items))),
        "set": lambda call: set(range(len(call.items))),
    }
)


MISCOUNTED: Mapping[str, Callable[[Call], Any]] = MappingProxyType(
    {
        "one too few": lambda call: call.answers()[:-1],
        "one too many": lambda call: [*call.answers(), call.answers()[-1]],
        "an empty list": lambda call: [],
    }
)


class BatcherFailureSuite(BatcherWindowSuite):
    """The part of `BatcherSuite` about calls that fail, and odd items and results."""

    topic = "batcher"
    wrong_results: ClassVar[Collection[str]] = frozenset(WRONG)

    @on_each_size(each={"failing": (0, 1, 2)})
    async def test_a_failing_call_fails_its_own_callers_alone(
        self, trial: Trial, failing: int
    ) -> None:
        """Each of its callers is told what happened; calls before and after work.

        Usual causes: no handler around the call, so that the worker is gone and all wait; an event
        that is set on success only; a lock that is kept.
        """
        error = Demanding(reason="one of its inputs")

        async def serve(call: Call) -> Any:
            await asyncio.sleep(1.0)
            if call.index == failing:
                raise error
            return call.answers()

        trial.serve = serve
        trial.submit_all(3 * trial.policy.max_batch_size)
        await trial.until_done()
        trial.submit_all(trial.policy.max_batch_size + 1)
        await trial.until_done()
        assert len(trial.calls) > failing
        bad = {id(item) for item in trial.calls[failing].items}
        for caller in trial.callers:
            if id(caller.item) in bad:
                check_told(caller, error)
            else:
                trial.check_result(caller)

    @on_batcher(
        each={
            "make_error": (asyncio.CancelledError, TimeoutError, UnusualError, StopAsyncIteration)
        }
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
            assert caller.error is not None, f"{caller.task.get_name()} was served"
        await trial.until_served(trial.submit_all(trial.policy.max_batch_size))

    @on_batcher(each={"wrong": MISCOUNTED.values()})
    async def test_a_wrong_number_of_results_fails_the_call(
        self, trial: Trial, wrong: Callable[[Call], Any]
    ) -> None:
        """One less, one more, none: it cannot be known whose they are, so nobody gets any.

        Usual causes: zip without strict, which forgets the last callers.
        """
        await self._second_call_fails(trial, wrong)

    @on_batcher()
    async def test_what_is_no_list_of_results_fails_the_call(self, trial: Trial) -> None:
        """A text of the right length holds no results, nor does a mapping.

        Usual causes: len() and iteration, which both of them have.
        """
        for name in sorted(self.wrong_results):
            await self._second_call_fails(trial, WRONG[name])

    @on_batcher(each={"name": OBJECTS, "place": range(3)})
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
            assert caller.task.result() == f"answer to {caller.item}"

    @on_batcher()
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
            assert caller.task.result() is results[caller.item]

    @requires("item-errors")
    @on_batcher(
        each={
            "make_error": (ValueError, StopIteration, asyncio.CancelledError),
            "bad": ({0}, {1}, {2}, {0, 2}, {0, 1, 2}),
        }
    )
    async def test_an_exception_among_the_results_fails_its_item_alone(
        self, trial: Trial, make_error: type[BaseException], bad: set[int]
    ) -> None:
        """At each place, several of them, and of a kind that futures refuse.

        Usual causes: delivered as a result, raised for all, set_exception outside of what is
        guarded: it raises TypeError for StopIteration.
        """

        async def serve(call: Call) -> Any:
            if call.index == 1:
                return call.answers()
            return [
                make_error() if place in bad else answer(item)
                for place, item in enumerate(call.items)
            ]

        trial.serve = serve
        callers = trial.submit_all(3)
        await trial.until_done()
        for place, caller in enumerate(callers):
            if place not in bad:
                trial.check_result(caller)
            elif issubclass(make_error, Exception):
                assert caller.error is not None, f"the error was a result: {caller}"
        await trial.until_served(trial.submit_all(3))

    async def _second_call_fails(self, trial: Trial, wrong: Callable[[Call], Any]) -> None:
        size, second = trial.policy.max_batch_size, len(trial.calls) + 1

        async def serve(call: Call) -> Any:
            return wrong(call) if call.index == second else call.answers()

        trial.serve = serve
        for served in (True, False, True):
            callers = trial.submit_all(size)
            await trial.until_done(callers)
            for caller in callers:
                if served:
                    trial.check_result(caller)
                else:
                    assert caller.error is not None, (
                        f"{caller.task.get_name()} was given {caller.task.result()!r} of a call "
                        f"that did not return one result for each item"
                    )
                    assert not caller.task.cancelled(), f"{caller.task.get_name()} was cancelled"

    async def _cancelled(self, trial: Trial, callers: list[Caller]) -> None:
        """Cancel callers, who must not wait for anything then."""
        for caller in callers:
            caller.task.cancel()
        await trial.until_done(callers, within=0.0)
        for caller in callers:
            assert caller.task.cancelled(), (
                f"{caller.task.get_name()} was cancelled and ended otherwise: {caller.error!r}"
            )


def others(callers: list[Caller], gone: list[int]) -> list[Caller]:
    return [caller for place, caller in enumerate(callers) if place not in gone]


def check_told(caller: Caller, error: BaseException) -> None:
    """Raise AssertionError unless a caller got this error, or one that names it as its cause."""
    seen: list[BaseException] = []
    raised = caller.error
    while raised is not None and raised not in seen:
        if raised is error:
            return
        seen.append(raised)
        raised = raised.__cause__ or raised.__context__
    raise AssertionError(
        f"{caller.task.get_name()} of a call that raised {error!r} got "
        f"{seen[0] if seen else 'a result'!r}"
    )
