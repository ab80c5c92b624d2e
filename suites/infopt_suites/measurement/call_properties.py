"""Properties of timed calls: a sample is what one call took, and nothing else."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from typing import ClassVar

from ..base import Suite, requires
from ..properties import for_all
from ..tally import each_case
from .latency_trial import LatencyTrial, Work, works
from .protocol import MakeLatencyMeter

SAMPLES = 4
STEADY = (Work(0.25, 0.5), Work(0.125, 1.0), Work(0.5, 0.75), Work(0.375, 0.25))


class CallProperties(Suite):
    """Calls and coroutines, one and several."""

    topic = ""
    fixture = "make_latency_meter"
    fixture_returns = "a callable: machine -> meter"
    resolution: ClassVar[float] = time.get_clock_info("perf_counter").resolution
    in_a_row: ClassVar[bool] = True

    def _trial(self, make: MakeLatencyMeter) -> LatencyTrial:
        return LatencyTrial(make, self.resolution, self.in_a_row)

    def test_each_sample_is_one_calls_time(self, make_latency_meter: MakeLatencyMeter) -> None:
        """In order, none left out and none made up; host and device together.

        Usual causes: a mean written n times, an outlier filter, sorted samples, a block of calls
        that is timed as one.
        """

        def holds(case: Sequence[Work]) -> None:
            trial = self._trial(make_latency_meter)
            call = trial.call(*case)
            samples = len(case) - 1
            trial.check(trial.time(call, samples, 1), call, samples, 1)

        for_all(holds, works(), traps=[("all alike", (Work(0.5, 0.5),) * 6)], examples=20)

    def test_the_device_is_waited_for(self, make_latency_meter: MakeLatencyMeter) -> None:
        """A call returns while the device works.

        Usual causes: no synchronisation before the clock is read, or one after a whole loop of
        calls; the host's time alone.
        """
        for device in each_case((1.0, 0.03125)):
            trial = self._trial(make_latency_meter)
            call = trial.call(Work(device=device))
            trial.check(trial.time(call, SAMPLES, 0), call, SAMPLES, 0)

    def test_earlier_work_is_not_charged(self, make_latency_meter: MakeLatencyMeter) -> None:
        """What the device was given before, by others or to warm up.

        Usual causes: no synchronisation before the first reading.
        """
        for warmup in each_case((0, 2)):
            trial = self._trial(make_latency_meter)
            trial.machine.launch(8.0)
            call = trial.call(*STEADY)
            trial.check(trial.time(call, SAMPLES, warmup), call, SAMPLES, warmup)

    @requires("streams")
    def test_every_stream_is_waited_for(self, make_latency_meter: MakeLatencyMeter) -> None:
        """Work may be given to another stream than the first.

        Usual causes: a synchronisation, or an event, of the current stream alone.
        """
        trial = self._trial(make_latency_meter)
        trial.machine.launch(8.0, stream=2)
        call = trial.call(*STEADY, stream=2)
        trial.check(trial.time(call, SAMPLES, 1), call, SAMPLES, 1)

    def test_warm_up_calls_are_no_samples(self, make_latency_meter: MakeLatencyMeter) -> None:
        """The first calls compile, load and fill caches.

        Usual causes: no warm-up, its samples kept in the list, or dropped from those asked for;
        one call too few.
        """
        for warmup in each_case((1, 3)):
            trial = self._trial(make_latency_meter)
            first = [Work(64.0, 8.0), Work(16.0, 4.0), Work(4.0, 2.0)][:warmup]
            call = trial.call(*first, *STEADY)
            trial.check(trial.time(call, SAMPLES, warmup), call, SAMPLES, warmup)

    def test_the_calendar_does_not_count(self, make_latency_meter: MakeLatencyMeter) -> None:
        """Machines set their calendar at any time, forward and back.

        Usual causes: `time.time`, `datetime.now`.
        """
        for seconds in each_case((3600.0, -0.25)):
            trial = self._trial(make_latency_meter)
            call = trial.call(*STEADY)

            def setting() -> None:
                call()  # noqa: B023  # called in this round
                trial.machine.set_calendar(seconds)  # noqa: B023

            trial.check(trial.time(setting, SAMPLES, 1), call, SAMPLES, 1)

    def test_waiting_counts(self, make_latency_meter: MakeLatencyMeter) -> None:
        """A call that waits, for a network or a device, takes that time.

        Usual causes: `time.process_time`, `time.thread_time`.
        """
        trial = self._trial(make_latency_meter)
        call = trial.call()

        def waits() -> None:
            call.truths.append((len(call.truths) + 1) * 0.5)
            time.sleep(call.truths[-1])

        trial.check(trial.time(waits, SAMPLES, 1), call, SAMPLES, 1)

    def test_an_error_is_no_sample(self, make_latency_meter: MakeLatencyMeter) -> None:
        """It reaches the caller, and what is measured next is right.

        Usual causes: errors that are swallowed, so that failing looks fast; a collector that stays
        off.
        """
        trial = self._trial(make_latency_meter)
        call = trial.call(*STEADY)
        collected = gc.isenabled()

        def fails() -> None:
            call()
            if len(call.truths) == SAMPLES:
                raise ConnectionError("planted by the suite")

        raised: list[BaseException | None] = []
        try:
            found = trial.time(fails, SAMPLES, 1)
        except Exception as error:
            raised = [error, error.__cause__, error.__context__]
        else:
            raise AssertionError(f"a call raised, and the meter returned {found}")
        assert any(isinstance(error, ConnectionError) for error in raised), (
            f"the call raised ConnectionError, the meter {raised[0]!r}"
        )
        assert gc.isenabled() == collected, "Python's garbage collector was left switched off"
        again = trial.call(*STEADY)
        trial.check(trial.time(again, SAMPLES, 1), again, SAMPLES, 1)

    @requires("async")
    def test_coroutines_are_awaited(self, make_latency_meter: MakeLatencyMeter) -> None:
        """Each for as long as it takes, its device's work too.

        Usual causes: a coroutine that is made and never awaited; CPU time.
        """
        trial = self._trial(make_latency_meter)
        trial.machine.launch(8.0)
        call = trial.call(Work(4.0, 2.0), *STEADY)
        with trial.running():
            found = [float(x) for x in trial.meter.time_async(call.asynchronous, SAMPLES, 1)]
        trial.check(found, call, SAMPLES, 1)

    @requires("async")
    def test_coroutines_share_an_event_loop(self, make_latency_meter: MakeLatencyMeter) -> None:
        """Making a loop takes a thousand times as long as an empty coroutine.

        Usual causes: `asyncio.run` for each call.
        """
        import asyncio

        trial, loops = self._trial(make_latency_meter), []

        async def noting() -> None:
            loops.append(asyncio.get_running_loop())

        with trial.running():
            trial.meter.time_async(noting, SAMPLES, 1)
        assert len(loops) > SAMPLES, f"{len(loops)} coroutines were run"
        assert len({id(loop) for loop in loops}) == 1, "each coroutine has an event loop of its own"

    @requires("several")
    def test_each_of_several_calls_warms_up(self, make_latency_meter: MakeLatencyMeter) -> None:
        """A new shape compiles anew.

        Usual causes: a warm-up of the first call or shape alone; samples under another's name.
        """
        trial = self._trial(make_latency_meter)
        calls = {
            name: trial.call(
                Work(32.0 * scale), *(Work(w.before, w.device * scale) for w in STEADY)
            )
            for name, scale in (("short", 1.0), ("long", 2.0), ("longer", 4.0))
        }
        with trial.running():
            found = trial.meter.compare(calls, SAMPLES, 1)
        assert found.keys() == calls.keys()
        for name, call in calls.items():
            trial.check([float(x) for x in found[name]], call, SAMPLES, 1)

    @requires("several", "interleaved")
    def test_calls_take_turns(self, make_latency_meter: MakeLatencyMeter) -> None:
        """Machines slow down and speed up; what is compared has to meet the same.

        Usual causes: all samples of one call, then all of the other.
        """
        trial, log = self._trial(make_latency_meter), list[str]()
        calls = {name: trial.call(*STEADY, name=name, log=log) for name in ("a", "b")}
        with trial.running():
            trial.meter.compare(calls, 8, 0)
        ahead = [log[:end].count("a") - log[:end].count("b") for end in range(len(log))]
        assert max(map(abs, ahead)) <= 2, f"the calls were made in the order {''.join(log)}"

    @requires("checked")
    def test_a_call_that_computes_something_else_is_refused(
        self, make_latency_meter: MakeLatencyMeter
    ) -> None:
        """However small the numbers are: nothing is as fast as doing nothing.

        Usual causes: an absolute tolerance, under which zeros equal everything that is small; NaN,
        which no comparison finds; a result that is cut off.
        """
        for scale in each_case((1.0, 1e-6, 1e-12)):
            true = [scale, -2 * scale, 3 * scale]
            rounded = [x * (1 + 2.0**-20) for x in true]
            wrong = ([0.0] * 3, [2 * x for x in true], [float("nan")] * 3, true[:2])
            assert self._accepts(make_latency_meter, true, rounded), f"{rounded} for {true}"
            for result in wrong:
                accepted = self._accepts(make_latency_meter, true, result)
                assert not accepted, f"{result} was timed as a way to compute {true}"

    def _accepts(
        self, make: MakeLatencyMeter, true: Sequence[float], result: Sequence[float]
    ) -> bool:
        trial = self._trial(make)
        calls = {"plain": lambda: true, "fast": lambda: result}
        with trial.running():
            try:
                trial.meter.compare_results(calls, 3, 1)
            except Exception:
                return False
        return True
