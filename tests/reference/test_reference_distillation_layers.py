"""Which layers of a teacher its student needs least: planted ones, and a student made without."""

from __future__ import annotations

import pytest
import torch
from infopt_reference.distillation import keep_layers, least_needed
from transformers import LlamaConfig, LlamaForCausalLM

# The layers have to differ: of small weights, none changes much.
SHAPE = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 2,
    "initializer_range": 0.3,
}


def test_layers_that_change_nothing_are_least_needed() -> None:
    torch.manual_seed(3)
    teacher = LlamaForCausalLM(LlamaConfig(num_hidden_layers=5, **SHAPE)).eval()
    with torch.no_grad():
        for layer in (1, 3):
            for last in (
                teacher.model.layers[layer].self_attn.o_proj,
                teacher.model.layers[layer].mlp.down_proj,
            ):
                last.weight.mul_(1e-3 * layer)
    ids, before = torch.randint(32, (2, 7)), {**teacher.state_dict()}
    assert least_needed(teacher, ids, range(5), 2) == [1, 3]
    assert least_needed(teacher, ids, [0, 2, 3, 4]) == [3]
    assert len(teacher.model.layers) == 5
    assert {**teacher.state_dict()}.keys() == before.keys()
    # Of the others, those whose absence a student made without them shows least.
    left = [0, 2, 4]

    def away(gone: int) -> float:
        student = keep_layers(teacher, [layer for layer in left if layer != gone])
        said, meant = (model(ids).logits.log_softmax(-1) for model in (student, teacher))
        return float((meant.exp() * (meant - said)).sum(-1).mean().detach())

    assert least_needed(teacher, ids, left, 1) == [min(left, key=away)]


def test_a_teacher_that_fails_keeps_its_layers() -> None:
    teacher = LlamaForCausalLM(LlamaConfig(num_hidden_layers=3, **SHAPE)).eval()
    with pytest.raises(IndexError):
        least_needed(teacher, torch.tensor([[32]]), [0, 1])  # no such token
    assert len(teacher.model.layers) == 3
    for count in (0, 2):
        with pytest.raises(ValueError, match=f"{count} of 2 layers"):
            least_needed(teacher, torch.tensor([[1]]), [0, 1], count)
