"""The speculative gate in a run: sound drafts pass, decoders that are not lossless fail, and what
drafts nothing does not pass."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from chat_server_fake import chat_server
from transformers import AutoTokenizer

from pytest_infopt.engines.registry import load_engine
from pytest_infopt.release import ModelSource
from pytest_infopt.run.exit_status import ExitStatus

LOADERS = """
from pytest_infopt.engines.loaders import load_float

def _faulty(request, wrong):
    module = load_float(request)
    sound = module.generate

    def generate(ids, assistant_model=None, prompt_lookup_num_tokens=None, **options):
        drafted = {"assistant_model": assistant_model} if assistant_model is not None else {}
        if prompt_lookup_num_tokens is not None:
            drafted["prompt_lookup_num_tokens"] = prompt_lookup_num_tokens
        output = sound(ids, **drafted, **options)
        return wrong(ids, output, assistant_model, sound, options) if drafted else output

    module.generate = generate
    return module

def load_accepting_all(request):
    # Whatever is drafted behind the first token is kept.
    def wrong(ids, output, draft, sound, options):
        options = {key: value for key, value in options.items() if key != "attention_mask"}
        return draft.generate(output[:, : ids.shape[1] + 1], **options)[:, : output.shape[1]]
    return _faulty(request, wrong)

def load_without_bonus(request):
    import torch
    def wrong(ids, output, draft, sound, options):
        middle = ids.shape[1] + 3
        return torch.cat([output[:, :middle], output[:, middle + 1 :]], 1)
    return _faulty(request, wrong)

def load_deaf_to_ends(request):
    def wrong(ids, output, draft, sound, options):
        options = {k: v for k, v in options.items() if k != "eos_token_id"}
        return sound(ids, assistant_model=draft, **options)
    return _faulty(request, wrong)

def load_too_long(request):
    def wrong(ids, output, draft, sound, options):
        return sound(ids, **{**options, "max_new_tokens": output.shape[1] - ids.shape[1] + 2})
    return _faulty(request, wrong)

def load_idle(request):
    # It takes a draft, and does not use it.
    def wrong(ids, output, draft, sound, options):
        return output
    module = load_float(request)
    sound = module.generate
    module.generate = lambda ids, assistant_model=None, **options: sound(ids, **options)
    return module
