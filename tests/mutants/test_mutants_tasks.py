"""Planted faults of the task gate: each is found by a check that the sound gate passes.

A fault replaces a function where the gate takes it from; the checks know what is right by
themselves, from answers that are counted by hand.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
import torch

from pytest_infopt.engines.base import Capability, TokenEvent
from pytest_infopt.judge.gate_judge import GateJudge
from pytest_infopt.judge.paired import Outcome
from pytest_infopt.metrics.budget import Budget
from pytest_infopt.metrics.metric import Rule
from pytest_infopt.release import ModelSource, Release
from pytest_infopt.results.verdict import Judgement, Verdict

AREA = "7 tasks"
TASKS = "infopt_suites.gates.tasks"
MODULES = {
    name: importlib.import_module(f"{TASKS}.{name}")
    for name in ("answers", "answer_text", "measure", "task_data", "task_verdicts", "task_plan")
}
LOSS = MODULES["task_plan"].LOSS
Item, Task, AskedTask = (
    getattr(MODULES["task_data"], name) for name in ("Item", "Task", "AskedTask")
)


class Letters:
    """An engine whose tokens are letters: ``likely`` ones are e⁴ times as probable as others."""

    name, fingerprint, dtype, device = "letters", "", "float32", "cpu"
    tokenizer_fingerprint = "letters"
    vocabulary, context_window = 128, 10_000
    capabilities = frozenset({Capability.SCORES, Capability.STREAM})

    def __init__(self, likely: str = "", writes: str = "") -> None:
        self._logits = torch.zeros(self.vocabulary)
        self._logits[[ord(letter) for letter in likely]] = 4.0
        self._writes = writes

    def encode(self, text: str, begins_with: str = "nothing") -> list[int]:
        return [ord(letter) % 128 for letter in text]

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(map(chr, token_ids))

    def score(self, token_ids: Sequence[int]) -> Any:
        rows = self._logits.expand(len(token_ids), -1)

        class Rows:
            positions, vocabulary = rows.shape

            def logits(self, start: int, stop: int) -> torch.Tensor:
                return rows[start:stop]

        return Rows()

    def stream(self, prompt_ids: Sequence[int], most: int) -> Iterator[TokenEvent]:
        for letter in self._writes[:most]:
            yield TokenEvent(ord(letter), 0.0)


def answer(engine: Letters, task: Any, normalise: bool = False) -> Any:
    answering = MODULES["answers"].Answering(task, "nothing", normalise, 99)
    return answering.answer(engine, task.items[0])


def written(text: str, right: str) -> bool:
    return bool(answer(Letters(writes=text), Task("t", (Item("0", "?", right),))).right)


def unit(candidate: Letters, reference: Letters, *items: Any) -> Any:
    """A unit of the gate's measure, of all the items."""
    pair: Any = type("Pair", (), {})()
    pair.release = Release(ModelSource("r", "r"), ())
    pair.reference, pair.candidate = reference, candidate
    pair.by_reference = lambda units, ask: partial(ask, reference)
    pair.by_candidate = lambda units, ask: partial(ask, candidate)
    measure = MODULES["measure"].TasksMeasure(pair)
    vars(measure)["_tasks"] = [Task("t", tuple(replace(item, group="g") for item in items))]
    return measure.unit(0, 0)


def choice(right: str, *choices: str, name: str = "0") -> Any:
    return Item(name, "?", right, choices)


# Checks


def choices_by_length() -> None:
    task = Task("t", (choice("abcdefgh", "z", "abcdefgh"),))
    engine = Letters(likely="abcdefgh ")
    assert answer(engine, task, normalise=True).right
    assert not answer(engine, task, normalise=False).right


def choices_by_their_probability() -> None:
    task = Task("t", (choice("ab", "zz", "ab"),))
    for normalise in (True, False):
        assert answer(Letters(likely="b"), task, normalise).right


def numbers() -> None:
    for text, right, expected in [
        ("16 - 3 = 13", "13", True),
        ("it is $1,234.50", "1234.5", True),
        ("18.0", "18", True),
        ("10-3", "3", True),
        ("-5", "5", False),
        ("13, not 12", "13", False),
    ]:
        assert written(text, right) is expected, text


def no_answer_is_no_right_answer() -> None:
    for right in ("7", "yes"):
        assert not written("", right)
        assert not written("I do not know", right)


