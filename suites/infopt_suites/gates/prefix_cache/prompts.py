"""Prefix caching on a model: does a prompt whose beginning was cached come out as without a cache?

A prompt is served cold, warm (all of its full blocks cached), partly warm (a beginning shared with
an earlier prompt) and again after other prompts have evicted it; each time the rows that were
computed are set against the plain pass. A model is transparent to prefix caching if no token's keys
and values depend on what comes after it, which quantization of whole prompts, for one, can break.

Legend: T positions, V vocabulary.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import cache, partial

import torch

from pytest_infopt import MeasuredTable, Plot, Sample
from pytest_infopt.engines.base import WholeLogitsEngine
from pytest_infopt.measure import Difference, Pair, SameShapeComparison, SelfComparison, host_logits

from ..self_comparisons import observed_table
from .prefix_server import PrefixServer, ServedPrompt

MakeServer = Callable[[int, int], PrefixServer]  # num_blocks, block_size
Answers = dict[str, tuple[tuple[int, ...], ServedPrompt]]  # by way, what was asked and served


def measure_prefix_prompt(
    engine: WholeLogitsEngine,
    make_server: MakeServer,
    oracle: torch.Tensor,
    plain: torch.Tensor,
    token_ids: Sequence[int],
    unit: str,
    control: Callable[[], WholeLogitsEngine] | None = None,
    make_control_server: MakeServer | None = None,
    lengths: Callable[[], Difference] = Difference,
) -> Sample:
    """Cold, warm, partly warm and evicted, against the engine's own plain passes.

    The control, of the reference's weights in this dtype, goes the same ways where the engine's
    logits differ; ``lengths`` gives its `length_effect` (`SelfComparison` has the use of both).

    ``oracle`` and ``plain`` [T, V] are the reference's logits of the prompt in the widest dtype and
    in the engine's. ``prefix_saved_share`` is what the warm prompt did not compute, of all tokens
    that full blocks short of the last token hold: 1 for a cache that finds what it has.
    Raises InvalidComparisonError where the oracle is no finer than the engine's dtype, or the
    prompt has fewer than four tokens.
    """
    started = time.perf_counter()
    found = SelfComparison(engine, oracle, plain, unit, least_tokens=4, lengths=lengths)
    count = len(token_ids)
    block_size = max(1, count // 4)
    prompt = list(token_ids)
    answers = _served(make_server, prompt, block_size)
    plain_passes = {asked: host_logits(engine.full_logits(asked)) for asked, _ in answers.values()}

    @cache
    def controls() -> Answers:
        return _served(make_control_server, prompt, block_size) if make_control_server else {}

    def control_pair(name: str) -> tuple[torch.Tensor, torch.Tensor] | None:
        if control is None or name not in controls():
            return None
        asked, answer = controls()[name]
        plain = host_logits(control().full_logits(asked))[answer.cached_tokens :]
        return host_logits(answer.logits), plain

    control_answers = controls if make_control_server else None
    same_shape = SameShapeComparison(answers, control_answers, found.two_runs, lengths)
    same_shape.add(_same_shape_pairs, same_tokens=True)
    for name, (asked, answer) in answers.items():
        start = answer.cached_tokens
        exact = plain_passes[asked][start:]
        found.add(name, answer.logits, exact, start=start, control=partial(control_pair, name))
    shareable = (count - 1) // block_size * block_size
    return Sample(
        unit=unit,
        weight=count,
        values={
            **found.values("prefix_error_ratio", "prefix_greedy_mismatches"),
            "prefix_same_shape_differences": same_shape.total,
            "prefix_saved_share": answers["warm"][1].cached_tokens / shareable,
        },
        details={
            **found.details(),
            **same_shape.details(),
            "notes": [*found.notes, *same_shape.notes],
            "cached_tokens": {name: answer.cached_tokens for name, (_, answer) in answers.items()},
            "block_size": block_size,
            "tables": [
                observed_table(
                    *(
                        (f"tokens cached, {name}", len(asked), shareable, answer.cached_tokens)
                        for name, (asked, answer) in answers.items()
                        if name.startswith("warm")
                    )
                ).to_json()
            ],
        },
        seconds=time.perf_counter() - started,
    )


def _same_shape_pairs(answers: Answers) -> dict[str, Pair]:
    """What was computed of the same tokens behind as many cached ones: twice warm, and cold in
    blocks that nobody and that others had used."""
    pairs = {"warm again": "warm", "after eviction": "cold"}
    found = {name: (answers[name][1], answers[before][1]) for name, before in pairs.items()}
    return {
        f"the prompt {name}, for {pairs[name]}": (one.logits, other.logits)
        for name, (one, other) in found.items()
        if one.cached_tokens == other.cached_tokens
    }


def _served(make_server: MakeServer, prompt: Sequence[int], block_size: int) -> Answers:
    """A prompt from cold to evicted on a new server: by way, what was asked and the answer."""
    count = len(prompt)
    whole = tuple(prompt)
    # Another end, and another whole prompt: the same tokens in another order.
    sibling = whole[: count // 2] + whole[: count // 2 - 1 : -1]
    stranger = (whole[-1], *whole[:-1])
    server = make_server(2 * -(-count // block_size), block_size)  # room for two prompts
    served = {
        "cold": (whole, server.serve(whole)),
        "warm": (whole, server.serve(whole)),
        "warm again": (whole, server.serve(whole)),
        "partly warm": (sibling, server.serve(sibling)),
    }
    for index in range(2):  # enough to evict whatever was there
        server.serve(stranger, {"tenant": str(index)})
    served["after eviction"] = (whole, server.serve(whole))
    return served


def shared_prompt_table(
    make_server: MakeServer,
    system: Sequence[int],
    questions: Sequence[Sequence[int]],
    block_size: int,
) -> MeasuredTable:
    """Requests that share a system prompt, each to its first token: with and without the cache."""
    prompts = [[*system, *question] for question in questions]
    blocks = sum(-(-len(prompt) // block_size) for prompt in prompts)
    cold = [make_server(blocks, block_size).serve(prompt, last_only=True) for prompt in prompts]
    server = make_server(blocks, block_size)
    warm = [server.serve(prompt, last_only=True) for prompt in prompts]
    total = sum(map(len, prompts))
    rows = tuple(
        (
            name,
            len(answers),
            total - sum(answer.cached_tokens for answer in answers),
            1000 * statistics.median(answer.seconds for answer in answers),
        )
        for name, answers in (
            ("no cache", cold),
            ("prefix cache", warm),
            ("prefix cache, after the first", warm[1:]),
        )
        if answers
    )
    saved = sum(answer.cached_tokens for answer in warm) / total
    columns = ("served with", "requests", "tokens computed", "median time to first token, ms")
    return MeasuredTable(
        f"a shared system prompt of {len(system)} tokens",
        columns,
        rows,
        (f"{100 * saved:.1f} % of {total} prompt tokens were not computed again",),
        Plot("served with", columns[3:], "time to first token, ms", "bar", ordered=True),
    )
