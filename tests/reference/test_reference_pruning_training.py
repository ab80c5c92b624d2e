"""Masks that hold through the steps of real optimizers, whatever these have in their memory."""

import itertools

import pytest
import torch
from infopt_reference.pruning import (
    MaskedTraining,
    apply_masks,
    magnitude_scores,
    unstructured_mask,
)
from torch import nn

OPTIMIZERS = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "nesterov with decay": lambda p: torch.optim.SGD(
        p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.1
    ),
    "ascent": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.5, maximize=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.05, weight_decay=0.1, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.5),
    "adamw one by one": lambda p: torch.optim.AdamW(p, lr=0.05, foreach=False),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=0.05),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3),
}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, 4))


def masks_of(model, sparsity=0.5):
    return {
        f"{i}.weight": unstructured_mask(magnitude_scores(model[i].weight), sparsity)
        for i in (0, 2)
    }


def step(model, optimizer, seed):
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(16, 10, generator=generator), torch.randn(16, 4, generator=generator)

    def loss():
        optimizer.zero_grad()
        value = (model(x) - y).square().mean()
        value.backward()
        return value

    optimizer.step(loss)


def pruned_weights(model, masks):
    return torch.cat([model.get_parameter(name)[~mask].detach() for name, mask in masks.items()])


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("steps_before", [0, 3])
def test_pruned_weights_stay_zero_after_every_step(model, name, steps_before):
    optimizer = OPTIMIZERS[name](list(model.parameters()))
    for seed in range(steps_before):
        step(model, optimizer, seed)
    masks = masks_of(model)
    MaskedTraining(model, masks, optimizer)
    for seed in range(steps_before, steps_before + 5):
        before = {key: model.get_parameter(key).detach().clone() for key in masks}
        step(model, optimizer, seed)
        pruned = pruned_weights(model, masks)
        assert torch.equal(pruned, torch.zeros_like(pruned))
        assert not bool(pruned.signbit().any())
        for key, mask in masks.items():
            assert not torch.equal(model.get_parameter(key)[mask], before[key][mask])


def test_without_the_masks_momentum_brings_pruned_weights_back(model):
    # The trap that the class is for: masked gradients alone, as many a training loop has it.
    optimizer = OPTIMIZERS["momentum"](list(model.parameters()))
    step(model, optimizer, 0)
    masks = masks_of(model)
    apply_masks(model, masks)
    optimizer.zero_grad()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert bool((pruned_weights(model, masks) != 0).all())


def test_kept_weights_move_as_in_a_smaller_model(model):
    # All that feeds from two features is pruned: the same as a layer without these features.
    keep = torch.arange(10) < 8
    small = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4)).double()
    model = model.double()
    small.load_state_dict({**model.state_dict(), "0.weight": model[0].weight[:, keep]})
    masks = {"0.weight": keep.expand(8, 10).clone()}
    optimizers = [OPTIMIZERS["adamw"](list(m.parameters())) for m in (model, small)]
    MaskedTraining(model, masks, optimizers[0])
    for _ in range(4):
        x, y = torch.randn(16, 10).double(), torch.randn(16, 4).double()
        for net, optimizer, inputs in zip((model, small), optimizers, (x, x[:, keep]), strict=True):
            optimizer.zero_grad()
            (net(inputs) - y).square().mean().backward()
            optimizer.step()
    # Sums over ten features, two of them 0, round as sums over eight do or nearly so.
    torch.testing.assert_close(model[0].weight[:, keep], small[0].weight)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_letting_go_leaves_zeros_that_no_memory_moves(model, name):
    optimizer = OPTIMIZERS[name](list(model.parameters()))
    step(model, optimizer, 0)
    masks = masks_of(model)
    training = MaskedTraining(model, masks, optimizer)
    step(model, optimizer, 1)
    training.make_permanent()
    assert bool((pruned_weights(model, masks) == 0).all())
    step(model, optimizer, 2)
    assert bool((pruned_weights(model, masks) != 0).any())  # ordinary weights again


def test_momentum_from_before_the_pruning_is_forgotten(model):
    optimizer = OPTIMIZERS["momentum"](list(model.parameters()))
    step(model, optimizer, 0)
    masks = masks_of(model)
    MaskedTraining(model, masks, optimizer).make_permanent()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert bool((pruned_weights(model, masks) == 0).all())


def test_a_mask_of_a_shared_weight_holds_for_both_names():
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    model = nn.Sequential(first, second)
    mask = unstructured_mask(magnitude_scores(first.weight), 0.5)
    optimizer = OPTIMIZERS["adamw"](list(model.parameters()))
    MaskedTraining(model, {"0.weight": mask, "1.weight": mask.clone()}, optimizer)
    model(torch.randn(3, 4)).sum().backward()
    optimizer.step()
    assert bool((second.weight[~mask] == 0).all())
    with pytest.raises(ValueError, match=r"1\.weight shares its weights"):
        apply_masks(model, {"0.weight": mask, "1.weight": ~mask})


def test_masks_and_parameters_have_to_fit(model):
    masks = masks_of(model)
    half = OPTIMIZERS["adam"](list(model[0].parameters()))
    with pytest.raises(ValueError, match=r"does not train 2\.weight"):
        MaskedTraining(model, masks, half)
    with pytest.raises(ValueError, match=r"'3\.weight' is no parameter"):
        apply_masks(model, {"3.weight": masks["0.weight"]})
    with pytest.raises(ValueError, match=r"torch\.float32 of shape \(8, 10\); give torch\.bool"):
        apply_masks(model, {"0.weight": masks["0.weight"].float()})
    with pytest.raises(ValueError, match=r"shape \(10, 8\); give torch\.bool of shape \(8, 10\)"):
        apply_masks(model, {"0.weight": masks["0.weight"].T})


def test_a_parameter_without_a_gradient_is_left_out_of_the_step(model):
    optimizer = OPTIMIZERS["momentum"](list(itertools.chain(model[0].parameters())))
    masks = {"0.weight": masks_of(model)["0.weight"]}
    MaskedTraining(model, masks, optimizer)
    optimizer.step()
    assert bool((pruned_weights(model, masks) == 0).all())