def the_first_line_counts() -> None:
    assert written("Yes.\nno", "yes")
    assert not written("no\nyes", "yes")


def answers_end_at_the_next_question() -> None:
    assert written("7\n\nQuestion: 9?\nAnswer: 8", "7")


def outcomes_both_ways() -> None:
    item = choice("aa", "aa", "zz")
    good, bad = Letters(likely="a"), Letters(likely="z")
    lost, gained, same = unit(bad, good, item), unit(good, bad, item), unit(good, good, item)
    assert lost.tokens[Rule.PAIRED] == [float(Outcome.LOST)]
    assert gained.tokens[Rule.PAIRED] == [float(Outcome.GAINED)]
    assert same.tokens[Rule.PAIRED] == [float(Outcome.BOTH_RIGHT)]
    assert [flip["flip"] for flip in lost.details["flips"]] == ["lost"]
    assert [flip["flip"] for flip in gained.details["flips"]] == ["gained"]
    assert (lost.values["task_flips_lost"], gained.values["task_flips_gained"]) == (1, 1)


def every_item_of_a_unit_counts() -> None:
    items = [choice("aa", "aa", "zz"), choice("zz", "aa", "zz", name="1")]
    found = unit(Letters(likely="a"), Letters(likely="z"), *items)
    assert found.weight == 2
    assert sorted(found.tokens[Rule.PAIRED]) == sorted([float(Outcome.LOST), float(Outcome.GAINED)])


def answers_are_paired_by_item() -> None:
    """Of 1,319 items, 3 in 4 are right and 1 % flip each way: enough in pairs, not without."""
    judge = GateJudge(
        [LOSS], {LOSS.name: Budget(LOSS, 0.02)}, alpha_pass=0.01, alpha_fail=0.01, planned=1319
    )
    right, wrong = (MODULES["task_data"].Answer("x", each) for each in (True, False))
    for index in range(1319):
        reference = right if index % 4 else wrong
        flips = index % 100 in (0, 1)
        candidate = (wrong if reference.right else right) if flips else reference
        outcome = MODULES["measure"].outcome(reference, candidate)
        judge.update({LOSS.name: [float(outcome)]})
        if judge.decided:
            break
    (row,) = judge.judgements(exhausted=True)
    assert row.verdict is Verdict.PASS
    assert row.details["lost"] + row.details["gained"] <= 0.03 * row.n


def asked(name: str, problem: str = "") -> Any:
    return AskedTask(name, "multiple choice", 400, 0.25, "", problem)


def told(verdict: Verdict, value: float, accuracy: float = 0.8) -> Judgement:
    details = {
        "reference_accuracy": accuracy,
        "candidate_accuracy": accuracy - value,
        "lost": 0,
        "gained": 0,
    }
    return Judgement(LOSS.name, value, 400, 400, verdict, 0.02, details=details)


def judged(*tasks: Any) -> Judgement:
    (row,) = MODULES["task_verdicts"].together(tasks)
    return row


def a_task_that_could_not_run_is_not_green() -> None:
    verdicts = MODULES["task_verdicts"]
    lacking = verdicts.not_run(asked("t1", "no scores"), {LOSS.name: Budget(LOSS, 0.02)})
    passed = verdicts.JudgedTask(asked("t0"), [told(Verdict.PASS, 0.0)], [])
    assert judged(passed, lacking).verdict is Verdict.INCONCLUSIVE
    assert judged(lacking, passed).verdict is Verdict.INCONCLUSIVE


def the_worst_task_decides() -> None:
    made = MODULES["task_verdicts"].JudgedTask
    tasks = [
        made(asked(f"t{index}"), [told(verdict, 0.1 * index)], [])
        for index, verdict in enumerate((Verdict.PASS, Verdict.FAIL, Verdict.PASS))
    ]
    assert judged(*tasks).verdict is Verdict.FAIL


def a_pass_of_guesses_is_none() -> None:
    doubted = MODULES["task_verdicts"].doubted
    assert doubted(told(Verdict.PASS, 0.0, 0.26), 0.25, 0.01).verdict is Verdict.INCONCLUSIVE
    assert doubted(told(Verdict.PASS, 0.0, 0.8), 0.25, 0.01).verdict is Verdict.PASS
    assert doubted(told(Verdict.FAIL, 0.3, 0.26), 0.25, 0.01).verdict is Verdict.FAIL


