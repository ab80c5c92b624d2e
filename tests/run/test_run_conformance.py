"""Implementations by configuration, and suites of the user's own, under ``pytest --infopt``.

The suite here is one of sorters, so that no run loads torch. It comes from a distribution of
somebody else's, with an entry point: what a third party needs for a suite is a class and a line.
"""

from __future__ import annotations

import html
import json
import os
import shlex
import shutil
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import infopt_suites
import infopt_suites.properties  # a run in this process forgets what it imports first
import pytest

from pytest_infopt.run.exit_status import ExitStatus

SUITE = '''
from collections.abc import Sequence
from typing import Any, ClassVar

from hypothesis import strategies as st
from infopt_suites import Suite, for_all, requires

class SorterSuite(Suite):
    topic = "sorter"
    fixture = "make_sorter"
    fixture_returns = "a callable without arguments"
    offers = {"stable": "equal keys keep their order", "reverse": "sort(values, reverse=True)"}
    longest: ClassVar[int] = 5

    def test_neighbours_are_in_order(self, make_sorter) -> None:
        """Whoever bisects needs it. Usual causes: an early exit."""
        def holds(values):
            found = make_sorter()(list(values))
            assert all(a <= b for a, b in zip(found, found[1:])), f"{values} became {found}"
        for_all(holds, st.lists(st.integers(0, 9), max_size=self.longest))

    def test_nothing_is_lost(self, make_sorter) -> None:
        """Sorting moves. Usual causes: a set."""
        def holds(values):
            assert len(make_sorter()(list(values))) == len(values)
        for_all(holds, st.lists(st.integers(0, 9), max_size=self.longest))

    @requires("stable")
    def test_equal_keys_keep_their_order(self, make_sorter) -> None:
        """Usual causes: a heap."""
        found = make_sorter()([1, 1.0])
        assert [type(value) for value in found] == [int, float]

    @requires("reverse")
    def test_reverse_reverses(self, make_sorter) -> None:
        """Usual causes: none known."""
        assert make_sorter()([1, 2], reverse=True) == [2, 1]

class LongSorterSuite(SorterSuite):
    topic = "long_sorter"
    longest = 9
'''
ENTRY_POINTS = """
[infopt.suites]
sorter = sorter_suite:SorterSuite
long_sorter = sorter_suite:LongSorterSuite
mislabelled = sorter_suite:SorterSuite
moved = sorter_suite:SorterSuit
"""
SORTERS = """
def sound():
    return sorted
sound.capabilities = {"stable"}

def lazy():
    return lambda values: values
"""
NAMES = ("equal_keys_keep_their_order", "neighbours_are_in_order", "nothing_is_lost")

Run = Callable[..., pytest.RunResult]


@pytest.fixture
def conform(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> Run:
    """``conform("quantizer = …", sorters="…python…")`` runs what [implementations] names."""
    site = tmp_path_factory.mktemp("site")
    (site / "sorter_suite.py").write_text(SUITE)
    metadata = site / "sorters_for_all-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: sorters-for-all\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(site)
    path = [str(site), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))

    def run(
        implementations: str, *arguments: str, sorters: str = SORTERS, subprocess: bool = False
    ) -> pytest.RunResult:
        pytester.makepyfile(sorters=sorters)
        table = f"[implementations]\n{implementations}\n" if implementations else ""
        (pytester.path / "infopt.toml").write_text(table)
        words = ["--infopt", "-p", "no:cacheprovider", *arguments]
        return (pytester.runpytest_subprocess if subprocess else pytester.runpytest_inprocess)(
            *words
        )

    return run


def rows(document: dict[str, Any], candidate: str) -> dict[str, dict[str, Any]]:
    return {row["metric"]: row for row in document["gates"] if row["candidate"] == candidate}


def test_each_property_of_an_implementation_is_a_row(conform: Run, result) -> None:
    run = conform('sorter = "sorters:sound"')
    assert run.ret == ExitStatus.PASSED
    found = rows(result(), "sorter sorters:sound")
    assert {row["gate"] for row in found.values()} == {"conformance"}
    assert {name: row["verdict"] for name, row in found.items()} == {
        **dict.fromkeys(NAMES, "PASS"),
        "reverse_reverses": None,
    }
    assert found["reverse_reverses"]["reason"].startswith("not offered: reverse: sort(values")
    run.stdout.fnmatch_lines(
        [
            "*implementations sorter sorters:sound",
            "sorter sorters:sound: PASS",
            "*4 properties: 3 passed, 1 not offered",
            "*reverse not claimed: 1 property not tried (reverse_reverses)",
            "infopt: PASS (1 PASS)*",
        ]
    )


