"""infopt.toml and the command line, to a release or to one clear error."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from infopt_suites.gates.long_context.gate import LongContextPlan
from infopt_suites.gates.plans import CachesPlan, EquivalencePlan, LatencyPlan
from infopt_suites.gates.semantic_cache.gate import SemanticCachePlan

from pytest_infopt.configuration import fingerprint, load_release, missing, plan_lines
from pytest_infopt.configuration.schema import release_file_model
from pytest_infopt.corpus.calibration import calibration_documents
from pytest_infopt.engines import formats
from pytest_infopt.errors import ConfigurationError
from pytest_infopt.gates.registry import gate_named
from pytest_infopt.options import Settings
from pytest_infopt.release import Draft, ModelSource, Release, ServerSource, Statistics

WHOLE = """
[reference]
model = "models/base"
dtype = "bf16"
device = "cpu"

[candidates.int8]
quantization = "int8"
options = {skip = ["lm_head"]}

[candidates.int8.budgets]
kl_mean = 0.25
ttft_ratio = "off"

[candidates.other]
model = "org/other"
device = "cuda:0"

[budgets]
kl_mean = "0.5 nats"
top1_agreement = "60 %"
weight_bytes = "0.4x"

[corpus]
files = ["texts/*.txt"]
max_tokens = 128

[latency]
new_tokens = 8

[equivalence]
oracle = "float64"

[caches]
lengths = [32, 64]
batch_sizes = [8]

[long_context]
lengths = [512, 4096]

[statistics]
alpha_pass = 0.05
seed = 4
policy = "warn"
budget_seconds = 5
timeout_seconds = 60.0

[implementations]
quantizer = "package.module:Factory"

[report]
directory = "out"

