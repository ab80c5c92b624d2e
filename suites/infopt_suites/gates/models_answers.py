"""The answers that a model itself gives to chats: what a server's answers are held against.

Each greedy answer of a server must be the one that the candidate's own model gives, but for
near-ties: the first token at which they part is legal where the model's logits of the two tokens
differ by no more than two runs may (`dtype_error.two_runs`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, cached_property
from typing import Protocol

from infopt_reference.quantization import ulp

from pytest_infopt import TokenFinding
from pytest_infopt.engines.base import BatchEngine, ModuleEngine, WholeLogitsEngine
from pytest_infopt.measure import (
    DtypeError,
    dtype_named,
    host_logits,
    near_tie_gap,
    two_runs,
)

from .chat_server import Message


class ServedEngine(WholeLogitsEngine, ModuleEngine, BatchEngine, Protocol):
    """What judging answers takes: the model's own answer, its logits, its chat template."""


class ModelsAnswers:
    """The candidate's own greedy answers, and whether an answer of a server is one of them."""

    def __init__(self, engine: ServedEngine, dtype_error: DtypeError, max_tokens: int) -> None:
        engine.encode("", "chat")  # without a template, nobody knows what the server is sent
        self._engine = engine
        self._granted = two_runs(dtype_error)
        self._max_tokens = max_tokens
        self._answer = cache(self._computed)

    def parting(self, messages: Sequence[Message], text: str, unit: str) -> TokenFinding | None:
        """The first token at which an answer leaves the model's, unless that is a near-tie."""
        prompt = self._prompt(messages)
        (own, end), served = self._answer(tuple(prompt)), self._engine.encode(text)
        place = next(
            (i for i, (a, b) in enumerate(zip(own, served, strict=False)) if a != b),
            min(len(own), len(served)),
        )
        chosen = own[place] if place < len(own) else end
        if chosen is None or len(own) == len(served) == place:
            return None  # the same answer, or one that was cut where the server's goes on
        asked = served[place] if place < len(served) else None
        return self._judged([*prompt, *own[:place]], chosen, asked, unit)

    def _prompt(self, messages: Sequence[Message]) -> list[int]:
        ids: list[int] = self._engine.tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, return_dict=False
        )
        return ids

    @cached_property
    def _ends(self) -> list[int]:
        return end_tokens(self._engine)

    def _computed(self, prompt: tuple[int, ...]) -> tuple[list[int], int | None]:
        """The model's tokens, as a server's text would encode them, and the token that ended them;
        None where they were cut."""
        (tokens,) = self._engine.generate([list(prompt)], [self._max_tokens])
        count = next((i for i, token in enumerate(tokens) if token in self._ends), len(tokens))
        end = tokens[count] if count < len(tokens) else None
        return self._engine.encode(self._engine.decode(tokens[:count])), end

    def _judged(
        self, context: list[int], own: int, served: int | None, unit: str
    ) -> TokenFinding | None:
        """``served`` is None where the server's answer ended: by its most probable end token, or,
        where the model has none, by what it would choose last."""
        engine = self._engine
        logits = host_logits(engine.full_logits(context))[-1]
        if served is None:
            ends = self._ends or [int(logits.argmin())]
            served = max(ends, key=lambda token: float(logits[token]))
        gap = abs(float(logits[own] - logits[served]))
        spacing = float(ulp(logits.amax()[None], dtype_named(engine.dtype)))
        if gap <= near_tie_gap(self._granted, spacing):
            return None
        shares = logits.softmax(-1)
        tops = [[(engine.decode([token]), float(shares[token]))] for token in (own, served)]
        return TokenFinding(
            document=unit,
            position=len(context),
            context=engine.decode(context),
            true_token=engine.decode([own]),
            reference_top=tops[0],
            candidate_top=tops[1],
            kl=0.0,
            gap_ulps=gap / spacing,
        )


def end_tokens(engine: ModuleEngine) -> list[int]:
    """The tokens that end an answer. Chat models have several: their generation configuration lists
    them, and the tokenizer knows one."""
    told = getattr(engine.module, "generation_config", None)
    of_model = getattr(told, "eos_token_id", None)
    listed = of_model if isinstance(of_model, list) else [of_model]
    return sorted({*listed, engine.tokenizer.eos_token_id} - {None})
