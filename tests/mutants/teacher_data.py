"""Small generators of training data that are right, built in three ways, and faults."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infopt_suites.distillation import (
    Answered,
    Collected,
    GeneratorSpec,
    Reply,
    Teacher,
)

AREA = "6 distillation"
DECLARED: dict[str, Any] = {
    "capabilities": {
        "busy",
        "retries",
        "back-off",
        "rate-limit",
        "timeout",
        "resumable",
        "reasoning",
        "numbers",
        "chat-format",
    }
}


class SmallGenerator:
    """A semaphore and a task for each prompt."""

    def __init__(self, teacher: Teacher, spec: GeneratorSpec) -> None:
        self.teacher, self.spec = teacher, spec
        self.next = 0.0

    async def generate(self, prompts: Mapping[str, str]) -> Collected:
        return await self.collect(prompts, {}, None)

    async def generate_into(self, prompts: Mapping[str, str], path: Path) -> Collected:
        return await self.collect(prompts, self.read(path), path)

    async def collect(
        self, prompts: Mapping[str, str], done: dict[str, Answered], path: Path | None
    ) -> Collected:
        failures: dict[str, str] = {}
        slots = asyncio.Semaphore(self.spec.concurrency)

        async def one(name: str, text: str) -> None:
            async with slots:
                try:
                    found = self.example(name, text, await self.ask(text))
                except Exception as error:
                    self.fail(name, text, error, done, failures)
                else:
                    self.keep(found, done, path)

        missing = [item for item in prompts.items() if item[0] not in done]
        await self.run([one(*item) for item in missing])
        return self.ordered(prompts, done, failures)

    async def run(self, coroutines: list[Any]) -> None:
        await asyncio.gather(*coroutines)

    def fail(
        self,
        name: str,
        text: str,
        error: Exception,
        done: dict[str, Answered],
        failures: dict[str, str],
    ) -> None:
        failures[name] = repr(error)

    def keep(self, found: Answered, done: dict[str, Answered], path: Path | None) -> None:
        done[found.id] = found
        if path is not None:
            self.store(found, path)

    def store(self, found: Answered, path: Path) -> None:
        with path.open("a", encoding="utf-8") as file:
            file.write(self.line(found))

    def line(self, found: Answered) -> str:
        row = [found.id, found.prompt, found.answer, found.reasoning]
        return json.dumps(row) + "\n"

    def read(self, path: Path) -> dict[str, Answered]:
        if not path.exists():
            return {}
        lines = path.read_text(encoding="utf-8").split("\n")
        if lines[-1]:
            path.write_text("".join(f"{line}\n" for line in lines[:-1]), encoding="utf-8")
        rows = [Answered(*json.loads(line)) for line in lines[:-1]]
        return {row.id: row for row in rows}

    def ordered(
        self, prompts: Mapping[str, str], done: dict[str, Answered], failures: dict[str, str]
    ) -> Collected:
        return Collected([done[name] for name in prompts if name in done], failures)

    async def ask(self, text: str) -> Reply:
        for attempt in range(self.spec.attempts):
            await self.turn()
            try:
                async with asyncio.timeout(self.spec.timeout):
                    reply = await self.teacher.complete(text)
                self.check(reply)
                return reply
            except Exception:
                if attempt == self.spec.attempts - 1:
                    raise
            await asyncio.sleep(self.wait(attempt))
        raise AssertionError("no attempt")

    def check(self, reply: Reply) -> None:
        if not (reply.text or "").strip() or reply.finish_reason != "stop":
            raise ValueError("no answer")

    def wait(self, attempt: int) -> float:
        return 2.0**attempt * random.Random(attempt).uniform(0.75, 1.25)

    async def turn(self) -> None:
        """Waits until a call may begin."""
        if self.spec.per_second is None:
            return
        now = asyncio.get_running_loop().time()
        self.next, wait = max(self.next, now) + 1 / self.spec.per_second, self.next - now
        await asyncio.sleep(max(wait, 0.0))

    def example(self, name: str, text: str, reply: Reply) -> Answered:
        reasoning, answer = self.part(reply.text or "")
        if not answer:
            raise ValueError("no answer after the reasoning")
        return Answered(name, text, answer, reasoning)

    def part(self, text: str) -> tuple[str, str]:
        if text.count("<think>") < text.count("</think>"):
            text = "<think>" * (text.count("</think>") - text.count("<think>")) + text
        inside, outside, depth = "", "", 0
        for piece in re.split("(</?think>)", text):
            if piece in ("<think>", "</think>"):
                depth += 1 if piece == "<think>" else -1
                inside, outside = inside + "\n", outside + "\n"
            elif depth > 0:
                inside += piece
            else:
                outside += piece
        return inside.strip(), outside.strip()

    def number(self, text: str) -> float | None:
        return self.read_number(self.part(text)[1])

    def read_number(self, answer: str) -> float | None:
        found = re.findall(r"-?\d[\d,]*(?:\.\d+)?", answer)
        return float(found[-1].replace(",", "")) if found else None

    def chat_lines(self, examples: Sequence[Answered]) -> str:
        return "".join(json.dumps(self.conversation(each)) + "\n" for each in examples)

    def conversation(self, example: Answered) -> dict[str, Any]:
        user = {"role": "user", "content": example.prompt}
        return {"messages": [user, {"role": "assistant", "content": example.answer}]}


# Sound, and built differently


class ByWorkers(SmallGenerator):
    """Workers that take prompts from a queue; the file is written anew, whole, at each answer."""

    async def collect(
        self, prompts: Mapping[str, str], done: dict[str, Answered], path: Path | None
    ) -> Collected:
        failures: dict[str, str] = {}
        queue = [item for item in prompts.items() if item[0] not in done][::-1]

        async def worker() -> None:
            while queue:
                name, text = queue.pop()
                try:
                    done[name] = self.example(name, text, await self.ask(text))
                except Exception as error:
                    failures[name] = str(error)
                if path is not None:
                    unfinished = path.with_suffix(".new")
                    unfinished.write_text("".join(map(self.line, done.values())), encoding="utf-8")
                    unfinished.replace(path)

        async with asyncio.TaskGroup() as group:
            for _ in range(self.spec.concurrency):
                group.create_task(worker())
        return self.ordered(prompts, done, failures)


class OneAtATime(SmallGenerator):
    """No retries, no file; as many calls as allowed, awaited as they end."""

    async def collect(
        self, prompts: Mapping[str, str], done: dict[str, Answered], path: Path | None
    ) -> Collected:
        failures: dict[str, str] = {}
        running: dict[asyncio.Task[Reply], tuple[str, str]] = {}
        waiting = list(prompts.items())
        try:
            while waiting or running:
                while waiting and len(running) < self.spec.concurrency:
                    item = waiting.pop(0)
                    running[asyncio.ensure_future(self.teacher.complete(item[1]))] = item
                ended, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in ended:
                    name, text = running.pop(task)
                    try:
                        self.check(task.result())
                        done[name] = self.example(name, text, task.result())
                    except Exception as error:
                        failures[name] = str(error)
        finally:
            for task in running:
                task.cancel()
        return self.ordered(prompts, done, failures)


# Faults of what is kept


class ErrorSavedAsAnswer(SmallGenerator):
    """D21 (Devwhisper#293): the message of the exception is the answer."""

    def fail(self, name: str, text: str, error: Exception, *kept: Any) -> None:
        kept[0][name] = Answered(name, text, str(error))


class EmptySaved(SmallGenerator):
    """D21 (dippy#78): "" and None are answers."""

    def check(self, reply: Reply) -> None:
        pass

    def example(self, name: str, text: str, reply: Reply) -> Answered:
        return Answered(name, text, reply.text or "")


class WhiteSpaceSaved(SmallGenerator):
    """D21 (lmnr#1610): a text of spaces is not empty."""

    def check(self, reply: Reply) -> None:
        if not reply.text or reply.finish_reason != "stop":
            raise ValueError("no answer")

    def example(self, name: str, text: str, reply: Reply) -> Answered:
        return Answered(name, text, reply.text or "")


class CutOffSaved(SmallGenerator):
    """Not listed: nobody reads why the text ended."""

    def check(self, reply: Reply) -> None:
        if not (reply.text or "").strip():
            raise ValueError("no answer")


class FailuresForgotten(SmallGenerator):
    """Not listed: failures are logged, and no list has them."""

    def fail(self, *_: Any) -> None:
        pass


class AsTheyCome(SmallGenerator):
    """Not listed: answers in the order of their arrival."""

    def ordered(self, prompts: Any, done: dict[str, Answered], failures: Any) -> Collected:
        return Collected(list(done.values()), failures)


class SortedById(SmallGenerator):
    """Not listed: answers in the order of their ids."""

    def ordered(self, prompts: Any, done: dict[str, Answered], failures: Any) -> Collected:
        return Collected([done[name] for name in sorted(done)], failures)


class PairedByArrival(SmallGenerator):
    """D13's kind: the first answer goes to the first prompt."""

    def ordered(self, prompts: Any, done: dict[str, Answered], failures: Any) -> Collected:
        names = [name for name in prompts if name in done]
        return Collected(
            [
                Answered(name, prompts[name], each.answer, each.reasoning)
                for name, each in zip(names, done.values(), strict=True)
            ],
            failures,
        )


class EqualPromptsOnce(SmallGenerator):
    """Not listed: prompts are told apart by their texts."""

    async def collect(self, prompts: Mapping[str, str], *rest: Any) -> Collected:
        unique = {text: name for name, text in reversed(prompts.items())}
        chosen = {name: text for name, text in prompts.items() if unique[text] == name}
        return await super().collect(chosen, *rest)


class LastBatchLeftOut(SmallGenerator):
    """Not listed: only whole batches are asked."""

    async def collect(self, prompts: Mapping[str, str], *rest: Any) -> Collected:
        size = self.spec.concurrency
        kept = list(prompts.items())[: len(prompts) // size * size]
        return await super().collect(dict(kept), *rest)


# Faults of calls


class FirstErrorEndsAll(SmallGenerator):
    """Not listed: what is not caught cancels the others."""

    def fail(self, name: str, text: str, error: Exception, *kept: Any) -> None:
        raise error


class BrokenLibraryEndsAll(SmallGenerator):
    """Not listed: only the errors that the service documents are caught."""

    def fail(self, name: str, text: str, error: Exception, *kept: Any) -> None:
        if isinstance(error, RuntimeError):
            raise error
        super().fail(name, text, error, *kept)


class WholeBatchRepeated(SmallGenerator):
    """Not listed: one failure repeats everything."""

    async def collect(self, prompts: Mapping[str, str], *rest: Any) -> Collected:
        found = await super().collect(prompts, *rest)
        if found.failures:
            found = await super().collect(prompts, *rest[:0], {}, rest[1])
        return found


class NoBound(SmallGenerator):
    """Not listed: a task for every prompt, at once."""

    def __init__(self, teacher: Teacher, spec: GeneratorSpec) -> None:
        many = GeneratorSpec(1000, spec.attempts, spec.per_second, spec.timeout)
        super().__init__(teacher, many)


class OneByOne(SmallGenerator):
    """Not listed: awaited in a loop."""

    async def run(self, coroutines: list[Any]) -> None:
        for coroutine in coroutines:
            await coroutine


class InChunks(SmallGenerator):
    """Each chunk waits for its slowest call: a fault of who says that it keeps busy."""

    async def run(self, coroutines: list[Any]) -> None:
        size = self.spec.concurrency
        try:
            for begin in range(0, len(coroutines), size):
                await asyncio.gather(*coroutines[begin : begin + size])
        finally:
            for coroutine in coroutines:  # those that were never begun
                coroutine.close()


class RetriesForAttempts(SmallGenerator):
    """Not listed: attempts are counted beside the first call."""

    def __init__(self, teacher: Teacher, spec: GeneratorSpec) -> None:
        more = GeneratorSpec(spec.concurrency, spec.attempts + 1, spec.per_second, spec.timeout)
        super().__init__(teacher, more)


class NeverRepeated(SmallGenerator):
    """Not listed: attempts are taken and not used."""

    def __init__(self, teacher: Teacher, spec: GeneratorSpec) -> None:
        super().__init__(teacher, GeneratorSpec(spec.concurrency, 1, spec.per_second, spec.timeout))


class FixedWait(SmallGenerator):
    """Not listed: the same wait every time."""

    def wait(self, attempt: int) -> float:
        return 1.0


class RepeatedAtOnce(SmallGenerator):
    """Not listed: an overloaded server is asked again at once."""

    def wait(self, attempt: int) -> float:
        return 0.0


class Burst(SmallGenerator):
    """Not listed: so many calls are let through at once, and then so many a second."""

    async def turn(self) -> None:
        if self.spec.per_second is not None:
            now = asyncio.get_running_loop().time()
            self.next = max(self.next or -2.0, now - 2.0) + 1 / self.spec.per_second
            await asyncio.sleep(max(self.next - now, 0.0))


class RetriesBesideTheLimit(SmallGenerator):
    """Not listed: only the first call of a prompt waits for its turn."""

    turns = 0

    async def turn(self) -> None:
        self.turns += 1
        if self.turns <= 24:
            await super().turn()


class NoLimit(SmallGenerator):
    """Not listed: per_second is taken and not used."""

    async def turn(self) -> None:
        pass


class NoTimeout(SmallGenerator):
    """Not listed: a call that hangs keeps its slot, and the run, for ever."""

    def __init__(self, teacher: Teacher, spec: GeneratorSpec) -> None:
        super().__init__(teacher, GeneratorSpec(spec.concurrency, spec.attempts, spec.per_second))


class Abandoned(SmallGenerator):
    """Not listed: who hangs is no longer waited for, and runs on."""

    async def ask(self, text: str) -> Reply:
        task = asyncio.ensure_future(self.teacher.complete(text))
        ended, _ = await asyncio.wait([task], timeout=self.spec.timeout)
        if not ended:
            raise TimeoutError
        self.check(task.result())
        return task.result()


class RunsOn(SmallGenerator):
    """Not listed: tasks that nobody holds go on after the run was cancelled."""

    async def run(self, coroutines: list[Any]) -> None:
        tasks = [asyncio.ensure_future(each) for each in coroutines]
        if tasks:
            await asyncio.wait(tasks)


class CancelledIsAFailure(SmallGenerator):
    """Not listed: CancelledError is caught, and the next call begins."""

    async def ask(self, text: str) -> Reply:
        try:
            return await super().ask(text)
        except asyncio.CancelledError:
            return await super().ask(text)


# Faults of the file


class WrittenAtTheEnd(SmallGenerator):
    """Not listed: a run that is cancelled has stored nothing."""

    def store(self, found: Answered, path: Path) -> None:
        pass

    async def collect(
        self, prompts: Mapping[str, str], done: dict[str, Answered], path: Path | None
    ) -> Collected:
        found = await super().collect(prompts, done, path)
        if path is not None:
            path.write_text("".join(map(self.line, done.values())), encoding="utf-8")
        return found


class BegunAnew(SmallGenerator):
    """Not listed: the file is opened with "w"."""

    def read(self, path: Path) -> dict[str, Answered]:
        path.write_text("")
        return {}


class SkippedByCount(SmallGenerator):
    """Not listed: as many prompts are skipped as there are lines."""

    async def generate_into(self, prompts: Mapping[str, str], path: Path) -> Collected:
        stored = self.read(path)
        names = list(prompts)[: len(stored)]
        done = {
            name: Answered(name, prompts[name], each.answer)
            for name, each in zip(names, stored.values(), strict=True)
        }
        return await self.collect(prompts, done, path)


class StoredTwice(SmallGenerator):
    """Not listed: what was read is written again beside it."""

    async def generate_into(self, prompts: Mapping[str, str], path: Path) -> Collected:
        done = self.read(path)
        for row in done.values():
            self.store(row, path)
        return await self.collect(prompts, done, path)


class FailuresStored(SmallGenerator):
    """D21: a failure is a line too, so that it is not asked again."""

    path: Path | None = None

    async def generate_into(self, prompts: Mapping[str, str], path: Path) -> Collected:
        self.path = path
        stored = self.read(path)
        failed = {name: row.reasoning for name, row in stored.items() if not row.answer}
        found = await self.collect(prompts, stored, path)
        kept = [row for row in found.examples if row.answer]
        return Collected(kept, {**found.failures, **failed})

    def fail(self, name: str, text: str, error: Exception, *kept: Any) -> None:
        super().fail(name, text, error, *kept)
        if self.path is not None:
            self.store(Answered(name, text, "", repr(error)), self.path)


class HalfLineKept(SmallGenerator):
    """Not listed: a line is appended to the half one."""

    def read(self, path: Path) -> dict[str, Answered]:
        rows = {}
        for line in path.read_text(encoding="utf-8").split("\n") if path.exists() else ():
            with suppress(ValueError):
                row = Answered(*json.loads(line))
                rows[row.id] = row
        return rows


class HalfLineFatal(SmallGenerator):
    """Not listed: a file with half a line is never read again."""

    def read(self, path: Path) -> dict[str, Answered]:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        rows = [Answered(*json.loads(line)) for line in text.split("\n") if line]
        return {row.id: row for row in rows}


class NewAnswersLast(SmallGenerator):
    """Not listed: what is answered today stands after what was answered before."""

    def ordered(self, prompts: Any, done: dict[str, Answered], failures: Any) -> Collected:
        return Collected(list(done.values()), failures)


# Faults of texts


class FirstClose(SmallGenerator):
    """Not listed: all after the first </think> is the answer."""

    def part(self, text: str) -> tuple[str, str]:
        thought, tag, said = text.partition("</think>")
        return (thought.removeprefix("<think>").strip(), said.strip()) if tag else ("", text)


class NeedsBothTags(SmallGenerator):
    """Not listed: a pattern of both tags; other texts are answers as they stand."""

    def part(self, text: str) -> tuple[str, str]:
        found = re.search("<think>(.*)</think>", text, re.DOTALL)
        if found is None:
            return "", text.strip()
        return found[1].strip(), text[found.end() :].strip()


class TagsAreLeft(SmallGenerator):
    """Not listed: part is right, and examples hold whole texts."""

    def example(self, name: str, text: str, reply: Reply) -> Answered:
        return Answered(name, text, reply.text or "")


class UnclosedIsAnAnswer(SmallGenerator):
    """Not listed: a text that was cut off in its reasoning is stored."""

    def example(self, name: str, text: str, reply: Reply) -> Answered:
        reasoning, answer = self.part(reply.text or "")
        return Answered(name, text, answer or reasoning, reasoning)


class FirstNumber(SmallGenerator):
    """D24 (dify#41881): the first number of the text."""

    def number(self, text: str) -> float | None:
        found = re.search(r"-?\d[\d,]*(?:\.\d+)?", text)
        return None if found is None else float(found[0].replace(",", ""))


class NumberOfTheReasoning(SmallGenerator):
    """D24: where the answer has none, the reasoning's last one."""

    def number(self, text: str) -> float | None:
        return self.read_number(text)


class WholeDigits(SmallGenerator):
    """D24: 7.5 is 5, and 1,000 is 0."""

    def read_number(self, answer: str) -> float | None:
        found = re.findall(r"\d+", answer)
        return float(found[-1]) if found else None


class WrittenByHand(SmallGenerator):
    """Not listed: JSON is pasted together."""

    def chat_lines(self, examples: Sequence[Answered]) -> str:
        return "".join(
            f'{{"messages": [{{"role": "user", "content": "{each.prompt}"}}, '
            f'{{"role": "assistant", "content": "{each.answer}"}}]}}\n'
            for each in examples
        )


class OtherRoles(SmallGenerator):
    """Not listed: "human" and "gpt", another format's roles."""

    def conversation(self, example: Answered) -> dict[str, Any]:
        user = {"role": "human", "content": example.prompt}
        return {"messages": [user, {"role": "gpt", "content": example.answer}]}


class ReasoningInTheMessage(SmallGenerator):
    """Not listed: a message has a field that the format does not know."""

    def conversation(self, example: Answered) -> dict[str, Any]:
        made = super().conversation(example)
        made["messages"][-1]["reasoning"] = example.reasoning
        return made


class SplitAtLineSeparators(SmallGenerator):
    """Not listed: splitlines() cuts a text at U+2028."""

    def chat_lines(self, examples: Sequence[Answered]) -> str:
        text = "".join(
            json.dumps(self.conversation(each), ensure_ascii=False) + "\n" for each in examples
        )
        return "\n".join(text.splitlines()) + "\n"


@dataclass(frozen=True)
class GeneratorMutant:
    """A fault, and the property that finds it."""

    fault: type[SmallGenerator]
    broken: str


SOUND: dict[type[SmallGenerator], dict[str, Any]] = {
    SmallGenerator: DECLARED,
    ByWorkers: DECLARED,
    OneAtATime: {"capabilities": {"busy", "reasoning", "numbers"}},
    InChunks: {"capabilities": DECLARED["capabilities"] - {"busy"}},
}

ALL = "test_every_prompt_is_an_answer_or_a_failure_in_order"
BAD = "test_a_call_without_an_answer_is_a_failure_and_no_example"
OTHERS = "test_a_failure_does_not_stop_the_others"
AT_ONCE = "test_no_more_calls_run_at_once_than_were_allowed"
BUSY = "test_as_many_calls_run_at_once_as_were_allowed"
REPEATED = "test_a_call_that_fails_is_repeated_as_often_as_allowed"
GROW = "test_waits_between_the_calls_of_a_prompt_grow"
RATE = "test_calls_begin_no_faster_than_allowed"
HANGS = "test_a_call_that_hangs_ends"
CANCELLED = "test_a_run_that_is_cancelled_calls_nobody_any_more"
GOES_ON = "test_a_run_that_was_cancelled_goes_on_where_it_ended"
SECOND = "test_a_second_run_asks_for_failures_alone"
HALF = "test_a_line_that_was_cut_off_is_asked_again"
PARTED = "test_reasoning_is_parted_from_the_answer"
WITHOUT = "test_examples_hold_answers_without_reasoning"
NUMBER = "test_the_number_is_that_of_the_answer"
CHAT = "test_the_chat_format_holds_every_example"

GENERATOR_MUTANTS = [
    GeneratorMutant(ErrorSavedAsAnswer, BAD),
    GeneratorMutant(EmptySaved, BAD),
    GeneratorMutant(WhiteSpaceSaved, BAD),
    GeneratorMutant(CutOffSaved, BAD),
    GeneratorMutant(FailuresForgotten, ALL),
    GeneratorMutant(AsTheyCome, ALL),
    GeneratorMutant(SortedById, ALL),
    GeneratorMutant(PairedByArrival, ALL),
    GeneratorMutant(EqualPromptsOnce, ALL),
    GeneratorMutant(LastBatchLeftOut, ALL),
    GeneratorMutant(FirstErrorEndsAll, OTHERS),
    GeneratorMutant(BrokenLibraryEndsAll, OTHERS),
    GeneratorMutant(WholeBatchRepeated, OTHERS),
    GeneratorMutant(NoBound, AT_ONCE),
    GeneratorMutant(OneByOne, BUSY),
    GeneratorMutant(InChunks, BUSY),
    GeneratorMutant(RetriesForAttempts, REPEATED),
    GeneratorMutant(NeverRepeated, REPEATED),
    GeneratorMutant(FixedWait, GROW),
    GeneratorMutant(RepeatedAtOnce, GROW),
    GeneratorMutant(Burst, RATE),
    GeneratorMutant(RetriesBesideTheLimit, RATE),
    GeneratorMutant(NoLimit, RATE),
    GeneratorMutant(NoTimeout, HANGS),
    GeneratorMutant(Abandoned, HANGS),
    GeneratorMutant(RunsOn, CANCELLED),
    GeneratorMutant(CancelledIsAFailure, CANCELLED),
    GeneratorMutant(WrittenAtTheEnd, GOES_ON),
    GeneratorMutant(BegunAnew, GOES_ON),
    GeneratorMutant(SkippedByCount, SECOND),
    GeneratorMutant(StoredTwice, SECOND),
    GeneratorMutant(FailuresStored, SECOND),
    GeneratorMutant(NewAnswersLast, SECOND),
    GeneratorMutant(HalfLineKept, HALF),
    GeneratorMutant(HalfLineFatal, HALF),
    GeneratorMutant(FirstClose, PARTED),
    GeneratorMutant(NeedsBothTags, PARTED),
    GeneratorMutant(TagsAreLeft, WITHOUT),
    GeneratorMutant(UnclosedIsAnAnswer, WITHOUT),
    GeneratorMutant(FirstNumber, NUMBER),
    GeneratorMutant(NumberOfTheReasoning, NUMBER),
    GeneratorMutant(WholeDigits, NUMBER),
    GeneratorMutant(WrittenByHand, CHAT),
    GeneratorMutant(OtherRoles, CHAT),
    GeneratorMutant(ReasoningInTheMessage, CHAT),
    GeneratorMutant(SplitAtLineSeparators, CHAT),
]
