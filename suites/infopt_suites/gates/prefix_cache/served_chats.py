"""Prefix caching of a server: is a warm answer the cold one, and what was not computed again?

A chat whose system prompt nobody has sent before is answered cold; the same one asked again is warm
if the server caches prefixes. Greedy answers must be equal but for near-ties, which the candidate's
own model decides: the first token at which two answers part is legal where its logits of the two
tokens differ by no more than two runs may (`dtype error.two_runs`).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Protocol

from infopt_reference.quantization import ulp

from pytest_infopt import MeasuredTable, Sample, TokenFinding
from pytest_infopt.engines.base import ModuleEngine, WholeLogitsEngine
from pytest_infopt.measure import (
    NEAR_TIE_ULPS,
    OUTPUT_FACTOR,
    Decode,
    DtypeError,
    dtype_named,
    host_logits,
    two_runs,
)

from .chat_server import ChatServer, Message


class ServedEngine(WholeLogitsEngine, ModuleEngine, Protocol):
    """What deciding on near-ties takes: the model's logits, and its chat template."""


def measure_served_chat(
    server: ChatServer,
    engine: ServedEngine,
    messages: Sequence[Message],
    dtype_error: DtypeError,
    max_tokens: int,
    unit: str,
) -> Sample:
    """One chat, cold and warm. Its beginning must be new to the server.

    ``prefix_saved_share`` is the share of the warm prompt that came from the cache, left out where
    the server does not report it.
    """
    started = time.perf_counter()
    cold = server.answer(messages, max_tokens)
    warm = server.answer(messages, max_tokens)
    values = {"prefix_greedy_mismatches": 0.0}
    findings = []
    if warm.text != cold.text:
        finding = _parting(engine, messages, cold.text, warm.text, dtype_error, unit)
        if finding is not None:
            values["prefix_greedy_mismatches"] = 1.0
            findings.append(finding)
    if warm.cached_tokens is not None and warm.prompt_tokens:
        values["prefix_saved_share"] = warm.cached_tokens / warm.prompt_tokens
    return Sample(
        unit=unit,
        weight=max(1, warm.prompt_tokens),
        values=values,
        findings=findings,
        details={
            name: [answer.prompt_tokens, answer.cached_tokens, answer.first_token_seconds]
            for name, answer in (("cold", cold), ("warm", warm))
        },
        seconds=time.perf_counter() - started,
    )


def served_table(samples: Sequence[Sample]) -> MeasuredTable:
    """Tokens computed and times to the first token, cold and warm."""
    rows = []
    for name in ("cold", "warm"):
        served = [sample.details[name] for sample in samples]
        cached = [c for _, c, _ in served if c is not None]
        computed = sum(p for p, _, _ in served) - sum(cached) if cached else None
        rows.append((name, len(served), computed, 1000 * statistics.median(s for *_, s in served)))
    ratio = rows[1][3] / rows[0][3]
    return MeasuredTable(
        "the server's prefix cache",
        ("prompts", "requests", "tokens computed", "median time to first token, ms"),
        tuple(rows),
        (f"a warm prompt's first token comes after {ratio:.2f} of a cold one's time",),
    )


def _parting(
    engine: ServedEngine,
    messages: Sequence[Message],
    cold: str,
    warm: str,
    dtype_error: DtypeError,
    unit: str,
) -> TokenFinding | None:
    """The first token at which two answers part, unless that is a near-tie."""
    first, second = engine.encode(cold), engine.encode(warm)
    place = next(
        (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b),
        min(len(first), len(second)),
    )
    end = engine.tokenizer.eos_token_id
    a, b = (ids[place] if place < len(ids) else end for ids in (first, second))
    prompt = engine.tokenizer.apply_chat_template(
        list(messages), add_generation_prompt=True, return_dict=False
    )
    context = [*prompt, *first[:place]]
    logits = host_logits(engine.full_logits(context))[-1]
    gap = abs(float(logits[a] - logits[b]))
    dtype = dtype_named(engine.dtype)
    spacing = float(ulp(logits.amax()[None], dtype))
    granted = OUTPUT_FACTOR * float(two_runs(dtype_error).extremes.max())
    if gap <= max(NEAR_TIE_ULPS * spacing, granted):
        return None
    decode: Decode = engine.decode
    shares = logits.softmax(-1)
    tops = [[(decode([token]), float(shares[token]))] for token in (a, b)]
    return TokenFinding(
        document=unit,
        position=len(context),
        context=decode(context),
        true_token=decode([a]),
        reference_top=tops[0],
        candidate_top=tops[1],
        kl=0.0,
        gap_ulps=gap / spacing,
    )
