"""Faults of single tokens: rows of the embedding and of the head, special ids, the template."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .changes import Changes
from .fault import GENERATION, TOKENIZER, Draw, Planned, kind
from .parts import NotApplicableError

_BYTES = 260  # special tokens and bytes, which byte-pair vocabularies hold before the words


def _frequent(draw: Draw) -> range:
    """Ids of frequent tokens: byte-pair vocabularies hold them in the order of their merging."""
    first = _BYTES if draw.parts.vocabulary > 4 * _BYTES else 3
    return range(first, first + 40)


def _rare(draw: Draw) -> range:
    count = draw.parts.vocabulary
    return range(count - count // 4, count)


def _embedding_names(draw: Draw) -> list[str]:
    """The embedding, and the head where the two are one."""
    parts = draw.parts
    tied = getattr(parts.head, "weight", None)
    both = tied is not None and tied.data_ptr() == parts.embedding.data_ptr()
    return [parts.embedding_name, *([parts.head_name] if both else [])]


def _swap(draw: Draw, tokens: range) -> Planned:
    one = draw.choice("token", tokens)
    other = draw.choice("other token", [token for token in tokens if token != one])

    def plant(changes: Changes) -> None:
        weight = draw.parts.embedding
        first, second = weight[one].clone(), weight[other].clone()
        changes.assign(weight[one], second)
        changes.assign(weight[other], first)

    return f"the embeddings of tokens {one} and {other} are swapped", _embedding_names(draw), plant


@kind(listed=True)
def rare_embeddings_swapped(draw: Draw) -> Planned:
    """The embeddings of two rare tokens are swapped."""
    return _swap(draw, _rare(draw))


@kind(listed=True)
def frequent_embeddings_swapped(draw: Draw) -> Planned:
    """The embeddings of two frequent tokens are swapped."""
    return _swap(draw, _frequent(draw))


@kind()
def embedding_row_scaled(draw: Draw) -> Planned:
    """A token's embedding is half as large again."""
    token = draw.choice("token", range(draw.parts.vocabulary))
    factor = draw.choice("factor", (1.5, 0.5))

    def plant(changes: Changes) -> None:
        row = draw.parts.embedding[token]
        changes.assign(row, row * factor)

    return f"the embedding of token {token} × {factor}", _embedding_names(draw), plant


@kind()
def first_token_ruined(draw: Draw) -> Planned:
    """The embedding of the token that texts begin with is noise."""
    config = draw.parts.config
    token = getattr(config, "bos_token_id", None)
    if token is None:
        raise NotApplicableError("texts begin with no token of their own")
    token = draw.choice("token", [int(token)])
    seed = draw.choice("pattern", range(1000))

    def plant(changes: Changes) -> None:
        row = draw.parts.embedding[token]
        noise = torch.randn(row.shape, generator=torch.Generator().manual_seed(seed))
        changes.assign(row, noise * row.float().std())

    return f"the embedding of token {token}, the first, is noise", _embedding_names(draw), plant


@kind(listed=True)
def head_row_off(draw: Draw) -> Planned:
    """The logit of a rare token is off by a constant."""
    return _biased(draw, draw.choice("token", _rare(draw)), draw.choice("size", (5.0, -5.0)))


@kind(listed=True)
def end_token_biased(draw: Draw) -> Planned:
    """The logit of the end token is too large or too small."""
    return _biased(draw, draw.parts.end_token, draw.choice("size", (3.0, -3.0)))


def _biased(draw: Draw, token: int, size: float) -> Planned:
    def around(forward: Any, *args: Any, **kwargs: Any) -> Any:
        logits = forward(*args, **kwargs).clone()
        logits[..., token] += size
        return logits

    sentence, head = f"the logit of token {token} {size:+}", draw.parts.head
    return sentence, [draw.parts.head_name], lambda changes: changes.forward(head, around)


@kind()
def head_rows_swapped(draw: Draw) -> Planned:
    """The logits of two tokens are swapped."""
    one, other = draw.two("token", draw.parts.vocabulary)

    def around(forward: Any, *args: Any, **kwargs: Any) -> Any:
        logits = forward(*args, **kwargs).clone()
        logits[..., [one, other]] = logits[..., [other, one]]
        return logits

    sentence, head = f"the logits of tokens {one} and {other} are swapped", draw.parts.head
    return sentence, [draw.parts.head_name], lambda changes: changes.forward(head, around)


@kind()
def head_stale(draw: Draw) -> Planned:
    """The output head is an earlier checkpoint's: no longer tied, and a few per cent off."""
    size = draw.choice("size", (0.1, 0.2))
    seed = draw.choice("pattern", range(1000))

    def plant(changes: Changes) -> None:
        head = draw.parts.head
        weight: Tensor = head.weight
        noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed))
        stale = weight + (size * weight.float().std() * noise).to(weight.dtype)
        changes.parameter(head, "weight", stale)

    return f"the head is of an earlier checkpoint, {size} off", [draw.parts.head_name], plant


@kind(listed=True)
def logits_scaled(draw: Draw) -> Planned:
    """All logits are a few per cent too large."""
    return _temperature(draw, draw.choice("factor", (1.02, 0.98)))


@kind()
def temperature(draw: Draw) -> Planned:
    """All logits are divided by a temperature."""
    return _temperature(draw, 1 / draw.choice("temperature", (1.1, 0.8)))


def _temperature(draw: Draw, factor: float) -> Planned:
    head = draw.parts.head

    def around(forward: Any, *args: Any, **kwargs: Any) -> Any:
        return forward(*args, **kwargs) * factor

    sentence = f"all logits × {factor:.4g}"
    return sentence, [draw.parts.head_name], lambda changes: changes.forward(head, around)


@kind(shows=GENERATION)
def end_token_unknown(draw: Draw) -> Planned:
    """The generation settings end a text by another token than the model's."""
    known = draw.parts.end_token
    other = draw.choice("token", [known + 1, known + 2])
    config = draw.parts.model.generation_config
    sentence = f"texts end by token {other} in place of {known}"
    return sentence, [], lambda changes: changes.attribute(config, "eos_token_id", other)


@kind(shows=TOKENIZER)
def chat_template_changed(draw: Draw) -> Planned:
    """The chat template lacks what it puts before an answer, or has spaces of its own."""
    tokenizer = draw.parts.tokenizer
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        raise NotApplicableError("there is no tokenizer with a chat template")
    how = draw.choice("how", ("no generation prompt", "a space before a message"))
    changed = {
        "no generation prompt": template.replace("add_generation_prompt", "false"),
        "a space before a message": template.replace(
            "message['content']", "' ' + message['content']"
        ),
    }[how]
    if changed == template:
        raise NotApplicableError(f"this template cannot be given {how}")
    sentence = f"the chat template has {how}"
    return sentence, [], lambda changes: changes.attribute(tokenizer, "chat_template", changed)
