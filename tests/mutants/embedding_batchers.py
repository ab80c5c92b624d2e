"""Small embedding batchers that are right, of several designs, and the same with faults."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from batchers import AREA, TimerBatcher, Waiting
from declared_batchers import Loader
from infopt_suites.batching import BatchPolicy

__all__ = ["AREA", "MUTANTS", "SOUND", "EmbeddingMutant"]


class LineOfTexts(TimerBatcher):
    """Each text is an item of the batcher under it, equal ones too."""

    capabilities: Any = frozenset(
        {"shared", "window", "full", "no-window", "concurrency", "stop", "typed", "withdraw"}
    )

    async def embed(self, texts: list[str]) -> Any:
        self.require_list(texts)
        self.require_running()
        texts = self.own(texts)
        vectors = await asyncio.gather(*(self.outcome(text) for text in texts))
        return self.joined(texts, vectors)

    def require_list(self, texts: Any) -> None:
        if isinstance(texts, str):
            raise TypeError("a string is no list of texts")

    def own(self, texts: list[str]) -> list[str]:
        return list(texts)

    def joined(self, texts: list[str], vectors: Sequence[Any]) -> list[Any]:
        return list(vectors)


class SharedTexts(LineOfTexts):
    """Equal texts that are not ready are one item, which nobody's leaving takes away."""

    capabilities = (LineOfTexts.capabilities | {"deduplicates"}) - {"withdraw"}

    def __init__(self, function: Any, policy: BatchPolicy) -> None:
        super().__init__(function, policy)
        self.known: dict[str, asyncio.Task[Any]] = {}

    async def outcome(self, item: Any) -> Any:
        key = self.key(item)
        if key not in self.known:
            task = asyncio.create_task(super().outcome(item))
            self.known[key] = task
            task.add_done_callback(lambda task: self.forget(key, task))
        return await self.shared(self.known[key])

    def key(self, text: str) -> str:
        return text

    def shared(self, task: asyncio.Task[Any]) -> asyncio.Future[Any]:
        return asyncio.shield(task)

    def forget(self, key: str, task: asyncio.Task[Any]) -> None:
        self.known.pop(key, None)
        if not task.cancelled():
            task.exception()  # whoever asked may have left


