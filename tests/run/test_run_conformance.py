"""Door 2, and suites of the user's own, under ``pytest --infopt``: rows, verdicts, exit statuses.

The suite here is one of sorters, so that no run loads torch; its gate file lies where a shipped
one's would, through a conftest that adds a folder to `infopt_suites.gates`.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import infopt_suites.gates
import infopt_suites.laws  # what a run in this process imports first is forgotten
import pytest

from pytest_infopt.run.exit_status import ExitStatus

SUITE = '''
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
from hypothesis import strategies as st
from infopt_suites.base import Suite, requires
from infopt_suites.laws import for_all

class SorterSuite(Suite):
    topic = "sorter"
    offers = {"stable": "equal keys keep their order", "reverse": "sort(values, reverse=True)"}
    longest: ClassVar[int] = 5

    @pytest.fixture
    def make_sorter(self) -> Any:
        self.missing_fixture("make_sorter", "a callable without arguments")

    def test_neighbours_are_in_order(self, make_sorter) -> None:
        """Whoever bisects needs it. Usual causes: an early exit."""
        def law(values):
            found = make_sorter()(list(values))
            assert all(a <= b for a, b in zip(found, found[1:])), f"{values} became {found}"
        for_all(law, st.lists(st.integers(0, 9), max_size=self.longest))

    def test_nothing_is_lost(self, make_sorter) -> None:
        """Sorting moves. Usual causes: a set."""
        def law(values):
            assert len(make_sorter()(list(values))) == len(values)
        for_all(law, st.lists(st.integers(0, 9), max_size=self.longest))

    @requires("stable")
    def test_equal_keys_keep_their_order(self, make_sorter) -> None:
        """Usual causes: a heap."""
        assert make_sorter()([1, True]) == [1, True]

    @requires("reverse")
    def test_reverse_reverses(self, make_sorter) -> None:
        """Usual causes: none known."""
        assert make_sorter()([1, 2], reverse=True) == [2, 1]
'''
GATE_FILE = """
import pytest
from infopt_suites.configured import Configured
from sorter_suite import SorterSuite

class TestSorter(Configured, SorterSuite):
    @pytest.fixture
    def make_sorter(self):
        return self.implementation
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
    folder = tmp_path_factory.mktemp("gates")
    (folder / "test_gate_conformance_sorter.py").write_text(GATE_FILE)
    # The conftest appends to this copy, which goes with the test.
    monkeypatch.setattr(infopt_suites.gates, "__path__", [*infopt_suites.gates.__path__])
    pytester.makeconftest(
        f"import infopt_suites.gates\ninfopt_suites.gates.__path__.append({str(folder)!r})"
    )
    pytester.makepyfile(sorter_suite=SUITE)

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


def gate_file() -> Path:
    return next(Path(infopt_suites.gates.__path__[-1]).glob("*_sorter.py"))


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
            "*not offered: reverse_reverses",
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


def test_an_exception_of_the_implementations_own_keeps_its_traceback(conform: Run) -> None:
    run = conform('sorter = "sorters:raising"', sorters="def raising():\n    return 1 / 0")
    assert run.ret == ExitStatus.FAILED
    run.stdout.fnmatch_lines(["*return 1 / 0", "E*ZeroDivisionError*"])


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
    module = "infopt_suites.gates.test_gate_conformance_sorter"
    assert words == ["pytest", "--infopt", "--pyargs", f"{module}::bad"]
    # The folder of this gate is no package's first, which is where --pyargs looks.
    run = conform(two, "--rootdir=.", f"{gate_file()}::bad")
    assert run.ret == ExitStatus.FAILED
    assert {item["candidate"] for item in result()["items"]} == {"sorter bad"}


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
        ('sorter.a = "sorters:claims"', 2, ["implementations.sorter.a", "mean 'stable'?"]),
        ('sorter = "sorters:expects"', 2, ["expected failure", "mean 'test_nothing_is_lost'?"]),
        ('sorter = "sorters:Other"', 2, ["Other is of a suite of the topic 'other'"]),
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


def test_a_suite_test_under_a_skip_marker_is_not_run_and_fails(
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
        ["implementation sorter sorters:sound: 4 properties, 1 not offered, 1 expected to fail"]
    )
    assert not list(pytester.path.glob(".infopt/runs/*/result.json"))


def test_what_an_early_exit_kept_from_running_is_listed(conform: Run, result) -> None:
    run = conform('sorter.bad = "sorters:lazy"\nsorter.good = "sorters:sound"', "-x")
    assert run.ret == ExitStatus.FAILED
    assert result()["not_run"] == ["conformance of sorter good"]


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
        (pytester.path / "conftest.py").read_text() + "\nimport sys\ndef pytest_sessionfinish():\n"
        "    print('loaded', 'torch' in sys.modules)\n"
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
        f"{gate_file()}::sorters:lazy",
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
