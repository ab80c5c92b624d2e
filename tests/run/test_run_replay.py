"""A journal of an earlier version replays to that version's verdicts, number for number.

`earlier_run` is what the commit 4a2eb5c wrote of the release below: two candidates, every gate that
takes models, both verdicts. Its samples are judged anew here; none is measured again.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_infopt.configuration import fingerprint, load_release
from pytest_infopt.gates.registry import metrics
from pytest_infopt.judge.dependence import FEWEST_UNITS
from pytest_infopt.strict_json import loads

EARLIER = Path(__file__).parent / "earlier_run"
# The limits of that time are written out: the defaults have been measured anew since.
CANDIDATES = {
    "bf16": 'dtype = "bfloat16"\nbudgets = { kl_mean = 0.005, top1_agreement = 0.95, '
    "perplexity_ratio = 1.05 }",
    "int4": 'quantization = "int4"\nbudgets = { kl_mean = 0.032, top1_agreement = 0.913, '
    "perplexity_ratio = 1.039, long_context_kl = 0.064 }",
}
BUDGETS = "ttft_ratio = 50\ntpot_ratio = 50\nkl_p99 = 0.5\n"
UNMEASURED = {"changed_share", "bits_per_weight"}  # shares of weights, which are limited now


def later_metrics() -> list[str]:
    """Those that the earlier run did not know: they had no part in its error rates."""
    known = {row["metric"] for row in loads(read("result.json.gz"))["gates"]}
    return sorted(metrics().keys() - known - UNMEASURED)


SIZES = """
[batching]
batch_sizes = [1, 2]
[long_context]
lengths = [16]
[caches]
lengths = [8, 16]
batch_sizes = [1, 2]
system_tokens = 16
question_tokens = 4
requests = 2
block_size = 4
[latency]
prompt_tokens = 4
new_tokens = 2
warmup = 1
[diagnose]
seconds = 0
[statistics]
seed = 3
"""
# A reason says what is promised now. What is detectable follows from the metric's part of the error
# rate, of which limits that hold for every value no longer take any.
OF_THE_RUN = ("item", "seconds", "reason", "detectable")


def test_an_earlier_journal_replays_to_its_result(
    gate: Callable[..., pytest.RunResult],
    result: Callable[[], dict[str, Any]],
    pytester: pytest.Pytester,
) -> None:
    def run(*arguments: str) -> pytest.RunResult:
        later = "".join(f'{name} = "off"\n' for name in later_metrics())
        return gate(*arguments, candidates=CANDIDATES, budgets=BUDGETS + later, more=SIZES)

    run("--collect-only")  # writes the configuration
    folder = pytester.path / ".infopt" / "runs" / "earlier"
    folder.mkdir(parents=True)
    gated = fingerprint(load_release(pytester.path), pytester.path)
    (folder / "journal.jsonl").write_text("\n".join(samples_of_the_earlier_run(gated)) + "\n")
    run("--infopt-resume=earlier")
    before, after = loads(read("result.json.gz")), loads((folder / "result.json").read_text())
    replayed, recorded = rows(after), rows(before)
    assert replayed.keys() >= recorded.keys()
    # A gate now ends when one metric has failed, where it went on until all were decided.
    ended_earlier = ("quality", "int4")
    for key, row in recorded.items():
        if key[:2] == ended_earlier:
            continue
        if key[2] == "perplexity_ratio":
            assert replayed[key]["value"] == mean_ratio(*key)
        else:
            assert replayed[key] == {**row, **judged_otherwise(key[2], row)}, key
    # Its memory gate had no shares of weights to tell, and they are not measured here.
    expected = {**verdicts(before), ("memory", "int4"): "INCONCLUSIVE"}
    assert verdicts(after) == expected
    new_rows = replayed.keys() - recorded.keys()
    assert {key[2] for key in new_rows if replayed[key]["verdict"]} == UNMEASURED
    earlier = {k for k, r in recorded.items() if k[:2] == ended_earlier and r["verdict"] == "FAIL"}
    now = {k for k, r in replayed.items() if k[:2] == ended_earlier and r["verdict"] == "FAIL"}
    assert now
    assert now <= earlier
    assert verdicts(after)[ended_earlier] == "FAIL"
    journal = (folder / "journal.jsonl").read_text().splitlines()
    new = journal[len(samples_of_the_earlier_run(gated)) :]
    lines = [json.loads(line) for line in new]
    assert {line["kind"] for line in lines} == {"run", "item", "collection", "sample"}
    # What that run measured is not measured again; these gates look at more than they did.
    more = {
        (line["gate"], line["phase"].partition(" after")[0])
        for line in lines
        if line["kind"] == "sample"
    }
    # Pairs of the gate batching were of a phase that was called otherwise.
    assert more == {
        ("quality", "profile"),
        ("kv-cache", "long prompt"),
        ("long-context", "needles"),
        ("batching", "pairs"),
    }
    records = [json.loads(line) for line in read("journal.jsonl.gz").splitlines()]
    assert not more & {(r["gate"], r["phase"]) for r in records if r["kind"] == "sample"}


def samples_of_the_earlier_run(gated: str) -> list[str]:
    """Its journal, as if it had gated the release of that fingerprint, which is made otherwise now.

    Kept of it are the samples: the lines with the verdicts are taken out.
    """
    records = [json.loads(line) for line in read("journal.jsonl.gz").splitlines()]
    return [
        json.dumps({**record, "fingerprint": gated} if record["kind"] == "run" else record)
        for record in records
    ]


def read(name: str) -> str:
    return gzip.decompress((EARLIER / name).read_bytes()).decode()


def verdicts(document: dict[str, Any]) -> dict[tuple[str, str], str]:
    return {(item["gate"], item["candidate"]): item["verdict"] for item in document["items"]}


def judged_otherwise(metric: str, row: dict[str, Any]) -> dict[str, Any]:
    """What is not that version's any more: from fewer than fifty requests in a row, nobody knows
    how they depend on each other, and so no interval."""
    if not metrics()[metric].serial:
        return {}
    assert row["clusters"] < FEWEST_UNITS
    return {"interval": [0.0, math.inf]}


def mean_ratio(gate: str, candidate: str, metric: str) -> float:
    """The ratio was the median document's, and is the published one now: exp of the mean."""
    records = [json.loads(line) for line in read("journal.jsonl.gz").splitlines()]
    values = [
        record["sample"]["values"][metric]
        for record in records
        if record["kind"] == "sample" and (record["gate"], record["candidate"]) == (gate, candidate)
    ]
    return math.exp(math.fsum(values) / len(values))


def rows(document: dict[str, Any]) -> dict[tuple[str, str, str], dict[str, Any]]:
    """Every judgement by gate, candidate and metric, with all of its numbers and words."""
    return {
        (row["gate"], row["candidate"], row["metric"]): {
            key: value for key, value in row.items() if key not in OF_THE_RUN
        }
        for row in document["gates"]
    }
