"""Faults of one way to the same numbers: the last position alone, a far position, generation."""

from __future__ import annotations

from typing import Any

from .fault import Draw, Planned, kind
from .parts import positions_of


def _kept(draw: Draw, sentence: str, wrong: Any) -> Planned:
    """Shift the logits by one id whenever so many positions are asked for."""

    def around(forward: Any, *args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        if wrong(kwargs.get("logits_to_keep", 0)):
            output.logits = output.logits.roll(1, dims=-1)
        return output

    return sentence, [], lambda changes: changes.forward(draw.parts.model, around)


@kind(listed=True, shows="last position")
def last_logits_shifted(draw: Draw) -> Planned:
    """Logits are off by one id where only the last position is asked for."""
    return _kept(draw, "the last position's logits are off by one id", lambda kept: kept == 1)


@kind(shows="last positions")
def kept_logits_shifted(draw: Draw) -> Planned:
    """Where a few positions are asked for, they are one too early."""

    def around(forward: Any, *args: Any, **kwargs: Any) -> Any:
        kept = kwargs.get("logits_to_keep", 0)
        if not isinstance(kept, int) or kept < 2:
            return forward(*args, **kwargs)
        output = forward(*args, **{**kwargs, "logits_to_keep": kept + 1})
        output.logits = output.logits[:, :-1]
        return output

    sentence = "the last positions that are asked for are one too early"
    return sentence, [], lambda changes: changes.forward(draw.parts.model, around)


@kind(shows="generated")
def generation_differs(draw: Draw) -> Planned:
    """generate() gives another token than the forward pass would."""
    place = draw.choice("place", (1, 2, 3))
    model = draw.parts.model
    vocabulary = draw.parts.vocabulary

    def plant(changes: Any) -> None:
        own = model.generate

        def generate(*args: Any, **kwargs: Any) -> Any:
            output = own(*args, **kwargs)
            ids = getattr(output, "sequences", output)
            start = next((t.shape[1] for t in (kwargs.get("input_ids"), *args) if t is not None), 0)
            if ids.shape[1] > start + place:
                ids[:, start + place] = (ids[:, start + place] + 1) % vocabulary
            return output

        changes.attribute(model, "generate", generate)

    return f"generate() gives another token at place {place}", [], plant


@kind(listed=True)
def wrong_from_position(draw: Draw) -> Planned:
    """From a position on the hidden states are wrong."""
    first = draw.choice("position", (32, 60, 200))
    size = draw.choice("size", (1.0, 0.3))

    def around(forward: Any, *args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        if args:
            return output
        hidden = output.last_hidden_state
        far = (positions_of(kwargs) >= first)[..., None]
        # The neighbouring channel's value, as an index that overflows gives.
        output.last_hidden_state = hidden + (far * size).to(hidden.dtype) * hidden.roll(1, dims=-1)
        return output

    sentence = f"hidden states are wrong from position {first} on"
    return sentence, [], lambda changes: changes.forward(draw.parts.body, around)
