"""MemoryMeterSuite: is what a memory meter tells what a call held?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from hypothesis import strategies as st

from ..base import Suite, requires
from ..properties import for_all
from ..tally import each_case
from .memory_space import SPACES, Block, DeviceMemory, MemorySpace
from .protocol import MakeMemoryMeter

Program = Callable[[MemorySpace], None]


class MemoryMeterSuite(Suite):
    """Properties of memory meters, on memory of which is known what is held.

    Give a fixture ``make_memory_meter``: a `protocol.MakeMemoryMeter`. It is given a device's memory
    with the counters of `torch.cuda`, or memory of this process. Class attributes say how:

    | attribute | default | meaning |
    |---|---|---|
    | ``space`` | "device" | what it reads: a "device"; the "heap" of Python, as `tracemalloc` does; or resident "pages" |
    | ``unit`` | 1000 | bytes of which the suite's blocks are multiples |
    | ``slack`` | 0 | bytes by which a reading may err, such as pages and what Python itself holds; less than half a unit |
    | ``peak_of`` | "everything" | what readings count: "everything" that is held, or the "growth" over what was held before the call; of heap and pages only the growth is known |
    """  # noqa: E501  # a table

    topic = "memory_meter"
    fixture = "make_memory_meter"
    fixture_returns = "a callable: memory -> meter"
    offers = {  # noqa: RUF012  # read only
        "queued": "what the device still has to do is waited for",
        "reserved": "peak_reserved_bytes, of segments that the allocator keeps",
        "growth": "growth(call, calls, warmup) tells what each call leaves behind",
    }
    methods = {  # noqa: RUF012  # read only
        "": ("measure",),
        "growth": ("growth",),
    }
    space: ClassVar[str] = "device"
    unit: ClassVar[int] = 1000
    slack: ClassVar[int] = 0
    peak_of: ClassVar[str] = "everything"
    examples: ClassVar[int] = 30

    def made_from(self, implementation: Any) -> Any:
        return implementation(self._memory())

    def test_what_was_given_back_counts(self, make_memory_meter: MakeMemoryMeter) -> None:
        """A peak is of a moment within the call.

        Usual causes: behind − before, a reading at the end, a sample between steps; a counter that
        is set back and never read.
        """
        for units in each_case((1, 24)):
            trial = self._trial(make_memory_meter)
            trial.check([units, -units])

    def test_a_peak_is_of_its_own_call(self, make_memory_meter: MakeMemoryMeter) -> None:
        """In any order: a small call behind a big one is small.

        Usual causes: a counter that is not set back before each call, or behind the call.
        """
        for order in each_case(((24, 2), (2, 24), (1, 2, 24, 3))):
            trial = self._trial(make_memory_meter)
            for units in order:
                trial.check([units, -units])

    def test_earlier_peaks_do_not_count(self, make_memory_meter: MakeMemoryMeter) -> None:
        """Of loading, of warming up, of what ran before the meter was made.

        Usual causes: a counter that counts since the process began.
        """
        for earlier in each_case(([24, -24], [])):  # before the meter is made, and behind
            trial = self._trial(make_memory_meter, earlier)
            trial.run([24, -24])
            trial.check([3, -3])

    def test_what_was_held_before_is_told_apart(self, make_memory_meter: MakeMemoryMeter) -> None:
        """Weights are held all the while. A peak counts them, or leaves them out, as declared.

        Usual causes: a reset to 0 in place of what is held, which drops the weights; the weights
        counted twice.
        """
        for held in each_case((1, 32)):
            trial = self._trial(make_memory_meter)
            trial.run([held])
            trial.check([4, -4])
            trial.check([2])
            trial.check([-held, 1])

    def test_memory_that_is_used_again_counts_once(
        self, make_memory_meter: MakeMemoryMeter
    ) -> None:
        """A hundred blocks of a unit, one after the other, need one.

        Usual causes: a sum of all allocations.
        """
        trial = self._trial(make_memory_meter)
        trial.check([1, -1] * 40)

    def test_any_call_is_read_as_it_was(self, make_memory_meter: MakeMemoryMeter) -> None:
        """Before, at most, and behind, in bytes, whatever was held and given back.

        Usual causes: KiB, MB or MiB for bytes; segments for what is held in them; a cap at 0.
        """

        def holds(case: tuple[list[int], list[int]]) -> None:
            trial = self._trial(make_memory_meter)
            trial.run(case[0])
            trial.check(case[1])

        for_all(holds, programs(), traps=[("it frees", ([9, 1], [-9, 2]))], examples=self.examples)

    def test_other_processes_do_not_count(self, make_memory_meter: MakeMemoryMeter) -> None:
        """They come and go on the same device.

        Usual causes: what the driver tells of the whole device (`mem_get_info`, NVML).
        """
        for others in each_case((100,) if self.space == "device" else ()):
            trial = self._trial(make_memory_meter)
            trial.others = others
            trial.check([5, -5])

    def test_an_error_is_no_reading(self, make_memory_meter: MakeMemoryMeter) -> None:
        """It reaches the caller, and what is read next is right.

        Usual causes: errors that are swallowed; a meter that stays within the failed call.
        """
        trial = self._trial(make_memory_meter)

        def fails() -> None:
            trial.run([30, -30])
            raise MemoryError("planted by the suite")

        try:
            found = trial.meter.measure(fails)
        except MemoryError:
            trial.check([2, -2])
        else:
            raise AssertionError(f"a call raised MemoryError, and the meter returned {found}")

    @requires("queued")
    def test_queued_work_is_waited_for(self, make_memory_meter: MakeMemoryMeter) -> None:
        """A device allocates when it gets to it: the call's work belongs to the call, and what was
        queued before it does not.

        Usual causes: a peak that is read, or set back, while the device still works.
        """
        for queued_before in each_case(([], [20, -20])):
            trial = self._trial(make_memory_meter)
            trial.queue(queued_before)
            trial.check([6, -6], queued=True)
            trial.check([1, -1])

    @requires("reserved")
    def test_reserved_bytes_are_of_segments(self, make_memory_meter: MakeMemoryMeter) -> None:
        """An allocator keeps what it was given back; the most that it kept is another number.

        Usual causes: one name for both; reserved bytes read at the end, behind a release.
        """
        for units in each_case((3, 50)):
            memory = DeviceMemory()
            trial = MemoryTrial(memory, make_memory_meter(memory), self)
            reading = trial.check([units, -units])
            found, true = reading.peak_reserved_bytes, memory.peak_reserved()
            assert found == true, f"peak_reserved_bytes is {found}, the allocator's {true}"

    @requires("growth")
    def test_growth_is_what_each_call_leaves(self, make_memory_meter: MakeMemoryMeter) -> None:
        """What the first calls make, once, is no leak; what is given back is none either.

        Usual causes: the first call among those that count, a peak for what is held, the sum for
        the share of a call.
        """
        for leaked, once, transient in each_case(((0, 7, 3), (2, 0, 0), (1, 8, 5), (0, 0, 9))):
            trial, calls = self._trial(make_memory_meter), list[int]()

            def call() -> None:
                steps = [transient, -transient, leaked, once if not calls else 0]  # noqa: B023
                calls.append(len(calls))  # noqa: B023
                trial.run([step for step in steps if step])  # noqa: B023

            found = trial.meter.growth(call, 5, 1)
            assert len(calls) >= 6, f"{len(calls)} calls were made, of 1 and 5"
            assert abs(found - leaked * self.unit) <= self.slack, (
                f"each call leaves {leaked * self.unit} bytes; the meter tells {found}"
            )

    def _memory(self) -> MemorySpace:
        return SPACES[self.space]()

    def _trial(self, make: MakeMemoryMeter, earlier: Sequence[int] = ()) -> MemoryTrial:
        memory = self._memory()
        trial = MemoryTrial(memory, None, self)
        trial.run(earlier)
        trial.meter = make(memory)
        return trial


@dataclass
class MemoryTrial:
    """A meter, its memory, and what is held in it. Steps are units to hold more, or below 0 to give
    a block of that many back."""

    memory: Any
    meter: Any
    suite: MemoryMeterSuite
    others: int = 0  # units that another process takes during a call

    def __post_init__(self) -> None:
        self._blocks: list[tuple[int, Block]] = []

    def run(self, steps: Sequence[int]) -> None:
        for step in steps:
            if step > 0:
                self._blocks.append((step, self.memory.allocate(step * self.suite.unit)))
            else:
                place = next(i for i, (units, _) in enumerate(self._blocks) if units == -step)
                self.memory.free(self._blocks.pop(place)[1])

    def queue(self, steps: Sequence[int]) -> None:
        """Let the device run the steps when it gets to it."""
        self.memory.launch(lambda: self.run(steps))

    def check(self, steps: Sequence[int], queued: bool = False) -> Any:
        """Measure a call of these steps, and raise AssertionError unless it is read as it was."""
        before = sum(units for units, _ in self._blocks)

        def call() -> None:
            if self.suite.space == "device":
                self.memory.let_others_hold(self.others * self.suite.unit)
            (self.queue if queued else self.run)(steps)

        reading = self.meter.measure(call)
        held = [before]
        for step in steps:
            held.append(held[-1] + step)
        peak = max(held)
        if self.suite.peak_of == "growth":
            held, peak = [units - before for units in held], peak - before
        true = {"before": held[0], "peak": peak, "after": held[-1]}
        for name, units in true.items():
            found, bytes_held = getattr(reading, f"{name}_bytes"), units * self.suite.unit
            assert abs(found - bytes_held) <= self.suite.slack, (
                f"{name}_bytes is {found}, held were {bytes_held}: {before} units of "
                f"{self.suite.unit} before the call, which went {list(steps)}"
            )
        return reading


@st.composite
def programs(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """Steps before a call, and its own."""
    blocks: list[int] = []

    def steps(most: int) -> list[int]:
        made = list[int]()
        for _ in range(draw(st.integers(0, most))):
            if draw(st.booleans()) and blocks:
                made.append(-blocks.pop(draw(st.integers(0, len(blocks) - 1))))
            else:
                blocks.append(draw(st.integers(1, 9)))
                made.append(blocks[-1])
        return made

    return steps(3), steps(6)