[baseline]
file = "baseline.json"
"""


def load(root: Path, text: str | None = None, **settings: Any) -> Release:
    if text is not None:
        (root / "infopt.toml").write_text(text, encoding="utf-8")
    return load_release(root, Settings(**settings))


def refusal(root: Path, text: str | None = None, **settings: Any) -> str:
    with pytest.raises(ConfigurationError) as raised:
        load(root, text, **settings)
    return str(raised.value)


def test_every_key_arrives(tmp_path: Path) -> None:
    (tmp_path / "models" / "base").mkdir(parents=True)
    release = load(tmp_path, WHOLE)
    assert release.reference.model == str(tmp_path / "models" / "base")
    assert (release.reference.dtype, release.reference.device) == ("bfloat16", "cpu")
    int8, other = (c.source for c in release.candidates)
    assert (int8.model, int8.quantization) == (release.reference.model, "int8")
    assert (int8.dtype, int8.device, int8.options) == ("bfloat16", "cpu", {"skip": ["lm_head"]})
    assert (other.model, other.dtype, other.device) == ("org/other", "auto", "cuda:0")
    assert release.corpus.files == (tmp_path / "texts" / "*.txt",)
    assert (release.corpus.max_tokens, release.plan(LatencyPlan).new_tokens) == (128, 8)
    assert release.plan(EquivalencePlan).oracle == "float64"
    caches, sweep = release.plan(CachesPlan), release.plan(LongContextPlan)
    assert (caches.lengths, caches.batch_sizes) == ((32, 64), (8,))
    assert (sweep.lengths, sweep.texts) == ((512, 4096), 1)
    assert release.statistics == Statistics(0.05, 0.01, 5, True, 4, "warn", 60.0)
    (implementation,) = release.implementations
    assert (implementation.title, implementation.target) == (
        "quantizer package.module:Factory",
        "package.module:Factory",
    )
    assert implementation.origin.endswith(":49: implementations.quantizer")
    assert (release.report_dir, release.baseline) == (tmp_path / "out", tmp_path / "baseline.json")
    assert release.origin == str(tmp_path / "infopt.toml")


def test_budgets_candidate_over_global_over_format(tmp_path: Path) -> None:
    int8, other = load(tmp_path, WHOLE).candidates
    assert int8.budgets["kl_mean"].limit == 0.25
    assert int8.budgets["kl_mean"].origin.endswith("infopt.toml:12")
    assert other.budgets["kl_mean"].limit == 0.5
    assert int8.budgets["top1_agreement"].limit == pytest.approx(0.6)
    assert (int8.budgets["weight_bytes"].limit, int8.budgets["weight_bytes"].relative) == (
        0.4,
        True,
    )
    assert "ttft_ratio" not in int8.budgets
    assert int8.budgets["perplexity_ratio"].origin == "default for 8-bit weights"
    assert other.budgets["ttft_ratio"].limit == 1.05  # it runs on CUDA


def test_a_long_text_is_granted_twice_what_the_mean_is(tmp_path: Path) -> None:
    int8, other = load(tmp_path, WHOLE).candidates
    assert int8.budgets["long_context_kl"].limit == 2 * 0.25
    assert other.budgets["long_context_kl"].limit == 2 * 0.5
    assert int8.budgets["long_context_error_ratio"].limit == 2.0
    limited = WHOLE.replace("kl_mean = 0.25", 'long_context_kl = "off"\nkl_mean = 0.25')
    int8, other = load(tmp_path, limited).candidates
    assert "long_context_kl" not in int8.budgets


def test_batch_sizes_bring_the_batching_gate(tmp_path: Path) -> None:
    (candidate,) = load(tmp_path, ONE + "[batching]\nbatch_sizes = [1, 8]\n").candidates
    assert set(gate_named("batching").limits_among(candidate.budgets)) == {
        "batch_invariance_error_ratio",
        "batch_invariance_mismatches",
        "batch_same_shape_differences",
        "rows_together_share",
    }
    (candidate,) = load(tmp_path, ONE).candidates
    assert not gate_named("batching").limits_among(candidate.budgets)


def test_an_embedder_alone_is_a_release(tmp_path: Path) -> None:
    text = '[semantic_cache]\nembedder = "minilm"\npairs = "p.jsonl"\n'
    release = load(tmp_path, text + '[budgets]\nsemantic_hit_precision = "98 %"\n')
    assert not release.candidates
    assert release.budgets["semantic-cache"]["semantic_hit_precision"].limit == 0.98
    assert release.plan(SemanticCachePlan).pairs == tmp_path / "p.jsonl"
    assert release.directory == tmp_path
    budgets = load(tmp_path, text).budgets["semantic-cache"]
    assert budgets["semantic_hit_precision"].origin == "default"


def test_without_lengths_there_is_no_sweep(tmp_path: Path) -> None:
    (candidate,) = load(tmp_path, ONE).candidates
    assert not gate_named("long-context").limits_among(candidate.budgets)
    assert gate_named("kv-cache").limits_among(candidate.budgets)
    assert gate_named("prefix-cache").limits_among(candidate.budgets)


ONE = '[reference]\nmodel = "a/b"\n[candidates.x]\n'


@pytest.mark.parametrize(
    ("text", "line", "parts"),
    [
        ('[refrence]\nmodel = "a/b"\n', 1, ["refrence", "did you mean reference?"]),
        (ONE + 'quantisation = "int8"\n', 4, ["candidates.x", "did you mean quantization?"]),
        (ONE + 'quantization = "int9"\n', 4, ["unknown quantization 'int9'", "did you mean int"]),
        (ONE + 'dtype = "bfloat61"\n', 4, ["unknown dtype", "did you mean bfloat16?"]),
        (ONE + 'device = "gpu"\n', 4, ["candidates.x.device", "auto, cpu, cuda"]),
        (ONE + "[budgets]\nkl_meen = 0.1\n", 5, ["budgets.kl_meen", "did you mean kl_mean?"]),
        (ONE + "[candidates.x.budgets]\nkl_men = 1\n", 5, ["x.budgets.kl_men", "kl_mean?"]),
        (ONE + '[budgets]\nkl_mean = "5 ms"\n', 5, ["kl_mean", "5 ms"]),
        (ONE + "[budgets]\nkl_mean = true\n", 5, ["kl_mean", "True"]),
        (ONE + "[budgets]\nkl_mean = [1]\n", 5, ["kl_mean", "[1]"]),
        (ONE + '[statistics]\nseed = "3"\n', 5, ["statistics.seed", "integer", "'3'"]),
        (ONE + "[statistics]\nalpha_pass = 1.0\n", 5, ["alpha_pass", "0.2"]),
        (ONE + '[statistics]\npolicy = "blok"\n', 5, ["did you mean block?"]),
        (ONE + '[equivalence]\noracle = "exact"\n', 5, ["oracle", "float64"]),
        (ONE + "[caches]\nlengths = [8, 4]\n", 5, ["caches.lengths", "rise", "[8, 4]"]),
        (ONE + "[caches]\nrequests = 1\n", 5, ["caches.requests", "2"]),
        (ONE + "[long_context]\nlengths = [1]\n", 5, ["long_context.lengths", "2"]),
        (ONE + "[budgets]\nlong_context_kl = 1\n", 5, ["long-context", "[long_context]"]),
        (ONE + "[batching]\nbatch_sizes = [2, 1]\n", 5, ["batching.batch_sizes", "rise"]),
        (ONE + "[budgets]\nbatching_throughput_ratio = 2\n", 5, ["batch_sizes", "[batching]"]),
        (ONE + '[semantic_cache]\nembedder = "mini"\n', 5, ["semantic_cache.embedder", "mini"]),
        (ONE + "[budgets]\nsemantic_hit_rate = 0.5\n", 5, ["embedder", "[semantic_cache]"]),
        (ONE + "[candidates.x.budgets]\nsemantic_hit_rate = 0.5\n", 5, ["limits no candidate"]),
        (ONE + '[corpus]\nfiles = "a.txt"\n', 5, ["corpus.files", "list"]),
        (ONE + '[implementations]\nquantizer = "package"\n', 5, ["module:name", "'package'"]),
        (ONE + 'quantization = "gguf"\n', 4, ["gguf_file"]),
        ('[reference]\nmodel = "a/b"\n["candidates"."a b"]\n', 3, ["'a b'", "name"]),
        ('[reference]\nmodel = "a/b"\n', 1, ["no candidates", "--infopt-candidate"]),
        ('# nothing\n[reference]\ndtype = "auto"\n[candidates.x]\n', 2, ["names no model"]),
        ('reference = "a/b"\n', 1, ["reference: has to be a table, not 'a/b'"]),
        ("[reference\n", 1, ["not valid TOML"]),
    ],
)
def test_refusals_name_line_key_and_remedy(
    tmp_path: Path, text: str, line: int, parts: list[str]
) -> None:
    message = refusal(tmp_path, text)
    assert f"infopt.toml:{line}:" in message
    for part in parts:
        assert part in message


def test_all_wrong_keys_are_listed_in_the_files_order(tmp_path: Path) -> None:
    message = refusal(tmp_path, ONE + "zzz = 1\n[latency]\nwarm = 2\n")
    assert [line.split(":")[1] for line in message.splitlines()] == ["4", "6"]


def test_pyproject_is_read_below_its_table(tmp_path: Path) -> None:
    path = tmp_path / "pyproject.toml"
    path.write_text(
        '[tool.infopt.reference]\nmodel = "a/b"\n[tool.infopt.candidates.x]\nbits = 8\n'
    )
    message = refusal(tmp_path)
    assert "pyproject.toml:4: candidates.x.bits: unknown key" in message
    path.write_text('[tool.infopt.reference]\nmodel = "a/b"\n[tool.infopt.candidates.x]\n')
    assert load(tmp_path).reference.model == "a/b"
    (tmp_path / "infopt.toml").write_text('[reference]\nmodel = "c/d"\n[candidates.x]\n')
    assert "both say what is gated; keep one" in refusal(tmp_path)
    assert load(tmp_path, config=path).reference.model == "a/b"
    path.write_text("[project]\nname = 'x'\n")
    assert "no table [tool.infopt]" in refusal(tmp_path, config=path)


def test_missing_file_of_the_option_is_named(tmp_path: Path) -> None:
    assert "gone.toml: cannot be read" in refusal(tmp_path, config=tmp_path / "gone.toml")


def test_settings_win_over_the_file(tmp_path: Path) -> None:
    release = load(
        tmp_path,
        WHOLE,
        reference="org/new",
        candidate=("int8", "nf4"),
        device="mps",
        seed=9,
        budget_seconds=1.5,
        policy="block",
        timeout=7.0,
        report_dir=tmp_path / "elsewhere",
        baseline=tmp_path / "b.json",
    )
    assert release.reference.model == "org/new"
    assert [c.name for c in release.candidates] == ["int8", "nf4"]
    assert {c.source.model for c in release.candidates} == {"org/new"}
    assert {c.source.device for c in release.candidates} == {"mps"} == {release.reference.device}
    assert release.statistics == Statistics(0.05, 0.01, 1.5, True, 9, "block", 7.0)
    assert release.report_dir == tmp_path / "elsewhere"
    assert release.baseline == tmp_path / "b.json"


def test_a_model_called_like_a_candidate_has_not_its_budgets(tmp_path: Path) -> None:
    (candidate,) = load(tmp_path, WHOLE, candidate=("models/int8",)).candidates
    assert candidate.name == "int8"
    assert candidate.budgets["kl_mean"].limit == 0.5  # of [budgets], not of [candidates.int8]


def test_another_reference_inherits_no_trust(tmp_path: Path) -> None:
    text = (
        '[reference]\nmodel = "a/b"\ntrust_remote_code = true\nrevision = "main"\n[candidates.x]\n'
    )
    assert load(tmp_path, text).candidates[0].source.trust_remote_code
    release = load(tmp_path, text, reference="c/d")
    for source in (release.reference, release.candidates[0].source):
        assert (source.model, source.trust_remote_code, source.revision) == ("c/d", False, None)


def test_command_line_alone(tmp_path: Path) -> None:
    candidates = ("org/quick", "int8", "bf16", "nf4@org/base", "none", "x/y/Small-Q4_K_M.gguf")
    release = load(tmp_path, reference="org/base", candidate=candidates)
    assert release.origin == "command line"
    by_name = {c.name: c.source for c in release.candidates}
    assert list(by_name) == ["quick", "int8", "bf16", "base-nf4", "none", "Small-Q4_K_M"]
    assert by_name["quick"].model == "org/quick"
    assert (by_name["int8"].model, by_name["int8"].quantization) == ("org/base", "int8")
    assert by_name["bf16"].dtype == "bfloat16"
    assert by_name["base-nf4"].quantization == "nf4"
    assert replace(by_name["none"], name="reference") == release.reference  # A/A is allowed
    gguf = by_name["Small-Q4_K_M"]
    assert (gguf.model, gguf.gguf_file, gguf.quantization) == ("x/y", "Small-Q4_K_M.gguf", "gguf")


@pytest.mark.parametrize(
    ("candidates", "part"),
    [
        (("int9",), "did you mean int"),
        (("inr9@org/a",), "unknown format 'inr9'"),
        (("INT8",), "did you mean int8?"),
        (("NF4-Double",), "did you mean nf4-double?"),
        (("Q4_K_M",), "no number format"),
        (("4bit",), "no number format"),
        (("w4a16",), "no number format"),
        (("int8,nf4",), "give the option once for each candidate"),
        (("int8 nf4",), "give the option once for each candidate"),
        (("int8@org/a,org/b",), "give the option once for each candidate"),
        (("INT8@org/a",), "did you mean int8?"),
        (("int8", "int8"), "two candidates named 'int8'"),
        (None, "no candidates"),
    ],
)
def test_command_line_refusals(
    tmp_path: Path, candidates: tuple[str, ...] | None, part: str
) -> None:
    assert part in refusal(tmp_path, reference="org/base", candidate=candidates)


@pytest.mark.parametrize("word", ["int8", "BF16", "nf4-double"])
def test_a_number_format_is_no_model(tmp_path: Path, word: str) -> None:
    assert "is a number format and no model" in refusal(tmp_path, reference=word)
    text = f'[reference]\nmodel = "a/b"\n[candidates.x]\nmodel = "{word}"\n'
    assert "infopt.toml:4: candidates.x.model: " in refusal(tmp_path, text)


def test_the_nearest_file_upwards_is_read(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    below = tmp_path / "package" / "tests"
    below.mkdir(parents=True)
    (tmp_path.parent / "infopt.toml").write_text(ONE.replace("a/b", "not/mine"))
    assert load_release(below).origin == "embedded default"  # not beyond the repository
    (tmp_path / "infopt.toml").write_text(ONE)
    for rootdir in (below, tmp_path, tmp_path / "package"):
        assert load_release(rootdir, started=below).origin == str(tmp_path / "infopt.toml")
    nearer = below.parent / "pyproject.toml"
    nearer.write_text('[tool.infopt.reference]\nmodel = "c/d"\n[tool.infopt.candidates.x]\n')
    assert load_release(tmp_path, started=below).reference.model == "c/d"
    (tmp_path.parent / "infopt.toml").unlink()


def test_two_files_one_here_and_one_in_the_root_directory_are_refused(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
        (folder / "infopt.toml").write_text(ONE)
    with pytest.raises(ConfigurationError, match="name one of them with --infopt-config"):
        load_release(there, started=here)
    (here / "infopt.toml").unlink()
    assert load_release(there, started=here).origin == str(there / "infopt.toml")


def test_a_folder_that_everybody_may_write_to_holds_no_configuration(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    (shared / "mine").mkdir(parents=True)
    shared.chmod(0o1777)  # as /tmp
    (shared / "infopt.toml").write_text(ONE)
    assert load_release(shared / "mine").origin == "embedded default"


def test_a_byte_order_mark_is_no_part_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "infopt.toml").write_bytes(b"\xef\xbb\xbf" + ONE.encode())
    assert load_release(tmp_path).reference.model == "a/b"


def test_a_bare_directory_is_not_taken_for_a_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "quick").mkdir()
    monkeypatch.chdir(tmp_path)
    assert "write it ./quick" in refusal(tmp_path, reference="org/base", candidate=("quick",))


def test_nothing_at_all_is_the_embedded_release(tmp_path: Path) -> None:
    release = load(tmp_path)
    assert release.origin == "embedded default"
    assert release.reference.model == "embedded:smollm2"
    names = [c.name for c in release.candidates]
    assert names[:2] == ["bf16", "int8"]
    assert all(c.source.model == release.reference.model for c in release.candidates)
    assert [c.name for c in load(tmp_path, candidate=("int4", "nf4")).candidates] == ["int4", "nf4"]


def test_embedded_candidate_without_its_library_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    release = load(tmp_path)
    assert "bitsandbytes-nf4" not in [c.name for c in release.candidates]
    assert [line for line in release.not_run if line.startswith("bitsandbytes-nf4: ")]
    # Asked for by name, it is a candidate like any other, and its absence that candidate's error.
    asked = load(tmp_path, candidate=("bitsandbytes-nf4",))
    assert [c.name for c in asked.candidates] == ["bitsandbytes-nf4"]
    assert any("pip install" in line for line in plan_lines(asked))


def test_calibration_files_are_relative_to_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "[v1]"  # what a glob would take for a choice of characters
    folder.mkdir()
    (folder / "a.txt").write_text("one text")
    text = """
