"""The public fixtures, in a test module as a user writes it."""

from __future__ import annotations

from pathlib import Path

import pytest

TEST = """
import pytest
import torch
from infopt_reference.quantization import Granularity, QuantizedLinear

@pytest.fixture
def layer_of(quantized_model):
    def load(*arguments, **options):
        engine = quantized_model(*arguments, **options)
        return engine.module.get_submodule("model.layers.0.mlp.up_proj")
    return load

def test_options_reach_the_quantizer(layer_of):
    gptq = layer_of("gptq", bits=3, group_size=32, calibration={texts!r})
    assert (gptq.scheme.bits, gptq.scheme.group_size) == (3, 32)
    assert layer_of("int4", granularity="channel").scheme.granularity is Granularity.CHANNEL
    assert isinstance(layer_of("fp8"), QuantizedLinear)

def test_pruned_models_come_by_the_same_fixture(layer_of):
    weight = layer_of("magnitude", sparsity="2:4").weight
    assert int((weight == 0).sum()) == weight.numel() // 2

def test_a_dtype_of_ones_own(quantized_model, reference_model):
    assert quantized_model("int8", dtype="bfloat16").dtype == "bfloat16"
    assert reference_model.dtype == "float32"

def test_a_wrong_option_names_the_nearest(quantized_model):
    with pytest.raises(Exception, match="did you mean group_size"):
        quantized_model("int4", group_sise=32)
"""


def test_quantized_model_is_every_format_with_its_options(
    pytester: pytest.Pytester, tiny_reference: Path
) -> None:
    texts = pytester.mkdir("texts")
    for number in range(3):
        (texts / f"{number}.txt").write_text(" ".join(f"w{number + n}" for n in range(40)))
    (pytester.path / "infopt.toml").write_text(
        f'[reference]\nmodel = "{tiny_reference}"\ndtype = "float32"\ndevice = "cpu"\n'
        '[candidates.int8]\nquantization = "int8"\n'
    )
    pytester.makepyfile(test_own=TEST.replace("{texts!r}", repr(str(texts / "*.txt"))))
    run = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    run.assert_outcomes(passed=4)
