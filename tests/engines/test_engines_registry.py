"""Engines by name: ours, and one that another package registers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import second_engine
import torch
from external_package import write_package

from pytest_infopt.configuration import load_release
from pytest_infopt.engines.base import Capability, ScoringEngine, StreamingEngine, able
from pytest_infopt.engines.registry import engine_named, engines, load_engine
from pytest_infopt.errors import ConfigurationError
from pytest_infopt.release import ModelSource

TEXT = "the theme of the thesis"


@pytest.fixture
def model(pytester: pytest.Pytester) -> Path:
    """The small engine, registered by a package, and a model for it."""
    write_package(
        pytester,
        "infopt_bigram",
        {"engine.py": Path(second_engine.__file__).read_text(encoding="utf-8")},
        {"infopt.engines": {"bigram": "infopt_bigram.engine:ENGINE"}},
    )
    directory = pytester.path / "model"
    directory.mkdir()
    (directory / "text.txt").write_text(TEXT)
    return directory


def test_ours_is_registered_and_known_without_torch() -> None:
    assert "transformers" in engines()
    program = (
        "import sys; from pytest_infopt.engines import formats, weight_precision; "
        "from pytest_infopt.engines.registry import engine_named; "
        "assert engine_named('transformers').name == 'transformers'; "
        "print(*sorted({'torch', 'transformers', 'numpy', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


def test_an_unknown_engine_names_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match=r"'transformer'; did you mean transformers\?"):
        load_engine(ModelSource("x", "org/base", engine="transformer"))


def test_an_engine_of_another_package_loads_scores_and_streams(model: Path) -> None:
    assert engine_named("bigram").capabilities == {Capability.SCORES, Capability.STREAM}
    engine = load_engine(ModelSource("small", str(model), engine="bigram"))
    ids = engine.encode("the")
    scores = able(engine, ScoringEngine).score(ids)
    best = scores.logits(0, scores.positions).argmax(-1)
    assert engine.decode(best.tolist()) == "he "  # what follows t, h and e most often
    tokens = [event.token_id for event in able(engine, StreamingEngine).stream(ids[:1], 3)]
    assert engine.decode(tokens) == "he "
    damaged = load_engine(
        ModelSource("damaged", str(model), engine="bigram", options={"damage": 1})
    )
    other = able(damaged, ScoringEngine).score(ids).logits(0, 3)
    assert not torch.equal(other, scores.logits(0, 3))
    assert damaged.fingerprint != engine.fingerprint


def test_a_file_names_the_engine_and_candidates_inherit_it(
    model: Path, pytester: pytest.Pytester
) -> None:
    file = pytester.path / "infopt.toml"
    file.write_text(
        '[reference]\nengine = "bigram"\nmodel = "./model"\n'
        "[candidates.damaged]\noptions.damage = 0.1\n"
        '[candidates.other]\nmodel = "org/base"\n'
    )
    release = load_release(pytester.path)
    assert release.reference.engine == "bigram"
    damaged, other = (candidate.source for candidate in release.candidates)
    assert (damaged.engine, damaged.model) == ("bigram", release.reference.model)
    assert other.engine == "transformers"
    file.write_text(file.read_text().replace('"bigram"', '"bigrams"'))
    with pytest.raises(ConfigurationError, match=r":2: .*'bigrams'.*; did you mean bigram\?$"):
        load_release(pytester.path)
