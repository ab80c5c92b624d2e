"""Copies of tiny models of every family pass every gate or are told why not, and faults fail."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from in_process_run import COPIES, GATES, Outcome, run_gates, write_release
from infopt_reference.weight_matrices import select_weight_matrices
from measure import DATA, QUANTIZED_GATES, measured
from tiny_families import FAMILIES, tiny_config, tiny_model
from tiny_models import cache_in
from transformers import AutoModelForCausalLM

from pytest_infopt.engines.base import ModuleEngine, able
from pytest_infopt.process.model_pair import ModelPair

pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries' own, of some families

KNOWN: dict[str, dict[str, Any]] = json.loads(DATA.read_text(encoding="utf-8"))
FLOATS = COPIES[:2]
AnyKey = TypeVar("AnyKey")
# One family of each kind of cache and of weights.
SAMPLE = {
    "llama": "grouped queries",
    "falcon": "one head of keys",
    "gpt2": "Conv1D",
    "gemma3_text": "windows",
    "gemma3n_text": "layers that share keys",
    "deepseek_v3": "latents, a bias kept in float32, experts",
    "mixtral": "experts",
    "mamba": "a state space",
    "jamba": "a hybrid of states and keys",
    "openai-gpt": "no cache",
}
QUICK = ("equivalence", "kv-cache", "memory")


def complaints(found: dict[AnyKey, Outcome]) -> dict[AnyKey, Outcome]:
    """Outcomes that no copy may have: a gate fails, breaks, or is not run without a reason."""
    sound = {"PASS", "NOT RUN"}
    return {
        key: outcome
        for key, outcome in found.items()
        if outcome.verdict not in sound or (outcome.verdict == "NOT RUN" and not outcome.reason)
    }


@pytest.mark.parametrize("family", SAMPLE)
def test_a_copy_of_each_kind_passes(family: str, tmp_path: Path) -> None:
    write_release(tmp_path, tiny_model(family))
    found = run_gates(tmp_path, FLOATS, QUICK)
    assert not complaints(found)
    assert found["bfloat16", "equivalence"].verdict == "PASS"
    assert found["bfloat16", "memory"].verdict == "PASS"
    unknown = "formula unknown" in found["bfloat16", "memory"].reason
    assert unknown == (family in ("mamba", "jamba"))


def test_every_family_is_known() -> None:
    """A new transformers brings new families: measure them (tests/architectures/measure.py)."""
    assert set(KNOWN) == set(FAMILIES)


def test_most_families_are_measured() -> None:
    kinds = Counter(
        "measured" if "gates" in found else next(iter(found)) for found in KNOWN.values()
    )
    assert kinds["measured"] >= 100
    assert kinds["not built"] <= 30


def test_no_copy_failed_and_nothing_broke() -> None:
    found = {
        (family, copy, gate): outcome
        for family, known in KNOWN.items()
        for copy, gates in known.get("gates", {}).items()
        for gate, outcome in gates.items()
    }
    gates_of = {copy: {gate for _, c, gate in found if c == copy} for copy in COPIES}
    assert gates_of == {copy: set(GATES if copy in FLOATS else QUANTIZED_GATES) for copy in COPIES}
    outcomes = {key: Outcome(cell[0], " ".join(cell[1:])) for key, cell in found.items()}
    assert not complaints(outcomes)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_page_says_what_is_measured(family: str) -> None:
    def verdicts(known: dict[str, Any]) -> dict[tuple[str, str], str]:
        gates = known.get("gates", {})
        return {(c, g): outcome[0] for c, found in gates.items() for g, outcome in found.items()}

    now, before = measured(family), KNOWN[family]
    assert now.keys() == before.keys()
    assert verdicts(now) == verdicts(before)


def zero_one_expert(pair: ModelPair) -> None:
    for name, weight in parameters(pair).items():
        if re.search(r"experts\.down_proj|experts\.1\.down_proj|experts\.w2", name):
            (weight[1] if weight.ndim == 3 else weight).zero_()


def swap_keys(pattern: str) -> Callable[[ModelPair], None]:
    """The rows of matching weights, in another order: heads or channels that are not their own."""

    def damage(pair: ModelPair) -> None:
        found = [weight for name, weight in parameters(pair).items() if re.search(pattern, name)]
        assert found, pattern
        found[0].copy_(found[0].flip(0))

    return damage


def parameters(pair: ModelPair) -> dict[str, torch.Tensor]:
    module = able(pair.candidate, ModuleEngine).module
    return {name: parameter.data for name, parameter in module.named_parameters()}


@pytest.mark.parametrize(
    ("family", "damage"),
    [
        ("llama", swap_keys(r"k_proj")),
        ("falcon", swap_keys(r"query_key_value")),
        ("gpt2", swap_keys(r"c_attn\.weight")),
        ("gemma3n_text", swap_keys(r"layers\.0\.self_attn\.k_proj")),
        ("deepseek_v3", swap_keys(r"kv_b_proj")),
        ("mixtral", zero_one_expert),
        ("mamba", swap_keys(r"x_proj")),
        ("jamba", swap_keys(r"k_proj")),
    ],
)
def test_a_fault_of_each_kind_fails(
    family: str, damage: Callable[[ModelPair], None], tmp_path: Path
) -> None:
    write_release(tmp_path, tiny_model(family))
    found = run_gates(tmp_path, ("bfloat16",), ("equivalence",), damage)
    assert found["bfloat16", "equivalence"].verdict == "FAIL"


def forget(pair: ModelPair, attribute: str) -> None:
    """The candidate's caches are emptied before each pass: wrong through the cache alone."""
    module = able(pair.candidate, ModuleEngine).module
    plain = module.forward

    def forward(**inputs: Any) -> Any:
        for layer in getattr(cache_in(inputs), "layers", ()):
            held = getattr(layer, attribute, None)
            for state in held.values() if isinstance(held, dict) else (held,):
                if state is not None:
                    state.zero_()
        return plain(**inputs)

    module.forward = forward


