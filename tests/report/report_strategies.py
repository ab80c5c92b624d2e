"""Random results for property tests: any text, any float, every verdict."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from pytest_infopt.gates.registry import metrics
from pytest_infopt.results.gate_result import GateResult
from pytest_infopt.results.run_result import RunResult
from pytest_infopt.results.verdict import Judgement, Verdict

# Whole runs take long to make; on a busy machine neither that nor a slow example is a failure.
# Shrinking one takes minutes: the same laws on single texts find the small counterexamples.
RELAXED = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)

# Text that a careless report would obey, mixed with any characters at all.
HOSTILE = [
    "\x1b[2J\x1b[31m", "\x9b2J", "\r\n", "\n::error::owned", "##[stop-commands]x", "::", "\u2028",
    "\u202e", "\ud800", "\x00", "\ufffe", "\a\b", "`", "```\n", "|", "<script>alert(1)</script>",
    "</details>", "<!--", "[a](http://b.example)", "https://c.example/x", "www.d.example", "**b**",
    "_i_", "# h", "&amp;", "\\", "%0A", "%", ",title=x::", "]]>", "\u65e5\u672c\u8a9e", "e\u0301",
]  # fmt: skip
text = st.lists(st.sampled_from(HOSTILE) | st.text(max_size=12), max_size=4).map("".join)
names = text.map(lambda part: f"m{part}")
numbers = st.floats(allow_nan=False)
json_data = st.recursive(
    st.none() | st.booleans() | st.integers() | numbers | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
details = st.dictionaries(text, json_data, max_size=3)
seconds = st.floats(min_value=0, max_value=1e6)
counts = st.integers(min_value=0, max_value=10**9)

judgements = st.builds(
    Judgement,
    metric=st.sampled_from(sorted(metrics())) | names,
    value=st.none() | numbers,
    n=counts,
    units=counts,
    verdict=st.none() | st.sampled_from(Verdict),
    budget=st.none() | numbers,
    interval=st.none() | st.tuples(numbers, numbers),
    reason=text,
    needed=st.none() | counts,
    detectable=st.none() | numbers,
    details=details,
)
tops = st.lists(st.tuples(text, st.floats(0, 1)).map(list), min_size=1, max_size=3)
findings: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "document": text,
        "position": counts,
        "context": text,
        "true_token": text,
        "reference_top": tops,
        "candidate_top": tops,
        "kl": numbers,
        "gap_ulps": numbers,
    }
)
gates = st.builds(
    GateResult,
    gate=st.sampled_from(["quality", "equivalence", "latency", "memory"]) | names,
    candidate=st.sampled_from(["int8", "nf4"]) | names,
    seconds=seconds,
    judgements=st.lists(judgements, max_size=3),
    error=st.none() | text,
    notes=st.lists(text, max_size=2),
    findings=st.lists(findings, max_size=2),
    reproduce=text,
    details=details,
)
models = st.builds(lambda name, more: {**more, "name": name}, names, details)
runs = st.builds(
    RunResult,
    version=text,
    started=text,
    run_id=text,
    environment=details,
    reference=models,
    candidates=st.lists(models, max_size=2),
    gates=st.lists(gates, max_size=3),
    seconds=seconds,
    not_run=st.lists(text, max_size=2),
    left_out=st.lists(text, max_size=2),
    not_applicable=st.lists(text, max_size=2),
    failed_tests=st.lists(text, max_size=2),
    faults=st.lists(text, max_size=2),
)
