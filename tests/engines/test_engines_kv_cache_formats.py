"""The release key kv_cache: which formats there are, and that every logit comes through them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import VOCABULARY, make_model, make_tokenizer
from transformers import DynamicCache

from pytest_infopt.configuration import load_release
from pytest_infopt.engines.base import Capability
from pytest_infopt.engines.kv_cache_formats import KV_CACHES, kept_with, kv_cache_format
from pytest_infopt.engines.registry import engine_named, load_engine
from pytest_infopt.engines.transformers.engine import TransformersEngine
from pytest_infopt.engines.transformers.kv_cached import KVCachedEngine
from pytest_infopt.engines.weight_precision import precision_of
from pytest_infopt.errors import ConfigurationError, ModelLoadError
from pytest_infopt.naming import import_named
from pytest_infopt.release import ModelSource

IDS = [1 + index * 7 % (VOCABULARY - 1) for index in range(90)]
OWN = "own_caches:make"


def plain(config: Any) -> DynamicCache:
    """What the model would make itself."""
    return DynamicCache(config=config)


def engine_with(make: Any, name: str = OWN, architecture: str = "llama") -> KVCachedEngine:
    return KVCachedEngine(
        "candidate",
        make_model(architecture),
        make_tokenizer(),
        kv_cache_format(name),
        make,
        dtype=torch.float32,
    )


def engine_of(name: str) -> KVCachedEngine:
    form = kv_cache_format(name)
    if form.module is not None:
        pytest.importorskip(form.module)
    return engine_with(import_named(form.make), name)


def reference() -> TransformersEngine:
    return TransformersEngine(
        "reference", make_model("llama"), make_tokenizer(), dtype=torch.float32
    )


def difference(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found - exact).abs().max())


def rounding(engine: TransformersEngine) -> float:
    """What float32 may move a logit by: passes of other lengths sum in another order."""
    exact = engine.full_logits(IDS)
    return max(difference(engine.through_cache([IDS], [size])[0], exact) for size in (1, 30, 64))


def test_a_cache_that_keeps_all_changes_nothing() -> None:
    exact = reference()
    logits = exact.full_logits(IDS)
    assert difference(engine_with(plain).full_logits(IDS), logits) <= 2 * rounding(exact)


@pytest.mark.parametrize("name", KV_CACHES)
def test_every_format_takes_part_in_all_that_is_scored(name: str) -> None:
    engine, exact = engine_of(name), reference()
    logits, floor = exact.full_logits(IDS), 2 * rounding(exact)
    found = engine.full_logits(IDS)
    assert difference(found, logits) > floor  # it is no other cache by another name
    assert torch.equal(engine.score(IDS).logits(0, len(IDS)), found)
    top = engine.top_scores(IDS, [80])[0]
    assert max(top, key=lambda token: top[token]) == int(found[80].argmax())


@pytest.mark.parametrize("name", [name for name, form in KV_CACHES.items() if form.by_token])
def test_a_format_by_token_is_the_same_however_a_text_is_cut(name: str) -> None:
    engine = engine_of(name)
    floor, found = 2 * rounding(reference()), engine.full_logits(IDS)
    ways: Sequence[torch.Tensor] = [
        engine.cached_logits(IDS, 1),
        engine.cached_logits(IDS, len(IDS)),
        engine.through_cache([IDS], [40, 3, 20], [5, 6])[0],
        engine.batch_logits([IDS, IDS[:30]])[0],
    ]
    # A number beside the middle of two codes may be rounded to either.
    apart = difference(found, reference().full_logits(IDS))
    assert all(difference(way, found) <= max(floor, apart / 2) for way in ways)


def test_more_bits_lose_less() -> None:
    logits = reference().full_logits(IDS)
    by_bits = [difference(engine_of(name).full_logits(IDS), logits) for name in ("int8", "int4")]
    assert 4 * by_bits[0] < by_bits[1]


@pytest.mark.parametrize("name", ["int8", "int4", "fp8"])
def test_it_holds_what_its_formula_says_and_less_than_the_models_own(name: str) -> None:
    engine, exact = engine_of(name), reference()
    for tokens, batch in ((5, 1), (64, 2)):
        held = engine.kv_cache_bytes(tokens, batch)
        assert held == engine.predicted_kv_bytes(tokens, batch)
        assert held < exact.kv_cache_bytes(tokens, batch)


@pytest.mark.parametrize("name", ["transformers-fp8", "quanto-int4", "hqq-int4"])
def test_codes_of_a_library_are_weighed_and_have_no_formula(name: str) -> None:
    engine, exact = engine_of(name), reference()
    assert 0 < engine.kv_cache_bytes(90) < exact.kv_cache_bytes(90)
    assert engine.predicted_kv_bytes(90) is None


def test_what_knows_nothing_of_the_cache_is_not_offered() -> None:
    form = kv_cache_format("int8")
    engine = engine_of("int8")
    offered = engine_named("transformers").offers
    assert engine.capabilities == offered(ModelSource("candidate", "x", kv_cache="int8"))
    assert engine.capabilities <= kept_with(form)
    assert not engine.capabilities & {Capability.MODULES, Capability.SERVING_PATHS}
    source = ModelSource("candidate", "x", kv_cache="quanto-int4")
    assert Capability.BATCHES not in offered(source)
    assert offered(ModelSource("candidate", "x")) == engine_named("transformers").capabilities


class Unused(DynamicCache):
    """A cache that forgets."""

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0


def test_a_cache_that_does_not_keep_the_tokens_is_refused() -> None:
    with pytest.raises(ModelLoadError, match="does not keep its tokens in that cache"):
        engine_with(lambda config: Unused(config=config))


def test_a_maker_that_raises_is_told_with_its_name() -> None:
    def broken(config: Any) -> Any:
        raise KeyError("rope")

    with pytest.raises(ModelLoadError, match=r"kv_cache 'own_caches:make': KeyError: 'rope'"):
        engine_with(broken)


@pytest.mark.parametrize(
    ("name", "quantization", "bits", "summary"),
    [
        ("int8", "none", 8, "a KV cache in int8"),
        ("int4", "int8", 4, "a KV cache in int4"),
        ("int8", "int4", 4, "4-bit weights"),
        (OWN, "none", 8, "a KV cache in own_caches:make"),
    ],
)
def test_limits_are_those_of_what_loses_more(
    name: str, quantization: str, bits: int, summary: str
) -> None:
    source = ModelSource("reference", "embedded:smollm2")
    candidate = ModelSource("c", source.model, quantization=quantization, kv_cache=name)
    precision = precision_of(candidate, source)
    assert (precision.bits, precision.lossless, precision.summary) == (bits, False, summary)
    assert not precision.packed or quantization == "int4"


RELEASE = """[reference]
model = "embedded:smollm2"
kv_cache = "fp8"
[candidates.same]
[candidates.int8]
kv_cache = "int8"
"""


def test_a_release_names_it_and_a_candidate_does_not_inherit_it(tmp_path: Path) -> None:
    (tmp_path / "infopt.toml").write_text(RELEASE)
    release = load_release(tmp_path)
    assert release.reference.kv_cache == "fp8"
    assert [each.source.kv_cache for each in release.candidates] == [None, "int8"]
    budgets = release.candidates[1].budgets
    assert "kv_size_error" in budgets
    assert not {"kv_coarse_tensors", "changed_share", "weight_bytes"} & budgets.keys()


def test_a_wrong_name_is_told_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "infopt.toml").write_text(RELEASE.replace('"int8"', '"int7"'))
    with pytest.raises(ConfigurationError, match=r"toml.*unknown kv_cache 'int7'.*int[48]"):
        load_release(tmp_path)


def test_an_engine_that_has_no_such_key_is_told_in_the_plan(tmp_path: Path) -> None:
    text = RELEASE.replace("[candidates.int8]", '[candidates.int8]\nengine = "llama.cpp"')
    (tmp_path / "infopt.toml").write_text(text)
    with pytest.raises(ConfigurationError, match="takes no kv_cache"):
        load_engine(load_release(tmp_path).candidates[1].source)
