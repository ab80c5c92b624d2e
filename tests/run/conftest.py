"""A tiny release to gate: a random-weight reference, damaged and sound candidates, a corpus."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_models import VOCABULARY, make_model, make_tokenizer

from pytest_infopt.console.runs import found_run
from pytest_infopt.console.verification import verify

UNTIMED = 'ttft_ratio = "off"\ntpot_ratio = "off"\n'  # most runs here have nothing to time
DOCUMENTS = 40
TOKENS = 24


@pytest.fixture(scope="session")
def tiny_reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved float32 Llama with its tokenizer. Tests that damage it copy it first."""
    folder = tmp_path_factory.mktemp("reference")
    make_model("llama").save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random words, one document a line."""
    words = random.Random(0)
    path = tmp_path_factory.mktemp("corpus") / "documents.jsonl"
    lines = [
        json.dumps(
            {
                "id": f"d{i}",
                "text": " ".join(f"w{words.randrange(VOCABULARY)}" for _ in range(TOKENS)),
            }
        )
        for i in range(DOCUMENTS)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def damaged(tiny_reference: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the reference with something done to its module before it is saved."""

    def build(name: str, damage: Callable[[Any], None]) -> Path:
        from transformers import AutoModelForCausalLM

        module = AutoModelForCausalLM.from_pretrained(tiny_reference)
        damage(module)
        folder = tmp_path / name
        shutil.copytree(tiny_reference, folder)
        module.save_pretrained(folder)
        return folder

    return build


Gate = Callable[..., pytest.RunResult]


@pytest.fixture
def gate(pytester: pytest.Pytester, tiny_reference: Path, tiny_corpus: Path) -> Gate:
    """``gate(candidates={name: lines}, more="[budgets] …", arguments=[…])`` runs the gates.

    In this process, so that one fork server with torch in it serves all runs. ``named``: the
    arguments name the gates.
    """

    def run(
        *arguments: str,
        candidates: dict[str, str] | None = None,
        more: str = "",
        subprocess: bool = False,
        corpus: Path | str = tiny_corpus,
        budgets: str = "",
        named: bool = False,
    ) -> pytest.RunResult:
        tables = "".join(
            f"[candidates.{name}]\n{lines}\n"
            for name, lines in (candidates or {"same": ""}).items()
        )
        (pytester.path / "infopt.toml").write_text(
            f'[reference]\nmodel = "{tiny_reference}"\n{tables}\n'
            f"[budgets]\n{UNTIMED if 'ttft' not in budgets else ''}{budgets}\n"
            f"[equivalence]\nprompts = 2\ntokens = 16\n"
            f'[corpus]\nfiles = ["{corpus}"]\nmin_tokens = 4\n{more}\n'
        )
        words = ["--infopt", "-p", "no:cacheprovider", *arguments]
        if not named and not any("::" in word for word in arguments):
            words += ["--pyargs", "infopt_suites.gates"]
        return (pytester.runpytest_subprocess if subprocess else pytester.runpytest_inprocess)(
            *words
        )

    return run


@pytest.fixture
def result(pytester: pytest.Pytester) -> Callable[..., dict[str, Any]]:
    """The result.json of the latest run, whose samples come to the same when judged once more;
    ``journalled`` is False where the run could not keep them all."""

    def read(journalled: bool = True) -> dict[str, Any]:
        path = max((pytester.path / ".infopt" / "runs").glob("*/result.json"))
        assert not journalled or not verify(found_run(str(path))).differences
        document: dict[str, Any] = json.loads(path.read_text())
        return document

    return read
