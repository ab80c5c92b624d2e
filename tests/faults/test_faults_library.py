"""Faults change what they say, sound variants nothing, and both go without trace."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from faults import kinds
from faults.fault import NOISE, exceeds
from faults.models import DENSE, TINY, tiny
from faults.routes import ROUTES, along, difference

_LAYERS = 4
# What is drawn otherwise begins beyond the few passes that are made here.
_NEARER: dict[str, dict[str, Any]] = {"breaks-after-passes": {"passes": 30}}
# Time alone, which no test asserts on; and what no route of logits shows.
_ELSEWHERE = {"slows-after-passes", "slows-slowly", "chat-template-changed", "end-token-unknown"}


@cache
def model_of(name: str) -> Any:
    return tiny(name, _LAYERS)


@cache
def clean(name: str, route: str) -> torch.Tensor:
    return along(route, model_of(name))


def drawn(kind: str, seed: int = 0) -> tuple[str, kinds.Fault]:
    """A member of the kind, in the first model that can have it."""
    for name in (DENSE, *TINY):
        try:
            fault = kinds.draw(model_of(name), kind, seed, _NEARER.get(kind))
            with fault.planted():
                return name, fault
        except kinds.NotApplicableError:
            continue
    pytest.fail(f"no model can have {kind}")


def state(model: Any) -> dict[str, Any]:
    """Tensors, and what objects hold beside them."""
    found = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    attributes = {
        f"{name}.{key}": repr(value)
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if not key.startswith("_")
    }
    return {**found, **attributes, "modules": [name for name, _ in model.named_modules()]}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(value, other[key]) if isinstance(value, torch.Tensor) else value == other[key]
        for key, value in one.items()
    )


ON_ROUTES = [kind for kind in kinds.faults() if kind not in _ELSEWHERE]


@pytest.mark.parametrize("kind", ON_ROUTES)
def test_a_fault_shows_on_its_route_and_leaves_no_trace(kind: str) -> None:
    name, fault = drawn(kind)
    model = model_of(name)
    before = state(model)
    expected = clean(name, fault.shows)
    with fault.planted():
        assert difference(along(fault.shows, model), expected) > 0
    assert same(state(model), before)
    assert torch.equal(along(fault.shows, model), expected)


@pytest.mark.parametrize("kind", kinds.sound_variants())
def test_a_sound_variant_changes_rounding_alone_and_leaves_no_trace(kind: str) -> None:
    name, variant = drawn(kind)
    model = model_of(name)
    before = state(model)
    rounding = cost_of_bfloat16(name) / 100
    with variant.planted():
        for route in ("plain", "left padded", "cached batch"):
            assert difference(along(route, model), clean(name, route)) < rounding, route
    assert same(state(model), before)


@cache
def cost_of_bfloat16(name: str) -> float:
    rounded = tiny(name, _LAYERS).bfloat16()
    return difference(along("plain", rounded), clean(name, "plain"))


@pytest.mark.parametrize("kind", ON_ROUTES)
def test_a_seed_decides_the_member(kind: str) -> None:
    (_, one), (_, other) = drawn(kind, 3), drawn(kind, 3)
    assert (one.options, one.sentence) == (other.options, other.sentence)


@pytest.mark.parametrize("kind", ["mask-off-by-one", "mask-not-itself", "first-token-unseen"])
def test_a_wrong_mask_is_as_wrong_in_a_pass_that_fills_a_cache(kind: str) -> None:
    """Of any layer: those before it have filled theirs."""
    model = model_of(DENSE)
    ids = torch.arange(3, 19)[None]
    fault = kinds.draw(model, kind, options={"layer": 1})
    with fault.planted(), torch.no_grad():
        plain, cached = (model(input_ids=ids, use_cache=use).logits for use in (False, True))
    torch.testing.assert_close(cached, plain)


def test_seeds_draw_other_members() -> None:
    sentences = {kinds.draw(model_of(DENSE), "linear-slope", seed).sentence for seed in range(20)}
    assert len(sentences) > 10


def test_options_that_are_given_are_taken_and_unknown_ones_refused() -> None:
    name = "model.layers.1.mlp.up_proj"
    fault = kinds.draw(model_of(DENSE), "linear-slope", options={"module": name})
    assert fault.modules == (name,)
    assert fault.is_named_by(name)
    assert not fault.is_named_by("model.layers.11.mlp.up_proj")
    with pytest.raises(ValueError, match="no option 'places'"):
        kinds.draw(model_of(DENSE), "linear-slope", options={"places": name})
    with pytest.raises(ValueError, match="linear-slope"):
        kinds.draw(model_of(DENSE), "linear-slop")


def test_the_size_of_a_change_is_that_of_the_worst_row() -> None:
    with kinds.draw(model_of(DENSE), "linear-scale", options={"factor": 1.5}).planted() as changes:
        assert changes.size == pytest.approx(0.5)
    with kinds.draw(model_of(DENSE), "channel-negated").planted() as changes:
        assert changes.size == pytest.approx(2.0)
    sizes = sorted(NOISE.values())
    assert exceeds(None, "int4")
    assert not exceeds(sizes[-1] * 0.9, "int4")
    assert exceeds(sizes[0] * 1.1, "float32")


def test_a_fault_that_stays_is_there_afterwards() -> None:
    model = tiny(DENSE, 2)
    before = along("plain", model)
    kinds.draw(model, "linear-scale").stay()
    assert difference(along("plain", model), before) > 0


def test_every_route_is_a_faults_and_every_fault_has_one() -> None:
    shown = {drawn(kind)[1].shows for kind in ON_ROUTES}
    assert shown == set(ROUTES)
