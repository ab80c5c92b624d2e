"""Result files of other tools, read: each figure is what its name says in every one of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import recorded_results as written
from hypothesis import given
from hypothesis import strategies as st
from recorded_results import Session

from pytest_infopt.engines.base import Capability
from pytest_infopt.engines.result_files.load import load_recorded
from pytest_infopt.engines.result_files.reading import read_recordings
from pytest_infopt.errors import ConfigurationError, NotSupportedError
from pytest_infopt.release import ModelSource

SERVING: dict[str, Callable[[Session], dict[str, Any]]] = {
    "vllm": written.vllm,
    "sglang": written.sglang,
    "guidellm": written.guidellm,
    "aiperf": written.aiperf,
}


def source(*files: str) -> ModelSource:
    options = {"files": list(files)} if files else {}
    return ModelSource("old", "my-model", engine="recorded-results", options=options)


@pytest.mark.parametrize("tool", SERVING)
@given(
    session=st.builds(
        Session,
        ttft=st.floats(1e-3, 100),
        gap=st.floats(1e-4, 10),
        requests=st.integers(1, 50),
        tokens=st.integers(2, 500),
    )
)
def test_times_and_rates_are_those_of_the_session(
    tool: str, session: Session, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("results")
    (recording,) = read_recordings(written.write(folder / "run.jsonl", SERVING[tool](session)))
    assert recording.tool == tool
    assert recording.model == "my-model"
    assert recording.is_timed
    assert not recording.faults
    assert recording.seconds["ttft"] == pytest.approx(session.ttft)
    assert recording.seconds["tpot"] == pytest.approx(session.gap)
    assert recording.seconds.get("e2e", session.e2e) == pytest.approx(session.e2e)
    assert recording.tokens_per_second == pytest.approx(session.rate)


@pytest.mark.parametrize("tool", SERVING)
def test_failed_requests_are_faults(tool: str, tmp_path: Path) -> None:
    path = written.write(tmp_path / "run.json", SERVING[tool](Session(failed=2)))
    (recording,) = read_recordings(path)
    assert recording.faults == ("2 of 6 requests failed or did not end",)


@pytest.mark.parametrize("tool", SERVING)
@pytest.mark.parametrize("other", [Session(requests=5), Session(tokens=8)])
def test_other_work_has_other_settings(tool: str, other: Session, tmp_path: Path) -> None:
    one, two = (
        read_recordings(written.write(tmp_path / f"{i}.json", SERVING[tool](session)))[0]
        for i, session in enumerate((Session(), other))
    )
    assert one.settings != two.settings


@pytest.mark.parametrize("tool", ["vllm", "guidellm", "aiperf"])
def test_times_of_files_sort_as_text(tool: str, tmp_path: Path) -> None:
    ends = [
        read_recordings(written.write(tmp_path / "run.json", SERVING[tool](Session(finished=m))))[0]
        for m in (1, 9, 10, 59, 60, 600)
    ]
    assert [each.finished for each in ends] == sorted({each.finished for each in ends})


def test_end_to_end_times_of_vllm_leave_failed_requests_out(tmp_path: Path) -> None:
    session = Session(requests=1, failed=3)
    path = written.write(tmp_path / "run.json", written.vllm(session, detailed=True))
    (recording,) = read_recordings(path)
    assert recording.seconds["e2e"] == pytest.approx(session.e2e)


def test_each_line_and_each_benchmark_is_a_session(tmp_path: Path) -> None:
    lines = written.write(tmp_path / "s.jsonl", *map(written.sglang, (Session(0.5), Session(0.75))))
    report = written.write(tmp_path / "g.json", written.guidellm(Session(0.5), Session(0.75)))
    for path in (lines, report):
        assert [each.seconds["ttft"] for each in read_recordings(path)] == [0.5, 0.75]


def test_a_cancelled_run_is_a_fault(tmp_path: Path) -> None:
    document = written.aiperf(Session()) | {"is_complete": False, "incomplete_reason": "a stall"}
    (recording,) = read_recordings(written.write(tmp_path / "a.json", document))
    assert recording.faults == ("the run did not end: a stall",)


def test_a_filter_of_lm_eval_is_a_task(tmp_path: Path) -> None:
    lines = written.lm_eval_samples([True, False], strict=[False, False])
    name = "samples_gsm8k_cot_2026-11-29T01-02-03.000004.jsonl"
    (recording,) = read_recordings(written.write(tmp_path / name, *lines))
    right = {
        task: [answer.right for answers in items.values() for answer in answers]
        for task, items in recording.answers.items()
    }
    assert right == {
        "gsm8k_cot exact_match (flexible-extract)": [True, False],
        "gsm8k_cot exact_match (strict-match)": [False, False],
    }
    assert recording.finished == "2026-11-29T01-02-03.000004"


def test_grades_between_right_and_wrong_are_no_answers(tmp_path: Path) -> None:
    lines = written.lm_eval_samples([True, False])
    lines[1]["exact_match"] = 0.5
    with pytest.raises(ConfigurationError, match="no answer that is right or wrong, only grades"):
        read_recordings(written.write(tmp_path / "samples_t.jsonl", *lines))


def test_epochs_of_inspect_are_answers_to_one_item(tmp_path: Path) -> None:
    log = written.inspect({"a": ["C", "I"], "b": ["N", "C"]}, status="error")
    (recording,) = read_recordings(written.write(tmp_path / "log.json", log))
    (items,) = recording.answers.values()
    assert {item: [a.right for a in answers] for item, answers in items.items()} == {
        "a": [True, False],
        "b": [False, True],
    }
    assert len({answer.asked for answers in items.values() for answer in answers}) == 2
    assert recording.faults == ("its status is 'error'",)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'{"a": 1}', "no result file of SGLang, vLLM"),
        (b"[1]", "holds no JSON objects"),
        (b"{", "is no JSON"),
        (b"", "holds no JSON objects"),
        (b"PK\x03\x04", "inspect log convert"),
        (b'{"model_id": "m", "num_prompts": 1, "output_throughput": 1}', "KeyError: 'completed'"),
    ],
)
def test_a_file_that_is_none_is_named(content: bytes, told: str, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"run\.json") as error:
        read_recordings(path)
    assert told in str(error.value)


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), "12", None, True])
def test_a_rate_that_is_none_is_refused(value: object, tmp_path: Path) -> None:
    document = written.vllm(Session()) | {"output_throughput": value}
    with pytest.raises(ConfigurationError, match="is like a result of vLLM"):
        read_recordings(written.write(tmp_path / "run.json", document))


def test_an_engine_of_records_is_asked_for_nothing_else(tmp_path: Path) -> None:
    written.write(tmp_path / "1.json", written.vllm(Session(0.5)))
    written.write(tmp_path / "2.json", written.vllm(Session(0.75)))
    engine = load_recorded(source(f"{tmp_path}/2.json", f"{tmp_path}/*.json"))
    assert engine.capabilities == {Capability.RECORDED}
    assert [each.seconds["ttft"] for each in engine.recordings] == [0.75, 0.5]
    other = load_recorded(source(f"{tmp_path}/*.json"))
    assert engine.fingerprint != other.fingerprint
    for asked in (lambda: engine.encode("a"), lambda: engine.decode([1])):
        with pytest.raises(NotSupportedError, match="is recorded"):
            asked()


@pytest.mark.parametrize(("files", "told"), [((), "options.files"), (("no*.json",), "no file")])
def test_a_source_without_files_says_so(files: tuple[str, ...], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        load_recorded(source(*files))