[reference]
model = "org/base"
[candidates.gptq]
quantization = "gptq"
options = { calibration = "*.txt", bits = 3 }
"""
    (candidate,) = load(folder, text).candidates
    (found,) = calibration_documents(candidate.source.options, root=tmp_path)
    assert found.text == "one text"
    assert candidate.source.options["bits"] == 3


def test_fingerprint_follows_what_results_depend_on(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    text = tmp_path / "texts" / "a.txt"
    text.write_text("first text")
    release = load(tmp_path, WHOLE)
    before = fingerprint(release)
    assert fingerprint(load(tmp_path, "# moved down a line\n" + WHOLE)) == before
    more_time = replace(release.statistics, budget_seconds=99.0, policy="block")
    assert fingerprint(replace(release, statistics=more_time, report_dir=None)) == before
    changes = [
        WHOLE.replace("0.25", "0.26"),
        WHOLE.replace("seed = 4", "seed = 5"),
        WHOLE.replace('"int8"\n', '"int4"\n'),
        WHOLE.replace("new_tokens = 8", "new_tokens = 9"),
        WHOLE.replace("max_tokens = 128", "max_tokens = 129"),
        WHOLE.replace('oracle = "float64"', 'oracle = "float32"'),
        WHOLE.replace("alpha_pass = 0.05", "alpha_pass = 0.06"),
    ]
    prints = [fingerprint(load(tmp_path, change)) for change in changes]
    text.write_text("second text")
    prints.append(fingerprint(load(tmp_path, WHOLE)))
    assert len({before, *prints}) == len(changes) + 2


def test_fingerprint_sees_another_checkpoint_at_the_same_place(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    text = '[reference]\nmodel = "m"\n[candidates.x]\n'
    before = fingerprint(load(tmp_path, text))
    (tmp_path / "m" / "model.safetensors").write_bytes(b"1234")
    assert fingerprint(load(tmp_path, text)) != before


def test_plan_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one document")
    text = '[reference]\nmodel = "./gone"\n[candidates.x]\n[corpus]\nfiles = ["a.txt"]\n'
    plan = "\n".join(plan_lines(load(tmp_path, text)))
    assert f"missing: reference: {tmp_path / 'gone'} does not exist" in plan
    few = "kl_mean ≤ 0.005 nats cannot PASS with 1 documents; it takes at least 25"
    assert f"{few}, unless its outputs are identical" in plan
    assert "(default, mean, each counted up to 0.025 nats, at least 25 documents)" in plan
    tail = "kl_document_p90 ≤ 0.025 nats (default, at most 10 % beyond, at least 62 documents; only"
    assert f"{tail} estimated, there are 1)" in plan
    assert "kl_document_p90 ≤ 0.025 nats cannot PASS" not in plan
    written = text + "[candidates.x.budgets]\nkl_document_p90 = 0.01\n"
    plan = "\n".join(plan_lines(load(tmp_path, written)))
    assert "kl_document_p90 ≤ 0.01 nats cannot PASS with 1 documents; it takes at least 62" in plan
    missing_corpus = text.replace("a.txt", "b.txt")
    assert "corpus: unusable" in "\n".join(plan_lines(load(tmp_path, missing_corpus)))


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        ('model = "none.gguf"', "none.gguf does not exist"),
        ('model = "./none.gguf"', "none.gguf does not exist"),
        ('model = "models/none.gguf"', "none.gguf does not exist"),
        ('model = "real"\ngguf_file = "none.gguf"\nquantization = "gguf"', "none.gguf does not"),
        ('model = "weights.bin"', "weights.bin is a file; a model is a directory"),
        ('model = "empty"', "holds no model: it has no config.json"),
        ('quantization = "no_such_module:load"', "there is no module no_such_module"),
        ('quantization = "mine.deeper:load"', "there is no module mine.deeper"),
        ('quantization = "mine:gone"', "mine has no 'gone'"),
        ('quantization = "broken:load"', "cannot be read"),
        ('quantization = "gptq"\noptions = {calibration = "none/*.txt"}', "no file matches"),
        ('quantization = "gptq"\noptions = {calibration = 3}', "give a glob"),
        ('quantization = "int4"\noptions = {group = 32}', "unknown option"),
        ('quantization = "int4"\noptions = {bits = 9}', "bits is 9"),
    ],
)
def test_the_plan_knows_what_needs_no_model(tmp_path: Path, lines: str, fault: str) -> None:
    for name in ("real", "empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "real" / "config.json").write_text("{}")
    (tmp_path / "weights.bin").write_bytes(b"")
    (tmp_path / "mine.py").write_text("raise ImportError\ndef load(request): ...\n")
    (tmp_path / "broken.py").write_text("def load(:")
    text = f'[reference]\nmodel = "real"\n[candidates.x]\n{lines}\n'
    (found,) = [w for w in missing(load(tmp_path, text), tmp_path) if "candidate x" in w]
    assert found.startswith("candidate x: ")
    assert fault in found


def test_the_plan_knows_an_embedder_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def embed(texts): ...\n")
    for name, faults in (
        ("embed", []),
        ("embd", ["semantic-cache: mine:embd: mine has no 'embd'"]),
    ):
        text = f'[semantic_cache]\nembedder = "mine:{name}"\n'
        assert missing(load(tmp_path, text), tmp_path) == faults


def test_what_is_there_is_not_missing(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "config.json").write_text("{}")
    (tmp_path / "mine.py").write_text("from os import *\nload = print\n")
    text = (
        '[reference]\nmodel = "real"\n[candidates.x]\nquantization = "mine:load"\n'
        '[candidates.y]\nmodel = "owner/repository/file.gguf"\n[candidates.z]\nmodel = "gpt2"\n'
    )
    assert missing(load(tmp_path, text), tmp_path) == []


@pytest.mark.parametrize(
    ("lines", "part"),
    [
        ('[candidates.x.server]\nurl = "localhost:8000"', "http:// or https://"),
        ('[budgets]\nweight_bytes = "0.4"', "a share of the reference's is written with an x"),
        ("[budgets]\nweight_bytes = 0.4", "a share of the reference's is written with an x"),
        ("[budgets]\nperplexity_ratio = 0.5", "the reference itself has 1x"),
        ('[budgets]\nperplexity_ratio = "-5 %"', "the reference itself has 1x"),
        ("[caches]\nlengths = []", "caches.lengths"),
    ],
)
def test_values_that_mean_something_else_are_refused(tmp_path: Path, lines: str, part: str) -> None:
    assert part in refusal(tmp_path, f"{ONE}{lines}\n")


def test_plan_of_the_embedded_release_misses_nothing(tmp_path: Path) -> None:
    plan = plan_lines(load(tmp_path))
    assert not [line for line in plan if line.startswith("missing")]


def test_neither_torch_nor_pydantic_before_they_are_needed(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib, pytest_infopt.options\n"
        "assert 'pydantic' not in sys.modules and 'numpy' not in sys.modules\n"
        "from pytest_infopt.configuration import fingerprint, load_release, plan_lines\n"
        "assert 'pydantic' not in sys.modules\n"
        "release = load_release(pathlib.Path(sys.argv[1]))\n"
        "plan_lines(release), fingerprint(release)\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, timeout=120)


def test_every_key_of_the_schema_is_described() -> None:
    schema = release_file_model().model_json_schema()
    tables = [schema, *schema["$defs"].values()]
    undescribed = [
        f"{table['title']}.{name}"
        for table in tables
        for name, field in table["properties"].items()
        if not field.get("description") and name != "budgets"
    ]
    assert not undescribed
    assert json.dumps(schema).count('"additionalProperties": false') == len(tables)


def test_a_draft_brings_the_gate_of_speculative_decoding(tmp_path: Path) -> None:
    (candidate,) = load(tmp_path, ONE + 'device = "cpu"\ndraft = { model = "./d" }\n').candidates
    assert candidate.draft == Draft(ModelSource("x-draft", str(tmp_path / "d"), device="cpu"))
    limits = gate_named("speculative").limits_among(candidate.budgets)
    assert {name: budget.limit for name, budget in limits.items()} == {
        "speculative_greedy_mismatches": 0.0,
        "speculative_speed_up": 1.0,
    }
    drafts = 'draft = { model = "d/e", quantization = "int8", num_speculative_tokens = 3 }\n'
    (candidate,) = load(tmp_path, ONE + drafts).candidates
    assert candidate.draft == Draft(ModelSource("x-draft", "d/e", quantization="int8"), 3)
    (candidate,) = load(tmp_path, ONE + 'draft = { model = "prompt-lookup" }\n').candidates
    assert candidate.draft == Draft(None)


def test_what_is_wrong_with_a_draft_is_told_with_its_line(tmp_path: Path) -> None:
    message = refusal(tmp_path, ONE + "draft = { num_speculative_tokens = 0 }\n")
    assert "draft.num_speculative_tokens" in message
    message = refusal(tmp_path, ONE + 'draft = { model = "d/e", quantization = "gguf" }\n')
    assert "gguf_file" in message


def test_a_candidate_in_process_may_name_who_serves_it(tmp_path: Path) -> None:
    server = 'server = { url = "http://localhost:8000/v1", model = "m" }\n'
    (candidate,) = load(tmp_path, ONE + server).candidates
    assert candidate.server == ServerSource("http://localhost:8000/v1", "m")
    served = gate_named("served-prefix")
    assert served.asked_for((), candidate.source)
    assert set(served.limits_among(candidate.budgets)) == {
        "served_prefix_changes",
        "served_prefix_log_prob_ratio",
        "served_prefix_mismatches",
        "served_prefix_saved_share",
        "served_prefix_unshared_tokens",
    }
    message = refusal(tmp_path, ONE + 'server = { url = "localhost:8000" }\n')
    assert "server.url" in message


def test_the_plan_tells_of_the_embedder_and_the_fewest_hits(tmp_path: Path) -> None:
    release = load(tmp_path, '[semantic_cache]\nembedder = "minilm"\nthreshold = 0.9\n')
    plan = "\n".join(plan_lines(release, tmp_path))
    assert "semantic-cache of minilm: embedder minilm, threshold 0.9" in plan
    assert "semantic_hit_precision ≥ 99 % (default, at least 299 hits)" in plan


@pytest.mark.parametrize(
    ("quantization", "option"),
    [
        ("magnitude", "sparsity = 1.5"),
        ("magnitude", 'sparsity = "half"'),
        ("int4", "group_size = 0"),
        ("int4", 'group_size = "32"'),
        ("int4", "bits = 9"),
        ("int8", "group = 32"),
    ],
)
def test_the_plan_tells_of_options_that_no_limit_can_follow_from(
    tmp_path: Path, quantization: str, option: str
) -> None:
    lines = f'quantization = "{quantization}"\noptions = {{ {option} }}\n'
    plan = plan_lines(load(tmp_path, ONE + lines), tmp_path)
    name = option.partition(" ")[0]
    assert any("missing: candidate" in line and name in line for line in plan)


def test_techniques_are_made_from_the_reference_of_the_file(tmp_path: Path) -> None:
    """The file keeps its reference, texts and sizes; candidates and limits are the comparison's."""
    (tmp_path / "infopt.toml").write_text(WHOLE)
    own = load_release(tmp_path)
    release = load_release(tmp_path, Settings(compare_techniques=True))
    assert release.reference == own.reference
    assert release.corpus == own.corpus
    assert release.directory == own.directory
    assert release.plan(LatencyPlan).new_tokens == own.plan(LatencyPlan).new_tokens
    made = {candidate.name: candidate for candidate in release.candidates}
    unmade = {line.partition(":")[0] for line in release.not_run}
    assert made.keys() | unmade == TECHNIQUES
    assert {candidate.source.model for candidate in made.values()} == {own.reference.model}
    for candidate in made.values():
        formats.format_of(candidate.source.quantization).check_options(candidate.source.options)
        assert set(candidate.budgets) == {n for n, b in candidate.written.items() if b is not None}


TECHNIQUES = {
    "fp32", "bf16", "fp16", "int8", "int4", "nf4", "gptq", "pruned",
    "no-kv-cache", "batched", "drafted",
}  # fmt: skip


def test_techniques_of_a_named_model_are_in_its_own_dtype(tmp_path: Path) -> None:
    release = load_release(tmp_path, Settings(compare_techniques=True, reference="org/model"))
    assert release.reference == ModelSource("reference", "org/model")
    dtypes = {candidate.name: candidate.source.dtype for candidate in release.candidates}
    assert dtypes["batched"] == "auto"
    assert dtypes["fp32"] == "float32"


def test_a_technique_that_cannot_be_made_is_named_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "_is_installed", lambda module: False)
    release = load_release(tmp_path, Settings(compare_techniques=True))
    assert "pruned" in {candidate.name for candidate in release.candidates}
    (int8,) = (line for line in release.not_run if line.startswith("int8: "))
    assert "pip install 'pytest-infopt[torchao]'" in int8
