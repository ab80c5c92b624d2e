"""Quantization-aware training wins back what rounding costs, and does nothing else."""

import copy
import math
from pathlib import Path

import pytest
import scipy.stats
import torch
from infopt_reference.quantization import (
    FakeQuantizedLinear,
    QuantizationScheme,
    convert_qat,
    distillation_kl,
    prepare_qat,
    preset,
    quantize_model,
    train_qat,
)
from tiny_models import VOCABULARY, make_model
from torch.nn import functional

from pytest_infopt.corpus import load_corpus
from pytest_infopt.engines.registry import load_engine
from pytest_infopt.release import CorpusSource, ModelSource

ROOT = Path(__file__).parents[2]
INT3 = QuantizationScheme(bits=3, granularity="channel")


def token_batches(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randint(VOCABULARY, (count, 2, 24), generator=generator))


def document_kls(model, teacher, documents):
    """KL of each document, ids [N, T], in nats a token; one pass, as each decodes all weights."""
    with torch.no_grad():
        pairs = zip(model(documents).logits, teacher(documents).logits, strict=True)
        return torch.stack([distillation_kl(student, target) for student, target in pairs])


def assert_documents_gained(before, after):
    """By a paired t test and a sign test over documents, each at one in a thousand."""
    gains = (before - after).double()
    statistic = gains.mean() / (gains.std() / math.sqrt(len(gains)))
    assert statistic > scipy.stats.t.ppf(0.999, df=len(gains) - 1)
    won = scipy.stats.binomtest(int((gains > 0).sum()), len(gains), alternative="greater")
    assert won.pvalue < 0.001


@pytest.fixture
def model():
    return make_model("llama")


def test_training_lowers_the_divergence_on_documents_it_has_not_seen(model):
    # Random tokens: what is learnt is the float model's function, not the texts.
    teacher, rounded = copy.deepcopy(model), copy.deepcopy(model)
    quantize_model(rounded, INT3)
    held_out = torch.cat(token_batches(24, seed=1))
    before = document_kls(rounded, teacher, held_out)
    losses = train_qat(model, token_batches(60), INT3, steps=60, learning_rate=1e-3)
    convert_qat(model)
    assert len(losses) == 60
    assert_documents_gained(before, document_kls(model, teacher, held_out))


@pytest.mark.slow
def test_some_steps_win_back_a_fifth_of_what_4_bits_per_channel_cost_a_real_model():
    source = ModelSource("reference", "embedded:smollm2", dtype="float32", device="cpu")
    engine = load_engine(source)
    model, scheme = engine.module, QuantizationScheme(bits=4, granularity="channel")
    texts = [engine.encode(document.text)[:64] for document in load_corpus(CorpusSource(), ROOT)]
    documents = torch.tensor([ids for ids in texts if len(ids) == 64])
    held_out, seen = documents[:16], documents[16:80]
    teacher, rounded = copy.deepcopy(model), copy.deepcopy(model)
    quantize_model(rounded, scheme)
    before = document_kls(rounded, teacher, held_out)
    del rounded
    train_qat(model, seen.split(4), scheme, steps=16, learning_rate=1e-4)
    convert_qat(model)
    after = document_kls(model, teacher, held_out)
    assert_documents_gained(before, after)
    assert after.mean() < 0.8 * before.mean()


def test_the_first_loss_is_the_divergence_of_plain_rounding(model):
    teacher, rounded = copy.deepcopy(model), copy.deepcopy(model)
    prepare_qat(rounded, INT3)
    batch = token_batches(1)[0]
    with torch.no_grad():
        student, target = rounded(batch).logits, teacher(batch).logits
    losses = train_qat(model, [batch], INT3, steps=1, learning_rate=1e-3)
    expected = functional.kl_div(
        student.double().log_softmax(-1),
        target.double().log_softmax(-1),
        log_target=True,
        reduction="none",
    )
    # A sum over the vocabulary of float32 numbers no larger than a few nats.
    assert losses[0] == pytest.approx(expected.sum(-1).mean().item(), rel=VOCABULARY * 2.0**-23)


