"""Plain decoding from its definition: the distribution of each token, and greedy outputs.

Legend: V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .protocol import DecodingParameters
from .table_model import TableModel

NEAR_TIE = 0.05  # of logits that are whole numbers: what is nearer, penalties brought about


def scores(
    logits: Tensor, parameters: DecodingParameters, tokens: Sequence[int], prompt: int
) -> Tensor:
    """Logits [V] after penalties and the processor, behind tokens of which so many are prompt."""
    if parameters.processor is not None:
        logits = parameters.processor(tokens, logits.clone())
    found = logits.clone()
    for token in {*tokens}:
        by = parameters.repetition_penalty
        found[token] = found[token] / by if found[token] > 0 else found[token] * by
    for token in tokens[prompt:]:
        found[token] -= parameters.frequency_penalty
    for token in {*tokens[prompt:]}:
        found[token] -= parameters.presence_penalty
    return found


def chances(
    logits: Tensor, parameters: DecodingParameters, tokens: Sequence[int], prompt: int
) -> Tensor:
    """The distribution [V] of the next token, for a temperature above 0."""
    found = scores(logits, parameters, tokens, prompt)
    p = torch.softmax(found / parameters.temperature, dim=0)
    kept = torch.ones_like(p, dtype=torch.bool)
    if parameters.top_k is not None:
        kept &= p >= p.topk(parameters.top_k).values[-1]
    if parameters.top_p < 1:
        ordered, order = p.sort(descending=True, stable=True)
        kept[order[(ordered.cumsum(0) - ordered) >= parameters.top_p]] = False
    if parameters.min_p > 0:
        kept &= p >= parameters.min_p * p.max()
    p = p * kept
    return p / p.sum()


def greedy(
    target: TableModel, prompt: Sequence[int], parameters: DecodingParameters
) -> tuple[list[int], bool]:
    """The output, and whether it is all of it: False where it ends before a near-tie."""
    tokens = [*prompt]
    while True:
        logits = target.logits[target.states(tokens)[-1]]
        best = scores(logits, parameters, tokens, len(prompt)).topk(2)
        if best.values[0] - best.values[1] < NEAR_TIE:
            return tokens[len(prompt) :], False
        tokens.append(int(best.indices[0]))
        if is_ended(tokens[len(prompt) :], parameters):
            return tokens[len(prompt) :], True


def is_ended(output: Sequence[int], parameters: DecodingParameters) -> bool:
    """Whether an output ends with its last token."""
    return (
        len(output) >= parameters.max_new_tokens
        or output[-1] in parameters.stop_token_ids
        or any(tuple(output[-len(run) :]) == run for run in parameters.stop_sequences)
    )
