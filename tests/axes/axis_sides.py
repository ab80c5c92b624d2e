"""A tiny model served along every axis: soundly, and with planted faults."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import cache
from typing import Any

import torch
from tiny_models import VOCABULARY, make_model, make_tokenizer

from pytest_infopt import Answer, Side
from pytest_infopt.axes.answers import Prompt
from pytest_infopt.engines.transformers.engine import TransformersEngine

_DRAW = random.Random(16)
PROMPTS = [[_DRAW.randrange(VOCABULARY) for _ in range(count)] for count in (9, 11, 14, 18)]
BLOCK = 4
TOKENS = 4

Ids = Sequence[int]


@cache
def tiny_engine(change: Callable[[Any], None] | None = None) -> TransformersEngine:
    model = make_model("llama")
    if change is not None:
        change(model)
    return TransformersEngine("tiny", model, make_tokenizer(), dtype=torch.float32)


def rows_behind(engine: TransformersEngine, context: Ids, ids: Ids) -> torch.Tensor:
    """Logits of ``ids`` behind a context that a cache holds."""
    if not context:
        return engine.full_logits(ids)
    return engine.through_cache([[*context, *ids]], [len(context), len(ids)])[0][len(context) :]


class PrefixCached:
    """Blocks of prompts that were served; ``held`` says what a hit of so many tokens finds."""

    def __init__(self, held: Callable[[Ids, int, list[Ids]], Ids] | None = None) -> None:
        self.engine = tiny_engine()
        self.held = held or (lambda prompt, count, others: prompt[:count])
        self.seen: list[Ids] = []
        self.side = Side(self.answer, flush=self.seen.clear)

    def answer(self, prompt: Prompt) -> Answer:
        ids = [int(token) for token in prompt]
        cached = (len(ids) - 1) // BLOCK * BLOCK if ids in self.seen else 0
        others = [each for each in self.seen if each != ids]
        context = self.held(ids, cached, others) if cached else []
        self.seen.append(ids)
        logits = rows_behind(self.engine, context, ids[cached:])
        return Answer(logits=logits, cached_tokens=cached)


def blocks_of_another(prompt: Ids, count: int, others: list[Ids]) -> Ids:
    """A hit on the hash of another's last block alone."""
    return [*prompt[: count - BLOCK], *others[-1][count - BLOCK : count]] if others else prompt


def shifted_blocks(prompt: Ids, count: int, others: list[Ids]) -> Ids:
    """A slot that was written one position late."""
    return [prompt[0], *prompt[: count - 1]]


def batched(wrong: Callable[[list[torch.Tensor]], list[torch.Tensor]] | None = None) -> Side:
    engine = tiny_engine()

    def batch(prompts: Sequence[Prompt]) -> list[Answer]:
        rows = engine.batch_logits([[int(t) for t in prompt] for prompt in prompts])
        rows = rows if wrong is None else wrong(rows)
        return [Answer(logits=row, together=len(rows)) for row in rows]

    return Side(engine.full_logits, batch=batch)  # type: ignore[arg-type]  # ids alone


def leaking(rows: list[torch.Tensor]) -> list[torch.Tensor]:
    """The last position sees a little of the row before."""
    mixed = [row.clone() for row in rows]
    for row, before in zip(mixed[1:], rows, strict=False):
        row[-1] = 0.99 * row[-1] + 0.01 * before[-1]
    return mixed


def scaled_together(rows: list[torch.Tensor]) -> list[torch.Tensor]:
    """Rounded to 8 bit by the largest number of the whole batch."""
    scale = max(float(row.abs().max()) for row in rows) / 127
    return [(row / scale).round() * scale for row in rows]


