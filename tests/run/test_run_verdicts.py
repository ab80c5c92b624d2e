"""Whole runs on a tiny model: verdicts, exit statuses, reports."""

from __future__ import annotations

import json
import shlex
import sys
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest
import torch
from default_gates import GATES

from pytest_infopt.gates.registry import gates
from pytest_infopt.report.document import result_schema
from pytest_infopt.run.exit_status import ExitStatus


def shuffle_head(module: Any) -> None:
    """Another output head: every prediction is wrong."""
    weight = module.get_output_embeddings().weight
    with torch.no_grad():
        weight.copy_(
            weight[torch.randperm(len(weight), generator=torch.Generator().manual_seed(0))]
        )


def test_the_reference_itself_passes_with_identical_outputs(gate, result) -> None:
    run = gate()
    assert run.ret == ExitStatus.PASSED
    run.stdout.fnmatch_lines(["*identical outputs*", "infopt: PASS*"])
    document = result()
    assert document["verdict"] == "PASS"
    kl = next(row for row in document["gates"] if row["metric"] == "kl_mean")
    assert (kl["value"], kl["verdict"], kl["reason"]) == (0.0, "PASS", "identical outputs")


def test_another_model_fails_and_says_where(gate, result, damaged) -> None:
    path = damaged("broken", shuffle_head)
    run = gate(candidates={"broken": f'model = "{path}"'})
    assert run.ret == ExitStatus.FAILED
    run.stdout.fnmatch_lines(["*FAIL kl_mean*budget*interval*", "*document d*", "*reproduce:*"])
    items = {item["gate"]: item for item in result()["items"]}
    assert items["quality"]["verdict"] == "FAIL"
    finding = items["quality"]["findings"][0]
    assert finding["reference_top"] != finding["candidate_top"]
    assert "test_quality[broken]" in items["quality"]["reproduce"]
    assert items["memory"]["verdict"] == "PASS"


def test_the_command_that_reproduces_a_failure_reproduces_it(
    gate, result, damaged, pytester: pytest.Pytester
) -> None:
    path = damaged("broken", shuffle_head)
    gate(candidates={"broken": f'model = "{path}"'})
    first = result()
    command = next(i["reproduce"] for i in first["items"] if i["gate"] == "quality")
    again = pytester.run("sh", "-c", f"{sys.executable} -m {command} -p no:cacheprovider")
    assert again.ret == ExitStatus.FAILED
    rows = {r["metric"]: r["value"] for r in first["gates"] if r["gate"] == "quality"}
    assert rows == {r["metric"]: r["value"] for r in result()["gates"]}


def one_document(pytester: pytest.Pytester) -> str:
    """Lines for infopt.toml: a corpus of one document."""
    path = pytester.path / "one.jsonl"
    path.write_text(json.dumps({"text": " ".join(["w1"] * 20)}) + "\n")
    return str(path)


def test_one_document_cannot_pass_a_model_that_differs(gate, result, pytester) -> None:
    run = gate(
        *["-k", "quality"],
        candidates={"bf16": 'dtype = "bfloat16"'},
        corpus=one_document(pytester),
        budgets="kl_mean = 10",
    )
    assert run.ret == ExitStatus.INCONCLUSIVE
    run.stdout.fnmatch_lines(["*need about*"])
    row = next(r for r in result()["gates"] if r["metric"] == "kl_mean")
    assert (row["verdict"], row["clusters"], row["needed"]) == ("INCONCLUSIVE", 1, 24)


def test_the_advice_of_an_inconclusive_gate_leads_to_a_verdict(gate, result) -> None:
    arguments: dict[str, Any] = {
        "candidates": {"bf16": 'dtype = "bfloat16"'},
        "budgets": 'kl_mean = 10\nperplexity_ratio = "off"\ntop1_agreement = "off"',
    }
    run = gate("-k", "quality", more="max_documents = 12", **arguments)
    assert run.ret == ExitStatus.INCONCLUSIVE
    row = next(r for r in result()["gates"] if r["metric"] == "kl_mean")
    run = gate("-k", "quality", more=f"max_documents = {12 + row['needed']}", **arguments)
    assert run.ret == ExitStatus.PASSED


