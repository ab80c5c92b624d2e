"""The gate on a server's prefix cache: what a sound cache does, and what one does that changes
answers, hits what nobody sent, or takes no part."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from infopt_suites.gates.served_prefix.measure import ServedPrefixMeasure
from openai_server_fake import Behaviour, PrefixCache, openai_server
from tiny_models import make_model, make_tokenizer

from pytest_infopt.configuration import load_release
from pytest_infopt.engines.registry import load_engine
from pytest_infopt.engines.transformers.engine import TransformersEngine
from pytest_infopt.process.model_pair import ModelPair
from pytest_infopt.release import ModelSource
from pytest_infopt.results.sample import Sample

RELEASE = """
reference = {{model = "{folder}", dtype = "float32"}}
corpus = {{files = ["{folder}/*.txt"], min_tokens = 4}}
equivalence = {{prompts = 2, tokens = 8}}
served_prefix = {{prompts = 2, prompt_tokens = 48, new_tokens = 4}}
[candidates.served]
engine = "{engine}"
server.url = "{url}"
{lines}
"""

BLOCK = 16
NAMED = ("--pyargs", "infopt_suites.gates.served_prefix")


def hit(ids: list[int], before: list[list[int]]) -> tuple[int, list[int]]:
    """The longest beginning in full blocks, short of the last token, and whose it was."""
    found, owner = 0, ids
    for other in before:
        pairs = enumerate(zip(ids[:-1], other, strict=False))
        equal = next((i for i, (a, b) in pairs if a != b), min(len(ids) - 1, len(other)))
        if equal // BLOCK * BLOCK > found:
            found, owner = equal // BLOCK * BLOCK, other
    return found, owner


def sound(ids: list[int], before: list[list[int]]) -> tuple[int, list[int]]:
    return hit(ids, before)[0], ids


def another_tenants(ids: list[int], before: list[list[int]]) -> tuple[int, list[int]]:
    """Blocks are known by their own tokens and their place, not by what is before them: behind
    another beginning, the first owner's keys and values come, computed behind its past."""
    for other in before:
        if other[-BLOCK - 1 :] == ids[-BLOCK - 1 :] and other != ids:
            return (len(ids) - 1) // BLOCK * BLOCK, [*other[: len(ids) - 1], ids[-1]]
    return sound(ids, before)


def quietly_another_tenants(ids: list[int], before: list[list[int]]) -> tuple[int, list[int]]:
    """The same, and the server counts what was shared by right."""
    return sound(ids, before)[0], another_tenants(ids, before)[1]


def recomputing(ids: list[int], before: list[list[int]]) -> tuple[int, list[int]]:
    return 0, ids


def loads_nothing(ids: list[int], before: list[list[int]]) -> tuple[int, list[int]]:
    """A hit is reported, and the blocks stay as they were allocated."""
    cached, _ = hit(ids, before)
    return cached, [*[0] * cached, *ids[cached:]]


def off_by_one_block(ids: list[int], before: list[list[int]]) -> tuple[int, list[int]]:
    """Each block is the one behind it, the last of them the first."""
    cached, _ = hit(ids, before)
    return cached, [*ids[BLOCK:cached], *ids[: min(BLOCK, cached)], *ids[cached:]]


def claiming(ids: list[int], before: list[list[int]]) -> tuple[int, list[int]]:
    """Every prompt is said to have been cached."""
    return (len(ids) - 1) // BLOCK * BLOCK, ids


def mixing(ids: list[int], before: list[list[int]]) -> tuple[int, list[int]]:
    """Of prompts that are sent at once, behind five that are not, each has another's answer."""
    cached, _ = hit(ids, before)
    asked = [other for other in before if len(other) == len(ids)]  # others found out what it is
    return cached, asked[0] if 5 <= len(asked) < 11 else ids


class Measured:
    """The first sample of a server with that cache, asked in a dialect; as the candidate, or named
    by one in process."""

    def __init__(self, folder: Path, model: TransformersEngine) -> None:
        self._folder, self._model = folder, model
        self._open = ExitStack()

    def __call__(
        self,
        cache: PrefixCache | None,
        dialect: str = "vllm",
        lines: str = "",
        engine: str = "openai",
        **behaviour: Any,
    ) -> Sample:
        behaves = Behaviour(dialect, cache=cache, **behaviour)
        server = self._open.enter_context(openai_server(self._model, behaves))
        text = RELEASE.format(
            folder=self._folder,
            url=server.url,
            lines=lines,
            engine=engine,
        )
        (self._folder / "infopt.toml").write_text(text)
        release = load_release(self._folder)
        (candidate,) = release.candidates
        pair = ModelPair(release, candidate.source, self._folder, self._folder / "cache")
        self._open.callback(pair.candidate.close)
        measure = ServedPrefixMeasure(pair)
        self._open.callback(measure.server.close)
        return measure.prompt(0)

    def close(self) -> None:
        self._open.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("served-prefix")
    make_model("llama").save_pretrained(found)
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "w99 {% for m in messages %}{{ m['content'] }} {% endfor %}w98"
    tokenizer.save_pretrained(found)
    for index in range(12):
        words = " ".join(f"w{(3 + index * 7 + place * place) % 100}" for place in range(9))
        (found / f"{index}.txt").write_text(words)
    return found


