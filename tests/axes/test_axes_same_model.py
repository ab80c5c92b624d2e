"""`assert_same_model`: another model is told, an equal one is accused as rarely as declared."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from axis_sides import tiny_engine
from tiny_models import VOCABULARY

from pytest_infopt import Answer, SameModel, Side, assert_same_model
from pytest_infopt.axes.borders import border_prompts
from pytest_infopt.axes.engine_side import engine_side
from pytest_infopt.axes.readings import DRAWN, gumbel_noise
from pytest_infopt.errors import InvalidComparisonError, NotEquivalentError

KINDS = ("first token", "border inputs", "shared seed")
PROMPTS = [[number] for number in range(200)]
ROWS = 4


def model(prompt: Any) -> torch.Tensor:
    """Logits [T, V] that depend on the prompt alone."""
    generator = torch.Generator().manual_seed(int(prompt[0]))
    return 2 * torch.randn(ROWS, VOCABULARY, generator=generator, dtype=torch.float64)


def server(noise: float, seed: int, off: float = 0.0) -> Callable[[Any], torch.Tensor]:
    """The model with the noise of a server, which no two requests share; ``off`` is how far
    another model's logits are from it."""
    draw = torch.Generator().manual_seed(seed)

    def answer(prompt: Any) -> torch.Tensor:
        logits = model(prompt)
        other = torch.Generator().manual_seed(10**6 + int(prompt[0]))
        logits = logits + off * torch.randn(logits.shape, generator=other, dtype=torch.float64)
        return logits + noise * torch.randn(logits.shape, generator=draw, dtype=torch.float64)

    return answer


@pytest.mark.parametrize("by", KINDS)
def test_equal_servers_are_accused_as_rarely_as_declared(by: str) -> None:
    sessions, accused = 60, 0
    prompts = PROMPTS[:40]
    for session in range(sessions):
        a, b = server(0.3, 2 * session), server(0.3, 2 * session + 1)
        try:
            found = assert_same_model(a, b, by=by, prompts=prompts, alpha=0.05, seed=session)
            assert found.p > 0.05
        except NotEquivalentError:
            accused += 1
    # 12 of 60 at a true rate of 5 % has a probability below 1e-4 (binomial).
    assert accused < 12


@pytest.mark.parametrize("by", KINDS)
def test_another_model_is_told(by: str) -> None:
    with pytest.raises(NotEquivalentError, match=f"another model by {by}") as error:
        assert_same_model(server(0.01, 1), server(0.01, 2, off=0.5), by=by, prompts=PROMPTS)
    assert "0.01 is the false-alarm rate" in str(error.value)


@pytest.mark.parametrize("by", KINDS)
def test_the_same_bits_are_never_told(by: str) -> None:
    found = assert_same_model(model, lambda prompt: model(prompt), by=by, prompts=PROMPTS)
    asked = len(PROMPTS)
    assert (found.decisive, found.p) == (0, 1.0)
    assert found.requests == (asked // 2 if by == "border inputs" else asked)
    assert found.tokens == found.requests * (ROWS if by == "shared seed" else 1)


def test_what_a_format_costs_is_granted_by_a_control() -> None:
    def rounded(prompt: Any) -> torch.Tensor:
        return model(prompt).bfloat16()

    def as_rounded(prompt: Any) -> torch.Tensor:
        return model(prompt).bfloat16()

    with pytest.raises(NotEquivalentError):
        assert_same_model(model, rounded, by="first token", prompts=PROMPTS)
    granted = assert_same_model(
        model, rounded, by="first token", control=as_rounded, prompts=PROMPTS
    )
    assert isinstance(granted, SameModel)


def test_it_stops_as_soon_as_the_evidence_is_there() -> None:
    asked: list[Sequence[int]] = []

    def other(prompt: Any) -> torch.Tensor:
        asked.append(prompt)
        return model(prompt).roll(1, -1)

    with pytest.raises(
        NotEquivalentError, match="in 9 requests and 9 output tokens; one is farther in 9 "
    ):
        assert_same_model(model, other, by="first token", prompts=PROMPTS)
    assert len(asked) == 9


def test_gumbel_noise_draws_of_the_softmax() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0]]).expand(20_000, 3)
    noise = [gumbel_noise(logits.shape, seed) for seed in (0, 0, 1)]
    drawn = (logits + noise[0]).argmax(-1).bincount(minlength=3) / len(logits)
    expected = logits[0].softmax(-1)
    spread = (expected * (1 - expected) / len(logits)).sqrt()
    assert bool(((drawn - expected).abs() < 5 * spread).all())
    assert torch.equal(noise[0], noise[1])
    assert not torch.equal(noise[0], noise[2])


def drawing(off: float = 0.0, salt: int = 0, keeps_seeds: bool = True, seeds: int = 100) -> Side:
    """A side that draws by itself, from one of so many seeds, each times another's ``salt``."""
    count = itertools.count()
    sound, other = server(0.0, 0), server(0.0, 0, off)

    def seeded(prompt: Any, seed: int, temperature: float) -> list[int]:
        logits = (other if off else sound)(prompt) / temperature
        spoilt = 0 if keeps_seeds else 10**6 + next(count)
        drawn = gumbel_noise(logits.shape, (seed % seeds) * 10**3 + salt + spoilt)
        return (logits + drawn).argmax(-1).tolist()

    return Side(lambda prompt: [0], seeded=seeded)


