"""TeacherDataSuite: is training data what the teacher answered, all of it and nothing else?"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, cast

from ..base import Suite, requires
from ..batching.clock import LATENESS, VirtualClock
from ..tally import each_case
from .teacher_protocol import (
    Answered,
    ChatWriter,
    Collected,
    GeneratorSpec,
    MakeTeacherDataGenerator,
    NumberReader,
    ReasoningGenerator,
    Reply,
    StoringGenerator,
)
from .teachers import ScriptedTeacher, answer_to, make_prompts, uneven

SLOW = 60.0  # seconds of a call
# No answer that can be learnt from, whatever it is called.
BAD_REPLIES: dict[str, Reply | str] = {
    "an error": "error",
    "an error that nobody expects": "crash",
    "no text": Reply(None),
    "an empty text": Reply(""),
    "white space": Reply(" \n\t"),
    "a text that was cut off": Reply("The answer is 4 and", "length"),
    "a text that was filtered": Reply("I", "content_filter"),
}
PARTED: dict[str, tuple[str, str, str]] = {
    "no tags": ("4", "", "4"),
    "both tags": ("<think>2 + 2</think>4", "2 + 2", "4"),
    "lines": ("<think>\n2 + 2\n</think>\n\n4\n", "2 + 2", "4"),
    "an empty thought": ("<think>\n\n</think>\n\n4", "", "4"),
    "opened in the prompt": ("2 + 2</think>4", "2 + 2", "4"),
    "cut off": ("<think>2 + 2 is 4, or", "2 + 2 is 4, or", ""),
    "nested": ("<think>a <think>b</think> c</think>4", "a\nb\nc", "4"),
    "repeated": ("<think>a</think>4<think>b</think>5", "a\nb", "4\n5"),
    "closed twice": ("a</think>b</think>4", "a\nb", "4"),
    "words like tags": ("<thinking>a</thinking> 4 < 5", "", "<thinking>a</thinking> 4 < 5"),
}
NUMBERS: dict[str, tuple[str, float | None]] = {
    "a decoy in the reasoning": ("<think>3 apples, 12 in all</think>The answer is 7.5.", 7.5),
    "a decoy after a step": ("<think>2</think>First 3, then 4, so it is 12", 12.0),
    "thousands": ("It costs $1,234,000", 1234000.0),
    "a negative": ("<think>5 - 8</think>-3", -3.0),
    "a fraction below one": ("about 0.25", 0.25),
    "none in the answer": ("<think>7</think>I do not know", None),
    "the end of a sentence": ("The year was 1969.", 1969.0),
}


class TeacherDataSuite(Suite):
    """Properties of generators of training data, on virtual time.

    Give a fixture ``make_teacher_data_generator``: a `teacher_protocol.MakeTeacherDataGenerator`.
    The suite brings the teacher. Class attributes say what is tried:

    | attribute | default | meaning |
    |---|---|---|
    | ``longest_wait`` | 600 | seconds within which a call that failed is repeated |
    """

    topic = "teacher_data"
    fixture = "make_teacher_data_generator"
    fixture_returns = "a callable that takes a teacher and a GeneratorSpec and makes a generator"
    offers = {  # noqa: RUF012  # read only
        "busy": "as many calls run as are allowed, while there are prompts to ask",
        "retries": "a call that fails is repeated, up to attempts calls of a prompt",
        "back-off": "waits between the calls of a prompt grow",
        "rate-limit": "at most per_second calls begin in a second",
        "timeout": "a call ends after timeout seconds, as a failure",
        "resumable": "generate_into(prompts, path) asks for what the file lacks",
        "reasoning": "part(text) parts reasoning from the answer, and no answer holds reasoning",
        "numbers": "number(text) reads the number that a text answers",
        "chat-format": "chat_lines(examples) writes the fine-tuning chat format",
    }
    methods = {  # noqa: RUF012  # read only
        "": ("generate",),
        "resumable": ("generate_into",),
        "reasoning": ("part",),
        "numbers": ("number",),
        "chat-format": ("chat_lines",),
    }
    longest_wait: ClassVar[float] = 600.0

    def made_from(self, implementation: Any) -> Any:
        return implementation(ScriptedTeacher(), GeneratorSpec())

    # Every prompt once

    def test_every_prompt_is_an_answer_or_a_failure_in_order(
        self, make_teacher_data_generator: MakeTeacherDataGenerator
    ) -> None:
        """Each with its own answer, though later prompts are answered first; none twice.

        Usual causes: answers appended as they come, paired by another index, a last batch left out,
        equal prompts taken for one.
        """
        for count in each_case((0, 1, 4, 5, 23)):
            prompts = make_prompts(count)
            if count > 4:  # the same question under two ids
                prompts[list(prompts)[-1]] = next(iter(prompts.values()))
            order = dict.fromkeys(prompts.values())
            script = {text: ["error"] for number, text in enumerate(order) if number % 4 == 3}
            teacher = ScriptedTeacher(script, uneven(order))
            found = self._run(make_teacher_data_generator, teacher, prompts)
            self._assert_all(found, prompts, script)

    def test_a_call_without_an_answer_is_a_failure_and_no_example(
        self, make_teacher_data_generator: MakeTeacherDataGenerator
    ) -> None:
        """Errors, empty texts and texts that were cut off are listed, and teach nobody.

        Usual causes: the message of an exception stored as the answer, None or "" stored, a finish
        reason that nobody reads.
        """
        for what, reply in each_case(BAD_REPLIES.items()):
            prompts = make_prompts(5)
            bad = list(prompts.values())[2]
            teacher = ScriptedTeacher({bad: [reply]})
            found = self._run(make_teacher_data_generator, teacher, prompts)
            with _told(what):
                self._assert_all(found, prompts, {bad: [reply]})

    def test_a_failure_does_not_stop_the_others(
        self, make_teacher_data_generator: MakeTeacherDataGenerator
    ) -> None:
        """Nor make them be asked again. Usual causes: gather that raises at the first error, a
        batch that is repeated whole, a worker that dies with its queue."""
        for word in each_case(("error", "crash")):
            prompts = make_prompts(12)
            texts = list(prompts.values())
            teacher = ScriptedTeacher({text: [word] for text in texts[:4]})
            found = self._run(make_teacher_data_generator, teacher, prompts)
            assert len(found.examples) == 8, f"{len(found.examples)} answers of 8"
            again = [text for text in texts[4:] if teacher.calls[text] != 1]
            assert not again, f"{again} were asked {[teacher.calls[x] for x in again]} times"

    def test_no_more_calls_run_at_once_than_were_allowed(
        self, make_teacher_data_generator: MakeTeacherDataGenerator
    ) -> None:
        """Retries included. Usual causes: a task for every prompt, a semaphore around the making of
        tasks, a slot that is given up before a call is repeated."""
        for allowed in each_case((1, 3)):
            teacher = self._run_beside_a_slow_call(make_teacher_data_generator, allowed)
            assert teacher.most <= allowed, f"{teacher.most} calls at once, not {allowed}"

    @requires("busy")
    def test_as_many_calls_run_at_once_as_were_allowed(
        self, make_teacher_data_generator: MakeTeacherDataGenerator
    ) -> None:
        """A slow call holds up none but itself. Usual causes: prompts asked one by one, chunks that
        wait for their slowest call."""
        for allowed in each_case((2, 3)):
            teacher = self._run_beside_a_slow_call(make_teacher_data_generator, allowed)
            assert teacher.most >= allowed, f"{teacher.most} calls at once, though {allowed} may be"
            early = {text for text, time in teacher.begun if time < SLOW}
            assert len(early) >= 12, f"{len(early)} of 14 prompts were asked beside a slow one"

    # Trying again

    @requires("retries")
    def test_a_call_that_fails_is_repeated_as_often_as_allowed(
        self, make_teacher_data_generator: MakeTeacherDataGenerator
    ) -> None:
        """What fails twice and then answers is an example; what fails always is asked so often.

        Usual causes: attempts counted as retries, no bound, a failure kept beside the answer.
        """
        for attempts in each_case((1, 3)):
            prompts = make_prompts(4)
            late, never = list(prompts.values())[1:3]
            teacher = ScriptedTeacher({late: ["error", "error", "late"], never: ["error"]})
            spec = GeneratorSpec(attempts=attempts)
            found = self._run(make_teacher_data_generator, teacher, prompts, spec)
            assert teacher.calls[never] == attempts, (
                f"a prompt that always fails was asked {teacher.calls[never]} times, not {attempts}"
            )
            answers = {example.prompt: example.answer for example in found.examples}
            assert answers.get(late) == ("late" if attempts == 3 else None)
            assert len(found.examples) + len(found.failures) == len(prompts)

    @requires("retries", "back-off")
    def test_waits_between_the_calls_of_a_prompt_grow(
        self, make_teacher_data_generator: MakeTeacherDataGenerator
    ) -> None:
        """By a factor on average, drawn at random or not: 1.2 or more from one to the next.

        A server that is overloaded gets room. Usual causes: a fixed wait, none at all.
        """
        prompts = make_prompts(40)
        teacher = ScriptedTeacher({text: ["error"] for text in prompts.values()}, lambda _: 0.01)
        spec = GeneratorSpec(concurrency=40, attempts=5)
        self._run(make_teacher_data_generator, teacher, prompts, spec)
        times: dict[str, list[float]] = {}
        for text, time in teacher.begun:
            times.setdefault(text, []).append(time)
        waits = [sum(t[i + 1] - t[i] - 0.01 for t in times.values()) / len(times) for i in range(4)]
        assert waits[0] > 0, "a call is repeated at once"
        assert waits[-1] >= 1.2**3 * waits[0], f"waits are {[round(w, 3) for w in waits]} s"
        assert max(waits) <= self.longest_wait, f"a wait of {max(waits):.3g} s"

    @requires("rate-limit")
    def test_calls_begin_no_faster_than_allowed(
        self, make_teacher_data_generator: MakeTeacherDataGenerator
    ) -> None:
        """In no second more than per_second, repeated calls among them; over all, nearly so many.

        Usual causes: a burst at the start, a limit beside which retries go, a limit per worker.
        """
        prompts = make_prompts(24)
        script = {text: ["error", answer_to(text)] for text in list(prompts.values())[:6]}
        teacher = ScriptedTeacher(script, lambda _: 0.01)
        spec = GeneratorSpec(concurrency=24, attempts=2, per_second=4.0)
        found = self._run(make_teacher_data_generator, teacher, prompts, spec)
        assert len(found.examples) == 24
        times = sorted(time for _, time in teacher.begun)
        for first in times:
            # A window that ends just before the next second, by what a wait may end late.
            count = sum(first <= time < first + 0.99 for time in times)
            assert count <= 4, f"{count} calls began within a second, not 4"

    @requires("timeout")
    def test_a_call_that_hangs_ends(
        self, make_teacher_data_generator: MakeTeacherDataGenerator
    ) -> None:
        """As a failure, after its time; the others are answered, and no call runs on.

        Usual causes: no timeout, one for the whole run, a call that is abandoned and not cancelled.
        """
        prompts = make_prompts(6)
        hanging = list(prompts.values())[1]
        teacher = ScriptedTeacher({hanging: ["hang"]})
        spec = GeneratorSpec(concurrency=2, attempts=1, timeout=30.0)
        found = self._run(make_teacher_data_generator, teacher, prompts, spec)
        self._assert_all(found, prompts, {hanging: ["hang"]})

    # Cancelling and going on

    def test_a_run_that_is_cancelled_calls_nobody_any_more(
        self, make_teacher_data_generator: MakeTeacherDataGenerator
    ) -> None:
        """Calls that run are cancelled, and none begins. Usual causes: tasks that nobody holds,
        CancelledError caught as a failure and tried again."""
        prompts, teacher = make_prompts(20), ScriptedTeacher()

        async def run() -> None:
            made = make_teacher_data_generator(teacher, GeneratorSpec(concurrency=2))
            await _cancelled(made.generate(prompts), after=3.5)
            assert teacher.running == 0, f"{teacher.running} calls run on"
            await asyncio.sleep(100.0)

        with _clock() as clock:
            clock.run(run())
        late = [text for text, time in teacher.begun if time > 3.5 + LATENESS]
        assert len(late) < len(teacher.begun), "no call had begun within 3.5 s"
        assert not late, f"{len(late)} calls began after the run was cancelled"

    @requires("resumable")
    def test_a_run_that_was_cancelled_goes_on_where_it_ended(
        self, make_teacher_data_generator: MakeTeacherDataGenerator
    ) -> None:
        """Every prompt is stored once. What was answered is not asked again; what was cut off, is.

        Usual causes: answers written at the end alone, a file that is begun anew, prompts counted
        and not told apart, an answer stored twice.
        """
        for after in each_case((0.5, 3.5, 8.2)):
            prompts, teacher = make_prompts(20), ScriptedTeacher()
            with _folder() as path:
                with suppress(asyncio.CancelledError), _clock() as clock:
                    clock.run(
                        _cancelled(
                            self._into(make_teacher_data_generator, teacher, prompts, path),
                            after=after,
                        )
                    )
                answered = dict(teacher.ended)
                found = self._finish(make_teacher_data_generator, teacher, prompts, path)
                self._assert_all(found, prompts, {})
                twice = [text for text in answered if teacher.calls[text] > 1]
                # A call that ended in the moment of cancelling may not have been stored.
                assert len(twice) <= GeneratorSpec().concurrency, (
                    f"{len(twice)} of {len(answered)} answered prompts were asked again"
                )
                _assert_lines(path, prompts)

    @requires("resumable")
    def test_a_second_run_asks_for_failures_alone(
        self, make_teacher_data_generator: MakeTeacherDataGenerator
    ) -> None:
        """Failures are no lines of the file, and may be answered today; order is that of the
        prompts. Usual causes: failures stored as done, new answers at the end of the list."""
        prompts = make_prompts(9)
        late = list(prompts.values())[2:4]
        teacher = ScriptedTeacher({text: ["error"] for text in late})
        with _folder() as path:
            spec = GeneratorSpec(attempts=1)
            first = self._finish(make_teacher_data_generator, teacher, prompts, path, spec)
            self._assert_all(first, prompts, teacher.script)
            _assert_lines(path, {k: v for k, v in prompts.items() if v not in late})
            healed = ScriptedTeacher()
            second = self._finish(make_teacher_data_generator, healed, prompts, path, spec)
            self._assert_all(second, prompts, {})
            assert healed.calls == dict.fromkeys(late, 1), f"asked: {dict(healed.calls)}"
            _assert_lines(path, prompts)

    @requires("resumable")
    def test_a_line_that_was_cut_off_is_asked_again(
        self, make_teacher_data_generator: MakeTeacherDataGenerator
    ) -> None:
        """A process that was killed leaves half a line. It harms neither itself nor the next one.

        Usual causes: a reader that fails on it, a line that is appended to the half one.
        """
        for cut in each_case((1, 7)):
            prompts, teacher = make_prompts(6), ScriptedTeacher()
            with _folder() as path:
                self._finish(make_teacher_data_generator, teacher, prompts, path)
                whole = path.read_bytes()
                path.write_bytes(whole[: len(whole) - cut])
                found = self._finish(make_teacher_data_generator, teacher, prompts, path)
                self._assert_all(found, prompts, {})
                _assert_lines(path, prompts)

    # What is in a text

    @requires("reasoning")
    def test_reasoning_is_parted_from_the_answer(
        self, make_teacher_data_generator: MakeTeacherDataGenerator
    ) -> None:
        """Tags that are missing, opened in the prompt, nested, repeated or cut off, each stated.

        Usual causes: a search for the first close, a pattern that needs both tags, a text that was
        cut off in its reasoning taken for an answer.
        """
        made = cast(ReasoningGenerator, self.made_from(make_teacher_data_generator))
        for what, (text, reasoning, answer) in each_case(PARTED.items()):
            found = tuple(" ".join(part.split()) for part in made.part(text))
            expected = " ".join(reasoning.split()), " ".join(answer.split())
            assert found == expected, f"{what}: {text!r} is {found}, not {expected}"

    @requires("reasoning")
    def test_examples_hold_answers_without_reasoning(
        self, make_teacher_data_generator: MakeTeacherDataGenerator
    ) -> None:
        """A text that is reasoning alone is a failure. Usual causes: tags left in the answer."""
        prompts = make_prompts(4)
        texts = list(prompts.values())
        script = {
            texts[0]: [Reply("<think>2 + 2</think>four")],
            texts[1]: [Reply("<think>so long that it was")],
            texts[2]: [Reply("<think>well</think>\n")],
        }
        teacher = ScriptedTeacher(script)
        found = self._run(make_teacher_data_generator, teacher, prompts)
        answers = {each.prompt: (each.reasoning, each.answer) for each in found.examples}
        expected = {texts[0]: ("2 + 2", "four"), texts[3]: ("", answer_to(texts[3]))}
        assert answers == expected, f"{answers}"
        assert len(found.failures) == 2, f"failures: {dict(found.failures)}"

    @requires("numbers")
    def test_the_number_is_that_of_the_answer(
        self, make_teacher_data_generator: MakeTeacherDataGenerator
    ) -> None:
        """Usual causes: the first number of the text, one of the reasoning, a comma or a minus
        lost, the full stop of a sentence read."""
        made = cast(NumberReader, self.made_from(make_teacher_data_generator))
        for what, (text, expected) in each_case(NUMBERS.items()):
            found = made.number(text)
            assert found == expected, f"{what}: {text!r} is {found}, not {expected}"

    @requires("chat-format")
    def test_the_chat_format_holds_every_example(
        self, make_teacher_data_generator: MakeTeacherDataGenerator
    ) -> None:
        """A line an example: an object of messages, a user's and the assistant's, text unchanged.

        Usual causes: a line end within a text, escapes that are not JSON, roles of another format,
        the answer and the prompt swapped.
        """
        made = cast(ChatWriter, self.made_from(make_teacher_data_generator))
        texts = ("plain", 'a "quote"', "two\nlines", "tab\t, é, 中文, 😀", "\u2028 and \\n", "{}")
        examples = [Answered(f"q{i}", f"say {text}", text) for i, text in enumerate(texts)] * 2
        lines = made.chat_lines(examples).split("\n")
        assert lines.pop() == "", "the last line has no end"
        assert len(lines) == len(examples), f"{len(lines)} lines for {len(examples)} examples"
        for line, example in each_case(zip(lines, examples, strict=True)):
            messages = json.loads(line)["messages"]
            said = [(m["role"], m["content"]) for m in messages if m["role"] != "system"]
            expected = [("user", example.prompt), ("assistant", example.answer)]
            assert said == expected, f"{said}"
            extra = {*messages[-1]} - {"role", "content", "weight"}
            assert not extra, f"a message has {extra}, which the format does not know"

    # How properties are tried

    def _run(
        self,
        make: MakeTeacherDataGenerator,
        teacher: ScriptedTeacher,
        prompts: Mapping[str, str],
        spec: GeneratorSpec | None = None,
    ) -> Collected:
        async def run() -> Collected:
            found = await make(teacher, spec or GeneratorSpec()).generate(prompts)
            assert teacher.running == 0, f"{teacher.running} calls run on after the end"
            return found

        with _clock() as clock:
            return clock.run(run())

    def _run_beside_a_slow_call(
        self, make: MakeTeacherDataGenerator, allowed: int
    ) -> ScriptedTeacher:
        """The teacher of 14 prompts, of which one is slow and one has to be asked twice."""
        prompts = make_prompts(14)
        texts = list(prompts.values())
        script: Mapping[str, list[Reply | str]] = {texts[5]: ["error", answer_to(texts[5])]}
        teacher = ScriptedTeacher(script, lambda text: SLOW if text == texts[0] else 1.0)
        self._run(make, teacher, prompts, GeneratorSpec(concurrency=allowed, attempts=2))
        return teacher

    def _finish(
        self,
        make: MakeTeacherDataGenerator,
        teacher: ScriptedTeacher,
        prompts: Mapping[str, str],
        path: Path,
        spec: GeneratorSpec | None = None,
    ) -> Collected:
        with _clock() as clock:
            return clock.run(self._into(make, teacher, prompts, path, spec))

    async def _into(
        self,
        make: MakeTeacherDataGenerator,
        teacher: ScriptedTeacher,
        prompts: Mapping[str, str],
        path: Path,
        spec: GeneratorSpec | None = None,
    ) -> Collected:
        made = cast(StoringGenerator, make(teacher, spec or GeneratorSpec()))
        return await made.generate_into(prompts, path)

    def _assert_all(
        self, found: Collected, prompts: Mapping[str, str], bad: Mapping[str, object]
    ) -> None:
        """Every prompt that is not bad has its own answer, in order; the others are failures."""
        expected = [
            Answered(name, text, answer_to(text))
            for name, text in prompts.items()
            if text not in bad
        ]
        assert list(found.examples) == expected, f"{list(found.examples)}, not {expected}"
        failed = {name for name, text in prompts.items() if text in bad}
        assert {*found.failures} == failed, f"failures {sorted(found.failures)}, not {failed}"


def _assert_lines(path: Path, prompts: Mapping[str, str]) -> None:
    """The file has a line of JSON for each prompt, which holds its answer, and no more."""
    lines = path.read_text(encoding="utf-8").split("\n")
    assert lines.pop() == "", "the last line has no end"
    for line in lines:
        json.loads(line)
    assert len(lines) == len(prompts), f"{len(lines)} lines for {len(prompts)} answers"
    for text in prompts.values():
        holds = [line for line in lines if json.dumps(answer_to(text))[1:-1] + '"' in line]
        assert holds, f"no line holds {answer_to(text)!r}"


async def _cancelled(coroutine: Any, after: float) -> None:
    """Runs for so many seconds, is cancelled, and has a moment to end."""
    task = asyncio.ensure_future(coroutine)
    await asyncio.wait([task], timeout=after)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


@contextmanager
def _clock() -> Iterator[VirtualClock]:
    clock = VirtualClock()
    try:
        yield clock
    finally:
        clock.close()


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "answers.jsonl"


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Names the reply that a failure is about."""
    try:
        yield
    except AssertionError as error:
        error.add_note(f"where the teacher gave {what}")
        raise