@pytest.fixture
def measured(folder: Path) -> Iterator[Measured]:
    model = load_engine(ModelSource("served", str(folder)))
    assert isinstance(model, TransformersEngine)
    found = Measured(folder, model)
    yield found
    found.close()


@pytest.mark.parametrize("engine", ["openai", "transformers"])
@pytest.mark.parametrize("dialect", ["vllm", "llama.cpp", "text", "chat"])
def test_a_sound_prefix_cache_changes_nothing(
    measured: Measured, dialect: str, engine: str
) -> None:
    sample = measured(sound, dialect, engine=engine)
    values = dict(sample.values)
    assert math.isfinite(values.pop("served_prefix_ttft_ratio"))
    # The row of a token that llama.cpp holds back is not told.
    assert values.pop("served_prefix_log_prob_ratio", 0.0) == 0
    assert (dialect == "text") is ("served_prefix_log_prob_ratio" in sample.details["not_judged"])
    length = 48 if dialect != "chat" else 50
    assert values == {
        "served_prefix_changes": 0,
        "served_prefix_mismatches": 0,
        "served_prefix_unshared_tokens": 0,
        "served_prefix_saved_share": (length - 1) // BLOCK * BLOCK / length,
    }
    ways = [(way, cached) for way, _, cached, _ in sample.details["served"]]
    whole = (length - 1) // BLOCK * BLOCK
    expected = {"cold": 0, "warm": whole, "partly warm": 16, "another beginning": 0, "again": whole}
    assert dict(ways[:5]) == expected
    assert Counter(way for way, _ in ways[5:]) == {
        "at once, cold": 3,
        "at once, warm": 3,
        "alone": 2,
    }
    assert {cached for way, cached in ways if way in ("at once, warm", "alone")} == {whole}


@pytest.mark.parametrize(
    ("cache", "metrics"),
    [
        (another_tenants, {"changes", "mismatches", "log_prob_ratio", "unshared_tokens"}),
        (quietly_another_tenants, {"changes", "mismatches", "log_prob_ratio"}),
        (loads_nothing, {"changes", "mismatches", "log_prob_ratio"}),
        (off_by_one_block, {"changes", "mismatches", "log_prob_ratio"}),
        (mixing, {"changes", "mismatches", "log_prob_ratio"}),
        (claiming, {"unshared_tokens"}),
    ],
)
def test_what_a_wrong_prefix_cache_does_is_counted(
    measured: Measured, cache: PrefixCache, metrics: set[str]
) -> None:
    values = measured(cache).values
    limits = {"saved_share": 1.0, "ttft_ratio": math.inf, "log_prob_ratio": 1.0}
    short = {name.removeprefix("served_prefix_"): value for name, value in values.items()}
    assert {name for name, value in short.items() if value > limits.get(name, 0.0)} == metrics


@pytest.mark.parametrize("dialect", ["vllm", "chat"])
def test_a_hit_that_changes_no_token_changes_log_probabilities(
    measured: Measured, dialect: str
) -> None:
    sample = measured(sound, dialect, warmth=1.01)
    assert sample.values["served_prefix_changes"] == sample.values["served_prefix_mismatches"] == 0
    assert sample.values["served_prefix_log_prob_ratio"] > 1
    (finding,) = sample.findings
    assert finding.reference_top[0][0] == finding.candidate_top[0][0]
    assert finding.reference_top[0][1] != finding.candidate_top[0][1]


def test_a_change_shows_both_tokens(measured: Measured) -> None:
    (finding,) = measured(loads_nothing).findings
    assert finding.position >= 48
    assert finding.reference_top[0][0] != finding.candidate_top[0][0]


def test_a_server_that_computes_everything_again_saves_nothing(measured: Measured) -> None:
    sample = measured(recomputing)
    assert sample.values["served_prefix_saved_share"] == 0
    assert sample.values["served_prefix_mismatches"] == 0


def test_what_is_not_told_is_left_out(measured: Measured) -> None:
    assert "served_prefix_saved_share" not in measured(None).values


def test_a_quantized_model_is_held_against_itself(measured: Measured) -> None:
    """Changes are weighed by its own log-probabilities, and not at all where it tells none."""
    lines = 'quantization = "int4"'
    values = measured(loads_nothing, "vllm", lines).values
    assert values["served_prefix_changes"] > 0
    assert "served_prefix_mismatches" not in values
    assert "served_prefix_changes" not in measured(loads_nothing, "text", lines).values


def test_a_quantized_candidate_in_process_is_the_servers_model(measured: Measured) -> None:
    """Here the server has other weights: those before they were quantized."""
    values = measured(sound, "vllm", 'quantization = "int4"', "transformers").values
    assert values["served_prefix_changes"] == 0
    assert values["served_prefix_mismatches"] > 0
