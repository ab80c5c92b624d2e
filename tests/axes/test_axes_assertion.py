"""`assert_equivalent` along every axis: a sound engine passes, planted faults of unlike kinds fail,
and equality that says nothing is refused."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
from axis_sides import (
    PROMPTS,
    Aging,
    Compiled,
    OneByOne,
    PrefixCached,
    Streams,
    batched,
    blocks_of_another,
    chunked,
    leaking,
    of_version,
    quantized_cache,
    scaled_together,
    shifted_blocks,
    tiny_engine,
)

from pytest_infopt import Answer, Side, assert_equivalent
from pytest_infopt.axes.ways import AXES
from pytest_infopt.errors import AxisNotExercisedError, NotEquivalentError, UndecidedError

Sides = Callable[[], tuple[Any, ...]]

FLOAT_CACHE = "float32"


def float_cache() -> Side:
    return Side(tiny_engine().full_logits, settings={"cache dtype": FLOAT_CACHE})  # type: ignore[arg-type]


def int4(codes: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return codes * scale


def coarser(codes: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """As sound: scales in 16 bit."""
    return codes * scale.half().float()


def eager() -> Side:
    return Side(tiny_engine().full_logits, settings={"eager/compiled": "eager"})  # type: ignore[arg-type]


SOUND: dict[str, Sides] = {
    "cold/warm": lambda: (PrefixCached().side,),
    "alone/batched": lambda: (tiny_engine(),),
    "chunked/whole prefill": lambda: (tiny_engine(),),
    "concurrent/serial": lambda: (Streams(), Streams(parties=len(PROMPTS))),
    "first/hundredth request": lambda: (Aging(),),
    "cache dtype": lambda: (float_cache(), quantized_cache(coarser), quantized_cache(int4)),
    "eager/compiled": lambda: (eager(), Compiled().side),
    "engine version": lambda: (of_version("1.0"), of_version("1.1")),
}
FAULTS: list[tuple[str, str, Sides]] = [
    ("cold/warm", "another's blocks", lambda: (PrefixCached(blocks_of_another).side,)),
    ("cold/warm", "shifted blocks", lambda: (PrefixCached(shifted_blocks).side,)),
    ("alone/batched", "a neighbour leaks", lambda: (batched(leaking),)),
    ("alone/batched", "one scale for all", lambda: (batched(scaled_together),)),
    (
        "chunked/whole prefill",
        "a boundary off by one",
        lambda: (chunked(lambda ids, start, size: ids[: max(0, start - 1)]),),
    ),
    (
        "chunked/whole prefill",
        "only the chunk before is seen",
        lambda: (chunked(lambda ids, start, size: ids[max(0, start - size) : start]),),
    ),
    *(
        (
            "concurrent/serial",
            fault,
            lambda fault=fault: (Streams(), Streams(len(PROMPTS), fault)),
        )
        for fault in ("the prompt that came last", "one counter")
    ),
    ("first/hundredth request", "drifts", lambda: (Aging(lambda n: max(0, n - 20) * 1e-6),)),
    ("first/hundredth request", "one request", lambda: (Aging(lambda n: float(n == 21)),)),
    (
        "cache dtype",
        "a wrong scale",
        lambda: (
            float_cache(),
            quantized_cache(lambda codes, scale: codes * scale * 1.5),
            quantized_cache(int4),
        ),
    ),
    (
        "cache dtype",
        "the first token's scale",
        lambda: (
            float_cache(),
            quantized_cache(lambda codes, scale: codes * scale[:, :1]),
            quantized_cache(int4),
        ),
    ),
    ("eager/compiled", "a constant length", lambda: (eager(), Compiled("length").side)),
    ("eager/compiled", "a constant scale", lambda: (eager(), Compiled("scale").side)),
    (
        "engine version",
        "another base of rotary positions",
        lambda: (
            of_version("1.0"),
            of_version("1.1", lambda m: m.model.rotary_emb.inv_freq.mul_(0.97)),
        ),
    ),
    (
        "engine version",
        "another epsilon",
        lambda: (
            of_version("1.0"),
            of_version("1.1", lambda m: setattr(m.model.norm, "variance_epsilon", 1e-2)),
        ),
    ),
]
UNEXERCISED: list[tuple[str, Sides, str]] = [
    ("cold/warm", lambda: (tiny_engine(),), "no cached tokens were reported"),
    (
        "cold/warm",
        lambda: (lambda ids: Answer(tokens=[1], cached_tokens=0),),
        "0 tokens came from a cache",
    ),
    (
        "cold/warm",
        lambda: (lambda ids: Answer(tokens=[1], cached_tokens=8),),
        "of cold prompts",
    ),
    (
        "alone/batched",
        lambda: (lambda ids: Answer(tokens=[1], together=1),),
        "no two requests were seen together",
    ),
    (
        "chunked/whole prefill",
        lambda: (Side(lambda ids: [1], chunked=lambda ids, size: Answer([1], passes=1)),),
        "in two passes or more",
    ),
    ("concurrent/serial", lambda: (OneByOne(),), "no two requests were seen together"),
    ("concurrent/serial", lambda: (lambda ids: [1, 2],), "no two requests were seen together"),
    ("cache dtype", lambda: (float_cache(), float_cache()), "side a runs with float32, side b"),
    ("eager/compiled", lambda: (tiny_engine(),), "nothing is compiled"),
    ("engine version", lambda: (of_version("1.0"), of_version("")), "side b with nothing known"),
]


def judged(axis: str, a: Any, b: Any = None, control: Any = None, **options: Any) -> Any:
    return assert_equivalent(
        a, b, axis=axis, prompts=PROMPTS, control=control, requests=16, **options
    )


def test_every_axis_is_tried() -> None:
    assert set(SOUND) == set(AXES)
    assert all(sum(axis == tried for tried, *_ in FAULTS) >= 2 for axis in AXES)


@pytest.mark.parametrize("axis", SOUND)
def test_a_sound_engine_passes(axis: str) -> None:
    found = judged(axis, *SOUND[axis]())
    assert (found.axis, found.prompts, found.parted, found.control_parted) == (
        axis,
        len(PROMPTS),
        0,
        0,
    )
    assert found.proof in str(found)


@pytest.mark.parametrize(("axis", "fault", "sides"), FAULTS)
def test_a_planted_fault_fails_and_the_message_shows_both(
    axis: str, fault: str, sides: Sides
) -> None:
    with pytest.raises(NotEquivalentError) as error:
        judged(axis, *sides())
    message = str(error.value)
    assert message.startswith(f"not equivalent along {axis}: ")
    assert "at token" in message
    assert all(f"    {way}: " in message for way in (AXES[axis].usual, AXES[axis].other))
    assert message.count(" %") >= 1


@pytest.mark.parametrize(("axis", "sides", "why"), UNEXERCISED)
def test_what_was_not_exercised_is_refused(axis: str, sides: Sides, why: str) -> None:
    with pytest.raises(AxisNotExercisedError, match=why) as error:
        judged(axis, *sides())
    assert f"axis '{axis}' was not exercised" in str(error.value)


@pytest.mark.slow
def test_a_compiled_engine_is_held_to_its_models_own_code() -> None:
    engine = tiny_engine(lambda model: model.compile(backend="eager"))
    found = judged("eager/compiled", engine)
    assert found.proof == "compiled against the model's own code"


def test_rows_of_another_prompt_are_no_error_of_the_comparison() -> None:
    with pytest.raises(NotEquivalentError, match=r"logits \[\d+, 128\] beside \[\d+, 128\]"):
        judged("alone/batched", batched(lambda rows: rows[::-1]))


def test_too_few_requests_are_refused() -> None:
    with pytest.raises(AxisNotExercisedError, match="raise requests"):
        assert_equivalent(Aging(), axis="first/hundredth request", prompts=PROMPTS, requests=1)


# The control arm, on tokens of sides that draw some of them


class Drawing:
    """Tokens of which one is drawn with a probability."""

    def __init__(self, probability: float, seed: int = 0) -> None:
        self.probability, self.draw = probability, random.Random(seed)

    def __call__(self, prompt: Any) -> Answer:
        other = self.draw.random() < self.probability
        return Answer(tokens=[prompt[0], int(other)])


VERSIONS = [{"engine version": version} for version in ("1", "2")]
MANY = [[number] for number in range(60)]


def compared(p: float, q: float, seed: int = 0) -> Any:
    a, b = (
        Side(Drawing(probability, 2 * seed + place), settings=VERSIONS[place])
        for place, probability in enumerate((p, q))
    )
    return assert_equivalent(a, b, axis="engine version", prompts=MANY)


def test_what_parts_as_often_as_the_control_arm_is_never_accused() -> None:
    passed = 0
    for seed in range(40):
        with suppress(UndecidedError):
            found = compared(0.3, 0.3, seed)
            passed += found.control_parted >= found.parted > 0
    assert passed > 10


def test_only_the_excess_over_the_control_arm_is_judged() -> None:
    with pytest.raises(NotEquivalentError, match="in the control arm"):
        compared(0.05, 0.9)


def test_a_small_excess_over_a_control_arm_that_parts_is_undecided() -> None:
    with pytest.raises(UndecidedError, match="give more prompts"):
        compared(0.05, 0.12)


# What may be compared


def test_tokens_may_differ_at_a_near_tie_alone() -> None:
    wide, narrow = {1: -0.1, 2: -3.0}, {1: -0.69, 2: -0.70}

    def side(first: int, second: int, version: int) -> Side:
        answer = Answer(tokens=[first, second], top=[wide, narrow])
        return Side(lambda ids: answer, settings=VERSIONS[version])

    assert_equivalent(side(1, 1, 0), side(1, 2, 1), axis="engine version", prompts=[[1]])
    with pytest.raises(NotEquivalentError, match=r"at token 0, where side a has a gap of 2.9 nats"):
        assert_equivalent(side(1, 1, 0), side(2, 1, 1), axis="engine version", prompts=[[1]])


def test_an_answer_that_ends_early_parts() -> None:
    short = Side(lambda ids: [1], settings=VERSIONS[0])
    long = Side(lambda ids: [1, 1], settings=VERSIONS[1])
    with pytest.raises(NotEquivalentError, match="the answer has ended"):
        assert_equivalent(long, short, axis="engine version", prompts=[[1]])


@pytest.mark.parametrize(
    ("answer", "why"),
    [("text", "a side answered 'text'"), (torch.zeros(2, 2, 2), "3 dimensions"), (None, "None")],
)
def test_what_is_no_answer_is_named(answer: object, why: str) -> None:
    with pytest.raises(TypeError, match=why):
        assert_equivalent(lambda ids: answer, axis="alone/batched", prompts=[[1]])


def test_bad_calls_name_the_remedy() -> None:
    with pytest.raises(ValueError, match="did you mean cold/warm"):
        assert_equivalent(tiny_engine(), axis="cold/warn")
    with pytest.raises(ValueError, match="give prompts: token ids"):
        assert_equivalent(lambda ids: [1], axis="cold/warm")
    with pytest.raises(ValueError, match="prompts is empty"):
        assert_equivalent(lambda ids: [1], axis="cold/warm", prompts=[])
    with pytest.raises(TypeError, match="3 is no side"):
        assert_equivalent(3, axis="cold/warm", prompts=[[1]])  # type: ignore[arg-type]