def chunked(context: Callable[[Ids, int, int], Ids]) -> Side:
    """``context`` is what a chunk that begins somewhere sees before itself."""
    engine = tiny_engine()

    def in_chunks(prompt: Prompt, size: int) -> Answer:
        ids = [int(token) for token in prompt]
        starts = range(0, len(ids), size)
        rows = [rows_behind(engine, context(ids, s, size), ids[s : s + size]) for s in starts]
        return Answer(logits=torch.cat(rows), passes=len(rows))

    return Side(engine.full_logits, chunked=in_chunks)  # type: ignore[arg-type]  # ids alone


class Streams:
    """Greedy tokens of concurrent requests. ``parties`` of them wait for each other behind their
    first token, so that what they share is written by all before any reads it."""

    def __init__(self, parties: int = 0, fault: str = "") -> None:
        self.engine = tiny_engine()
        self.fault = fault
        self.barrier = threading.Barrier(parties) if parties else None
        self.lock = threading.Lock()
        self.current: Ids = []
        self.place = 0

    def __call__(self, prompt: Prompt) -> Iterator[int]:
        ids = [int(token) for token in prompt]
        with self.lock:
            self.current, self.place = ids, 0
            tokens = self.engine.greedy_tokens(ids, TOKENS)
        yield tokens[0]
        if self.barrier is not None:
            self.barrier.wait(timeout=60)
        with self.lock:
            if self.fault == "the prompt that came last":
                tokens = self.engine.greedy_tokens(self.current, TOKENS)
            elif self.fault == "one counter":
                self.place += 1
                tokens = tokens[self.place - 1 :]
        yield from tokens[1:]


class OneByOne(Streams):
    """A lock around the whole of a request: nothing is ever together."""

    def __init__(self) -> None:
        super().__init__()
        self.whole = threading.Lock()

    def __call__(self, prompt: Prompt) -> Iterator[int]:
        with self.whole:
            yield from super().__call__(prompt)


class Aging:
    """``wrong`` says by how much the last logit of the n-th request is off."""

    def __init__(self, wrong: Callable[[int], float] = lambda n: 0.0) -> None:
        self.engine, self.wrong, self.requests = tiny_engine(), wrong, 0

    def __call__(self, prompt: Prompt) -> torch.Tensor:
        self.requests += 1
        logits = self.engine.full_logits([int(token) for token in prompt]).clone()
        logits[-1, -1] += self.wrong(self.requests)
        return logits


def quantized_cache(change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Side:
    """Keys and values in 4 bit with a scale a token; ``change`` makes numbers of codes and
    scales."""
    engine = tiny_engine()

    def hook(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        scale = output.abs().amax(-1, keepdim=True) / 7
        return change((output / scale).round(), scale)

    def answer(prompt: Prompt) -> torch.Tensor:
        with ExitStack() as hooks:
            for name, module in engine.module.named_modules():
                if name.endswith(("k_proj", "v_proj")):
                    hooks.callback(module.register_forward_hook(hook).remove)
            return engine.full_logits([int(token) for token in prompt])

    return Side(answer, settings={"cache dtype": "int4"})


def of_version(version: str, change: Callable[[Any], None] | None = None) -> Side:
    engine = tiny_engine(change)
    settings = {"engine version": version} if version else {}
    return Side(engine.full_logits, settings=settings)  # type: ignore[arg-type]  # ids alone


class Compiled:
    """A graph that took a number of its first call for a constant, or none."""

    def __init__(self, constant: str = "") -> None:
        self.engine, self.constant, self.first = tiny_engine(), constant, 0
        self.scale = 0.0
        self.side = Side(self.answer, settings={"eager/compiled": "compiled"})

    def answer(self, prompt: Prompt) -> torch.Tensor:
        ids = [int(token) for token in prompt]
        self.first = self.first or len(ids)
        logits = self.engine.full_logits(ids)
        self.scale = self.scale or float(logits.abs().max())
        if self.constant == "length":  # positions beyond it are the last one's
            logits = torch.cat([logits[: self.first], logits[: len(ids) - self.first]])
        if self.constant == "scale":
            logits = logits * self.scale / logits.abs().max()
        return logits