def test_what_servers_draw_from_their_seeds_is_compared() -> None:
    found = assert_same_model(drawing(), drawing(), by="shared seed", prompts=PROMPTS)
    assert (found.decisive, found.tokens) == (0, ROWS * len(PROMPTS))
    with pytest.raises(NotEquivalentError, match="another model by shared seed"):
        assert_same_model(drawing(), drawing(off=2.0), by="shared seed", prompts=PROMPTS)


@pytest.mark.parametrize(
    ("a", "b", "why"),
    [
        ({"keeps_seeds": False}, {}, "with the same seed again"),
        ({"seeds": 1}, {"seeds": 1}, "it ignores seed or temperature"),
        ({}, {"salt": 1}, "by another sampler than b"),
        ({}, {"salt": 1, "off": 2.0}, "by another sampler than b"),
    ],
)
def test_seeds_that_decide_nothing_are_not_used(
    a: dict[str, Any], b: dict[str, Any], why: str
) -> None:
    with pytest.raises(InvalidComparisonError, match=why):
        assert_same_model(drawing(**a), drawing(**b), by="shared seed", prompts=PROMPTS)


def test_an_engine_here_is_held_to_what_a_server_draws() -> None:
    """The server draws as torch's multinomial does; another engine's model is told from it."""
    engine, texts = tiny_engine(), [f"w{n} w{n + 1} w{n + 2}" for n in range(12)]
    drawing_side = engine_side(engine, DRAWN)
    served = Side(lambda prompt: [], seeded=drawing_side.seeded)
    found = assert_same_model(engine, served, by="shared seed", prompts=texts)
    assert (found.requests, found.decisive) == (12, 0)

    def double(module: Any) -> None:
        module.lm_head.weight.data.mul_(3.0)

    other = Side(lambda prompt: [], seeded=engine_side(tiny_engine(double), DRAWN).seeded)
    with pytest.raises(NotEquivalentError, match="by shared seed"):
        assert_same_model(engine, other, by="shared seed", prompts=texts)


def test_border_inputs_are_the_closest_that_rounding_leaves_alone() -> None:
    spans = torch.arange(1, 33, dtype=torch.float64) / 32  # of eight prompts with four positions

    def gapped(prompt: Any, off: float = 0.0) -> torch.Tensor:
        start = (prompt[0] - 1) * 4
        gaps = spans[start : start + len(prompt)]
        # Rounding moves every gap by as much, to either side.
        moved = gaps + off * (-1) ** torch.arange(len(prompt))
        return torch.stack([moved, torch.zeros_like(moved)], -1)

    prompts = [[number, 0, 0, 0] for number in range(1, 9)]
    told = Side(gapped)
    assert border_prompts(told, told, prompts) == [
        prompts[0][:1], prompts[0][:2], prompts[0][:3], prompts[0]
    ]  # fmt: skip
    rounded = Side(lambda prompt: gapped(prompt, 1.5 / 32))
    beyond = border_prompts(told, rounded, prompts)  # 4.5 of 32: the fifth gap is the first
    assert beyond == [prompts[1][:1], prompts[1][:2], prompts[1][:3], prompts[1]]
    silent = Side(lambda prompt: [1])
    assert border_prompts(silent, silent, prompts) == prompts


def test_served_sides_are_read_by_what_they_tell() -> None:
    def told(gap: float) -> Side:
        return Side(lambda prompt: Answer([1], top=[{1: -0.5, 2: -0.5 - gap}]))

    assert assert_same_model(told(1.0), told(1.0), by="first token", prompts=PROMPTS).decisive == 0
    with pytest.raises(NotEquivalentError):
        assert_same_model(told(1.0), told(1.1), by="first token", prompts=PROMPTS)
    with pytest.raises(InvalidComparisonError, match="use border inputs"):
        assert_same_model(told(1.0), lambda prompt: [1], by="first token", prompts=PROMPTS)
    with pytest.raises(InvalidComparisonError, match="all sides give logits"):
        assert_same_model(told(1.0), told(1.0), by="shared seed", prompts=PROMPTS)
    with pytest.raises(NotEquivalentError, match="by border inputs"):
        assert_same_model(
            lambda prompt: [1], lambda prompt: [2], by="border inputs", prompts=PROMPTS
        )


def test_bad_calls_name_the_remedy() -> None:
    with pytest.raises(ValueError, match="did you mean first token"):
        assert_same_model(model, model, by="first tokens", prompts=PROMPTS)
    with pytest.raises(ValueError, match="alpha 0"):
        assert_same_model(model, model, by="first token", prompts=PROMPTS, alpha=0)
    with pytest.raises(ValueError, match="prompts is empty"):
        assert_same_model(model, model, by="first token", prompts=[])
    with pytest.raises(ValueError, match="give prompts: token ids"):
        assert_same_model(model, model, by="first token")


def test_an_engine_in_process_is_a_side() -> None:
    engine = tiny_engine()
    prompts = [[n + 1, n + 2, n + 3] for n in range(12)]
    assert assert_same_model(engine, engine, by="shared seed", prompts=prompts).p == 1