def test_policy_warn_lets_an_inconclusive_release_through(gate, result, pytester) -> None:
    run = gate(
        *["-k", "quality", "--infopt-policy=warn"],
        candidates={"bf16": 'dtype = "bfloat16"'},
        corpus=one_document(pytester),
        budgets="kl_mean = 10",
    )
    assert run.ret == ExitStatus.PASSED
    assert result()["verdict"] == "INCONCLUSIVE"


def test_policy_fail_makes_an_inconclusive_gate_a_failed_test(gate, result, pytester) -> None:
    run = gate(
        *["-k", "quality", "--infopt-policy=fail", "--junitxml=junit.xml"],
        candidates={"bf16": 'dtype = "bfloat16"'},
        corpus=one_document(pytester),
        budgets="kl_mean = 10",
    )
    assert run.ret == ExitStatus.INCONCLUSIVE
    assert result()["verdict"] == "INCONCLUSIVE"
    assert result()["failed_tests"] == []
    (case,) = ElementTree.parse(pytester.path / "junit.xml").iter("testcase")
    (failure,) = case.iter("failure")
    assert "need about" in failure.get("message", "")


def test_result_json_keeps_to_its_schema(gate, result, damaged) -> None:
    import jsonschema

    path = damaged("broken", shuffle_head)
    gate(candidates={"same": "", "broken": f'model = "{path}"'})
    jsonschema.Draft202012Validator(result_schema()).validate(result())


def test_junit_carries_every_gate(gate, pytester: pytest.Pytester) -> None:
    gate("--junitxml=junit.xml")
    tree = ElementTree.parse(pytester.path / "junit.xml")
    cases = {case.get("name"): case for case in tree.iter("testcase")}
    assert {"test_quality[same]", "test_memory[same]", "test_equivalence[same]"} <= set(cases)
    values = {p.get("name"): p.get("value") for p in cases["test_quality[same]"].iter("property")}
    assert values["infopt.verdict"] == "PASS"
    assert values["infopt.kl_mean"] == "0"
    classes = {case.get("classname") for case in cases.values()}
    assert "infopt_suites.gates.quality.test_gate_quality" in classes


def test_gates_are_ordinary_items(gate) -> None:
    run = gate("-k", "quality and first", candidates={"first": "", "second": ""})
    unasked = gates().keys() - set(GATES)  # each collected once, for no candidate
    run.assert_outcomes(passed=1, deselected=2 * len(GATES) - 1 + len(unasked))


def test_candidates_are_gated_one_after_the_other(gate, result) -> None:
    gate(candidates={"a": "", "b": ""})
    order = [(item["candidate"], item["gate"]) for item in result()["items"]]
    assert order == [(name, gate_name) for name in "ab" for gate_name in GATES]


def test_latency_is_judged_after_a_self_check(gate, result) -> None:
    run = gate(
        "--infopt-budget-seconds=20",
        "-k",
        "self_check or latency",
        budgets="ttft_ratio = 3.0\ntpot_ratio = 3.0",
        more="[latency]\nprompt_tokens = 8\nnew_tokens = 4",
    )
    assert run.ret == ExitStatus.PASSED
    items = {item["gate"]: item for item in result()["items"]}
    assert list(items) == ["self-check", "latency"]
    slowed = {m: verdict for m, (verdict, _) in items["self-check"]["details"]["slowed"].items()}
    assert slowed["ttft_ratio"] == slowed["tpot_ratio"] == "FAIL"
    assert "PASS" not in slowed.values()  # the means of pairs take longer to decide
    rows = {r["metric"]: r for r in result()["gates"] if r["gate"] == "latency"}
    assert rows["tpot_ratio"]["verdict"] == "PASS"
    assert rows["tpot_ratio"]["clusters"] >= 9


@pytest.mark.slow
def test_xdist_reaches_the_same_verdicts(gate, result, damaged) -> None:
    path = damaged("broken", shuffle_head)
    candidates = {"same": "", "broken": f'model = "{path}"'}
    gate(candidates=candidates)
    alone = {(r["gate"], r["candidate"], r["metric"]): r["value"] for r in result()["gates"]}
    run = gate("-n2", "--dist=loadgroup", candidates=candidates, subprocess=True)
    assert run.ret == ExitStatus.FAILED
    document = result()
    assert document["environment"]["torch"] == torch.__version__
    shared = {(r["gate"], r["candidate"], r["metric"]): r["value"] for r in document["gates"]}
    resident = "host_peak_rss_ratio"
    assert {k: v for k, v in alone.items() if k[2] != resident} == {
        k: v for k, v in shared.items() if k[2] != resident
    }