def examples_are_shown_and_not_measured() -> None:
    items = tuple(Item(f"{n}", f"q{n}", f"{n}") for n in range(8))
    task = Task("t", items).drawn(seed=1, shots=2, most=0)
    assert {item.id for item in task.items} == {f"{n}" for n in range(2, 8)}
    prompt = MODULES["answers"].Answering(task, "nothing", False, 9).prompt(task.items[0])
    assert "q0\nAnswer: 0" in prompt
    assert not prompt.rstrip().endswith(task.items[0].answer)


def items_of_a_passage_are_one_unit() -> None:
    items = tuple(Item(f"{n}", "?", "1", (), f"passage {n // 3}") for n in range(6))
    assert [len(each) for each in Task("t", items).units] == [3, 3]


CHECKS: list[Callable[[], None]] = [
    choices_by_length,
    choices_by_their_probability,
    numbers,
    no_answer_is_no_right_answer,
    the_first_line_counts,
    answers_end_at_the_next_question,
    outcomes_both_ways,
    every_item_of_a_unit_counts,
    answers_are_paired_by_item,
    a_task_that_could_not_run_is_not_green,
    the_worst_task_decides,
    a_pass_of_guesses_is_none,
    examples_are_shown_and_not_measured,
    items_of_a_passage_are_one_unit,
]


# Faults: what is replaced, by what, and the check that finds it


def _sound(target: str) -> Any:
    module, _, path = target.partition(":")
    found = MODULES[module]
    for name in path.split("."):
        found = getattr(found, name)
    return found


def _by_tokens_ignored(engine: Any, prompt: list[int], continuation: list[int]) -> float:
    return float(-len(continuation))


def _first_token(engine: Any, prompt: list[int], continuation: list[int]) -> float:
    rows = engine.score([*prompt, *continuation]).logits(len(prompt) - 1, len(prompt))
    return float(rows.double().log_softmax(-1)[0, continuation[0]])


def _chosen_by(length: Callable[[str], int]) -> Callable[..., str]:
    def chosen(self: Any, engine: Any, prompt: list[int], item: Any) -> str:
        likelihood, choices = MODULES["answers"].log_likelihood, item.choices
        scores = [likelihood(engine, prompt, engine.encode(f" {c}")) / length(c) for c in choices]
        return str(choices[max(range(len(choices)), key=scores.__getitem__)])

    return chosen


def _first_number(text: str) -> Decimal | None:
    found = re.search(r"-?\d+(?:\.\d+)?", text.replace(",", "").replace("$", ""))
    return None if found is None else Decimal(found.group())


def _commas_end_numbers(text: str) -> Decimal | None:
    found = re.findall(r"-?\d+(?:\.\d+)?", text)
    return Decimal(found[-1]) if found else None


def _unsigned(text: str) -> Decimal | None:
    found = re.findall(r"\d+(?:\.\d+)?", text.replace(",", ""))
    return Decimal(found[-1]) if found else None


def _as_text(text: str, answer: str) -> bool:
    return text.rpartition(" ")[2] == answer


def _skipped_is_right(text: str, answer: str) -> bool:
    return MODULES["answer_text"].number_in(text) in (None, Decimal(answer))


def _empty_is_right(text: str, answer: str) -> bool:
    return not text.strip() or text.strip().casefold().startswith(answer)


def _anywhere(text: str, answer: str) -> bool:
    return answer.casefold() in text.casefold() and bool(text)


def _unpaired(reference: Any, candidate: Any) -> Outcome:
    """Which item an answer was to is forgotten: every wrong answer counts as lost."""
    return Outcome.BOTH_RIGHT if candidate.right else Outcome.LOST


def _one_way(reference: Any, candidate: Any) -> Outcome:
    lost = reference.right and not candidate.right
    return Outcome.BOTH_RIGHT if lost else MUTANT_SOUND["outcome"](reference, candidate)


def _swapped(reference: Any, candidate: Any) -> Outcome:
    return MUTANT_SOUND["outcome"](candidate, reference)


def _no_flips(reference: Any, candidate: Any) -> bool:
    return False


def _green(task: Any, budgets: Any) -> Any:
    rows = [Judgement(name, 0.0, 0, 0, Verdict.PASS, b.limit) for name, b in budgets.items()]
    return MODULES["task_verdicts"].JudgedTask(task, rows, [])


