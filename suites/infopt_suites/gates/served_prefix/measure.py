"""What the gate on a server's prefix cache measures in the process of the models."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from typing import Any

from pytest_infopt import Capability, ModelPair, Sample, remote
from pytest_infopt.engines.base import CountedEngine, able
from pytest_infopt.engines.registry import load_engine

from .gate import FIRST_TOKEN, SAVED, UNSHARED, ServedPrefixPlan
from .served_answers import ServedAnswers
from .served_table import served_table
from .ways import ALONE, AT_ONCE, Asked, Beginnings, Prompt, Prompts

_DRAWS = 64  # of a beginning, until its text is read as its tokens


class ServedPrefixMeasure:
    """Asks the server that the candidate is, or the one that a candidate in process names."""

    def __init__(self, pair: ModelPair) -> None:
        self._pair = pair
        self._plan = pair.release.plan(ServedPrefixPlan)
        self._asked_before = Beginnings()

    @remote
    def prompt(self, index: int) -> Sample:
        """The index-th prompt by every way: one by one, and at once with others."""
        started, unit = time.perf_counter(), f"prompt-{index}"
        asked = self._asked(self._prompts(index))
        judged = self._answers.judged(asked, unit)
        values = {**judged.values, UNSHARED.name: float(sum(each.unshared for each in asked))}
        cold, warm = (next(e for e in asked if e.way == way) for way in ("cold", "warm"))
        if warm.answer.cached_tokens is not None:
            values[SAVED.name] = warm.answer.cached_tokens / len(warm.prompt)
        times = [each.answer.first_token_seconds for each in (warm, cold)]
        if not any(map(math.isnan, times)):  # a token came
            values[FIRST_TOKEN.name] = math.log(times[0] / times[1])
        return Sample(
            unit=unit,
            weight=len(warm.prompt),
            values=values,
            findings=judged.findings[:1],
            details={
                "served": [each.row for each in asked],
                "not_judged": judged.not_judged,
            },
            seconds=time.perf_counter() - started,
        )

    @remote
    def served_table(self, samples: list[Sample]) -> dict[str, Any]:
        """The server's prompts as a table."""
        return served_table(samples).to_json()

    def _asked(self, prompts: Prompts) -> list[Asked]:
        """Every prompt with its answer, in the order of asking."""
        drawn = prompts.drawn
        found = [self._ask([way], [ids], drawn)[0] for way, ids in prompts.one_by_one()]
        together = prompts.at_once(self._plan.at_once)
        for way in AT_ONCE:
            found += self._ask([way] * len(together), together, drawn)
        for ids in {tuple(ids): ids for ids in together}.values():
            found += self._ask([ALONE], [ids], drawn)
        return found

    def _ask(self, ways: Sequence[str], prompts: Sequence[Prompt], drawn: int) -> list[Asked]:
        """The answers to prompts that are sent at once."""
        shared = self._asked_before.add(prompts)
        count = self._plan.new_tokens
        with ThreadPoolExecutor(len(prompts)) as pool:
            answers = pool.map(lambda ids: self.server.counted_answer(ids, count), prompts)
            rows = zip(ways, prompts, answers, shared, strict=True)
            return [Asked(way, ids, answer, max(drawn, own)) for way, ids, answer, own in rows]

    def _prompts(self, index: int) -> Prompts:
        """The corpus's text behind beginnings that are drawn here, so that no server has them."""
        length = min(self._plan.prompt_tokens, self._room)
        drawn = length // 8
        first, second, third = (self._beginning(drawn) for _ in range(3))
        return Prompts(
            (first, second, third),
            self._pair.text_of(length - drawn, index),
            self._pair.text_of(length - drawn, index + 1),
            self._read,
        )

    def _beginning(self, count: int) -> Prompt:
        """Tokens of the corpus in an order of their own, whose text is read as them."""
        drawn: Prompt = []
        for _ in range(_DRAWS):
            drawn = [secrets.choice(self._words) for _ in range(count)]
            if self.server.encode(self.server.decode(drawn)) == drawn:
                break
        return drawn

    def _read(self, ids: Prompt) -> Prompt:
        """A prompt of these tokens' text, as the server is sent it."""
        return self.server.encode(self.server.decode(ids), self.server.prompts_begin_with)

    @cached_property
    def _room(self) -> int:
        """Tokens of a prompt beside what stands around it."""
        return self.server.context_window - self._plan.new_tokens - len(self._read([]))

    @cached_property
    def _words(self) -> list[int]:
        """Tokens that stand alone: two of a kind are read as two."""
        read, decode = self.server.encode, self.server.decode
        known = sorted(set(self._pair.token_stream))
        return [token for token in known if read(decode([token] * 2)) == [token] * 2] or known

    @cached_property
    def server(self) -> CountedEngine:
        """Who is asked."""
        pair = self._pair
        if Capability.COUNTS in pair.candidate.capabilities or pair.source.server is None:
            return able(pair.candidate, CountedEngine)
        served = replace(pair.source, engine="openai", options={}, kv_cache=None)
        return able(load_engine(served), CountedEngine)

    @cached_property
    def _answers(self) -> ServedAnswers:
        return ServedAnswers(self._pair, self.server)
