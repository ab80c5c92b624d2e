"""A small memory meter that is right, and the same with faults that real ones have shipped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

from infopt_suites.measurement import DeviceMemory, MemoryMeterSuite

AREA = "7 memory meters"
Call = Callable[[], Any]


@dataclass
class Reading:
    before_bytes: int
    peak_bytes: int
    after_bytes: int
    peak_reserved_bytes: int = 0


@dataclass
class SmallMeter:
    """Every capability, in few lines."""

    memory: DeviceMemory
    capabilities: ClassVar[Any] = frozenset(MemoryMeterSuite.offers)

    def measure(self, call: Call) -> Reading:
        self.wait_before()
        before = self.held()
        self.reset()
        call()
        self.wait_behind()
        return Reading(before, self.peak(before), self.held(), self.peak_reserved())

    def wait_before(self) -> None:
        self.memory.synchronize()

    def wait_behind(self) -> None:
        self.memory.synchronize()

    def held(self) -> int:
        return self.memory.allocated()

    def reset(self) -> None:
        self.memory.reset_peak()

    def peak(self, before: int) -> int:
        return self.memory.peak_allocated()

    def peak_reserved(self) -> int:
        return self.memory.peak_reserved()

    def growth(self, call: Call, calls: int, warmup: int) -> float:
        for _ in range(warmup):
            call()
        self.memory.synchronize()
        before = self.held()
        for _ in range(calls):
            call()
        self.memory.synchronize()
        return (self.held() - before) / calls


class OfGrowth(SmallMeter):
    """Counts from what was held before, as a tracer does."""

    peak_of = "growth"

    def measure(self, call: Call) -> Reading:
        found = super().measure(call)
        before = found.before_bytes
        grown = (found.peak_bytes - before, found.after_bytes - before)
        return Reading(0, *grown, found.peak_reserved_bytes)


class Repeated(SmallMeter):
    """Fits a line through what is held behind each call."""

    def growth(self, call: Call, calls: int, warmup: int) -> float:
        held = []
        for _ in range(warmup + calls):
            call()
            self.memory.synchronize()
            held.append(self.held())
        return (held[-1] - held[warmup - 1]) / calls


class ResetAgain(SmallMeter):
    """Sets the peak back behind each call too."""

    def measure(self, call: Call) -> Reading:
        try:
            return super().measure(call)
        finally:
            self.memory.reset_peak()


SOUND = (SmallMeter, OfGrowth, Repeated, ResetAgain)


class EndMinusStart(SmallMeter):
    def peak(self, before: int) -> int:
        return self.held()


class SampledAtBothEnds(SmallMeter):
    def peak(self, before: int) -> int:
        return max(before, self.held())


class ResetBeforeItIsRead(SmallMeter):
    def peak(self, before: int) -> int:
        self.memory.reset_peak()
        return self.memory.peak_allocated()


class NeverReset(SmallMeter):
    def reset(self) -> None:
        pass


class OnlyReadsStatistics(SmallMeter):
    """A reset that resets nothing."""

    def reset(self) -> None:
        self.memory.peak_allocated()


class ResetOnce(SmallMeter):
    was_reset = False

    def reset(self) -> None:
        if not self.was_reset:
            self.memory.reset_peak()
        self.was_reset = True


class ResetWhenSmaller(SmallMeter):
    """Keeps the largest of its readings."""

    most = 0

    def peak(self, before: int) -> int:
        self.most = max(self.most, self.memory.peak_allocated())
        return self.most


class SinceItWasMade(SmallMeter):
    most = 0

    def measure(self, call: Call) -> Reading:
        self.most = max(self.most, self.memory.peak_allocated())
        found = super().measure(call)
        found.peak_bytes = max(found.peak_bytes, self.most)
        return found


class DropsWhatIsHeld(SmallMeter):
    def peak(self, before: int) -> int:
        return self.memory.peak_allocated() - before


class CountsTheHeldTwice(SmallMeter):
    def peak(self, before: int) -> int:
        return self.memory.peak_allocated() + before


class BeforeIsNothing(SmallMeter):
    def measure(self, call: Call) -> Reading:
        found = super().measure(call)
        found.before_bytes = 0
        return found


class SumOfAllocations(SmallMeter):
    def measure(self, call: Call) -> Reading:
        allocate, total = self.memory.allocate, 0

        def counting(nbytes: int) -> int:
            nonlocal total
            total += nbytes
            return allocate(nbytes)

        self.memory.allocate = counting  # type: ignore[method-assign]
        try:
            found = super().measure(call)
        finally:
            self.memory.allocate = allocate  # type: ignore[method-assign]
        found.peak_bytes = found.before_bytes + total
        return found


class NetOfFrees(SmallMeter):
    """Allocated minus freed, of which the largest is not kept."""

    def peak(self, before: int) -> int:
        return max(self.held(), before + (self.memory.peak_allocated() - before) // 2)


class Kibibytes(SmallMeter):
    def measure(self, call: Call) -> Reading:
        found = super().measure(call)
        return Reading(
            found.before_bytes // 1024, found.peak_bytes // 1024, found.after_bytes // 1024
        )


class PeakInKibibytes(SmallMeter):
    def peak(self, before: int) -> int:
        return self.memory.peak_allocated() // 1024


class Thousands(SmallMeter):
    """1,024 bytes for 1,000."""

    def peak(self, before: int) -> int:
        return self.memory.peak_allocated() * 1024 // 1000


class SegmentsForWhatIsHeld(SmallMeter):
    def peak(self, before: int) -> int:
        return self.memory.peak_reserved()


class NeverBelowBefore(SmallMeter):
    def measure(self, call: Call) -> Reading:
        found = super().measure(call)
        found.after_bytes = max(found.after_bytes, found.before_bytes)
        return found


class WholeDevice(SmallMeter):
    """What the driver tells, less what it told before."""

    def measure(self, call: Call) -> Reading:
        before = self.memory.used()
        found = super().measure(call)
        if self.memory.used() - before > found.peak_bytes - found.before_bytes:
            found.peak_bytes = found.before_bytes + self.memory.used() - before
        return found


class HeldOnTheDevice(SmallMeter):
    def held(self) -> int:
        return self.memory.used()


class SwallowsErrors(SmallMeter):
    def measure(self, call: Call) -> Reading:
        def quiet() -> None:
            with suppress(MemoryError):
                call()

        return super().measure(quiet)


class ErrorLeavesItInside(SmallMeter):
    inside = False

    def reset(self) -> None:
        if not self.inside:
            self.memory.reset_peak()
        self.inside = True

    def peak(self, before: int) -> int:
        self.inside = False
        return self.memory.peak_allocated()


class ReadTooEarly(SmallMeter):
    def wait_behind(self) -> None:
        pass


class ResetTooEarly(SmallMeter):
    def wait_before(self) -> None:
        pass


class ReadBeforeTheWait(SmallMeter):
    def measure(self, call: Call) -> Reading:
        self.wait_before()
        before = self.held()
        self.reset()
        call()
        peak = self.memory.peak_allocated()
        self.wait_behind()
        return Reading(before, peak, self.held(), self.peak_reserved())


class ReservedIsAllocated(SmallMeter):
    def peak_reserved(self) -> int:
        return self.memory.peak_allocated()


class ReservedBySegment(SmallMeter):
    """One segment too few: cut off."""

    def peak_reserved(self) -> int:
        return self.memory.peak_allocated() // self.memory.SEGMENT * self.memory.SEGMENT


class FirstCallCounts(SmallMeter):
    def growth(self, call: Call, calls: int, warmup: int) -> float:
        return super().growth(call, calls + warmup, 0)


class GrowthOfPeaks(SmallMeter):
    def growth(self, call: Call, calls: int, warmup: int) -> float:
        for _ in range(warmup):
            call()
        before = self.held()
        self.memory.reset_peak()
        for _ in range(calls):
            call()
        return (self.memory.peak_allocated() - before) / calls


class GrowthInAll(SmallMeter):
    def growth(self, call: Call, calls: int, warmup: int) -> float:
        return super().growth(call, calls, warmup) * calls


class GrowthOfSegments(SmallMeter):
    def growth(self, call: Call, calls: int, warmup: int) -> float:
        for _ in range(warmup):
            call()
        before = self.memory.reserved()
        for _ in range(calls):
            call()
        return (self.memory.reserved() - before) / calls


@dataclass(frozen=True)
class MemoryMutant:
    """A faulty meter, and the property that has to find it."""

    fault: type[SmallMeter]
    broken: str


_KILLED_BY: Mapping[str, tuple[type[SmallMeter], ...]] = {
    "test_what_was_given_back_counts": (
        EndMinusStart,
        SampledAtBothEnds,
        ResetBeforeItIsRead,
        NetOfFrees,
    ),
    "test_a_peak_is_of_its_own_call": (
        NeverReset,
        OnlyReadsStatistics,
        ResetOnce,
        ResetWhenSmaller,
    ),
    "test_earlier_peaks_do_not_count": (SinceItWasMade, NeverReset),
    "test_what_was_held_before_is_told_apart": (
        DropsWhatIsHeld,
        CountsTheHeldTwice,
        BeforeIsNothing,
    ),
    "test_memory_that_is_used_again_counts_once": (SumOfAllocations,),
    "test_any_call_is_read_as_it_was": (
        Kibibytes,
        PeakInKibibytes,
        Thousands,
        SegmentsForWhatIsHeld,
        NeverBelowBefore,
    ),
    "test_other_processes_do_not_count": (WholeDevice, HeldOnTheDevice),
    "test_an_error_is_no_reading": (SwallowsErrors, ErrorLeavesItInside),
    "test_queued_work_is_waited_for": (ReadTooEarly, ResetTooEarly, ReadBeforeTheWait),
    "test_reserved_bytes_are_of_segments": (ReservedIsAllocated, ReservedBySegment),
    "test_growth_is_what_each_call_leaves": (
        FirstCallCounts,
        GrowthOfPeaks,
        GrowthInAll,
        GrowthOfSegments,
    ),
}
MUTANTS = [MemoryMutant(fault, name) for name, faults in _KILLED_BY.items() for fault in faults]
