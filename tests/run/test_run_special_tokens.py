"""Documents begin as the tokenizer begins them, so damage to what serving always sends is seen."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import VOCABULARY, make_model, make_tokenizer
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from pytest_infopt.engines.files.special_tokens import beginning_of
from pytest_infopt.engines.transformers.engine import TransformersEngine
from pytest_infopt.errors import NoChatTemplateError
from pytest_infopt.release import CorpusSource
from pytest_infopt.run.exit_status import ExitStatus

BOS, EOS, ROLE = 1, 2, 3
TEMPLATE = "{% for m in messages %}w3 {{ m['content'] }} {% endfor %}w3"


def tokenizer_with(single: str) -> PreTrainedTokenizerFast:
    """The tiny tokenizer that makes ``single`` of a text $A."""
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[("w1", BOS), ("w2", EOS)]
    )
    return tokenizer


@pytest.mark.parametrize(
    ("single", "beginning"),
    [("$A", []), ("w1 $A", [BOS]), ("w1 w2 $A w2", [BOS, EOS]), ("$A w2", [])],
)
def test_the_beginning_is_what_stands_before_every_text(single: str, beginning: list[int]) -> None:
    tokenizer = tokenizer_with(single)
    assert beginning_of(tokenizer) == beginning
    engine = TransformersEngine("m", make_model("llama"), tokenizer, dtype=torch.float32)
    assert engine.encode("w5 w6", "tokenizer") == [*beginning, 5, 6]
    assert engine.encode("w5 w6") == [5, 6]


def test_a_chat_is_the_templates() -> None:
    tokenizer = tokenizer_with("w1 $A")
    engine = TransformersEngine("m", make_model("llama"), tokenizer, dtype=torch.float32)
    with pytest.raises(NoChatTemplateError, match=r"begins_with"):
        engine.encode("w5", "chat")
    tokenizer.chat_template = TEMPLATE
    assert engine.encode("w5 w6", "chat") == [ROLE, 5, 6, ROLE]


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """Documents of other words than the special tokens."""
    path, draw = tmp_path / "words.jsonl", random.Random(0)
    lines = [" ".join(f"w{draw.randrange(4, VOCABULARY)}" for _ in range(24)) for _ in range(40)]
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    return path


@pytest.fixture
def reference(tiny_reference: Path) -> Path:
    """The reference's folder with a tokenizer that begins with BOS, for one test."""
    tokenizer_with("w1 $A").save_pretrained(tiny_reference)
    return tiny_reference


@pytest.fixture(autouse=True)
def plain_tokenizer_again(tiny_reference: Path) -> Any:
    yield
    make_tokenizer().save_pretrained(tiny_reference)


def ruin(token: int) -> Callable[[Any], None]:
    def damage(module: Any) -> None:
        # Untied first, so that the head keeps its row and only the input is ruined.
        module.config.tie_word_embeddings = False
        module.lm_head.weight = torch.nn.Parameter(module.lm_head.weight.detach().clone())
        with torch.no_grad():
            module.get_input_embeddings().weight[token] *= -2

    return damage


def test_a_ruined_bos_fails_where_documents_begin_with_it(
    gate: Callable[..., pytest.RunResult],
    result: Callable[[], dict[str, Any]],
    damaged: Callable[..., Path],
    reference: Path,
    words: Path,
) -> None:
    path = damaged("no-bos", ruin(BOS))
    candidates = {"no-bos": f'model = "{path}"'}
    run = gate("-k", "quality or equivalence", candidates=candidates, corpus=words)
    assert run.ret == ExitStatus.FAILED
    assert {item["verdict"] for item in result()["items"]} == {"FAIL"}
    assert CorpusSource().begins_with == "tokenizer"
    blind = gate(
        "-k", "quality", candidates=candidates, corpus=words, more='begins_with = "nothing"'
    )
    assert blind.ret == ExitStatus.PASSED, "what the release declares never to send is not judged"


def test_a_ruined_role_token_fails_equivalence_on_chats(
    gate: Callable[..., pytest.RunResult], damaged: Callable[..., Path], tiny_reference: Path
) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(tiny_reference)
    path = damaged("no-role", ruin(ROLE))
    run = gate("-k", "equivalence", candidates={"no-role": f'model = "{path}"'})
    assert run.ret == ExitStatus.FAILED
