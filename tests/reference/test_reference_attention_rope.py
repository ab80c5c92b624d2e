"""Rotary embedding against complex numbers, against transformers, and its laws."""

import cmath

import pytest
import torch
from attention_cases import normal
from hypothesis import given
from hypothesis import strategies as st
from infopt_reference.attention import Rope
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

POSITIONS = st.integers(0, 1 << 15)
EPS = torch.finfo(torch.float64).eps


@given(st.integers(1, 8), POSITIONS, st.floats(1, 8), st.sampled_from([100.0, 1e4, 1e6]))
def test_each_pair_is_a_complex_number_turned_by_its_angle(pairs, position, factor, base):
    heads = normal(1, 2, 1, 2 * pairs, seed=position)
    rope = Rope(2 * pairs, base, factor)
    turned = rope.rotate(heads, torch.tensor([[position]]))[0, :, 0]
    for head, result in zip(heads[0, :, 0].tolist(), turned.tolist(), strict=True):
        for pair in range(pairs):
            angle = position / factor * base ** (-pair / pairs)
            number = complex(head[pair], head[pair + pairs]) * cmath.exp(1j * angle)
            # The angle has two roundings, which move the number by so much, and 4 more follow.
            bound = (2 * angle + 8) * EPS * abs(number)
            assert abs(complex(result[pair], result[pair + pairs]) - number) <= bound


@given(POSITIONS, POSITIONS, POSITIONS)
def test_a_product_depends_on_the_distance_alone(query, key, shift):
    rope = Rope(16)
    q, k = normal(1, 1, 1, 16, seed=query), normal(1, 1, 1, 16, seed=key + 1)

    def product(*positions):
        turned = (
            rope.rotate(x, torch.tensor([[p]])) for x, p in zip((q, k), positions, strict=True)
        )
        return float((next(turned) * next(turned)).sum())

    size = float(q.norm() * k.norm())
    bound = (4 * (query + key + 2 * shift) + 64) * EPS * size
    assert abs(product(query, key) - product(query + shift, key + shift)) <= bound


@given(st.lists(st.integers(-1, 99), min_size=2, max_size=2))
def test_every_row_has_its_own_positions(starts):
    rope, heads = Rope(8), normal(2, 3, 4, 8, seed=1)
    positions = torch.tensor(starts)[:, None] + torch.arange(4)
    together = rope.rotate(heads, positions)
    for row in range(2):
        alone = rope.rotate(heads[row, None], positions[row, None])
        assert torch.equal(together[row, None], alone)
    assert torch.equal(rope.rotate(heads[:1], torch.zeros(1, 4)), heads[:1])


SCALINGS = {
    "plain": ({"rope_type": "default"}, lambda length: Rope(16)),
    "linear": ({"rope_type": "linear", "factor": 4.0}, lambda length: Rope(16, factor=4.0)),
    "ntk": (
        {"rope_type": "dynamic", "factor": 2.0},
        lambda length: Rope.ntk(16, factor=2.0, trained_length=32, length=length),
    ),
}


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("length", [5, 32, 33, 100])
def test_equals_the_rotary_embedding_of_transformers(scaling, length):
    parameters, make = SCALINGS[scaling]
    config = LlamaConfig(
        hidden_size=64,
        num_attention_heads=4,
        max_position_embeddings=32,
        rope_parameters={"rope_theta": 10_000.0, **parameters},
    )
    heads, positions = normal(2, 4, length, 16, seed=length).float(), torch.arange(length)[None]
    cosine, sine = LlamaRotaryEmbedding(config)(heads, positions)
    expected, _ = apply_rotary_pos_emb(heads, heads, cosine, sine)
    # Theirs has angles in float32, each off by an eps of itself at most three times.
    bound = (3 * length + 8) * torch.finfo(torch.float32).eps * heads.abs().max() * 2
    assert (make(length).rotate(heads, positions) - expected).abs().max() <= bound


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_is_turned_in_float32_and_rounded_once(dtype):
    heads, positions = normal(1, 2, 9, 8, seed=2, dtype=dtype), torch.arange(9)[None] * 1000
    turned, exact = (Rope(8).rotate(x, positions) for x in (heads, heads.double()))
    assert turned.dtype is dtype
    eps = torch.finfo(dtype).eps / 2 + 4 * torch.finfo(torch.float32).eps
    assert (turned.double() - exact).abs().max() <= eps * 2 * heads.abs().max()


def test_impossible_arguments_are_refused():
    with pytest.raises(ValueError, match="head_dim is 7; pairs need an even number"):
        Rope(7)
    with pytest.raises(ValueError, match=r"factor is 0.5; give 1"):
        Rope(8, factor=0.5)
    with pytest.raises(ValueError, match="base is -1; give a positive"):
        Rope(8, base=-1)
    with pytest.raises(ValueError, match="heads have dimension 6, the rope 8"):
        Rope(8).rotate(normal(1, 1, 1, 6, seed=1), torch.zeros(1, 1))
