"""Schemes: what is refused, and what the presets say."""

import pytest
import torch
from infopt_reference.quantization import PRESETS, Granularity, QuantizationScheme, preset


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bits": 1}, "bits is 1; give an integer from 2 to 8"),
        ({"bits": 9}, "bits is 9"),
        ({"bits": True}, "bits is True"),
        ({"bits": 4.0}, "bits is 4.0"),
        ({"bits": 8, "granularity": "row"}, "'row'; give one of tensor, channel, group"),
        ({"bits": 8, "granularity": "group"}, "group_size is None"),
        ({"bits": 8, "granularity": "group", "group_size": 0}, "group_size is 0"),
        ({"bits": 8, "granularity": "channel", "group_size": 64}, "64 has no meaning per channel"),
        ({"bits": 8, "axis": 1}, "axis 1 has no meaning per tensor"),
        ({"bits": 8, "scale_dtype": torch.int8}, "scale_dtype is torch.int8"),
        (
            {"bits": 4, "codebook": "nf5"},
            r"codebook is 'nf5'; give one of \['e4m3fn', 'e5m2', 'fp4', 'nf4'\]",
        ),
        ({"bits": 8, "codebook": "nf4"}, "nf4 has 4-bit codes"),
        ({"bits": 4, "codebook": "nf4", "symmetric": False}, "no zero point"),
        ({"bits": 4, "double_quantization": True}, "for code books"),
        (
            {
                "bits": 4,
                "codebook": "nf4",
                "double_quantization": True,
                "scale_dtype": torch.float16,
            },
            "decodes scales to float32",
        ),
    ],
)
def test_a_contradiction_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        QuantizationScheme(**fields)


def test_plain_strings_name_granularities():
    scheme = QuantizationScheme(bits=8, granularity="channel")
    assert scheme.granularity is Granularity.CHANNEL


def test_presets_are_what_their_names_say():
    wide = {"int8", "fp8", "fp8-e5m2"}
    assert set(PRESETS) == {"int4", "int3", "nf4", "nf4-double", "fp4"} | wide
    assert {(PRESETS[name].bits, PRESETS[name].granularity) for name in wide} == {
        (8, Granularity.CHANNEL)
    }
    assert [PRESETS[name].bits for name in ("int4", "int3", "nf4", "fp4")] == [4, 3, 4, 4]
    assert {PRESETS[name].group_size for name in PRESETS if name not in wide} == {64}


def test_a_preset_can_be_changed_and_stays_checked():
    assert preset("int4", group_size=128).group_size == 128
    assert preset("nf4", double_quantization=True) == PRESETS["nf4-double"]
    with pytest.raises(ValueError, match="bits is 1"):
        preset("int4", bits=1)


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(ValueError, match="no preset 'nf-4'; did you mean 'nf4'"):
        preset("nf-4")


def test_schemes_that_differ_read_differently():
    schemes = [*PRESETS.values(), preset("int8", packed=False), preset("int8", axis=1)]
    assert len({str(scheme) for scheme in schemes}) == len(schemes)