def test_a_cache_that_forgets_fails_in_a_hybrid(tmp_path: Path) -> None:
    """The states of linear attention are reset before each token."""
    write_release(tmp_path, tiny_model("jamba"))
    damage = partial(forget, attribute="recurrent_states")
    found = run_gates(tmp_path, ("bfloat16",), ("kv-cache",), damage)
    assert found["bfloat16", "kv-cache"].verdict == "FAIL"


@pytest.mark.parametrize("copy", COPIES[2:])
def test_a_limit_on_bytes_knows_what_a_quantizer_leaves_alone(copy: str, tmp_path: Path) -> None:
    """More than half of tiny MiniMax's bytes are a table of decays, which its checkpoint holds."""

    def nothing_done(pair: ModelPair) -> None:
        vars(pair)["candidate"] = pair.reference

    write_release(tmp_path, tiny_model("minimax"))
    done = run_gates(tmp_path, (copy,), ("memory",))[copy, "memory"]
    assert done.verdict == "PASS"
    assert "weight_bytes: the limit follows from the reference's own weights" in done.reason
    not_done = run_gates(tmp_path, (copy,), ("memory",), nothing_done)[copy, "memory"]
    assert not_done.verdict == "FAIL"
    assert re.search("weight_bytes: .* breaks", not_done.reason)


def with_ties(family: str) -> Any:
    """Sparse attention whose indexer has two heads: both give many keys exactly 0, and which of
    these are among the four that a token sees follows from a pass's shape alone."""
    config = tiny_config(family)
    config.index_n_heads = 2
    torch.manual_seed(7)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


SPARSE = ("axk2", "deepseek_v32", "glm_moe_dsa")


def test_shared_experts_in_one_stack_are_quantized() -> None:
    """Inkling multiplies by the transpose of each: they are stored outputs first."""
    model = tiny_model("inkling_text")
    hidden, inner = model.config.hidden_size, model.config.moe_intermediate_size
    assert hidden != inner
    stacks = {
        name: (matrix.in_features, matrix.out_features)
        for name, matrix in select_weight_matrices(model).chosen.items()
        if "shared_experts" in name
    }
    assert {"gate_proj", "up_proj", "down_proj"} == {name.rpartition(".")[2] for name in stacks}
    for name, sizes in stacks.items():
        assert sizes == ((inner, hidden) if name.endswith("down_proj") else (hidden, inner))


@pytest.mark.slow
@pytest.mark.parametrize("family", SPARSE)
def test_what_ties_decide_is_charged_to_the_reference(family: str, tmp_path: Path) -> None:
    write_release(tmp_path, with_ties(family))
    found = run_gates(tmp_path, gates=QUICK)
    assert not complaints(found)
    assert "the reference's own weights differ" in found["int8", "kv-cache"].reason


@pytest.mark.parametrize("family", SPARSE)
@pytest.mark.parametrize("states", ["keys", "indexer_keys"])
def test_a_cache_that_forgets_fails_among_ties(family: str, states: str, tmp_path: Path) -> None:
    write_release(tmp_path, with_ties(family))
    damage = partial(forget, attribute=states)
    found = run_gates(tmp_path, ("int8",), ("kv-cache",), damage)
    assert found["int8", "kv-cache"].verdict == "FAIL"


def long_rope() -> Any:
    """Phi-3 with a window of 16 tokens that its rope was scaled for: beyond, a plain pass takes the
    long factors for all positions, and the cache keeps keys that were rotated by the short ones."""
    half = 8
    config = tiny_config("phi3")
    config.original_max_position_embeddings = 16
    config.rope_parameters = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * half,
        "long_factor": [4.0] * half,
        "original_max_position_embeddings": 16,
        "partial_rotary_factor": 1.0,
    }
    torch.manual_seed(7)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def test_a_fault_of_the_library_is_said_to_be_the_references(tmp_path: Path) -> None:
    write_release(tmp_path, long_rope())
    found = run_gates(tmp_path, FLOATS, QUICK)
    assert not complaints(found)
    for copy in FLOATS:
        assert "the reference's own weights differ" in found[copy, "kv-cache"].reason
        assert found[copy, "memory"].verdict == "PASS"  # frequencies stay in float32


@pytest.mark.slow
@pytest.mark.parametrize("family", ["falcon", "deepseek_v3", "mixtral", "jamba", "mamba"])
def test_a_copy_passes_in_a_run_of_pytest(family: str, tmp_path: Path) -> None:
    write_release(tmp_path, tiny_model(family))
    which = "bfloat16 and (equivalence or kv_cache or memory)"
    command = [sys.executable, "-m", "pytest", "--infopt", "-q", "-k", which]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    (report,) = (tmp_path / ".infopt" / "runs").glob("*/result.json")
    gates = json.loads(report.read_text(encoding="utf-8"))["gates"]
    verdicts = {gate["gate"]: gate["verdict"] for gate in gates if gate["verdict"]}
    assert verdicts == {"equivalence": "PASS", "kv-cache": "PASS", "memory": "PASS"}, run.stdout