def test_a_broken_property_fails_the_run_with_its_smallest_counterexample(
    conform: Run, result
) -> None:
    run = conform('sorter = "sorters:lazy"')
    assert run.ret == ExitStatus.FAILED
    row = rows(result(), "sorter sorters:lazy")["neighbours_are_in_order"]
    assert row["verdict"] == "FAIL"
    assert row["reason"] == "[1, 0] became [1, 0]; smallest case found: [1, 0]"
    assert row["details"]["law"].endswith("Usual causes: an early exit.")
    run.stdout.fnmatch_lines(
        [
            "*: the property does not hold",
            "[[]1, 0] became [[]1, 0]",
            "smallest case found: [[]1, 0]",
            "*Usual causes: an early exit.",
            "*FAIL neighbours_are_in_order",
            "FAILED",
        ]
    )
    assert "hypothesis" not in run.stdout.str().partition("FAILURES")[2].partition("infopt =")[0]


def test_an_assertion_without_words_says_what_it_compared(conform: Run, result) -> None:
    unstable = "def made():\n    return lambda values: sorted(values[::-1])\n"
    conform('sorter = "sorters:made"', sorters=unstable + 'made.capabilities = {"stable"}')
    row = rows(result(), "sorter sorters:made")["equal_keys_keep_their_order"]
    assert row["reason"] == "assert [type(value) for value in found] == [int, float]"
    assert "At index 0 diff: <class 'float'> != <class 'int'>" in row["details"]["message"]


def test_an_exception_of_the_implementations_own_keeps_its_traceback(conform: Run) -> None:
    run = conform('sorter = "sorters:raising"', sorters="def raising():\n    return 1 / 0")
    assert run.ret == ExitStatus.FAILED
    run.stdout.fnmatch_lines(
        [
            "*sorters.py:2: in raising",
            "*return 1 / 0",
            "E*ZeroDivisionError*",
            "E*smallest case found: *",
            "*what decides which cases are tried*",
            "*Claimed: none. Declared: longest = 5.*",
        ]
    )
    assert "properties.py" not in run.stdout.str()
    assert "Usual causes" not in run.stdout.str()


def test_what_the_suite_stumbles_over_shows_the_suites_own_line(conform: Run) -> None:
    run = conform('sorter = "sorters:none"', sorters="def none():\n    return lambda values: None")
    assert run.ret == ExitStatus.FAILED
    run.stdout.fnmatch_lines(
        ["*sorter_suite.py:*", "E*TypeError: 'NoneType' object*", "E*smallest case found: *"]
    )


def test_a_property_says_on_how_many_cases_it_passed(conform: Run, result) -> None:
    run = conform('sorter = "sorters:sound"')
    cases = {name: row["n"] for name, row in rows(result(), "sorter sorters:sound").items()}
    assert cases == {
        "equal_keys_keep_their_order": 1,
        "neighbours_are_in_order": 40,
        "nothing_is_lost": 40,
        "reverse_reverses": 0,
    }
    run.stdout.fnmatch_lines(["*tried on 81 cases, at least 1 (equal_keys_keep_their_order)"])


EMPTY = """
import pytest
from infopt_suites import Suite
from infopt_suites.tally import each_case, note_kinds

class EmptySuite(Suite):
    topic = "sorter"
    fixture = "make_sorter"
    fixture_returns = "a callable without arguments"
    lengths = (1, 2)
    def test_it_sorts(self, make_sorter):
        "Usual causes: none."
        for length in each_case(n for n in self.lengths if n > 2):
            assert make_sorter()([0] * length)

class TestNothing(EmptySuite):
    @pytest.fixture
    def make_sorter(self):
        return lambda: 1 / 0

class TestInstance(EmptySuite):
    def test_of_ones_own(self, make_sorter):
        pass
    @pytest.fixture
    def make_sorter(self):
        return [1, 2]

class KindsSuite(EmptySuite):
    topic = "sorter"
    def test_kinds(self, make_sorter):
        "Usual causes: none."
        for length in each_case(self.lengths):
            note_kinds(length=length)

class TestKinds(KindsSuite):
    @pytest.fixture
    def make_sorter(self):
        return list
"""


