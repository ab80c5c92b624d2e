"""Properties of a loss that runs both models: who sees what, who learns, and what is stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import product
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from ..base import Suite, requires
from ..tally import each_case
from .cases import LossCase, backward, number
from .definition import Definition, rounding
from .language_models import (
    VOCABULARY,
    copied,
    fingerprint,
    make_batch,
    make_counter,
    make_model,
    make_prompts,
    watch,
)
from .protocol import (
    LossSpec,
    MakeDistillationLoss,
    ModelDistillation,
    OnPolicyDistillation,
    PairedVocabularies,
    StoredDistillation,
)

Batch = dict[str, Tensor]


class ModelProperties(Suite):
    """Those of a loss that is given models. Their labels are transformers' own: not yet shifted."""

    topic = ""
    divergence: ClassVar[str] = "forward"
    beta: ClassVar[float] = 0.5
    temperature_squared: ClassVar[bool] = True

    @requires("models")
    def test_a_model_is_its_own_best_teacher(
        self, make_distillation_loss: MakeDistillationLoss
    ) -> None:
        """A student that is its teacher costs 0, at prompts, padding and every temperature.

        Usual causes: logits of student and teacher shifted apart, another template or prompt for
        the teacher, a hard part mixed in, the teacher's dropout left on.
        """
        for spec, batch in each_case(self._runs()):
            student = make_model(1)
            found = number(
                _of_models(make_distillation_loss, spec, student, copied(student), batch)
            )
            allowed = self._allowed(batch, spec)
            if self.divergence != "cross-entropy":
                assert abs(found) <= allowed, f"T = {spec.temperature}: it costs {found:.4g}"

    @requires("models")
    def test_the_loss_of_models_is_that_of_their_logits(
        self, make_distillation_loss: MakeDistillationLoss
    ) -> None:
        """Logits of each place against the teacher's of that place, where the next label counts.

        Usual causes: another path for models than for logits, with weights or a temperature of its
        own; a teacher that is run and not used; labels that are not shifted, or twice.
        """
        for (spec, batch), absolute in each_case(product(self._runs(), self._positions())):
            student, teacher = (make_model(n, absolute=absolute) for n in (1, 2))
            found = number(_of_models(make_distillation_loss, spec, student, teacher, batch))
            self._assert_defined(found, student, teacher, batch, spec)

    @requires("models")
    def test_only_places_that_predict_an_answer_carry_gradient(
        self, make_distillation_loss: MakeDistillationLoss
    ) -> None:
        """The last token of the prompt predicts the first of the answer, and the last none.

        Usual causes: a mask that is not shifted with the logits, prompts that are trained on.
        """
        for spec, batch in each_case(self._runs()):
            student, teacher = make_model(1), make_model(2)
            seen = watch(student, gradients=True)
            backward(_of_models(make_distillation_loss, spec, student, teacher, batch))
            gradients = [x.grad for x in seen.logits if x.grad is not None]
            assert gradients, "the student's logits have no gradient"
            learns = torch.stack([gradient.any(dim=-1) for gradient in gradients]).any(dim=0)
            expected = self._model_definition.counted(batch["labels"])[:, : learns.shape[1]]
            assert torch.equal(learns, expected), (
                f"places {learns.nonzero().tolist()} learn, not {expected.nonzero().tolist()}"
            )

    @requires("models")
    def test_the_teacher_stays_as_it_was(
        self, make_distillation_loss: MakeDistillationLoss
    ) -> None:
        """It runs in eval mode, though it came in training mode; its weights and buffers are the
        same bits after a step, and it has no gradient.

        Usual causes: model.train() for both, one optimizer for both, a teacher that shares tensors.
        """
        for spec, batch in each_case(self._runs()):
            student, teacher = make_model(1), make_model(2, dropout=0.5).train()
            seen, before = watch(teacher), fingerprint(teacher)
            optimizer = torch.optim.SGD(
                [p for p in (*student.parameters(), *teacher.parameters()) if p.requires_grad], 0.1
            )
            backward(_of_models(make_distillation_loss, spec, student, teacher, batch))
            optimizer.step()
            assert not any(seen.training), "the teacher ran in training mode"
            after = fingerprint(teacher)
            changed = [name for name in before if not torch.equal(before[name], after[name])]
            assert not changed, f"a step on the student changed the teacher's {changed}"
            learnt = [n for n, p in teacher.named_parameters() if p.grad is not None]
            assert not learnt, f"the teacher has gradients at {learnt}"

    @requires("models")
    def test_both_models_see_the_same_tokens(
        self, make_distillation_loss: MakeDistillationLoss
    ) -> None:
        """Usual causes: a template on one side, a mask that one of them does not get."""
        for spec, batch in each_case(self._runs()):
            student, teacher = make_model(1), make_model(2)
            of_student, of_teacher = watch(student), watch(teacher)
            _of_models(make_distillation_loss, spec, student, teacher, batch)
            assert of_teacher.ids, "the teacher was not asked"
            rows = of_student.rows()
            assert rows == of_teacher.rows(), f"{rows} and {of_teacher.rows()}"

    @requires("models")
    def test_what_the_teacher_says_decides(
        self, make_distillation_loss: MakeDistillationLoss
    ) -> None:
        """Of each batch anew: another teacher, or another batch, is another loss and gradient.

        Usual causes: teacher outputs under a key that nobody reads, the outputs of the batch before
        kept, of another teacher kept.
        """
        for spec, batch in each_case(self._runs()):
            loss = cast(ModelDistillation, make_distillation_loss(spec))
            student, other = make_model(1), make_batch(9)
            for teacher in (make_model(2), make_model(3)):
                for asked in (batch, other, batch):
                    found = number(loss.of_models(student, teacher, asked))
                    self._assert_defined(found, student, teacher, asked, spec)

    @requires("models", "tokenizers")
    def test_models_of_two_tokenizers_are_refused(
        self, make_distillation_loss: MakeDistillationLoss
    ) -> None:
        """Ids that mean other tokens: of as many tokens, permuted; of other tokens; of more.

        Usual causes: sizes compared and not contents, a subset taken for the same.
        """
        loss = cast(PairedVocabularies, make_distillation_loss(LossSpec()))
        plain = {f"w{i}": i for i in range(8)}
        loss.check_vocabularies(plain, dict(reversed(plain.items())))
        others = {
            "two ids swapped": {**plain, "w1": 2, "w2": 1},
            "one other word": {**{k: v for k, v in plain.items() if v != 3}, "v3": 3},
            "ids moved by one": {word: i + 1 for word, i in plain.items()},
        }
        for what, other in each_case(others.items()):
            for pair in ((plain, other), (other, plain)):
                try:
                    loss.check_vocabularies(*pair)
                except Exception:
                    continue
                raise AssertionError(f"{what}: accepted")

    @requires("models", "stored")
    def test_stored_outputs_meet_their_rows_in_every_epoch(
        self, make_distillation_loss: MakeDistillationLoss
    ) -> None:
        """Rows are shuffled, of several lengths, and the student is the teacher: each step costs 0.

        Every row comes once an epoch. Usual causes: outputs paired by the batch's number, stored
        while rows were shuffled, padding of another batch.
        """
        for seed in each_case(range(3)):
            student, rows = make_model(1), _rows(seed)
            teacher = copied(student)
            seen = watch(student)
            loss = cast(StoredDistillation, make_distillation_loss(LossSpec()))
            losses = loss.of_stored(student, teacher, rows, epochs=2, seed=seed)
            allowed = self._allowed(make_batch(0), LossSpec())
            wrong = [value for value in losses if abs(value) > allowed]
            assert losses, "there were no steps"
            assert not wrong, f"{len(wrong)} of {len(losses)} steps cost {wrong[0]:.4g} or so"
            met = Counter(map(tuple, seen.rows()))
            wanted = Counter(tuple(row["input_ids"].tolist()) for row in rows)
            assert all(met[row] == 2 for row in wanted), "a row did not come once an epoch"

    # Text of the student's own

    @requires("models", "on-policy")
    def test_the_student_writes_the_text(
        self, make_distillation_loss: MakeDistillationLoss
    ) -> None:
        """The teacher judges prompts and what the student says after them, whole and no more.

        The student counts on by one. Usual causes: the teacher's text, the data's, texts of the
        step before, padding that moves into the middle, the prompt cut off.
        """
        for prompts, seed in each_case(_prompts()):
            student, teacher = make_counter(), make_model(2)
            seen = watch(teacher)
            loss = cast(OnPolicyDistillation, make_distillation_loss(LossSpec()))
            loss.of_own_text(student, teacher, prompts, new_tokens=5, seed=seed)
            expected = []
            for ids, mask in zip(prompts["input_ids"], prompts["attention_mask"], strict=True):
                row = ids[mask.bool()].tolist()
                expected.append(row + [(row[-1] + 1 + i) % VOCABULARY for i in range(5)])
            assert seen.ids, "the teacher was not asked"
            found = seen.rows()[-len(expected) :]
            assert found == expected, f"the teacher judged {found}, not {expected}"

    @requires("models", "on-policy")
    def test_gradients_flow_through_the_log_probabilities_of_that_text_alone(
        self, make_distillation_loss: MakeDistillationLoss
    ) -> None:
        """The text is data once it is written: value and gradients are those of the loss on it.

        Usual causes: prompts that count, the temperature of sampling for that of the loss, a
        gradient through the sampling, the teacher trained along.
        """
        for (prompts, seed), absolute in each_case(product(_prompts(), self._positions())):
            student, teacher = (make_model(n, absolute=absolute) for n in (1, 2))
            seen = watch(teacher)
            loss = cast(OnPolicyDistillation, make_distillation_loss(LossSpec()))
            value = loss.of_own_text(student, teacher, prompts, new_tokens=5, seed=seed)
            backward(value)
            found = {n: p.grad for n, p in student.named_parameters() if p.grad is not None}
            assert seen.ids, "the teacher was not asked"
            batch = _judged(seen.ids[-1], seen.masks[-1], prompts)
            self._assert_defined(number(value), student, teacher, batch, LossSpec())
            self._assert_gradients(found, student, teacher, batch)
            assert all(p.grad is None for p in teacher.parameters()), "the teacher has gradients"

    # How properties are tried

    @property
    def _model_definition(self) -> Definition:
        return Definition(self.divergence, self.beta, self.temperature_squared, True, -100)

    def _positions(self) -> tuple[bool, ...]:
        """Whether models have absolute positions."""
        return (False, True) if "absolute-positions" in self.capabilities else (False,)

    def _runs(self) -> Iterator[tuple[LossSpec, Batch]]:
        """Soft losses of batches, at every temperature that is taken."""
        for temperature in (1.0, 3.0) if "temperature" in self.capabilities else (1.0,):
            for seed in range(2):
                yield LossSpec(1.0, temperature), make_batch(seed)

    def _case(
        self, student: nn.Module, teacher: nn.Module, batch: Batch, spec: LossSpec
    ) -> LossCase:
        """What both models say of a batch, each of its rows by itself, in float64."""
        logits = [_logits(model, batch) for model in (student, teacher)]
        return LossCase(logits[0], logits[1], batch["labels"], spec)

    def _assert_defined(
        self,
        found: float,
        student: nn.Module,
        teacher: nn.Module,
        batch: Batch,
        spec: LossSpec,
    ) -> None:
        with torch.no_grad():
            case = self._case(student, teacher, batch, spec)
        expected, allowed = float(self._model_definition.loss(case)), self._allowed(batch, spec)
        assert abs(found - expected) <= allowed, (
            f"T = {spec.temperature}: the loss is {found:.6g}, that of the logits {expected:.6g}"
        )

    def _assert_gradients(
        self, found: dict[str, Tensor], student: nn.Module, teacher: nn.Module, batch: Batch
    ) -> None:
        exact = copied(student).double()
        exact.zero_grad()
        case = self._case(exact, teacher, batch, LossSpec())
        backward(self._model_definition.loss(case, case.student))
        for name, parameter in exact.named_parameters():
            if parameter.grad is None or not parameter.grad.any():
                continue
            assert name in found, f"{name} has no gradient"
            away = float((found[name].double() - parameter.grad).norm() / parameter.grad.norm())
            # Sums over the batch's few tokens and a layer's few features, in float32.
            assert away <= 2**12 * torch.finfo(torch.float32).eps, (
                f"the gradient of {name} is {away:.2g} of its size away"
            )

    def _allowed(self, batch: Batch, spec: LossSpec) -> float:
        """What float32 may cost, of logits of the size that these models have."""
        logits = torch.full((*batch["labels"].shape, VOCABULARY), 8.0, dtype=torch.float32)
        return rounding(LossCase(logits, logits, batch["labels"], spec), self.temperature_squared)


