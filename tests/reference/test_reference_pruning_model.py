"""Pruning of whole models: which layers, how many weights, whose inputs count."""

import copy
import math
from pathlib import Path

import pytest
import torch
from infopt_reference.pruning import (
    MaskedTraining,
    collect_feature_norms,
    n_m_mask,
    prune_model,
    unstructured_mask,
    wanda_scores,
)
from infopt_reference.quantization import distillation_kl, model_bytes, preset, quantize_model
from infopt_reference.weight_matrices import select_weight_matrices
from tiny_models import CONFIGS, SAMPLE_IDS, VOCABULARY, make_model
from torch import nn

from pytest_infopt.corpus import load_corpus
from pytest_infopt.engines.registry import load_engine
from pytest_infopt.release import CorpusSource, ModelSource

ROOT = Path(__file__).parents[2]
IDS = torch.tensor([SAMPLE_IDS])
PLANS = [
    {"sparsity": 0.5},
    {"sparsity": 0.3, "scope": "row"},
    {"sparsity": 0.7, "scope": "global"},
    {"pattern": (2, 4)},
    {"sparsity": 0.5, "method": "wanda", "calibration": [IDS]},
    {"pattern": (1, 4), "method": "wanda", "calibration": [IDS]},
]


@pytest.mark.parametrize("plan", PLANS)
def test_weights_are_zero_outside_the_masks_and_untouched_within(plan):
    model = make_model("llama")
    before = copy.deepcopy(model.state_dict())
    size = model_bytes(model)
    report = prune_model(model, **plan)
    for name, parameter in model.state_dict().items():
        mask = report.masks.get(name, torch.tensor(True))
        assert torch.equal(parameter, torch.where(mask, before[name], 0))
    assert "lm_head" in report.skipped
    assert len(report.masks) == 14
    assert report.zeros == sum(int((model.get_parameter(n) == 0).sum()) for n in report.masks)
    assert report.weights == sum(mask.numel() for mask in report.masks.values())
    assert model_bytes(model) == size  # dense storage


@pytest.mark.parametrize("plan", PLANS)
def test_the_share_of_zeros_is_the_one_asked_for(plan):
    report = prune_model(make_model("llama"), **plan)
    if "pattern" in plan:
        kept, group = plan["pattern"]
        for mask in report.masks.values():
            assert bool((mask.view(-1, group).sum(dim=1) == kept).all())
    elif plan.get("scope") == "global":
        assert report.zeros == round(report.weights * plan["sparsity"])
        assert len({float(m.float().mean()) for m in report.masks.values()}) > 1
    elif plan.get("scope") == "row" or plan.get("method") == "wanda":
        for mask in report.masks.values():
            assert set((~mask).sum(dim=1).tolist()) == {round(mask.shape[1] * plan["sparsity"])}
    else:
        for mask in report.masks.values():
            assert int((~mask).sum()) == round(mask.numel() * plan["sparsity"])


def test_wanda_is_ranked_by_the_inputs_that_a_hand_written_pass_sees():
    model = make_model("qwen2")
    layers = select_weight_matrices(model).chosen
    seen = {}
    handles = [
        layer.module.register_forward_hook(
            lambda _, inputs, __, name=name: seen.__setitem__(name, inputs[0][0].double())
        )
        for name, layer in layers.items()
    ]
    with torch.no_grad():
        model(IDS)
    for handle in handles:
        handle.remove()
    scores = {n: wanda_scores(m.weight, seen[n].norm(dim=0)) for n, m in layers.items()}
    report = prune_model(model, sparsity=0.5, method="wanda", calibration=[IDS])
    differ = sum(
        int((unstructured_mask(scores[n], 0.5, per_row=True) ^ report.masks[f"{n}.weight"]).sum())
        for n in layers
    )
    assert differ == 0
    assert not torch.equal(
        report.masks["model.layers.0.mlp.up_proj.weight"],
        prune_model(make_model("qwen2"), sparsity=0.5, scope="row").masks[
            "model.layers.0.mlp.up_proj.weight"
        ],
    )