def test_the_cache_gates_report_what_caches_cost_and_save(gate, result, pytester) -> None:
    run = gate("-k", "kv_cache or prefix_cache", more="[caches]\nlengths = [8, 32]")
    assert run.ret == ExitStatus.PASSED
    run.stdout.fnmatch_lines(
        ["*step's cost grows as length^*", "*pages take 33.3 % more*", "*computed again"]
    )
    items = {item["gate"]: item for item in result()["items"]}
    titles = [table["title"] for table in items["kv-cache"]["details"]["tables"]]
    assert titles == [
        "requested, resolved, observed",
        "cost of a decoding step",
        "KV cache memory",
        "paged against contiguous KV memory",
    ]
    *observed, shared = items["prefix-cache"]["details"]["tables"]
    assert all(requested == seen for each in observed for _, _, requested, seen in each["rows"])
    assert len(shared["rows"]) == 3
    summary = max((pytester.path / ".infopt" / "runs").glob("*/summary.md")).read_text()
    assert "paged against contiguous KV memory</summary>" in summary


FAULTY_CACHE = """
import torch
from pytest_infopt.engines.loaders import load_float

def load(request):
    module = load_float(request)
    plain = module.forward

    def forward(**inputs):
        cache = next((x for x in inputs.values() if hasattr(x, "get_seq_length")), None)
        if cache is not None and cache.get_seq_length():  # positions start anew
            inputs["position_ids"] = torch.arange(inputs["input_ids"].shape[1])[None]
        return plain(**inputs)

    module.forward = forward
    return module
"""


def test_a_faulty_cache_fails_both_cache_gates(gate, result, pytester) -> None:
    (pytester.path / "faulty.py").write_text(FAULTY_CACHE)
    run = gate(
        "-k",
        "kv_cache or prefix_cache",
        candidates={"faulty": 'quantization = "faulty:load"'},
    )
    assert run.ret == ExitStatus.FAILED
    run.stdout.fnmatch_lines(["*FAIL kv_error_ratio*", "*FAIL prefix_error_ratio*"])
    ratios = {r["metric"]: r["value"] for r in result()["gates"]}
    assert min(ratios["kv_error_ratio"], ratios["prefix_error_ratio"]) > 100


def test_the_long_context_sweep_runs_where_lengths_are_named(gate, result) -> None:
    run = gate("-k", "long_context", more="[long_context]\nlengths = [16, 64]\ntail = 8")
    assert run.ret == ExitStatus.PASSED
    (item,) = result()["items"]
    ends, buckets, _ = item["details"]["tables"]
    assert [row[0] for row in ends["rows"]] == [row[0] for row in buckets["rows"]] == [16, 64]
    assert buckets["columns"] == ["tokens", "0–15", "0–63"]
    assert {r["metric"]: r["verdict"] for r in result()["gates"]} == {
        "long_context_kl": "PASS",
        "long_context_bucket_kl": "PASS",
        "long_context_error_ratio": "PASS",
    }


def test_a_text_longer_than_the_corpus_is_no_verdict(gate, result) -> None:
    run = gate("-k", "long_context", more="[long_context]\nlengths = [90000]")
    assert run.ret == ExitStatus.INCONCLUSIVE
    run.stdout.fnmatch_lines(["*a text of 90000 tokens: the corpus has 960*"])


def test_a_gate_ends_with_the_first_metric_that_fails(gate, result, damaged) -> None:
    path = damaged("broken", shuffle_head)
    gate("-k", "quality or kv_cache", candidates={"broken": f'model = "{path}"'})
    rows = [row for row in result()["gates"] if row["gate"] == "quality" and row["budget"]]
    failed = [row for row in rows if row["verdict"] == "FAIL"]  # one document can fail several
    (clusters,) = {row["clusters"] for row in failed}
    assert clusters < 40, "documents were left"
    undecided = [row for row in rows if row not in failed]
    assert undecided
    first = min(row["metric"] for row in failed)
    for row in undecided:
        assert f"undecided when {first} failed" in row["reason"]