def _of_models(
    make: MakeDistillationLoss, spec: LossSpec, student: nn.Module, teacher: nn.Module, batch: Batch
) -> Tensor:
    given = {name: value.clone() for name, value in batch.items()}
    return cast(ModelDistillation, make(spec)).of_models(student, teacher, given)


def _logits(model: nn.Module, batch: Batch) -> Tensor:
    """Logits [B, S, V], float64, of each row alone, without its padding; 0 there."""
    double = model if next(model.parameters()).dtype is torch.float64 else copied(model).double()
    double.eval()
    rows = []
    for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
        places = mask.bool()
        said = double(input_ids=ids[places][None]).logits[0]
        rows.append(torch.zeros(len(ids), VOCABULARY, dtype=said.dtype).index_put((places,), said))
    return torch.stack(rows)


def _rows(seed: int) -> list[Batch]:
    """Seven rows of three lengths, all different, labels on all but a prompt."""
    rows = []
    for length in range(7):
        batch = make_batch(100 * seed + length, rows=1, tokens=6 + length % 3)
        rows.append({name: value[0] for name, value in batch.items()})
    return rows


def _prompts() -> Iterator[tuple[Batch, int]]:
    for seed in range(3):
        yield make_prompts(seed), seed


def _judged(ids: Tensor, mask: Tensor | None, prompts: Batch) -> Batch:
    """What the teacher judged as a batch: the labels are what came after the prompts."""
    if mask is None:
        mask = torch.ones_like(ids)
        mask[:, : prompts["attention_mask"].shape[1]] = prompts["attention_mask"]
    # Of each row, how many tokens stand up to a place; those of the prompt come first.
    answers = mask.cumsum(dim=1) > prompts["attention_mask"].sum(dim=1, keepdim=True)
    labels = ids.masked_fill(~(answers & mask.bool()), -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}