"""
SIZES = "[speculative]\nprompts = 2\ntokens = 12\nnew_tokens = 10\n"
UNTIMED = 'speculative_speed_up = "off"\n'
GATE = ("-k", "speculative")


@pytest.fixture
def loaders(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(drafted_loaders=LOADERS)


@pytest.fixture
def draft(damaged) -> Path:
    """The reference with noise in its head: some of what it drafts is accepted, and not all."""

    def disturb(module) -> None:
        import torch

        torch.manual_seed(0)
        weight = module.get_input_embeddings().weight
        weight.data += 0.1 * torch.randn_like(weight)

    return damaged("draft", disturb)


def judged(result, metric: str) -> dict:
    return {row["metric"]: row for row in result()["gates"]}[metric]


def test_a_sound_draft_passes_with_what_was_accepted_and_what_it_weighs(
    gate, result, draft: Path
) -> None:
    run = gate(
        *GATE,
        candidates={"same": f'[candidates.same.draft]\nmodel = "{draft}"'},
        budgets=UNTIMED + 'draft_bytes = "1.0x"\n',
        more=SIZES,
    )
    assert run.ret == ExitStatus.PASSED, run.stdout.str()
    assert judged(result, "speculative_greedy_mismatches")["verdict"] == "PASS"
    accepted = judged(result, "draft_acceptance")
    assert 0 < accepted["value"] < 1
    assert accepted["interval"][0] <= accepted["value"] <= accepted["interval"][1]
    assert judged(result, "draft_bytes")["verdict"] == "PASS"
    assert judged(result, "speculative_speed_up")["value"] > 0


def test_prompt_lookup_takes_no_memory(gate, result) -> None:
    run = gate(
        *GATE,
        candidates={"same": '[candidates.same.draft]\nmodel = "prompt-lookup"'},
        budgets=UNTIMED,
        more=SIZES.replace("new_tokens = 10", "new_tokens = 40"),
    )
    assert judged(result, "draft_bytes")["value"] == 0
    assert judged(result, "speculative_greedy_mismatches")["value"] == 0
    assert run.ret in (ExitStatus.PASSED, ExitStatus.INCONCLUSIVE)


@pytest.mark.parametrize("fault", ["accepting_all", "without_bonus", "deaf_to_ends", "too_long"])
def test_a_decoder_that_is_not_lossless_fails(
    gate, result, loaders: None, draft: Path, fault: str
) -> None:
    lines = f'quantization = "drafted_loaders:load_{fault}"\n'
    run = gate(
        *GATE,
        candidates={"faulty": f'{lines}[candidates.faulty.draft]\nmodel = "{draft}"'},
        budgets=UNTIMED,
        more=SIZES,
    )
    assert run.ret == ExitStatus.FAILED, run.stdout.str()
    assert judged(result, "speculative_greedy_mismatches")["value"] > 0


def test_a_draft_that_is_never_asked_is_no_pass(gate, result, loaders: None, draft: Path) -> None:
    lines = 'quantization = "drafted_loaders:load_idle"\n'
    run = gate(
        *GATE,
        candidates={"idle": f'{lines}[candidates.idle.draft]\nmodel = "{draft}"'},
        budgets=UNTIMED,
        more=SIZES,
    )
    assert run.ret == ExitStatus.INCONCLUSIVE
    assert "no token was drafted" in judged(result, "speculative_greedy_mismatches")["reason"]


def test_a_server_is_asked_for_answers_and_for_what_it_drafted(
    gate, result, tiny_reference: Path, tmp_path: Path
) -> None:
    """The draft is the server's: this process does not load it. Without a report of drafts, right
    answers show nothing."""
    folder = tmp_path / "with-template"
    shutil.copytree(tiny_reference, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    tokenizer.save_pretrained(folder)
    engine = load_engine(ModelSource("own", str(folder)))

    def answer(prompt: str) -> str:
        (tokens,) = engine.generate([engine.encode(prompt)], [10])
        return engine.decode(tokens)

    found = {}
    for by in ("metrics", ""):
        with chat_server(answer, drafts=(8, 6), drafts_by=by) as server:
            lines = (
                f'model = "{folder}"\ndraft = {{ model = "org/not-here" }}\n'
                f'server = {{ url = "{server.url}", model = "m" }}'
            )
            run = gate(*GATE, candidates={"served": lines}, more=SIZES)
            found[by] = run.ret, {row["metric"]: row for row in result()["gates"]}
    status, rows = found["metrics"]
    assert status == ExitStatus.PASSED
    assert rows["draft_acceptance"]["value"] == 0.75
    assert not {"speculative_speed_up", "draft_bytes"} & {name for name in rows if rows[name]["n"]}
    status, rows = found[""]
    assert status == ExitStatus.INCONCLUSIVE
    assert "does not report" in rows["speculative_greedy_mismatches"]["reason"]


def test_a_limit_on_acceptance_without_a_draft_is_not_run(gate, result) -> None:
    run = gate(*GATE, budgets="draft_acceptance = 0.5\n", more=SIZES)
    assert run.ret == ExitStatus.INCONCLUSIVE
    assert "names no draft" in judged(result, "draft_acceptance")["reason"]


def test_a_draft_that_is_not_there_is_named_in_the_plan(gate) -> None:
    run = gate(
        "--collect-only",
        candidates={"same": '[candidates.same.draft]\nmodel = "./nowhere"'},
        more=SIZES,
    )
    run.stdout.fnmatch_lines(["*drafts: *nowhere, 5 tokens a pass", "*draft of same: *nowhere*"])