def test_two_runs_agree_to_the_last_bit_whatever_the_seed_and_the_mode(model):
    model.config.attention_dropout = 0.5  # read by each forward, in training mode alone
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    runs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        candidate = copy.deepcopy(model).train(seed == 1)
        losses = train_qat(candidate, token_batches(2), INT3, steps=4, learning_rate=1e-3)
        assert candidate.training is (seed == 1)
        runs.append((losses, candidate.state_dict()))
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(value, runs[1][1][name]) for name, value in runs[0][1].items())


def test_only_the_weights_of_quantized_layers_move(model):
    before = copy.deepcopy(model.state_dict())
    flags = {name: name != "model.norm.weight" for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(flags[name])
    train_qat(model, token_batches(2), INT3, steps=2, learning_rate=1e-3, skip=("o_proj",))
    moved = {n for n, v in model.state_dict().items() if not torch.equal(v, before[n])}
    fakes = {n for n, m in model.named_modules() if isinstance(m, FakeQuantizedLinear)}
    assert moved == {f"{name}.weight" for name in fakes}
    assert not any("o_proj" in name or "lm_head" in name for name in moved)
    assert {n: p.requires_grad for n, p in model.named_parameters()} == flags


def test_no_weight_decays_where_no_gradient_reaches_it(model):
    # Where rounding changes nothing the student is the teacher and the gradient is 0.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("_proj.weight"):
                parameter.copy_(parameter.sign())
    before = copy.deepcopy(model.state_dict())
    losses = train_qat(model, token_batches(1), INT3, steps=1, learning_rate=1e-3)
    assert losses == (0.0,)
    step = 1.001e-3  # Adam divides rounding noise by its own size: at most one step, no decay
    for name, value in model.state_dict().items():
        assert float((value - before[name]).abs().max()) <= step


def test_padding_is_neither_teacher_nor_student(model):
    ids = token_batches(1)[0]
    mask = torch.ones_like(ids)
    mask[1, 10:] = 0
    other = torch.where(mask.bool(), ids, (ids + 1) % VOCABULARY)
    runs = []
    for padded in (ids, other):
        candidate = copy.deepcopy(model)
        batch = {"input_ids": padded, "attention_mask": mask}
        losses = train_qat(candidate, [batch], INT3, steps=2, learning_rate=1e-3)
        runs.append((losses, candidate.state_dict()))
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(value, runs[1][1][name]) for name, value in runs[0][1].items())


def test_divergence_on_three_tokens_by_hand():
    p, q = [0.5, 0.25, 0.25], [0.25, 0.25, 0.5]
    teacher, student = torch.tensor([[p, p]]).log(), torch.tensor([[q, p]]).log()
    expected = 0.5 * math.log(2) - 0.25 * math.log(2)
    rounding = 8 * 2.0**-24
    assert distillation_kl(student, teacher).item() == pytest.approx(expected / 2, rel=rounding)
    first = torch.tensor([[1, 0]])
    assert distillation_kl(student, teacher, first).item() == pytest.approx(expected, rel=rounding)
    assert distillation_kl(teacher, teacher).item() == 0
    with pytest.raises(ValueError, match="no tokens"):
        distillation_kl(student, teacher, torch.zeros(1, 2))


def test_progress_is_told_of_each_step(model):
    told = []
    losses = train_qat(
        model,
        token_batches(2),
        INT3,
        steps=3,
        learning_rate=1e-3,
        progress=lambda step, loss: told.append((step, loss)),
    )
    assert told == list(enumerate(losses, start=1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"learning_rate": 0.0}, r"learning_rate 0\.0"),
        ({"learning_rate": math.nan}, "learning_rate nan"),
        ({"batches": []}, "no batches"),
    ],
)
def test_arguments_that_train_nothing_are_refused(model, arguments, message):
    given = {"batches": token_batches(1), "steps": 1, "learning_rate": 1e-3} | arguments
    with pytest.raises(ValueError, match=message):
        train_qat(model, scheme=INT3, **given)
    assert not any(isinstance(module, FakeQuantizedLinear) for module in model.modules())


def test_a_loss_that_is_not_finite_names_its_step(model):
    with torch.no_grad():
        model.model.norm.weight.fill_(math.inf)
    with pytest.raises(ValueError, match="the loss of step 1 is nan"):
        train_qat(model, token_batches(1), preset("int4"), steps=1, learning_rate=1e-3)