@pytest.mark.parametrize("architecture", [a for a in CONFIGS if a != "gpt2"])
def test_padding_and_the_split_into_batches_change_no_norm(architecture):
    model = make_model(architecture).double()
    layers = select_weight_matrices(model).chosen
    rows = [IDS[0, :7], IDS[0, 7:19]]
    singly = collect_feature_norms(model, layers, [row[None] for row in rows])
    ids = torch.full((2, 12), VOCABULARY - 1)
    mask = torch.zeros(2, 12, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = row, 1
    together = collect_feature_norms(model, layers, [{"input_ids": ids, "attention_mask": mask}])
    loud = collect_feature_norms(model, layers, [ids])
    for name, norms in singly.items():
        # Rotary frequencies and softmax go through float32 in these models.
        torch.testing.assert_close(together[name], norms, rtol=1e3 * 2.0**-24, atol=0)
        assert bool((loud[name] > 1.01 * norms).any())


def test_calibration_leaves_no_trace_but_the_masks():
    model = make_model("llama")
    model.train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    prune_model(model, sparsity=0.5, method="wanda", calibration=[IDS])
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_layers_that_share_a_weight_share_mask_and_norms():
    first, second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    second.weight = first.weight
    model = nn.Sequential(first, nn.Tanh(), second, first)
    batch = torch.randn(5, 4)
    between = first(batch).tanh()
    inputs = torch.cat([batch, between, second(between)]).detach().double()
    expected = n_m_mask(wanda_scores(first.weight, inputs.norm(dim=0)), (2, 4))
    report = prune_model(model, pattern=(2, 4), method="wanda", calibration=[batch])
    assert set(report.masks) == {"0.weight", "2.weight", "3.weight"}
    assert all(torch.equal(mask, expected) for mask in report.masks.values())
    assert report.weights == 16
    assert report.zeros == 8


def test_a_pruned_model_trains_on_and_quantizes_with_its_zeros():
    model = make_model("llama")
    report = prune_model(model, pattern=(2, 4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    training = MaskedTraining(model, report.masks, optimizer)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = model(input_ids=IDS, labels=IDS).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    training.make_permanent()
    assert losses[-1] < losses[0]
    quantize_model(model, preset("int4"))
    for name, mask in report.masks.items():
        layer = model.get_submodule(name.removesuffix(".weight"))
        assert bool((layer.quantized_weight.dequantize()[~mask] == 0).all())


@pytest.mark.slow
def test_knowing_the_inputs_spares_a_real_model_on_every_document():
    source = ModelSource("reference", "embedded:smollm2", dtype="float32", device="cpu")
    engine = load_engine(source)
    texts = [engine.encode(document.text)[:64] for document in load_corpus(CorpusSource(), ROOT)]
    documents = torch.tensor([ids for ids in texts if len(ids) == 64])
    held_out, calibration = documents[:16].split(1), documents[16:48].split(8)

    def divergences(**plan):
        model = copy.deepcopy(engine.module)
        assert prune_model(model, sparsity=0.5, **plan).sparsity == 0.5
        with torch.no_grad():
            pairs = [(model(ids).logits, engine.module(ids).logits) for ids in held_out]
        return torch.stack([distillation_kl(pruned, dense) for pruned, dense in pairs])

    by_magnitude = divergences(scope="row")
    by_wanda = divergences(method="wanda", calibration=calibration)
    # Were the two equally good, all 16 documents would side with Wanda with chance 2⁻¹⁶.
    assert bool((by_wanda < by_magnitude).all())


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({}, "sparsity is None and pattern None"),
        ({"sparsity": 0.5, "pattern": (2, 4)}, "give one of the two"),
        ({"sparsity": 1.5}, r"sparsity is 1\.5"),
        ({"pattern": (4, 2)}, "pattern is 4:2"),
        ({"pattern": (2, 5)}, r"q_proj: scores have shape \(64, 64\); 2:5"),
        ({"sparsity": 0.5, "method": "obs"}, "method is 'obs'"),
        ({"sparsity": 0.5, "scope": "layer"}, "scope is 'layer'"),
        ({"pattern": (2, 4), "scope": "row"}, "no meaning for a pattern"),
        ({"sparsity": 0.5, "method": "wanda"}, "calibration batches go with"),
        ({"sparsity": 0.5, "calibration": [IDS]}, "calibration batches go with"),
        ({"sparsity": 0.5, "method": "wanda", "scope": "tensor", "calibration": [IDS]}, "'row'"),
        (
            {"sparsity": 0.5, "method": "wanda", "calibration": []},
            "no calibration token reached any",
        ),
        ({"sparsity": 0.5, "skip": ("nothing",)}, "skip names 'nothing'"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused_before_anything_changes(plan, message):
    model = make_model("llama")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        prune_model(model, **plan)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_weight_that_is_not_finite_is_named():
    model = make_model("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 5] = math.nan
    with pytest.raises(ValueError, match=r"layers\.1\.mlp\.up_proj.*\[3, 5\] is nan"):
        prune_model(model, sparsity=0.5)