def test_a_gate_measures_on_behind_its_verdict_where_that_is_asked_for(
    gate, result, damaged, tiny_corpus
) -> None:
    path = damaged("broken", shuffle_head)
    more = "[statistics]\nstop_when_decided = false\n"
    gate("-k", "quality", candidates={"broken": f'model = "{path}"'}, more=more)
    rows = [row for row in result()["gates"] if row["gate"] == "quality" and row["budget"]]
    assert "FAIL" in {row["verdict"] for row in rows}
    documents = len(tiny_corpus.read_text().splitlines())
    assert {row["clusters"] for row in rows} == {documents}


def test_every_gate_keeps_to_its_time(gate, result) -> None:
    """The first unit is measured however late it is; what is then undecided is INCONCLUSIVE."""
    run = gate(
        *["--infopt-budget-seconds=0.000001", "-k", "quality or equivalence"],
        candidates={"bf16": 'dtype = "bfloat16"'},
    )
    assert run.ret == ExitStatus.INCONCLUSIVE
    for item in result()["items"]:
        assert any("stopped after 1e-06 s" in note for note in item["notes"]), item["gate"]
    units = {row["gate"]: row["clusters"] for row in result()["gates"] if row["verdict"]}
    assert units == {"quality": 1, "equivalence": 1}


def test_the_batching_gate_compares_the_strategies(gate, result) -> None:
    sizes = "batch_sizes = [1, 2, 5]\nmax_batch_size = 3\nrequests = 4\n"
    run = gate(
        "-k",
        "batching",
        more=f"[batching]\n{sizes}prompt_tokens = 8\nnew_tokens = 3",
        budgets="batching_throughput_ratio = 0.01\nwindow_latency_seconds = 10.0",
    )
    assert run.ret == ExitStatus.PASSED
    document = result()
    (item,) = document["items"]
    assert set(item["details"]["errors"]["prompt-0"]) == {"1", "2", "5"}
    *observed, table = item["details"]["tables"]
    assert {row[0] for row in table["rows"]} == {"none", "static", "dynamic", "continuous"}
    rows = [["rows of a batch", size, size, size] for size in (1, 2, 5)]
    assert all(each["rows"] == rows for each in observed)
    assert {row["metric"] for row in document["gates"] if row["verdict"] == "PASS"} == {
        "batch_invariance_error_ratio",
        "batch_invariance_mismatches",
        "batch_same_shape_differences",
        "rows_together_share",
        "batching_throughput_ratio",
        "window_latency_seconds",
    }


ROWS_SEE_EACH_OTHER = """
from pytest_infopt.engines.loaders import load_float

def load(request):
    module = load_float(request)
    embedding = module.get_input_embeddings()
    embedding.register_forward_hook(
        lambda module, inputs, output: output + 0.01 * output.mean(dim=0, keepdim=True)
    )
    return module
"""


def test_rows_that_see_each_other_fail_the_batching_gate(gate, result, pytester) -> None:
    (pytester.path / "leaky.py").write_text(ROWS_SEE_EACH_OTHER)
    run = gate(
        "-k",
        "batching",
        candidates={"leaky": 'quantization = "leaky:load"'},
        more="[batching]\nbatch_sizes = [1, 4]\nmax_batch_size = 2\nrequests = 2\n"
        "prompt_tokens = 8\nnew_tokens = 2",
    )
    assert run.ret == ExitStatus.FAILED
    run.stdout.fnmatch_lines(["*FAIL batch_invariance_error_ratio*"])
    errors = result()["items"][0]["details"]["errors"]["prompt-0"]
    assert errors["1"] <= 2 < errors["4"]


@pytest.mark.parametrize(
    "former",
    [
        "infopt_suites.gates.test_gate_memory::test_memory[same]",
        "infopt_suites/gates/test_gate_memory.py::test_memory[same]",
        "infopt_suites.gates.memory.test_gate_memory::test_memory[same]",
    ],
)
def test_node_ids_of_the_version_before_go_on_working(gate, result, former: str) -> None:
    run = gate("--pyargs", former)
    run.assert_outcomes(passed=1)
    assert [(item["gate"], item["candidate"]) for item in result()["items"]] == [("memory", "same")]


def test_the_command_that_reproduces_runs_that_gate_alone(gate, result) -> None:
    gate("-k", "memory")
    (item,) = result()["items"]
    words = shlex.split(item["reproduce"])
    assert words[:2] == ["pytest", "--infopt"]
    gate(*words[2:]).assert_outcomes(passed=1)
