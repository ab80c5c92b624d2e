"""`assert_same_model`: another model is told, an equal one is accused as rarely as declared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from axis_sides import tiny_engine
from tiny_models import VOCABULARY

from pytest_infopt import Answer, SameModel, Side, assert_same_model
from pytest_infopt.axes.same_model import _noisy
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
    readings = len(PROMPTS)
    assert (found.decisive, found.p) == (0, 1.0)
    assert found.readings == (readings // 2 if by == "border inputs" else readings)


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

    with pytest.raises(NotEquivalentError, match="in 9 requests and 9 readings, of 9"):
        assert_same_model(model, other, by="first token", prompts=PROMPTS)
    assert len(asked) == 9


def test_gumbel_noise_draws_of_the_softmax() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0]]).expand(20_000, 3)
    drawn = _noisy(logits, 0).argmax(-1).bincount(minlength=3) / len(logits)
    expected = logits[0].softmax(-1)
    spread = (expected * (1 - expected) / len(logits)).sqrt()
    assert bool(((drawn - expected).abs() < 5 * spread).all())
    assert torch.equal(_noisy(logits, 3), _noisy(logits, 3))
    assert not torch.equal(_noisy(logits, 3), _noisy(logits, 4))


def test_served_sides_are_read_by_what_they_tell() -> None:
    def told(gap: float) -> Side:
        return Side(lambda prompt: Answer([1], top=[{1: -0.5, 2: -0.5 - gap}]))

    assert assert_same_model(told(1.0), told(1.0), by="first token", prompts=PROMPTS).decisive == 0
    with pytest.raises(NotEquivalentError):
        assert_same_model(told(1.0), told(1.1), by="first token", prompts=PROMPTS)
    with pytest.raises(InvalidComparisonError, match="use border inputs"):
        assert_same_model(told(1.0), lambda prompt: [1], by="first token", prompts=PROMPTS)
    with pytest.raises(InvalidComparisonError, match="both sides give logits"):
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
