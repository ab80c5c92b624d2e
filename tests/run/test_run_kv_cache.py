"""Candidates whose KV cache is of another format: a sound one passes, a faulty one fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_infopt.run.exit_status import ExitStatus

# Of 96 tokens, the window of the tiny model: a block in the middle is lost; scales are wrong.
CACHES = """
from infopt_reference.attention import KVCache, QuantizedCache
from infopt_reference.attention.transformers_cache import TransformersCache
from pytest_infopt.engines.transformers.kv_cache_makers import SCHEMES

class Loses(KVCache):
    def _decode(self, stored):
        keys, values = (x.clone() for x in stored)
        if keys.shape[2] > 64:
            keys[:, :, 16:48] = values[:, :, 16:48] = 0
        return keys, values

class Scales(QuantizedCache):
    def _decode(self, stored):
        keys, values = super()._decode(stored)
        keys[:, :, 48:] *= 2
        values[:, :, 48:] *= 2
        return keys, values

def sound(config):
    return TransformersCache.of(config, KVCache)

def loses(config):
    return TransformersCache.of(config, Loses)

def scales(config):
    return TransformersCache.of(config, lambda: Scales(SCHEMES["int4"]))
"""


def test_int8_passes_through_every_gate_on_caches(gate, result) -> None:
    run = gate(
        "-k",
        "equivalence or kv_cache or long_context or memory",
        candidates={"int8": 'kv_cache = "int8"'},
    )
    assert run.ret == ExitStatus.PASSED
    document = result()
    rows = {row["metric"]: row for row in document["gates"]}
    assert rows["kv_size_error"]["value"] == rows["kv_prediction_error"]["value"] == 0
    assert rows["long_context_bucket_kl"]["verdict"] == "PASS"
    assert 0 < rows["long_context_kl"]["value"] < rows["long_context_kl"]["budget"]
    (told,) = document["not_applicable"]
    assert told.startswith("int8: not applicable to engine transformers with kv_cache: modules ")
    tables = [t for item in document["items"] for t in item["details"].get("tables", ())]
    (asked,) = (row for t in tables for row in t["rows"] if row[0] == "keys, values and states")
    assert asked[1] == "int8"


@pytest.mark.parametrize(
    ("cache", "status"),
    [
        ("sound", ExitStatus.PASSED),
        ("loses", ExitStatus.FAILED),
        ("scales", ExitStatus.FAILED),
    ],
)
def test_a_planted_fault_of_a_cache_fails_at_length(
    gate, result, pytester: pytest.Pytester, cache: str, status: ExitStatus
) -> None:
    Path(pytester.path / "own_caches.py").write_text(CACHES)
    run = gate("-k", "long_context", candidates={cache: f'kv_cache = "own_caches:{cache}"'})
    assert run.ret == status
    verdicts = {row["metric"]: row["verdict"] for row in result()["gates"]}
    assert verdicts["long_context_bucket_kl"] == ("PASS" if cache == "sound" else "FAIL")


def test_the_plan_tells_the_sweep_and_what_it_costs(gate) -> None:
    plan = gate("--collect-only", candidates={"int8": 'kv_cache = "int8"'})
    plan.stdout.fnmatch_lines(["*KV cache int8*", "*5,120 tokens at most through reference*"])
