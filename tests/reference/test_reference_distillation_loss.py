"""The losses: closed forms on three classes, torch and scipy as oracles, parts of a batch."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from infopt_reference.distillation import (
    IGNORED,
    DistillationLoss,
    Divergence,
    FeatureLoss,
    JensenShannon,
    TopKTargets,
    count_items,
    forward_kl,
    reverse_kl,
    spread_layers,
)
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy
from torch import Tensor

DIVERGENCES = [forward_kl, reverse_kl, JensenShannon(0.5), JensenShannon(0.1)]
THREE = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
OTHER = torch.tensor([0.1, 0.1, 0.8], dtype=torch.float64)


def _name(divergence: Divergence) -> str:
    return getattr(divergence, "__name__", str(divergence))  # a function's str has its address


def normal(*shape: int, seed: int = 0, size: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return size * torch.randn(*shape, generator=generator, dtype=torch.float64)


def batch(
    rows: int = 3, tokens: int = 6, vocabulary: int = 7, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Student, teacher, labels, of which about a third are ignored."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(vocabulary, (rows, tokens), generator=generator)
    labels[torch.rand(rows, tokens, generator=generator) < 0.3] = IGNORED
    shape = (rows, tokens, vocabulary)
    return normal(*shape, seed=seed), normal(*shape, seed=seed + 1), labels


def test_three_classes_by_hand() -> None:
    student, teacher = OTHER.log(), THREE.log()
    forward = 0.5 * math.log(5) + 0.3 * math.log(3) + 0.2 * math.log(0.25)
    reverse = 0.1 * math.log(0.2) + 0.1 * math.log(1 / 3) + 0.8 * math.log(4)
    assert forward_kl(student, teacher).item() == pytest.approx(forward, rel=1e-14)
    assert reverse_kl(student, teacher).item() == pytest.approx(reverse, rel=1e-14)
    assert forward_kl(student, teacher).item() == pytest.approx(entropy(THREE, OTHER), rel=1e-14)
    half = jensenshannon(THREE, OTHER) ** 2
    assert JensenShannon()(student, teacher).item() == pytest.approx(half, rel=1e-12)


def test_the_ends_of_jsd_are_what_it_tends_to() -> None:
    student, teacher = OTHER.log(), THREE.log()
    assert torch.equal(JensenShannon(0)(student, teacher), forward_kl(student, teacher))
    assert torch.equal(JensenShannon(1)(student, teacher), reverse_kl(student, teacher))
    near = [JensenShannon(x)(student, teacher).item() for x in (1e-6, 1 - 1e-6)]
    assert near[0] / 1e-6 == pytest.approx(forward_kl(student, teacher).item(), rel=1e-4)
    assert near[1] / 1e-6 == pytest.approx(reverse_kl(student, teacher).item(), rel=1e-4)


@pytest.mark.parametrize("divergence", DIVERGENCES, ids=_name)
def test_tokens_that_both_rule_out_add_nothing(divergence: object) -> None:
    student, teacher = normal(4, 5), normal(4, 5, seed=1)
    expected = divergence(student.log_softmax(-1), teacher.log_softmax(-1))  # type: ignore[operator]
    ruled = torch.full((4, 2), -math.inf, dtype=torch.float64)
    wide = torch.cat([student, ruled], dim=1).requires_grad_()
    found = divergence(  # type: ignore[operator]
        wide.log_softmax(-1), torch.cat([teacher, ruled], dim=1).log_softmax(-1)
    )
    assert torch.allclose(found, expected, rtol=1e-14)
    found.sum().backward()
    assert wide.grad is not None
    assert bool(wide.grad.isfinite().all())


@pytest.mark.parametrize("divergence", DIVERGENCES, ids=_name)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_loss_is_its_definition_token_by_token(divergence: object, temperature: float) -> None:
    student, teacher, labels = batch()
    losses = []
    for row, column in (labels[:, 1:] != IGNORED).nonzero().tolist():
        s, t = student[row, column], teacher[row, column]
        soft = divergence(  # type: ignore[operator]
            (s / temperature).log_softmax(-1), (t / temperature).log_softmax(-1)
        )
        hard = -s.log_softmax(-1)[labels[row, column + 1]]
        losses.append(0.7 * temperature**2 * soft + 0.3 * hard)
    loss = DistillationLoss(0.7, temperature, divergence)  # type: ignore[arg-type]
    found = loss(student, teacher, labels)
    assert found.item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-12)


@pytest.mark.parametrize("divergence", DIVERGENCES, ids=_name)
def test_gradients_are_those_of_finite_differences(divergence: object) -> None:
    student, teacher, labels = batch(2, 3, 4)
    loss = DistillationLoss(0.5, 2.0, divergence)  # type: ignore[arg-type]
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, teacher, labels), student)


def test_the_gradient_of_forward_kl_is_t_times_the_difference_of_probabilities() -> None:
    student, teacher = normal(1, 2, 5), normal(1, 2, 5, seed=1)
    labels = torch.tensor([[0, 1]])
    student.requires_grad_()
    DistillationLoss(1.0, 3.0)(student, teacher, labels).backward()  # type: ignore[no-untyped-call]
    expected = 3 * ((student / 3).softmax(-1) - (teacher / 3).softmax(-1))[0, 0]
    assert student.grad is not None
    assert torch.allclose(student.grad[0, 0], expected, rtol=1e-12)
    assert not student.grad[0, 1].any()  # the last position predicts nothing


def test_the_gradient_keeps_its_size_as_temperature_grows() -> None:
    """For T → ∞ it tends to the difference of centred logits divided by V."""
    student, teacher = normal(1, 2, 5), normal(1, 2, 5, seed=1)
    student.requires_grad_()
    loss = DistillationLoss(1.0, 1e4)
    loss(student, teacher, torch.tensor([[0, 1]])).backward()  # type: ignore[no-untyped-call]
    away = student.detach() - teacher
    expected = (away - away.mean(-1, keepdim=True))[0, 0] / 5
    assert student.grad is not None
    assert (student.grad[0, 0] - expected).norm() <= 1e-3 * expected.norm()


@given(st.integers(0, 99), st.integers(1, 5), st.sampled_from([0.0, 0.5, 1.0]))
@settings(deadline=None, max_examples=30)
def test_parts_of_a_batch_sum_up_to_the_batch(seed: int, cut: int, alpha: float) -> None:
    student, teacher, labels = batch(rows=6, seed=seed)
    loss, items = DistillationLoss(alpha), count_items(labels)
    parts = [slice(None, cut), slice(cut, None)]
    total = sum(
        loss(student[part], teacher[part], labels[part], num_items=items).item() for part in parts
    )
    assert total == pytest.approx(loss(student, teacher, labels).item(), rel=1e-12)


def test_no_token_costs_nothing() -> None:
    student, teacher, labels = batch()
    student.requires_grad_()
    loss = DistillationLoss()(student, teacher, torch.full_like(labels, IGNORED))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0
    assert student.grad is not None
    assert not student.grad.any()


def test_the_ends_of_alpha_are_each_part_alone() -> None:
    student, teacher, labels = batch()
    plain = torch.nn.functional.cross_entropy(
        student[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED
    )
    assert DistillationLoss(0.0, 4.0)(student, teacher, labels).item() == pytest.approx(
        plain.item(), rel=1e-12
    )
    assert DistillationLoss(1.0, 4.0)(student, student, labels).item() == 0


def test_half_precision_logits_are_computed_in_float32() -> None:
    student, teacher, labels = batch()
    rounded = DistillationLoss()(student.bfloat16(), teacher.bfloat16(), labels)
    exact = DistillationLoss()(student.bfloat16().double(), teacher.bfloat16().double(), labels)
    assert rounded.dtype is torch.float32
    assert rounded.item() == pytest.approx(exact.item(), rel=64 * torch.finfo(torch.float32).eps)


def test_weights_are_those_of_the_predicted_labels() -> None:
    student, teacher, labels = batch()
    weights = torch.rand(labels.shape, dtype=torch.float64)
    loss = DistillationLoss()
    found = loss(student, teacher, labels, weights=weights)
    chosen = torch.zeros((), dtype=torch.float64)
    for row, column in (labels[:, 1:] != IGNORED).nonzero().tolist():
        one = torch.full_like(labels, IGNORED)
        one[row, column + 1] = labels[row, column + 1]
        chosen += weights[row, column + 1] * loss(student, teacher, one, num_items=1)
    assert found.item() == pytest.approx((chosen / count_items(labels)).item(), rel=1e-12)


@pytest.mark.parametrize(
    ("alpha", "temperature", "message"), [(1.1, 1.0, "alpha"), (0.5, 0.0, "temperature")]
)
def test_settings_out_of_range_are_refused(alpha: float, temperature: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DistillationLoss(alpha, temperature)
    with pytest.raises(ValueError, match="β"):
        JensenShannon(-0.1)


def test_what_does_not_belong_together_is_refused() -> None:
    student, teacher, labels = batch()
    with pytest.raises(ValueError, match="one tokenizer"):
        DistillationLoss()(student, teacher[..., :-1], labels)
    with pytest.raises(ValueError, match="one tokenizer"):
        DistillationLoss()(student, teacher[..., :1], labels)  # would be broadcast
    with pytest.raises(ValueError, match=r"\[B, S\]"):
        DistillationLoss()(student, teacher, labels[:, 1:])
    with pytest.raises(ValueError, match="temperature of the loss"):
        DistillationLoss()(student, TopKTargets.of_logits(teacher, 3, 1.0), labels)
    with pytest.raises(ValueError, match="vocabulary of 2"):
        TopKTargets(torch.zeros(1, 1, 3).long(), torch.zeros(1, 1, 3), 2)
    with pytest.raises(ValueError, match="not within"):
        TopKTargets(torch.full((1, 1, 1), 5), torch.zeros(1, 1, 1), 2)


@pytest.mark.parametrize("divergence", DIVERGENCES, ids=_name)
def test_a_top_k_teacher_nears_the_whole_one_from_below(divergence: object) -> None:
    student, teacher, labels = batch()
    loss = DistillationLoss(1.0, 2.0, divergence)  # type: ignore[arg-type]
    whole = loss(student, teacher, labels).item()
    losses = [
        loss(student, TopKTargets.of_logits(teacher, k, 2.0), labels).item() for k in range(8)
    ]
    assert losses[0] == pytest.approx(0, abs=1e-15)  # one outcome, of probability 1
    assert losses[7] == pytest.approx(whole, rel=1e-12)
    assert losses == pytest.approx(sorted(losses), rel=1e-12)


def test_a_top_k_teacher_in_bfloat16_has_a_tail() -> None:
    """A softmax in its own dtype would leave less than nothing for the tail at some places."""
    logits = (8 * torch.randn(1, 400, 64, generator=torch.Generator().manual_seed(0))).bfloat16()
    targets = TopKTargets.of_logits(logits, 16)
    assert targets.log_probabilities.dtype is torch.float32
    exact = logits.double().log_softmax(-1).topk(16).values
    torch.testing.assert_close(targets.log_probabilities.double(), exact, rtol=1e-5, atol=1e-5)
    assert float(targets.log_probabilities.exp().sum(-1).max()) <= 1 + 1e-5


def test_the_mass_beyond_the_top_k_counts() -> None:
    """Two students agree with the teacher among its top tokens; one strays from them more."""
    teacher = torch.tensor([[[2.0, 1.0, 0.0, 0.0]] * 2])
    straying = teacher.clone()
    straying[..., 2:] = 3.0
    targets, labels = TopKTargets.of_logits(teacher, 2), torch.tensor([[0, 1]])
    loss = DistillationLoss(1.0, 1.0)
    assert loss(teacher, targets, labels).item() == pytest.approx(0, abs=1e-6)
    assert loss(straying, targets, labels).item() > 0.5


@pytest.mark.parametrize("k", [2, 5, 7])
def test_gradients_through_a_top_k_teacher(k: int) -> None:
    student, teacher, labels = batch()
    student.requires_grad_()
    targets = TopKTargets.of_logits(teacher, k, 2.0)
    assert torch.autograd.gradcheck(lambda x: DistillationLoss()(x, targets, labels), student)


def test_features_at_marked_tokens_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    states = [torch.randn(2, 5, 8, generator=generator) for _ in range(3)]
    labels = torch.tensor([[IGNORED, IGNORED, 3, 4, IGNORED], [IGNORED, 1, 1, 1, 1]])
    loss = FeatureLoss({1: 1, -1: 2}, 8, 8)
    assert loss(states, states, labels).item() == 0
    other = [state + torch.randn(state.shape, generator=generator) for state in states]
    found = loss(other, states, labels)
    assert found.item() > 0
    for state in other:
        state[0, [0, 3, 4]], state[1, 4] = 99.0, 99.0  # these predict nothing that counts
    assert loss(other, states, labels).item() == pytest.approx(found.item(), rel=1e-6)


def test_features_of_another_width_are_projected() -> None:
    states, wider = [torch.randn(1, 4, 6)], [torch.randn(1, 4, 8, requires_grad=True)]
    loss = FeatureLoss({0: 0}, 6, 8)
    loss(states, wider, torch.tensor([[0, 1, 2, 3]])).backward()  # type: ignore[no-untyped-call]
    assert [p.shape for p in loss.parameters()] == [(8, 6)]
    assert all(p.grad is not None and bool(p.grad.any()) for p in loss.parameters())
    assert wider[0].grad is None


def test_layers_are_spread_to_the_last() -> None:
    assert spread_layers(3, 6) == {1: 2, 2: 4, 3: 6}
    assert spread_layers(1, 30) == {1: 30}
    with pytest.raises(ValueError, match="1 or more"):
        spread_layers(0, 3)
    with pytest.raises(ValueError, match="needs a layer"):
        FeatureLoss({}, 4, 4)
    with pytest.raises(ValueError, match="student has hidden states"):
        FeatureLoss({4: 0}, 4, 4)([torch.zeros(1, 2, 4)], [torch.zeros(1, 2, 4)], torch.zeros(1, 2))