def _left_out(task: Any, budgets: Any) -> Any:
    return MODULES["task_verdicts"].JudgedTask(task, [], [])


def _first_task(tasks: Sequence[Any]) -> list[Judgement]:
    return list(tasks[0].judgements)


def _undoubted(judgement: Judgement, chance: float, alpha: float) -> Judgement:
    return judgement


def _all_doubted(judgement: Judgement, chance: float, alpha: float) -> Judgement:
    return replace(judgement, verdict=Verdict.INCONCLUSIVE)


def _examples_measured(self: Any, seed: int, shots: int, most: int) -> Any:
    return replace(self, examples=self.items[:shots])


def _answer_shown(self: Any, item: Any) -> str:
    return f"Question: q0\nAnswer: 0\n\nQuestion: {item.question}\nAnswer: {item.answer}"


MUTANT_SOUND = {"outcome": MODULES["measure"].outcome}
MUTANTS: dict[str, tuple[str, Any, Callable[[], None]]] = {
    "choices by their number of tokens": (
        "answers:log_likelihood",
        _by_tokens_ignored,
        choices_by_their_probability,
    ),
    "choices by their first token": (
        "answers:log_likelihood",
        _first_token,
        choices_by_their_probability,
    ),
    "never normalised": ("answers:Answering._chosen", _chosen_by(lambda c: 1), choices_by_length),
    "always normalised": ("answers:Answering._chosen", _chosen_by(len), choices_by_length),
    "the first number": ("answer_text:number_in", _first_number, numbers),
    "a comma ends a number": ("answer_text:number_in", _commas_end_numbers, numbers),
    "a number without its sign": ("answer_text:number_in", _unsigned, numbers),
    "numbers compared as texts": ("answers:same_number", _as_text, numbers),
    "no number is right": (
        "answers:same_number",
        _skipped_is_right,
        no_answer_is_no_right_answer,
    ),
    "an empty answer is right": (
        "answers:same_text",
        _empty_is_right,
        no_answer_is_no_right_answer,
    ),
    "an answer anywhere is right": ("answers:same_text", _anywhere, the_first_line_counts),
    "answers that run on": ("answers:_NEXT_QUESTION", "\0", answers_end_at_the_next_question),
    "an unpaired statistic": ("measure:outcome", _unpaired, answers_are_paired_by_item),
    "lost answers are not counted": ("measure:outcome", _one_way, outcomes_both_ways),
    "lost and gained swapped": ("measure:outcome", _swapped, outcomes_both_ways),
    "flips are not kept": ("measure:differ", _no_flips, outcomes_both_ways),
    "a task that could not run is green": (
        "task_verdicts:not_run",
        _green,
        a_task_that_could_not_run_is_not_green,
    ),
    "a task that could not run is left out": (
        "task_verdicts:not_run",
        _left_out,
        a_task_that_could_not_run_is_not_green,
    ),
    "the first task decides": ("task_verdicts:together", _first_task, the_worst_task_decides),
    "guesses pass": ("task_verdicts:doubted", _undoubted, a_pass_of_guesses_is_none),
    "a doubt hides a FAIL": ("task_verdicts:doubted", _all_doubted, a_pass_of_guesses_is_none),
    "examples are measured": (
        "task_data:Task.drawn",
        _examples_measured,
        examples_are_shown_and_not_measured,
    ),
    "the answer is in the prompt": (
        "answers:Answering.prompt",
        _answer_shown,
        examples_are_shown_and_not_measured,
    ),
    "items of a passage are alone": (
        "task_data:Task.units",
        property(lambda self: tuple((item,) for item in self.items)),
        items_of_a_passage_are_one_unit,
    ),
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_sound_gate_passes(check: Callable[[], None], counted) -> None:
    counted("sound", AREA)
    check()


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_fault_is_found(name: str, monkeypatch: pytest.MonkeyPatch, counted) -> None:
    counted("mutant", AREA)
    target, fault, check = MUTANTS[name]
    module, _, path = target.partition(":")
    owner, _, attribute = f"{module}.{path}".rpartition(".")
    place = MODULES[module] if owner == module else _sound(owner.replace(".", ":", 1))
    monkeypatch.setattr(place, attribute, fault)
    with pytest.raises(AssertionError):
        check()
