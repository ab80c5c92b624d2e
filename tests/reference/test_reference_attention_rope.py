"""Rotary embedding against complex numbers, against transformers, and its laws."""

import cmath

import pytest
import torch
from attention_cases import normal
from hypothesis import given
from hypothesis import strategies as st
from infopt_reference.attention import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    ProportionalScaling,
    Rope,
    Sections,
    YarnScaling,
)
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

POSITIONS = st.integers(0, 1 << 15)
EPS = torch.finfo(torch.float64).eps


@given(st.integers(1, 8), POSITIONS, st.floats(1, 8), st.sampled_from([100.0, 1e4, 1e6]))
def test_each_pair_is_a_complex_number_turned_by_its_angle(pairs, position, factor, base):
    heads = normal(1, 2, 1, 2 * pairs, seed=position)
    rope = Rope(2 * pairs, base, LinearScaling(factor))
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


PAIRS, TRAINED = 8, 32
FAST = [1.0 + 0.1 * pair for pair in range(PAIRS)]
SLOW = [2.0 + pair for pair in range(PAIRS)]
BANDS = {"factor": 4.0, "original_max_position_embeddings": TRAINED}
SCALINGS = {
    "plain": ({"rope_type": "default"}, lambda length: LinearScaling(1.0)),
    "linear": ({"rope_type": "linear", "factor": 4.0}, lambda length: LinearScaling(4.0)),
    "dynamic": (
        {"rope_type": "dynamic", "factor": 2.0},
        lambda length: DynamicScaling(2.0, TRAINED, length),
    ),
    "yarn": (
        {"rope_type": "yarn", **BANDS, "beta_fast": 1.0, "beta_slow": 0.05},
        lambda length: YarnScaling(4.0, TRAINED, 1.0, 0.05),
    ),
    "yarn, fractions of pairs": (
        {"rope_type": "yarn", **BANDS, "beta_fast": 2.0, "beta_slow": 0.02, "truncate": False},
        lambda length: YarnScaling(4.0, TRAINED, 2.0, 0.02, truncate=False),
    ),
    "yarn, a ramp of no width": (
        {"rope_type": "yarn", **BANDS, "beta_fast": 2.0, "beta_slow": 2.0, "attention_factor": 1.3},
        lambda length: YarnScaling(4.0, TRAINED, 2.0, 2.0, own_attention_factor=1.3),
    ),
    "llama 3": (
        {"rope_type": "llama3", **BANDS, "low_freq_factor": 0.05, "high_freq_factor": 2.0},
        lambda length: Llama3Scaling(4.0, TRAINED, 0.05, 2.0),
    ),
    "long rope": (
        {"rope_type": "longrope", **BANDS, "short_factor": FAST, "long_factor": SLOW},
        lambda length: LongRopeScaling(tuple(FAST), tuple(SLOW), 4.0, TRAINED, length),
    ),
    "proportional": (
        {"rope_type": "proportional", "factor": 4.0, "partial_rotary_factor": 0.75},
        lambda length: ProportionalScaling(0.75, 4.0),
    ),
}


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("length", [5, 32, 33, 100])
def test_equals_the_rotary_embedding_of_transformers(scaling, length):
    parameters, make = SCALINGS[scaling]
    config = LlamaConfig(
        hidden_size=64,
        num_attention_heads=4,
        max_position_embeddings=TRAINED,
        rope_parameters={"rope_theta": 10_000.0, **parameters},
    )
    heads, positions = normal(2, 4, length, 16, seed=length).float(), torch.arange(length)[None]
    cosine, sine = LlamaRotaryEmbedding(config)(heads, positions)
    expected, _ = apply_rotary_pos_emb(heads, heads, cosine, sine)
    # Theirs has angles in float32, off by up to 27 eps of themselves where bands are mixed.
    bound = (27 * length + 8) * torch.finfo(torch.float32).eps * heads.abs().max() * 2
    turned = Rope(16, scaling=make(length)).rotate(heads, positions)
    assert (turned - expected).abs().max() <= bound


@given(st.integers(-64, 64), st.sampled_from(["halves", "neighbours"]), st.sampled_from([8, 16]))
def test_shifted_heads_are_those_of_their_new_positions(distance, pairing, turned):
    rope = Rope(16, scaling=YarnScaling(4.0, TRAINED), pairing=pairing, rotary_dim=turned)
    heads, positions = normal(2, 3, 4, 16, seed=turned), torch.tensor([[64, 65, 70, 99]])
    moved = rope.shift(rope.rotate(heads, positions), torch.full((1, 4), distance))
    expected = rope.rotate(heads, positions + distance)
    bound = (4 * 2 * 99 + 64) * EPS * heads.abs().max() * 2
    assert (moved - expected).abs().max() <= bound


def test_pairs_of_neighbours_are_pairs_of_halves_in_another_order():
    heads, positions = normal(2, 3, 5, 8, seed=3), torch.arange(5)[None]
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    neighbours = Rope(8, pairing="neighbours").rotate(heads, positions)
    assert torch.equal(neighbours[..., order], Rope(8).rotate(heads[..., order], positions))


@pytest.mark.parametrize(
    ("sections", "axes"),
    [
        (Sections((2, 1, 1)), [0, 0, 1, 2]),
        (Sections((2, 1, 1), interleaved=True), [0, 1, 2, 0]),
        (Sections((4, 0, 0), interleaved=True), [0, 0, 0, 0]),
    ],
)
def test_each_pair_turns_by_its_axis(sections, axes):
    assert sections.axes() == axes
    rope, heads = Rope(8, sections=sections), normal(2, 3, 5, 8, seed=4)
    positions = torch.arange(30).view(3, 2, 5)
    turned = rope.rotate(heads, positions).unflatten(-1, (2, 4))
    for pair, axis in enumerate(axes):
        expected = Rope(8).rotate(heads, positions[axis]).unflatten(-1, (2, 4))
        assert torch.equal(turned[..., pair], expected[..., pair])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_is_turned_in_float32_and_rounded_once(dtype):
    heads, positions = normal(1, 2, 9, 8, seed=2, dtype=dtype), torch.arange(9)[None] * 1000
    turned, exact = (Rope(8).rotate(x, positions) for x in (heads, heads.double()))
    assert turned.dtype is dtype
    eps = torch.finfo(dtype).eps / 2 + 4 * torch.finfo(torch.float32).eps
    assert (turned.double() - exact).abs().max() <= eps * 2 * heads.abs().max()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rope(7), "head_dim is 7; pairs need an even number"),
        (lambda: Rope(8, rotary_dim=10), "rotary_dim is 10; pairs need an even number"),
        (lambda: Rope(8, base=-1), "base is -1; give a positive"),
        (lambda: Rope(8, sections=Sections((1, 1))), r"sections \(1, 1\) are not the 4 pairs"),
        (lambda: LinearScaling(0.5), r"factor is 0.5; give 1"),
        (lambda: Llama3Scaling(2.0, 32, 4.0, 4.0), "give a low below the high"),
        (lambda: ProportionalScaling(1.5), "share is 1.5; give a part"),
        (
            lambda: LongRopeScaling((1.0,), (1.0,), 2.0, 32, 9).frequencies(1e4, 8),
            "1 factors for 4 pairs",
        ),
        (
            lambda: Rope(8).rotate(normal(1, 1, 1, 6, seed=1), torch.zeros(1, 1)),
            "heads have dimension 6, the rope 8",
        ),
    ],
)
def test_impossible_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
