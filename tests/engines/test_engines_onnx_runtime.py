"""ONNX Runtime as an engine: a small decoder by every way, and files that are not for it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import make_tokenizer

from pytest_infopt.engines.base import Capability
from pytest_infopt.engines.contexts.engine import ContextEngine
from pytest_infopt.engines.formats import INTEGER_ACTIVATIONS
from pytest_infopt.engines.onnx_runtime.load import load_onnx
from pytest_infopt.engines.onnx_runtime.spec import ENGINE
from pytest_infopt.engines.registry import load_engine
from pytest_infopt.engines.weight_precision import observed_precision, precision_of
from pytest_infopt.errors import ConfigurationError, ModelLoadError
from pytest_infopt.release import ModelSource

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

from onnx_decoders import (  # noqa: E402  after what it takes
    IDS,
    LOGITS,
    MASK,
    PAST,
    POSITIONS,
    PRESENT,
    UNCACHED,
    VOCABULARY,
    WIDTH,
    WINDOW,
    weights,
    whole,
    write_decoder,
)

UNCACHED_INPUTS: dict[str, Any] = {
    "lines": UNCACHED, "inputs": (IDS, MASK, POSITIONS), "outputs": (LOGITS,)
}  # fmt: skip
OF_CACHES = {Capability.CACHE, Capability.KV_SIZE}


def folder_of(path: Path, **decoder: Any) -> ModelSource:
    """A source whose folder holds a decoder, its tokenizer and its window."""
    write_decoder(path / "model.onnx", **decoder)
    make_tokenizer(VOCABULARY).save_pretrained(path)
    config = {"model_type": "llama", "max_position_embeddings": WINDOW}
    (path / "config.json").write_text(json.dumps(config))
    return ModelSource("tiny", str(path), engine="onnxruntime")


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    root = tmp_path_factory.mktemp("decoders")
    files: dict[str, dict[str, Any]] = {"cached": {}, "uncached": UNCACHED_INPUTS}
    return {name: load_engine(folder_of(root / name, **each)) for name, each in files.items()}


def exact(ids: list[int]) -> torch.Tensor:
    return whole(ids, weights()).float()


def texts(most: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=most)


@pytest.mark.parametrize("name", ["cached", "uncached"])
@given(prompts=st.lists(texts(8), min_size=1, max_size=4), data=st.data())
def test_every_way_comes_to_the_closed_form(
    engines: Mapping[str, Any], name: str, prompts: list[list[int]], data: st.DataObject
) -> None:
    engine = engines[name]
    longest = max(map(len, prompts))
    sizes = [data.draw(st.integers(1, longest))]
    while (left := longest - sum(sizes)) and data.draw(st.booleans()):
        sizes.append(data.draw(st.integers(1, left)))
    rejected = data.draw(st.lists(st.integers(0, VOCABULARY - 1), max_size=3))
    alone = [engine.full_logits(prompt) for prompt in prompts]
    ways = (alone, engine.batch_logits(prompts), engine.through_cache(prompts, sizes, rejected))
    for rows in ways:
        for row, prompt in zip(rows, prompts, strict=True):
            torch.testing.assert_close(row, exact(prompt))


@pytest.mark.parametrize("name", ["cached", "uncached"])
def test_generated_tokens_are_greedy(engines: Mapping[str, Any], name: str) -> None:
    engine, prompts = engines[name], [[1, 2, 3], [4]]

    def greedy(ids: list[int], count: int) -> list[int]:
        for _ in range(count):
            ids = [*ids, int(exact(ids)[-1].argmax())]
        return ids[-count:]

    assert engine.generate(prompts, [5, 7]) == [greedy(prompts[0], 5), greedy(prompts[1], 7)]
    assert [event.token_id for event in engine.stream([9], 6)] == greedy([9], 6)


def test_the_cache_weighs_what_its_shapes_say(engines: Mapping[str, Any]) -> None:
    engine = engines["cached"]
    two_tensors = 2 * WIDTH * 4  # bytes of a token
    for tokens, batch in ((1, 1), (5, 3)):
        expected = tokens * batch * two_tensors
        assert engine.kv_cache_bytes(tokens, batch) == expected
        assert engine.predicted_kv_bytes(tokens, batch) == expected
    (reading,) = engine.cache_readings([4], batch=2)
    assert reading.nbytes == 8 * two_tensors
    reads: dict[str, torch.Tensor] = {}
    tail = engine.cached_tail([1, 2, 3, 4, 5], 2, 2, reads)
    torch.testing.assert_close(tail, exact([1, 2, 3, 4, 5])[-2:])
    keys = (weights()["word"][[1, 2, 3, 4, 5]] + weights()["place"][:5]) @ weights()["to_key"]
    torch.testing.assert_close(reads["past_key_values.0.key"][0, 0], keys)


@pytest.mark.parametrize(
    ("decoder", "without"),
    [
        ({}, set()),
        (UNCACHED_INPUTS, OF_CACHES),
        (
            {
                "lines": {"attention_mask": "Constant<value_ints = [1]>()",
                          "shown": "Identity(attention_mask)"},
                "inputs": (IDS, POSITIONS, *PAST),
            },
            {*OF_CACHES, Capability.BATCHES},
        ),
        ({"inputs": ("int64[1, tokens] input_ids", MASK, POSITIONS, *PAST)},
         {*OF_CACHES, Capability.BATCHES}),
    ],
    ids=["whole", "no cache", "no mask", "one row"],
)  # fmt: skip
def test_what_a_file_has_no_inputs_for_is_not_claimed(
    tmp_path: Path, decoder: dict[str, Any], without: set[Capability]
) -> None:
    engine = load_engine(folder_of(tmp_path, **decoder))
    assert engine.capabilities == ENGINE.capabilities - without
    assert isinstance(engine, ContextEngine)
    torch.testing.assert_close(engine.full_logits([3, 1, 4]), exact([3, 1, 4]))
    assert (engine.context_window, engine.vocabulary, engine.dtype) == (
        WINDOW,
        VOCABULARY,
        "float32",
    )


def test_positions_may_follow_from_the_mask(tmp_path: Path) -> None:
    lines = {
        "last": "Constant<value_ints = [1]>()",
        "counted": "CumSum(attention_mask, last)",
        "from_zero": "Sub(counted, last)",
        "above": "Max(from_zero, nought)",
        "nought": "Constant<value_ints = [0]>()",
        "end": "Constant<value_ints = [100]>()",
        "pass_size": "Shape<start = 1>(input_ids)",
        "start": "Neg(pass_size)",
        "position_ids": "Slice(above, start, end, last)",
    }
    order = ["nought", *(name for name in lines if name != "nought")]
    engine: Any = load_engine(
        folder_of(tmp_path, lines={name: lines[name] for name in order}, inputs=(IDS, MASK, *PAST))
    )
    prompts = [[1, 2, 3, 4, 5], [6, 7]]
    for rows in (engine.batch_logits(prompts), engine.through_cache(prompts, [2, 2], [8])):
        for row, prompt in zip(rows, prompts, strict=True):
            torch.testing.assert_close(row, exact(prompt))


@pytest.mark.parametrize(
    ("decoder", "message"),
    [
        ({"inputs": (IDS, MASK, POSITIONS, *PAST, "int64[1] use_cache_branch")},
         "inputs are .*use_cache_branch"),
        ({"outputs": ('float[batch, tokens, 4] "outcome"', *PRESENT)}, "its outputs outcome"),
        ({"outputs": (LOGITS, PRESENT[0])}, r"takes past_key_values.0.value and gives no present"),
        ({"inputs": ("int64[1, 5] input_ids", MASK, POSITIONS, *PAST)}, "fixed shape 1 × 5"),
        ({"inputs": (IDS, MASK, POSITIONS, PAST[0].replace("past,", "7,"), PAST[1])},
         r"shape of its past_key_values.0.key is .*7"),
        ({"inputs": ("float[batch, tokens] input_ids", MASK, POSITIONS, *PAST)}, "tensor.float"),
        ({"lines": {"outcome": "Add(states, to_logits)"}}, "ONNX Runtime cannot compute"),
    ],
)  # fmt: skip
def test_a_file_that_is_driven_otherwise_is_refused(
    tmp_path: Path, decoder: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelLoadError, match=message):
        load_engine(folder_of(tmp_path, **decoder))


@pytest.fixture
def source(tmp_path: Path) -> ModelSource:
    return folder_of(tmp_path / "model")


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"options": {"thread": 1}}, ConfigurationError, "no options thread; known: file, prov"),
        ({"options": {"threads": 0}}, ConfigurationError, "threads is 0; it takes"),
        ({"options": {"providers": "CPU"}}, ConfigurationError, "takes a list of names"),
        ({"options": {"file": 3}}, ConfigurationError, "file is 3; it takes a string"),
        ({"options": {"file": "int8.onnx"}}, ModelLoadError, "no int8.onnx in .*model.onnx as"),
        ({"options": {"providers": ["X"]}}, ModelLoadError, "ONNX Runtime cannot compute"),
        ({"quantization": "int8"}, ConfigurationError, "takes an ONNX file as it is"),
        ({"device": "cuda"}, ConfigurationError, "'cuda' are not for it"),
        ({"dtype": "float64"}, ModelLoadError, "computes in its own dtype alone"),
        ({"model": "./none"}, ModelLoadError, "no model.onnx and no onnx/model.onnx in none; exp"),
    ],
)
def test_a_source_that_is_not_for_it(
    source: ModelSource, changed: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        load_onnx(replace(source, **changed))


def test_a_missing_library_is_told_with_its_extra(
    source: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "pytest_infopt.engines.onnx_runtime.session", raising=False)
    with pytest.raises(ModelLoadError, match=r"pip install 'pytest-infopt\[onnxruntime\]'"):
        load_onnx(source)


def test_a_file_that_is_cut_is_refused(source: ModelSource) -> None:
    path = Path(source.model) / "model.onnx"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ModelLoadError, match="cannot be read as an ONNX file"):
        load_onnx(source)


def test_a_file_in_a_folder_of_its_own_takes_the_tokenizer_above_it(source: ModelSource) -> None:
    folder = Path(source.model)
    (folder / "onnx").mkdir()
    (folder / "model.onnx").rename(folder / "onnx" / "model.onnx")
    assert load_onnx(source).encode("w3 w1") == [3, 1]
    (folder / "onnx" / "model.onnx").rename(folder.parent / "model.onnx")
    alone = replace(source, model=str(folder.parent / "model.onnx"))
    with pytest.raises(ModelLoadError, match=r"no tokenizer beside .*options\.tokenizer"):
        load_onnx(alone)
    assert load_onnx(replace(alone, options={"tokenizer": str(folder)})).encode("w3") == [3]


def test_tensors_beside_the_file_are_part_of_it(source: ModelSource) -> None:
    path = Path(source.model) / "model.onnx"
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="data", size_threshold=0)
    before = load_onnx(source).fingerprint
    data = path.with_name("data")
    changed = bytearray(data.read_bytes())
    changed[5] ^= 1
    data.write_bytes(changed)
    assert load_onnx(source).fingerprint != before
    data.rename(path.with_name("elsewhere"))
    with pytest.raises(ModelLoadError, match="keeps tensors in 'data', which is no file beside it"):
        load_onnx(source)


def test_what_its_weights_lose_shows_when_it_is_loaded(source: ModelSource) -> None:
    from onnxruntime.quantization import quantize_dynamic

    folder = Path(source.model)
    quantize_dynamic(folder / "model.onnx", folder / "int8.onnx")
    reference = replace(source, engine="transformers")
    floats, codes = (
        load_onnx(replace(source, options=options)) for options in ({}, {"file": "int8.onnx"})
    )
    planned = precision_of(source, reference)
    assert not planned.known
    own = observed_precision(planned, floats.stored_weights(), floats.stored_weights())
    assert (own.bits, own.lossless, floats.dtype) == (32, True, "float32")
    lossy = observed_precision(planned, codes.stored_weights(), floats.stored_weights())
    assert (lossy.bits, lossy.lossless, lossy.loses_as) == (8, False, INTEGER_ACTIVATIONS)
    assert codes.dtype == "bfloat16"
    matrices = sum(each.numel() for name, each in weights().items() if name.startswith("to_"))
    assert codes.stored_weights().coded_bytes >= matrices
    assert codes.memory().weight_bytes < floats.memory().weight_bytes