class CallByCall:
    """Each caller's texts in calls of its own."""

    capabilities: Any = frozenset({"concurrency"})

    def __init__(self, function: Any, policy: BatchPolicy) -> None:
        self.function, self.policy = function, policy

    async def start(self) -> None:
        self.slots = asyncio.Semaphore(self.policy.max_concurrency)

    async def embed(self, texts: list[str]) -> Any:
        size = self.policy.max_batch_size
        chunks = [list(texts[start : start + size]) for start in range(0, len(texts), size)]
        tasks = [asyncio.create_task(self.vectors(chunk)) for chunk in chunks]
        try:
            return await self.joined(tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def joined(self, tasks: list[asyncio.Task[Any]]) -> Any:
        return [vector for task in tasks for vector in await task]

    async def vectors(self, texts: list[str]) -> Any:
        async with self.slots:
            result = await self.function(texts)
        if not isinstance(result, list) or len(result) != len(texts):
            raise ValueError("not one vector for each text")
        return result

    async def stop(self) -> None:
        pass


class OrderOfCompletion(CallByCall):
    """B14: vectors in the order in which calls end (AstrBotDevs/AstrBot#9241)."""

    async def joined(self, tasks: list[asyncio.Task[Any]]) -> Any:
        return [v for done in asyncio.as_completed(tasks) for v in await done]


class Overwritten(CallByCall):
    """B29: each batch overwrites the accumulator, which is then doubled
    (Unstructured-IO/unstructured-ingest#568)."""

    async def joined(self, tasks: list[asyncio.Task[Any]]) -> Any:
        vectors: list[Any] = []
        for task in tasks:
            vectors = await task
            if len(tasks) > 1:
                vectors.extend(vectors)
        return vectors


class FirstBatchAlone(CallByCall):
    """Not listed: what goes beyond a batch is dropped (ersilia-os/ersilia#1722 is like it)."""

    async def joined(self, tasks: list[asyncio.Task[Any]]) -> Any:
        return (await super().joined(tasks))[: self.policy.max_batch_size]


class ClaimsToShare(CallByCall):
    """Not listed: a call for each caller."""

    capabilities = frozenset({"shared"})


class CountUnchecked(CallByCall):
    """B15: whatever comes is handed on."""

    async def vectors(self, texts: list[str]) -> Any:
        async with self.slots:
            return list(await self.function(texts) or [])


class ZipWithoutStrict(LineOfTexts):
    """B15: who gets no vector waits for ever."""

    def check(self, results: Any, batch: list[Waiting]) -> None:
        self.check_type(results)


class LengthIsAll(LineOfTexts):
    """B15: a mapping or a text of the right length is taken for vectors."""

    def check_type(self, results: Any) -> None:
        pass


class SortedAndNotBack(LineOfTexts):
    """B14: sorted by length for the backend."""

    def collate(self, batch: list[Waiting]) -> list[Any]:
        return sorted((entry.item for entry in batch), key=len)


class DuplicatesDropped(LineOfTexts):
    """Not listed: one vector for each different text."""

    def own(self, texts: list[str]) -> list[str]:
        return list(dict.fromkeys(texts))


class EmptyDropped(LineOfTexts):
    """Not listed: ``if text``."""

    def own(self, texts: list[str]) -> list[str]:
        return [text for text in texts if text]


class KeepsTheList(LineOfTexts):
    """Not listed: the caller's own list is read again when its vectors are there."""

    def own(self, texts: list[str]) -> list[str]:
        return texts

    def joined(self, texts: list[str], vectors: Sequence[Any]) -> list[Any]:
        found = dict(zip(texts, vectors, strict=False))
        return [found[text] for text in texts]


class OneListForAll(LineOfTexts):
    """Not listed: equal lists get the same list."""

    def joined(self, texts: list[str], vectors: Sequence[Any]) -> list[Any]:
        known = self.__dict__.setdefault("lists", {})
        result: list[Any] = known.setdefault(tuple(texts), list(vectors))
        return result


class NoTextsWait(LineOfTexts):
    """Not listed: an empty list waits for a batch."""

    async def embed(self, texts: list[str]) -> Any:
        if not texts:
            await asyncio.sleep(self.policy.max_wait)
        return await super().embed(texts)


class NoTextsAreSent(CallByCall):
    """Not listed: an empty batch."""

    async def embed(self, texts: list[str]) -> Any:
        return await super().embed(texts) if texts else await self.vectors([])


class LeftoversWait(LineOfTexts):
    """B02: only full batches are sent."""

    def is_due(self) -> bool:
        return self.state == "stopping"

    def set_timer(self) -> None:
        pass


class LettersOfAString(LineOfTexts):
    """Not listed: a string is a sequence of strings."""

    def require_list(self, texts: Any) -> None:
        pass


class StopForgetsTheLine(LineOfTexts):
    """B12: only what runs is ended."""

    async def stop(self, drain: bool = True) -> None:
        self.state = "stopping"
        self.line.clear()
        await super().stop(drain)


class ErrorTellsNobody(LineOfTexts):
    """B08: an event that is set on success only (NVIDIA-NeMo/Guardrails#2084)."""

    def fail(self, batch: list[Waiting], error: BaseException) -> None:
        pass


class KeysWithoutSpaces(SharedTexts):
    """Not listed: texts are stripped before they are compared."""

    def key(self, text: str) -> str:
        return text.strip()


class FirstAskerOwnsTheText(SharedTexts):
    """Not listed: with who asked first, the text is gone for all."""

    def shared(self, task: asyncio.Task[Any]) -> asyncio.Future[Any]:
        return task


class FailedStaysKnown(SharedTexts):
    """Not listed: who asks again gets the old error."""

    def forget(self, key: str, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and task.exception() is None:
            self.known.pop(key, None)


class StaysKnown(SharedTexts):
    """Not listed: a cache without bounds."""

    def forget(self, key: str, task: asyncio.Task[Any]) -> None:
        if task.cancelled() or task.exception() is not None:
            self.known.pop(key, None)


class ForgottenWhenSent(SharedTexts):
    """Not listed: equal texts are looked for in the line, and not in what runs."""

    def take(self) -> list[Waiting]:
        batch = super().take()
        for entry in batch:
            self.known.pop(entry.item, None)
        return batch


class LeavesTextsBehind(LineOfTexts):
    """Not listed: who gives up leaves the texts in the line."""

    def withdraw(self, entry: Waiting) -> None:
        pass


class LetInOneByOne(LineOfTexts):
    """Not listed: texts of a list that does not fit are let in until one is turned away."""

    capabilities = LineOfTexts.capabilities | {"rejects"}

    async def embed(self, texts: list[str]) -> Any:
        entries = [asyncio.ensure_future(self.outcome(text)) for text in texts]
        return [await entry for entry in entries]


class ReadTooEarly(CallByCall):
    """Not listed: at the first error, vectors are read that are not there yet."""

    async def joined(self, tasks: list[asyncio.Task[Any]]) -> Any:
        if tasks:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        return [vector for task in tasks for vector in task.result()]


class FirstErrorAlone(CallByCall):
    """Not listed: only the first call's error is raised; others leave their vectors out."""

    async def joined(self, tasks: list[asyncio.Task[Any]]) -> Any:
        results = await asyncio.gather(*tasks, return_exceptions=True)
        if results and isinstance(results[0], BaseException):
            raise results[0]
        return [v for result in results if isinstance(result, list) for v in result]


class AtOnce(LineOfTexts):
    """Sound in another way: sends what is there as soon as a call can begin."""

    capabilities = LineOfTexts.capabilities - {"window"}
    sends_at_once = True

    def is_due(self) -> bool:
        return True


class LoadMany:
    """Sound in another way: as data loaders do, all texts of a turn, in calls that run at once."""

    capabilities: Any = frozenset({"shared", "full", "no-window"})
    unbounded_calls = True

    def __init__(self, function: Any, policy: BatchPolicy) -> None:
        self.loader = Loader(function, policy)

    async def start(self) -> None:
        await self.loader.start()

    async def embed(self, texts: list[str]) -> Any:
        return list(await asyncio.gather(*map(self.loader.submit, texts)))

    async def stop(self) -> None:
        pass


class Debounce(LineOfTexts):
    """B03: each text begins the window anew (JasperFx/jasperfx#533)."""

    def window_end(self) -> float:
        return self.line[-1].time + self.policy.max_wait


class DebounceOfLists(SharedTexts):
    """Not listed: each list does, also one whose texts wait already."""

    since = 0.0

    async def embed(self, texts: list[str]) -> Any:
        self.since = asyncio.get_running_loop().time()
        return await super().embed(texts)

    def window_end(self) -> float:
        return self.since + self.policy.max_wait


class WholeWindowAgain(LineOfTexts):
    """B04: the second list finds some time left, and waits for the whole window."""

    def window_end(self) -> float:
        return self.line[min(1, len(self.line) - 1)].time + self.policy.max_wait


class TimerOfThirds(LineOfTexts):
    """Not listed: it rings at the ends of thirds of a window, the first of which it misses."""

    def set_timer(self) -> None:
        self.cancel_timer()
        if self.line and self.can_begin() and self.policy.max_wait:
            loop, third = asyncio.get_running_loop(), self.policy.max_wait / 3
            self.timer = loop.call_at(self.window_end() + third, self.dispatch)
        elif self.line:
            super().set_timer()


class NeverWaits(LineOfTexts):
    """B07: whatever is there is sent."""

    def is_due(self) -> bool:
        return True


class TimerOfASentBatch(LineOfTexts):
    """Not listed: it is never cancelled, and sends what has come since."""

    def set_timer(self) -> None:
        if self.line and self.can_begin() and self.policy.max_wait:
            asyncio.get_running_loop().call_at(self.window_end(), self.send_all)

    capabilities = LineOfTexts.capabilities - {"no-window"}


class FullNotSent(LineOfTexts):
    """Not listed: only the timer sends."""

    def is_full(self) -> bool:
        return False


class SizeLookedAtBefore(LineOfTexts):
    """Not listed: the text that fills the batch is not counted yet."""

    def is_full(self) -> bool:
        return len(self.line) > self.policy.max_batch_size


class ListsCounted(LineOfTexts):
    """Not listed: a batch counts as full by the lists in it."""

    lists = 0

    async def embed(self, texts: list[str]) -> Any:
        self.lists += 1
        try:
            return await super().embed(texts)
        finally:
            self.lists -= 1

    def is_full(self) -> bool:
        return super().is_full() and self.lists >= self.policy.max_batch_size


class NoTimerAfterABatch(LineOfTexts):
    """Not listed: with a batch goes the timer of what is left."""

    def dispatch(self) -> None:
        before = len(self.running)
        super().dispatch()
        if len(self.running) > before:
            self.cancel_timer()

    def end(self, task: asyncio.Task[None]) -> None:
        super().end(task)
        self.cancel_timer()


class ZeroIsNoWindow(LineOfTexts):
    """Not listed: ``max_wait or default``."""

    def set_timer(self) -> None:
        self.cancel_timer()
        if self.line and self.can_begin():
            loop = asyncio.get_running_loop()
            self.timer = loop.call_at(self.line[0].time + (self.policy.max_wait or 0.01), self.ring)

    def ring(self) -> None:
        self.send_all()


@dataclass(frozen=True)
class EmbeddingMutant:
    fault: Any
    broken: str


OWN = "test_every_text_gets_its_own_vector"
NO_TEXTS = "test_no_texts_need_no_call"
SPLIT = "test_long_lists_are_split_and_joined"
EQUAL = "test_equal_texts_get_equal_vectors"
AS_THEY_ARE = "test_texts_are_taken_as_they_are"
BELONG = "test_lists_belong_to_their_callers"
SHARE = "test_callers_share_calls"
STEADY = "test_steady_arrivals_do_not_prolong_the_window"
LATE = "test_a_late_second_list_does_not_prolong_the_window"
LEFT = "test_what_is_left_of_a_list_waits_no_longer_than_the_window"
WINDOW = "test_lists_within_the_window_share_a_call"
FULL = "test_a_full_batch_is_sent_at_once"
NO_WINDOW = "test_without_a_window_nobody_waits"
ONCE = "test_equal_texts_are_computed_once"
FAILING = "test_a_failing_call_fails_those_who_asked_for_its_texts"
ANY_CALL = "test_a_list_fails_with_any_of_its_calls"
GONE = "test_texts_whose_callers_are_gone_are_not_sent"
REJECTS = "test_a_list_without_room_is_turned_away_as_a_whole"
COUNT = "test_a_wrong_number_of_vectors_fails_the_call"
NO_LIST = "test_what_is_no_list_of_vectors_fails_the_call"
GIVES_UP = "test_a_caller_who_gives_up_leaves_the_others_alone"
ROUNDS = "test_many_rounds_leave_nothing_behind"
TYPED = "test_a_single_string_is_no_list_of_texts"
STOP = "test_after_a_stop_nobody_waits"
MUTANTS = [
    EmbeddingMutant(OrderOfCompletion, SPLIT),
    EmbeddingMutant(OrderOfCompletion, OWN),
    EmbeddingMutant(Overwritten, SPLIT),
    EmbeddingMutant(Overwritten, OWN),
    EmbeddingMutant(FirstBatchAlone, SPLIT),
    EmbeddingMutant(ClaimsToShare, SHARE),
    EmbeddingMutant(CountUnchecked, COUNT),
    EmbeddingMutant(CountUnchecked, NO_LIST),
    EmbeddingMutant(LengthIsAll, NO_LIST),
    EmbeddingMutant(ZipWithoutStrict, COUNT),
    EmbeddingMutant(SortedAndNotBack, OWN),
    EmbeddingMutant(DuplicatesDropped, EQUAL),
    EmbeddingMutant(DuplicatesDropped, OWN),
    EmbeddingMutant(EmptyDropped, AS_THEY_ARE),
    EmbeddingMutant(KeepsTheList, BELONG),
    EmbeddingMutant(OneListForAll, BELONG),
    EmbeddingMutant(NoTextsWait, NO_TEXTS),
    EmbeddingMutant(NoTextsAreSent, NO_TEXTS),
    EmbeddingMutant(LeftoversWait, SPLIT),
    EmbeddingMutant(LettersOfAString, TYPED),
    EmbeddingMutant(StopForgetsTheLine, STOP),
    EmbeddingMutant(ErrorTellsNobody, FAILING),
    EmbeddingMutant(KeysWithoutSpaces, AS_THEY_ARE),
    EmbeddingMutant(LeavesTextsBehind, GONE),
    EmbeddingMutant(LetInOneByOne, REJECTS),
    EmbeddingMutant(ReadTooEarly, ANY_CALL),
    EmbeddingMutant(FirstErrorAlone, ANY_CALL),
    EmbeddingMutant(FirstAskerOwnsTheText, GIVES_UP),
    EmbeddingMutant(FailedStaysKnown, FAILING),
    EmbeddingMutant(StaysKnown, ROUNDS),
    EmbeddingMutant(ForgottenWhenSent, ONCE),
    EmbeddingMutant(Debounce, STEADY),
    EmbeddingMutant(DebounceOfLists, STEADY),
    EmbeddingMutant(WholeWindowAgain, LATE),
    EmbeddingMutant(TimerOfThirds, LATE),
    EmbeddingMutant(NoTimerAfterABatch, LEFT),
    EmbeddingMutant(LeftoversWait, LEFT),
    EmbeddingMutant(NeverWaits, WINDOW),
    EmbeddingMutant(TimerOfASentBatch, WINDOW),
    EmbeddingMutant(FullNotSent, FULL),
    EmbeddingMutant(SizeLookedAtBefore, FULL),
    EmbeddingMutant(ListsCounted, FULL),
    EmbeddingMutant(ZeroIsNoWindow, NO_WINDOW),
    EmbeddingMutant(LeftoversWait, NO_WINDOW),
]
SOUND = [LineOfTexts, SharedTexts, CallByCall, AtOnce, LoadMany]