def test_what_tried_nothing_does_not_pass(conform: Run, result) -> None:
    run = conform('sorter = "sorters:TestNothing"', sorters=EMPTY)
    assert run.ret == ExitStatus.INCONCLUSIVE
    row = rows(result(), "sorter sorters:TestNothing")["it_sorts"]
    assert row["verdict"] is None
    assert row["reason"].startswith("nothing to try: no case of this property fits")
    run.stdout.fnmatch_lines(["*1 property: 1 nothing to try", "*nothing to try: it_sorts"])


def test_an_implementation_that_cannot_be_is_said_once(conform: Run, result) -> None:
    run = conform('sorter = "sorters:TestInstance"', sorters=EMPTY)
    assert run.ret == ExitStatus.FAILED
    row = rows(result(), "sorter sorters:TestInstance")["it_sorts"]
    said = "TestInstance: make_sorter has to give a callable without arguments, not a list"
    assert (row["verdict"], row["reason"]) == ("FAIL", said)
    assert run.stdout.str().partition("infopt =")[0].count(said) == 1
    assert "Usual causes" not in run.stdout.str()


def test_kinds_of_cases_are_named(conform: Run) -> None:
    run = conform('sorter = "sorters:TestKinds"', sorters=EMPTY)
    run.stdout.fnmatch_lines(["*1 nothing to try", "*tried on 2 cases, *; length: 1, 2"])


def test_reports_show_the_whole_message(
    conform: Run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    run = conform('sorter = "sorters:lazy"')
    summary = max((pytester.path / ".infopt" / "runs").glob("*/summary.md")).read_text()
    assert "FAIL neighbours_are_in_order" in summary
    assert "    Whoever bisects needs it. Usual causes: an early exit." in summary
    run.stdout.fnmatch_lines(["::error title=infopt FAIL%3A conformance of sorter sorters%3Alazy*"])


def test_named_implementations_of_one_topic_run_side_by_side(conform: Run, result) -> None:
    run = conform('sorter.good = "sorters:sound"\nsorter.bad = "sorters:lazy"')
    assert run.ret == ExitStatus.FAILED
    document = result()
    verdicts = {item["candidate"]: item["verdict"] for item in document["items"]}
    assert verdicts == {"sorter good": "PASS", "sorter bad": "FAIL"}
    assert all(rows(document, name) for name in verdicts)


def test_the_command_that_reproduces_runs_that_implementation_alone(
    conform: Run, result, pytester: pytest.Pytester
) -> None:
    two = 'sorter.good = "sorters:sound"\nsorter.bad = "sorters:lazy"'
    conform(two)
    command = next(i["reproduce"] for i in result()["items"] if i["verdict"] == "FAIL")
    words = shlex.split(command)
    assert words == ["pytest", "--infopt", "infopt.toml::sorter::bad"]
    run = pytester.runpytest_inprocess(*words[1:])
    assert run.ret == ExitStatus.FAILED
    run.stdout.fnmatch_lines(["infopt.toml F*"])
    assert {item["candidate"] for item in result()["items"]} == {"sorter bad"}
    property_ = f"{words[-1]}::test_nothing_is_lost"
    assert pytester.runpytest_inprocess("--infopt", property_).ret == ExitStatus.PASSED
    assert len(result()["gates"]) == 1


def test_the_command_that_reproduces_runs_where_the_run_was_started(
    conform: Run, result, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = pytester.mkdir("releases") / "next release.toml"
    release.write_text('[implementations]\nsorter = "sorters:lazy"\n')
    pytester.makepyfile(**{"releases/sorters": SORTERS})
    for folder in ("releases", "."):
        monkeypatch.chdir(pytester.path / folder)
        config = os.path.relpath(release)
        words = ["--infopt", f"--infopt-config={config}", f"--rootdir={pytester.path}"]
        assert pytester.runpytest_inprocess(*words).ret == ExitStatus.FAILED
        command = shlex.split(result()["items"][0]["reproduce"])
        assert command[-1] == f"{config}::sorter::sorters:lazy"
        again = pytester.runpytest_inprocess(*command[1:], f"--rootdir={pytester.path}")
        assert again.ret == ExitStatus.FAILED
        again.stdout.fnmatch_lines(["*1 failed, *"])


@pytest.mark.parametrize(
    "former",
    [
        ["--pyargs", "infopt_suites.gates.test_gate_conformance_sorter{}"],
        ["suites/infopt_suites/gates/test_gate_conformance_sorter.py{}"],
    ],
)
def test_ids_of_version_0_1_still_run(conform: Run, result, former: list[str]) -> None:
    two = 'sorter.good = "sorters:sound"\nsorter.bad = "sorters:lazy"'
    for rest, count in (("", 8), ("::good", 4), ("::good::test_nothing_is_lost", 1)):
        conform(two, *[word.format(rest) for word in former])
        assert len(result()["gates"]) == count


def test_who_asks_for_the_shipped_gates_gets_implementations_and_no_tests_of_ones_own(
    conform: Run, result, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(test_mine=OWN)
    assert conform('sorter = "sorters:sound"', "--pyargs", "infopt_suites.gates").ret == 0
    assert [item["candidate"] for item in result()["items"]] == ["sorter sorters:sound"]
    pytester.mkdir("tests")
    assert conform('sorter = "sorters:sound"', "tests").ret == ExitStatus.PASSED
    assert [item["candidate"] for item in result()["items"]] == ["sorter sorters:sound"]
    assert conform('sorter = "sorters:sound"', ".").ret == ExitStatus.PASSED
    assert {item["candidate"] for item in result()["items"]} == {
        "sorter sorters:sound",
        "sorter test_mine.py::TestMine",
    }


def test_implementations_are_collected_once_wherever_their_file_lies(
    conform: Run, result, pytester: pytest.Pytester
) -> None:
    conform('sorter = "sorters:sound"').stdout.fnmatch_lines(["* / 4 selected"])
    assert len(result()["gates"]) == 4
    hidden = pytester.mkdir(".ci") / "release.toml"  # a folder that pytest does not walk
    (pytester.path / "infopt.toml").rename(hidden)
    words = ["--infopt", f"--infopt-config={hidden}", "-p", "no:cacheprovider"]
    assert pytester.runpytest_inprocess(*words).ret == ExitStatus.PASSED
    assert len(result()["gates"]) == 4


def test_shipped_gates_are_collected_from_a_virtual_environment_in_the_project(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = pytester.path / ".venv" / "site-packages"
    shutil.copytree(infopt_suites.__path__[0], site / "infopt_suites")
    monkeypatch.setenv("PYTHONPATH", str(site), prepend=os.pathsep)
    run = pytester.runpytest_subprocess("--infopt", "--collect-only", "-q")
    assert run.ret == pytest.ExitCode.OK
    run.stdout.fnmatch_lines(["infopt_suites/gates/quality/test_gate_quality.py::test_quality*"])


def test_implementations_of_two_topics_may_have_one_name(conform: Run, result) -> None:
    conform('sorter.mine = "sorters:sound"\nlong_sorter.mine = "sorters:sound"', "-k", "mine")
    titles = {item["candidate"] for item in result()["items"]}
    assert titles == {"sorter mine", "long_sorter mine"}


def test_k_selects_implementations_and_properties(conform: Run, result) -> None:
    two = 'sorter.good = "sorters:sound"\nsorter.bad = "sorters:lazy"'
    assert conform(two, "-k", "good and lost").ret == ExitStatus.PASSED
    (row,) = result()["gates"]
    assert (row["candidate"], row["metric"]) == ("sorter good", "nothing_is_lost")


@pytest.mark.parametrize(
    ("implementations", "line", "parts"),
    [
        ('sortr = "sorters:sound"', 2, ["unknown topic", "did you mean sorter?"]),
        ('sorter = "sortes:sound"', 2, ["sortes:sound", "No module named 'sortes'"]),
        ('\nsorter = "sorters:soun"', 3, ["module sorters has no 'soun'", "did you mean sound?"]),
        ('sorter = "sorters:Sound.make"', 2, ["has no 'Sound'"]),
        ('sorter.a = "sorters:claims"', 2, ["implementations.sorter.a", "mean stable?"]),
        ('sorter = "sorters:expects"', 2, ["expected failure", "mean test_nothing_is_lost?"]),
        ('sorter = "sorters:Other"', 2, ["Other is a suite of the topic 'other'"]),
        ('mislabelled = "sorters:sound"', 2, ["SorterSuite is a suite of the topic 'sorter'"]),
        ('moved = "sorters:sound"', 2, ["sorter_suite:SorterSuit", "did you mean SorterSuite?"]),
        ('sorter = "broken:make"', 2, ["importing broken failed", "RuntimeError: at import"]),
        ('sorter."a b" = "sorters:sound"', 2, ["'a b'", "letters, digits"]),
        ("sorter = 3", 2, ["implementations.sorter", "not 3"]),
        ('sorter.a = "sorters"', 2, ["implementations.sorter.a", '"module:name"']),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_runs(
    conform: Run, pytester: pytest.Pytester, implementations: str, line: int, parts: list[str]
) -> None:
    pytester.makepyfile(broken="raise RuntimeError('at import')")
    wrong = """
def claims(): ...
claims.capabilities = {"stabel"}
def expects(): ...
expects.expected_failures = {"test_nothing_lost": "#1"}
from infopt_suites.base import Suite
class Other(Suite):
    topic = "other"
"""
    run = conform(implementations, sorters=SORTERS + wrong)
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    message = run.stderr.str()
    assert f"infopt.toml:{line}:" in message
    assert "Traceback" not in message
    for part in parts:
        assert part in message


EXPECTING = 'sound.expected_failures = {"test_nothing_is_lost": "#812"}\n'


def test_an_expected_failure_is_listed_and_fails_nothing(conform: Run, result) -> None:
    lossy = "def sound():\n    return lambda values: sorted(set(values))\n" + EXPECTING
    run = conform('sorter = "sorters:sound"', sorters=lossy)
    assert run.ret == ExitStatus.PASSED
    row = rows(result(), "sorter sorters:sound")["nothing_is_lost"]
    assert (row["verdict"], row["reason"]) == (None, "expected failure: #812")
    run.stdout.fnmatch_lines(["*1 failed as expected*", "*nothing_is_lost: expected failure: #812"])


def test_a_repaired_expected_failure_fails(conform: Run, result) -> None:
    run = conform('sorter = "sorters:sound"', sorters=SORTERS + EXPECTING)
    assert run.ret == ExitStatus.FAILED
    row = rows(result(), "sorter sorters:sound")["nothing_is_lost"]
    assert row["verdict"] == "FAIL"
    assert "remove it from expected_failures" in row["reason"]
    assert "#812" in row["reason"]


def test_a_property_that_is_skipped_otherwise_is_not_run_and_fails(conform: Run, result) -> None:
    skips = "import pytest\ndef make():\n    pytest.skip('no kernel here')\n"
    run = conform('sorter = "sorters:make"', sorters=skips)
    assert run.ret == ExitStatus.FAILED
    row = rows(result(), "sorter sorters:make")["nothing_is_lost"]
    assert (row["verdict"], row["reason"]) == ("FAIL", "NOT RUN: no kernel here")


def test_a_property_under_a_skip_marker_is_not_run_and_fails(
    conform: Run, result, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(
        test_mine="""
        import pytest
        from sorter_suite import SorterSuite

        @pytest.mark.skip(reason="later")
        class TestMine(SorterSuite):
            @pytest.fixture
            def make_sorter(self):
                return lambda: sorted
        """
    )
    run = conform("")
    assert run.ret == pytest.ExitCode.USAGE_ERROR  # nothing at all is configured
    run = conform('sorter = "sorters:sound"')
    assert run.ret == ExitStatus.FAILED
    found = rows(result(), "sorter test_mine.py::TestMine")
    assert found["nothing_is_lost"]["reason"] == "NOT RUN: later"
    run.stdout.fnmatch_lines(["NOT RUN: later", "*2 failed*"])
    assert "error" not in run.stdout.str().splitlines()[-1]


@pytest.mark.parametrize("by", ["subclass", "configuration"])
def test_capabilities_that_nobody_claims_are_shown_with_what_they_leave_untried(
    conform: Run, result, pytester: pytest.Pytester, by: str
) -> None:
    silent = "def silent():\n    return sorted\n"
    if by == "subclass":
        pytester.makepyfile(test_mine=OWN.replace('    capabilities = {"reverse"}\n', ""))
    table = 'sorter = "sorters:silent"'
    arguments = ["test_mine.py"] if by == "subclass" else []
    untried = [
        "*reverse not claimed: 1 property not tried (reverse_reverses)",
        "*stable not claimed: 1 property not tried (equal_keys_keep_their_order)",
    ]
    planned = conform(table, "--collect-only", "-q", *arguments, sorters=silent)
    planned.stdout.fnmatch_lines(["implementation *: 4 properties, 2 not offered", *untried])
    run = conform(table, *arguments, sorters=silent)
    assert run.ret == ExitStatus.PASSED
    run.stdout.fnmatch_lines(["*4 properties: 2 passed, 2 not offered", *untried])
    item = result()["items"][-1]
    assert item["notes"][2:] == [line.removeprefix("*") for line in untried]
    summary = max((pytester.path / ".infopt" / "runs").glob("*/summary.md")).read_text()
    assert "reverse not claimed: 1 property not tried" in html.unescape(summary)


def test_a_factory_that_cannot_be_had_is_an_error_and_no_verdict(
    conform: Run, result, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(
        test_mine="""
        from sorter_suite import SorterSuite
        class TestMine(SorterSuite):
            pass
        """
    )
    run = conform('sorter = "sorters:sound"')
    assert run.ret == ExitStatus.HARNESS_ERROR
    item = next(i for i in result()["items"] if i["candidate"].endswith("TestMine"))
    assert item["verdict"] == "ERROR"
    assert item["error"].count("has no fixture 'make_sorter'") == 1
    run.stdout.fnmatch_lines(["ERRORS", "*TestMine conformance: TestMine is a SorterSuite*"])


OWN = """
import pytest
from sorter_suite import SorterSuite

class TestMine(SorterSuite):
    capabilities = {"reverse"}
    @pytest.fixture
    def make_sorter(self):
        return lambda: sorted

def test_unmarked():
    raise AssertionError("not a part of the release")
"""


def test_suites_of_ones_own_run_without_a_marker(
    conform: Run, result, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(test_mine=OWN)
    run = conform('sorter = "sorters:sound"')
    assert run.ret == ExitStatus.PASSED
    found = rows(result(), "sorter test_mine.py::TestMine")
    assert found["reverse_reverses"]["verdict"] == "PASS"
    assert found["equal_keys_keep_their_order"]["verdict"] is None
    assert {i["candidate"] for i in result()["items"]} == {
        "sorter sorters:sound",
        "sorter test_mine.py::TestMine",
    }


def test_without_infopt_a_suite_is_an_ordinary_class(
    conform: Run, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(test_mine=OWN)
    run = pytester.runpytest_inprocess("-rs", "-p", "no:cacheprovider")
    run.assert_outcomes(passed=3, skipped=1, failed=1)
    run.stdout.fnmatch_lines(["SKIPPED*not offered: stable: equal keys keep their order"])
    assert not (pytester.path / ".infopt").exists()


def test_a_target_that_is_a_suites_class_is_collected_itself(conform: Run, result) -> None:
    run = conform('sorter.mine = "sorters:TestMine"', sorters=OWN.replace("unmarked", "x"))
    assert run.ret == ExitStatus.PASSED
    assert rows(result(), "sorter mine")["reverse_reverses"]["verdict"] == "PASS"


def test_the_suites_class_attributes_are_the_targets(conform: Run, result) -> None:
    only_short = """
class Sorter:
    longest = 1
    def __call__(self, values):
        return values
"""
    conform('sorter = "sorters:Sorter"', sorters=only_short)
    found = rows(result(), "sorter sorters:Sorter")
    assert found["neighbours_are_in_order"]["verdict"] == "PASS"


def test_the_plan_counts_properties(conform: Run, pytester: pytest.Pytester) -> None:
    run = conform('sorter = "sorters:sound"', "--collect-only", "-q", sorters=SORTERS + EXPECTING)
    assert run.ret == pytest.ExitCode.OK
    run.stdout.fnmatch_lines(
        [
            "implementation sorter sorters:sound: 4 properties, 1 not offered, 1 expected to fail",
            "  reverse not claimed: 1 property not tried (reverse_reverses)",
        ]
    )
    assert not list(pytester.path.glob(".infopt/runs/*/result.json"))


def test_what_an_early_exit_kept_from_running_is_listed(conform: Run, result) -> None:
    run = conform('sorter.bad = "sorters:lazy"\nsorter.good = "sorters:sound"', "-x")
    assert run.ret == ExitStatus.FAILED
    assert result()["not_run"] == [
        "conformance of sorter bad: 3 of 4 properties",
        "conformance of sorter good",
    ]


@pytest.mark.slow
def test_workers_of_xdist_report_the_same_rows(conform: Run, result) -> None:
    two = 'sorter.good = "sorters:sound"\nsorter.bad = "sorters:lazy"'
    found = []
    for arguments in ([], ["-n2"]):
        run = conform(two, *arguments, subprocess=True)
        assert run.ret == ExitStatus.FAILED
        document = result()
        judged = [
            (r["candidate"], r["metric"], r["verdict"], r["reason"]) for r in document["gates"]
        ]
        found.append(sorted(judged, key=str))
    assert found[0] == found[1]
    assert len(found[0]) == 8


def test_junit_carries_each_property(conform: Run, pytester: pytest.Pytester) -> None:
    conform('sorter = "sorters:lazy"', "--junitxml=out.xml")
    cases = ElementTree.parse(pytester.path / "out.xml").getroot().iter("testcase")
    values = {
        case.attrib["name"]: {p.attrib["name"]: p.attrib["value"] for p in case.iter("property")}
        for case in cases
    }
    assert values["test_neighbours_are_in_order"]["infopt.verdict"] == "FAIL"
    carried = json.loads(values["test_nothing_is_lost"]["infopt"])
    assert carried["judgements"][0]["metric"] == "nothing_is_lost"


def test_python_functions_and_classes_of_the_users_do_not_hide_properties(
    conform: Run, pytester: pytest.Pytester, result
) -> None:
    pytester.makeini("[pytest]\npython_functions = check_*\npython_classes = Check*\n")
    assert conform('sorter = "sorters:sound"').ret == ExitStatus.PASSED
    assert len(result()["gates"]) == 4


def test_a_topic_that_is_not_configured_is_not_imported(
    conform: Run, pytester: pytest.Pytester
) -> None:
    pytester.makeconftest(
        "import sys\ndef pytest_sessionfinish():\n    print('loaded', 'torch' in sys.modules)\n"
    )
    run = conform('sorter = "sorters:sound"', "-s", subprocess=True)
    assert run.ret == ExitStatus.PASSED
    run.stdout.fnmatch_lines(["*loaded False*"])


def test_models_and_implementations_are_one_release(conform: Run, gate, result) -> None:
    conform('sorter = "sorters:sound"', "--collect-only")  # writes the modules
    run = gate(
        "--rootdir=.",
        "--pyargs",
        "infopt_suites.gates.test_gate_quality::test_quality",
        "infopt.toml::sorter::sorters:lazy",
        budgets='kl_mean = 10\nperplexity_ratio = "off"\ntop1_agreement = "off"',
        more='[implementations]\nsorter = "sorters:lazy"',
    )
    assert run.ret == ExitStatus.FAILED
    verdicts = {item["candidate"]: item["verdict"] for item in result()["items"]}
    assert verdicts == {"same": "PASS", "sorter sorters:lazy": "FAIL"}


def test_lf_runs_again_what_failed(conform: Run, result) -> None:
    two = 'sorter.good = "sorters:sound"\nsorter.bad = "sorters:lazy"'
    remember = ["-p", "cacheprovider"]
    conform(two, *remember)
    assert conform(two, *remember, "--lf").ret == ExitStatus.FAILED
    (row,) = result()["gates"]
    assert (row["candidate"], row["metric"]) == ("sorter bad", "neighbours_are_in_order")


def test_an_xfail_marker_and_a_passed_property_under_it_are_told_apart(
    conform: Run, result, pytester: pytest.Pytester
) -> None:
    marked = OWN.replace("class TestMine", '@pytest.mark.xfail(reason="new")\nclass TestMine')
    pytester.makepyfile(test_mine=marked.replace("lambda: sorted", "lambda: lambda values: values"))
    assert conform('sorter = "sorters:sound"').ret == ExitStatus.PASSED
    found = rows(result(), "sorter test_mine.py::TestMine")
    assert found["neighbours_are_in_order"]["reason"] == "expected failure: new"
    assert found["nothing_is_lost"]["verdict"] == "PASS"
