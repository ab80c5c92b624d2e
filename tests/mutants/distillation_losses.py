"""A small distillation loss that is right, others that are built differently, and faults.

Legend: B rows, S tokens, N tokens that count, V classes; s, t logits of student and teacher.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from infopt_suites.distillation import LossSpec
from torch import Tensor, nn
from torch.nn import functional

AREA = "6 distillation"
IGNORED = -100
OF_LOGITS = {"hard-labels", "temperature", "accumulation", "empty", "vocabulary", "top-k"}
OF_MODELS = {"models", "stored", "on-policy", "absolute-positions", "tokenizers"}
DECLARED: dict[str, Any] = {"capabilities": OF_LOGITS | OF_MODELS | {"features"}}


class SmallLoss:
    """kl_div over the tokens that count; labels as transformers has them."""

    def __init__(self, spec: LossSpec) -> None:
        self.alpha, self.warm = spec.alpha, spec.temperature

    def __call__(
        self, student: Tensor, teacher: Tensor, labels: Tensor, num_items: int | None = None
    ) -> Tensor:
        self.check(student, teacher)
        s, t, targets = self.counted(student, teacher, labels)
        if not len(s):
            return student.sum() * 0
        soft, hard = self.soft(s, t), self.hard(s, targets)
        return self.mean(self.mixed(soft, hard), labels, num_items)

    def check(self, student: Tensor, teacher: Tensor) -> None:
        assert student.shape == teacher.shape, "one vocabulary"

    def counted(self, s: Tensor, t: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[N, V] twice, [N]"""
        counts = labels[:, 1:] != IGNORED
        return s[:, :-1][counts], t[:, :-1][counts], labels[:, 1:][counts]

    def soft(self, s: Tensor, t: Tensor) -> Tensor:
        """[N]"""
        return self.divergence((s / self.warm).log_softmax(-1), (t / self.warm).log_softmax(-1))

    def divergence(self, q: Tensor, p: Tensor) -> Tensor:
        """[N] of log-probabilities of student and teacher"""
        return functional.kl_div(q, p, reduction="none", log_target=True).sum(-1)

    def hard(self, s: Tensor, targets: Tensor) -> Tensor:
        """[N]"""
        return functional.cross_entropy(s, targets, reduction="none")

    def mixed(self, soft: Tensor, hard: Tensor) -> Tensor:
        return self.alpha * self.warm**2 * soft + (1 - self.alpha) * hard

    def mean(self, values: Tensor, labels: Tensor, num_items: int | None) -> Tensor:
        return values.sum() / (len(values) if num_items is None else num_items)

    def of_top_k(self, student: Tensor, teacher: Tensor, labels: Tensor, k: int) -> Tensor:
        s, t, targets = self.counted(student, teacher, labels)
        p, q = (t / self.warm).softmax(-1), (s / self.warm).softmax(-1)
        tokens = p.topk(k, dim=-1).indices
        soft = self.of_known(p.gather(-1, tokens), q.gather(-1, tokens))
        return self.mixed(soft, self.hard(s, targets)).mean()

    def of_known(self, p: Tensor, q: Tensor) -> Tensor:
        """[N] of the probabilities [N, k] of the teacher's k likeliest tokens"""
        tiny = torch.finfo(p.dtype).tiny
        p = torch.cat([p, (1 - p.sum(-1, keepdim=True)).clamp(min=0)], dim=-1)
        q = torch.cat([q, (1 - q.sum(-1, keepdim=True)).clamp(min=0)], dim=-1)
        same = (p == 0) & (q == 0)
        p, q = p.masked_fill(same, 1).clamp(min=tiny), q.masked_fill(same, 1).clamp(min=tiny)
        return (p * (p / q).log()).masked_fill(same, 0).sum(-1)

    def of_features(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        s, t, _ = self.counted(student, teacher, labels)
        return 1 - functional.cosine_similarity(s, t.detach(), dim=-1).mean().clamp(max=1)

    def of_models(
        self, student: nn.Module, teacher: nn.Module, batch: Mapping[str, Tensor]
    ) -> Tensor:
        return self(self.said(student, batch), self.asked(teacher, batch), batch["labels"])

    def said(self, student: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        return logits(student, batch)

    def asked(self, teacher: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        teacher.eval()
        with torch.no_grad():
            return logits(teacher, batch)

    def of_stored(
        self,
        student: nn.Module,
        teacher: nn.Module,
        rows: Sequence[Mapping[str, Tensor]],
        *,
        epochs: int,
        seed: int,
    ) -> list[float]:
        generator = torch.Generator().manual_seed(seed)
        stored = [self.asked(teacher, single(row)) for row in self.order(rows, generator)]
        losses = []
        for _ in range(epochs):
            for number in torch.randperm(len(rows), generator=generator).tolist():
                row = single(rows[number])
                loss = self.step(self.said(student, row), stored[number], row)
                losses.append(float(loss.detach()))
        return losses

    def order(self, rows: Sequence[Any], generator: torch.Generator) -> Sequence[Any]:
        """In which the teacher is asked."""
        return rows

    def step(self, student: Tensor, stored: Tensor, row: Mapping[str, Tensor]) -> Tensor:
        return self(student, stored, row["labels"])

    def of_own_text(
        self,
        student: nn.Module,
        teacher: nn.Module,
        prompts: Mapping[str, Tensor],
        *,
        new_tokens: int,
        seed: int,
    ) -> Tensor:
        torch.manual_seed(seed)
        ids, mask = self.written(student, teacher, prompts, new_tokens)
        labels = ids.clone()
        labels[:, : -new_tokens or None] = IGNORED
        return self.of_models(
            student, teacher, {"input_ids": ids, "attention_mask": mask, "labels": labels}
        )

    def written(
        self, student: nn.Module, teacher: nn.Module, prompts: Mapping[str, Tensor], count: int
    ) -> tuple[Tensor, Tensor]:
        """Ids and mask [B, S + count]"""
        ids, mask = prompts["input_ids"], prompts["attention_mask"]
        for _ in range(count):
            with torch.no_grad():
                last = logits(student, {"input_ids": ids, "attention_mask": mask})[:, -1]
            ids = torch.cat([ids, torch.multinomial(last.softmax(-1), 1)], dim=1)
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        return ids, mask

    def check_vocabularies(self, student: Mapping[str, int], teacher: Mapping[str, int]) -> None:
        assert dict(student) == dict(teacher), "the tokenizers differ"


def logits(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """[B, S, V], padding on either side counted as none"""
    mask = batch["attention_mask"]
    places = (mask.cumsum(-1) - 1).clamp(min=0)
    said = model(input_ids=batch["input_ids"], attention_mask=mask, position_ids=places)
    found: Tensor = said.logits
    return found


def single(row: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value[None] for name, value in row.items()}


# Sound, and built differently


class ByRows(SmallLoss):
    """Each token by itself, in float64, of probabilities; labels stand where they are predicted."""

    def __call__(
        self, student: Tensor, teacher: Tensor, labels: Tensor, num_items: int | None = None
    ) -> Tensor:
        total, count = student.double().sum() * 0, 0
        for row, place in (labels != IGNORED).nonzero().tolist():
            q = (student[row, place].double() / self.warm).softmax(-1)
            p = (teacher[row, place].double() / self.warm).softmax(-1)
            m = 0.25 * p + 0.75 * q
            total = total + 0.25 * (p * (p / m).log()).sum() + 0.75 * (q * (q / m).log()).sum()
            count += 1
        return total / max(count, 1)


class ByHand(torch.autograd.Function):
    """T² · KL with its gradient T · (q − p) written by hand."""

    @staticmethod
    def forward(ctx: Any, s: Tensor, t: Tensor, warm: float) -> Tensor:
        q, p = (s / warm).softmax(-1), (t / warm).softmax(-1)
        ctx.save_for_backward(q, p)
        ctx.warm = warm
        return warm**2 * (p * ((t / warm).log_softmax(-1) - (s / warm).log_softmax(-1))).sum(-1)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        q, p = ctx.saved_tensors
        return gradients[0][:, None] * ctx.warm * (q - p), None, None


class HandWritten(SmallLoss):
    """A mask that is multiplied, and a gradient of its own; both models in one pass of places."""

    def __call__(
        self, student: Tensor, teacher: Tensor, labels: Tensor, num_items: int | None = None
    ) -> Tensor:
        counts = (labels[:, 1:] != IGNORED).flatten().to(student.dtype)
        s, t = (x[:, :-1].flatten(0, 1) for x in (student, teacher))
        targets = labels[:, 1:].flatten().clamp(min=0)
        soft = ByHand.apply(s, t.detach(), self.warm)  # type: ignore[no-untyped-call]
        values = self.alpha * soft + (1 - self.alpha) * self.hard(s, targets)
        items = counts.sum().clamp(min=1) if num_items is None else num_items
        return (values * counts).sum() / items

    def asked(self, teacher: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """With a copy, so that whoever lent the teacher gets it back as it was."""
        return logits(copy.deepcopy(teacher).requires_grad_(False).eval(), batch)


# Faults of the soft part


class NoTemperatureSquared(SmallLoss):
    """D01 (IntelLabs/distiller#122): T² is missing."""

    def mixed(self, soft: Tensor, hard: Tensor) -> Tensor:
        return self.alpha * soft + (1 - self.alpha) * hard


class TemperatureOnce(SmallLoss):
    """Not listed: T where T² belongs."""

    def mixed(self, soft: Tensor, hard: Tensor) -> Tensor:
        return self.alpha * self.warm * soft + (1 - self.alpha) * hard


class TeacherNotTempered(SmallLoss):
    """Not listed: the teacher's logits are not divided by T."""

    def soft(self, s: Tensor, t: Tensor) -> Tensor:
        return self.divergence((s / self.warm).log_softmax(-1), t.log_softmax(-1))


class StudentNotInLogSpace(SmallLoss):
    """D02 (microsoft/ProDA#20): kl_div of the student's probabilities."""

    def divergence(self, q: Tensor, p: Tensor) -> Tensor:
        return functional.kl_div(q.exp(), p.exp(), reduction="none").sum(-1)


class TeacherOnBothSides(SmallLoss):
    """D03 (labml#66): the student has no part in it."""

    def soft(self, s: Tensor, t: Tensor) -> Tensor:
        return super().soft(t, t) + 0 * s.sum(-1)


class StudentDetached(SmallLoss):
    """Not listed: the right value, and nothing to learn."""

    def soft(self, s: Tensor, t: Tensor) -> Tensor:
        return super().soft(s.detach(), t) + 0 * s.sum(-1)


class DirectionReversed(SmallLoss):
    """D04 (paiml/aprender#2153): KL(student ‖ teacher) for KL(teacher ‖ student)."""

    def divergence(self, q: Tensor, p: Tensor) -> Tensor:
        return super().divergence(p, q)


class GradientOfTheOtherDirection(SmallLoss):
    """D04: the gradient, written by hand, is that of the other direction."""

    def divergence(self, q: Tensor, p: Tensor) -> Tensor:
        other = super().divergence(p, q)
        return other - other.detach() + super().divergence(q, p).detach()


class MixtureSwapped(SmallLoss):
    """D04 (trl#3043): β weighs the student in the mixture, and the teacher outside of it."""

    def divergence(self, q: Tensor, p: Tensor) -> Tensor:
        mixture = (0.3 * q.exp() + 0.7 * p.exp()).log()
        return 0.3 * super().divergence(mixture, p) + 0.7 * super().divergence(mixture, q)


class CrossEntropyForDivergence(SmallLoss):
    """D16 (distillm#7): the teacher's entropy is missing, so the optimum is not 0."""

    def divergence(self, q: Tensor, p: Tensor) -> Tensor:
        return -(p.exp() * q).sum(-1)


class MeanSquareOfLogits(SmallLoss):
    """Not listed: logits are drawn to logits, whose level means nothing."""

    def soft(self, s: Tensor, t: Tensor) -> Tensor:
        return ((s - t) / self.warm).square().mean(-1)


class EpsilonInLogarithms(SmallLoss):
    """Not listed: log(p + ε), which tells sharp distributions another loss."""

    def divergence(self, q: Tensor, p: Tensor) -> Tensor:
        return (p.exp() * ((p.exp() + 1e-4).log() - (q.exp() + 1e-4).log())).sum(-1)


# Faults of the mean


class MeanOverClasses(SmallLoss):
    """D05 (knowledge-distillation-pytorch#2): reduction="mean" divides by V too."""

    def divergence(self, q: Tensor, p: Tensor) -> Tensor:
        return super().divergence(q, p) / q.shape[-1]


class DividedTwice(SmallLoss):
    """D06 (easydistill#16): by the number of tokens, twice."""

    def mean(self, values: Tensor, labels: Tensor, num_items: int | None) -> Tensor:
        return values.mean() / len(values)


class SumForMean(SmallLoss):
    """Not listed: a loss that grows with the batch."""

    def mean(self, values: Tensor, labels: Tensor, num_items: int | None) -> Tensor:
        return values.sum()


class BatchMean(SmallLoss):
    """D05: batchmean of [B, S, V] divides by rows."""

    def mean(self, values: Tensor, labels: Tensor, num_items: int | None) -> Tensor:
        return values.sum() / len(labels)


class MeanOfRows(SmallLoss):
    """Not listed: each row's own mean, so that a token of a short row weighs more."""

    def mean(self, values: Tensor, labels: Tensor, num_items: int | None) -> Tensor:
        rows = (labels[:, 1:] != IGNORED).sum(1)
        means = [part.mean() for part in values.split(rows.tolist()) if len(part)]
        return torch.stack(means).mean()


class AllPlacesDivide(SmallLoss):
    """Not listed: the sum over tokens that count, divided by all places."""

    def mean(self, values: Tensor, labels: Tensor, num_items: int | None) -> Tensor:
        return values.sum() / labels[:, 1:].numel()


class MeansOfParts(SmallLoss):
    """Not listed (transformers#34191): num_items is taken and not used."""

    def mean(self, values: Tensor, labels: Tensor, num_items: int | None) -> Tensor:
        return values.mean()


class ItemsOfThePaddedBatch(SmallLoss):
    """Not listed: accumulated parts are divided by one more than counts, the first labels."""

    def mean(self, values: Tensor, labels: Tensor, num_items: int | None) -> Tensor:
        return values.sum() / (len(values) if num_items is None else num_items + 1)


class NaNWhenEmpty(SmallLoss):
    """Not listed: 0 / 0 where a text was cut to its prompt."""

    def __call__(
        self, student: Tensor, teacher: Tensor, labels: Tensor, num_items: int | None = None
    ) -> Tensor:
        s, t, targets = self.counted(student, teacher, labels)
        return self.mixed(self.soft(s, t), self.hard(s, targets)).mean()


# Faults of the hard part


class HardTempered(SmallLoss):
    """D18: cross entropy of logits / T."""

    def hard(self, s: Tensor, targets: Tensor) -> Tensor:
        return super().hard(s / self.warm, targets)


class AlphaSwapped(SmallLoss):
    """D18 (whittle#261): α weighs the hard part."""

    def mixed(self, soft: Tensor, hard: Tensor) -> Tensor:
        return (1 - self.alpha) * self.warm**2 * soft + self.alpha * hard


class HardAlwaysMixedIn(SmallLoss):
    """D27 (trl#5731): the fast path weighs both parts by a half, whatever α is."""

    def mixed(self, soft: Tensor, hard: Tensor) -> Tensor:
        return 0.5 * self.warm**2 * soft + 0.5 * hard


class LabelsSmoothed(SmallLoss):
    """Not listed: a smoothing over the vocabulary that nobody asked for."""

    def hard(self, s: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(s, targets, reduction="none", label_smoothing=0.1)


# Faults of places


class TeacherShiftedApart(SmallLoss):
    """D19 (WrinkleFree#13): the teacher's place i against the student's i + 1."""

    def counted(self, s: Tensor, t: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        counts = labels[:, 1:] != IGNORED
        return s[:, 1:][counts], t[:, :-1][counts], labels[:, 1:][counts]


class TeacherShiftedTwice(SmallLoss):
    """D19 (fmchisel#23): a shift of the teacher beside the common one."""

    def counted(self, s: Tensor, t: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return super().counted(s, t.roll(1, dims=1), labels)


class MaskNotShifted(SmallLoss):
    """D19 (Soup#711): logits are cut, and the mask is that of the places themselves."""

    def counted(self, s: Tensor, t: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        counts = labels[:, :-1] != IGNORED
        return s[:, :-1][counts], t[:, :-1][counts], labels[:, :-1][counts]


class LabelsNotShifted(SmallLoss):
    """D19: every place predicts itself."""

    def counted(self, s: Tensor, t: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        counts = labels != IGNORED
        return s[counts], t[counts], labels[counts]


class PaddingCounts(SmallLoss):
    """Not listed: the soft part over all places, prompt and padding too."""

    def __call__(
        self, student: Tensor, teacher: Tensor, labels: Tensor, num_items: int | None = None
    ) -> Tensor:
        soft = self.soft(student[:, :-1], teacher[:, :-1]).mean()
        s, _, targets = self.counted(student, teacher, labels)
        return self.mixed(soft, self.hard(s, targets).mean())


class PaddingIdIgnored(SmallLoss):
    """Not listed: token 0 is taken for padding, wherever it stands."""

    def counted(self, s: Tensor, t: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return super().counted(s, t, labels.masked_fill(labels == 0, IGNORED))


class LastPlaceOfRowsLeftOut(SmallLoss):
    """Not listed: labels are shifted once by the collator and once here."""

    def counted(self, s: Tensor, t: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return super().counted(s[:, :-1], t[:, :-1], labels[:, 1:])


# Faults of arguments


class TemperedInPlace(SmallLoss):
    """Not listed: logits /= T, which the second loss of the same logits meets again."""

    def __call__(
        self, student: Tensor, teacher: Tensor, labels: Tensor, num_items: int | None = None
    ) -> Tensor:
        with torch.no_grad():
            teacher -= teacher.amax(-1, keepdim=True)
        return super().__call__(student, teacher, labels, num_items)


class LabelsReplacedInPlace(SmallLoss):
    """Not listed: ignored labels become 0, and count from then on."""

    def __call__(
        self, student: Tensor, teacher: Tensor, labels: Tensor, num_items: int | None = None
    ) -> Tensor:
        loss = super().__call__(student, teacher, labels, num_items)
        labels[labels == IGNORED] = 0
        return loss


class RunningMean(SmallLoss):
    """Not listed: a loss is averaged with those of earlier batches."""

    before = 0.0

    def __call__(
        self, student: Tensor, teacher: Tensor, labels: Tensor, num_items: int | None = None
    ) -> Tensor:
        loss = super().__call__(student, teacher, labels, num_items)
        kept, self.before = self.before, float(loss.detach())
        return loss + 0.1 * kept


class CutToTheShorter(SmallLoss):
    """Not listed: logits are cut to the smaller vocabulary."""

    def check(self, student: Tensor, teacher: Tensor) -> None:
        pass

    def counted(self, s: Tensor, t: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        size = min(s.shape[-1], t.shape[-1])
        return super().counted(s[..., :size], t[..., :size], labels.clamp(max=size - 1))


class PaddedWithZeros(SmallLoss):
    """Liger 0.8.5: a student of fewer tokens gets logits of 0 for the others."""

    def check(self, student: Tensor, teacher: Tensor) -> None:
        assert student.shape[-1] <= teacher.shape[-1]

    def counted(self, s: Tensor, t: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return super().counted(functional.pad(s, (0, t.shape[-1] - s.shape[-1])), t, labels)


class Broadcast(SmallLoss):
    """Not listed: a teacher of one class stands against all of the student's."""

    def check(self, student: Tensor, teacher: Tensor) -> None:
        pass


# Faults of a top-k teacher


class Renormalised(SmallLoss):
    """D26 (verl#7425): the k are scaled up to 1, for both."""

    def of_known(self, p: Tensor, q: Tensor) -> Tensor:
        p, q = p / p.sum(-1, keepdim=True), q / q.sum(-1, keepdim=True)
        return (p * (p / q).log()).sum(-1)


class TeacherRenormalised(SmallLoss):
    """D26: the k of the teacher are scaled up to 1, those of the student are not."""

    def of_known(self, p: Tensor, q: Tensor) -> Tensor:
        return (p / p.sum(-1, keepdim=True) * (p / p.sum(-1, keepdim=True) / q).log()).sum(-1)


class TailDropped(SmallLoss):
    """D26: Σ over the k alone, which falls below 0 where a student says more of them."""

    def of_known(self, p: Tensor, q: Tensor) -> Tensor:
        return (p * (p / q).log()).sum(-1)


# Faults of features


class FeaturesOfPadding(SmallLoss):
    """Not listed: hidden states of all places."""

    def of_features(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        return (student - teacher.detach()).square().mean()


class FeaturesTeachTheTeacher(SmallLoss):
    """Not listed: both are drawn to one another."""

    def of_features(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        s, t, _ = self.counted(student, teacher, labels)
        return (s - t).square().mean()


class FeaturesSummed(SmallLoss):
    """Not listed: a sum over tokens."""

    def of_features(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        s, t, _ = self.counted(student, teacher, labels)
        return (s - t.detach()).square().sum()


# Faults with models


class TeacherInTraining(SmallLoss):
    """D10: whoever calls train() on the whole trains the teacher's dropout too."""

    def asked(self, teacher: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        with torch.no_grad():
            return logits(teacher, batch)


class TeacherLearns(SmallLoss):
    """D12: no no_grad, no detach."""

    def asked(self, teacher: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        return logits(teacher.eval(), batch)


class TeacherFollows(SmallLoss):
    """Not listed: the teacher's weights move towards the student's at every step."""

    def of_models(
        self, student: nn.Module, teacher: nn.Module, batch: Mapping[str, Tensor]
    ) -> Tensor:
        loss = super().of_models(student, teacher, batch)
        with torch.no_grad():
            for mine, other in zip(teacher.parameters(), student.parameters(), strict=True):
                mine.lerp_(other, 0.01)
        return loss


class AnotherTemplate(SmallLoss):
    """D28 (tinker-cookbook#796): the teacher's prompt begins with a token of its own."""

    def asked(self, teacher: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        ids = batch["input_ids"].clone()
        ids[:, 0] = 1
        return super().asked(teacher, {**batch, "input_ids": ids})


class TeacherWithoutMask(SmallLoss):
    """Not listed: padding is text to the teacher."""

    def asked(self, teacher: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        ids = batch["input_ids"]
        return super().asked(teacher, {**batch, "attention_mask": torch.ones_like(ids)})


class TeacherNotUsed(SmallLoss):
    """D31 (atropos#464): the teacher is asked, and the loss is that of the labels."""

    def of_models(
        self, student: nn.Module, teacher: nn.Module, batch: Mapping[str, Tensor]
    ) -> Tensor:
        self.asked(teacher, batch)
        s, _, targets = self.counted(*[self.said(student, batch)] * 2, batch["labels"])
        return self.hard(s, targets).mean()


class TeacherOfTheFirstBatch(SmallLoss):
    """Not listed: what the teacher says is kept by the shape of the batch."""

    def __init__(self, spec: LossSpec) -> None:
        super().__init__(spec)
        self.kept: dict[torch.Size, Tensor] = {}

    def asked(self, teacher: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        shape = batch["input_ids"].shape
        if shape not in self.kept:
            self.kept[shape] = super().asked(teacher, batch)
        return self.kept[shape]


class FastPathMixes(SmallLoss):
    """D27 (trl#5731): right on logits; the path of models mixes the hard part in."""

    def of_models(
        self, student: nn.Module, teacher: nn.Module, batch: Mapping[str, Tensor]
    ) -> Tensor:
        other = SmallLoss(LossSpec(0.5, self.warm))
        return other.of_models(student, teacher, batch)


class FastPathWarmer(SmallLoss):
    """D27 (trl#5731): the temperature of generation, 0.9, is that of the loss."""

    def of_models(
        self, student: nn.Module, teacher: nn.Module, batch: Mapping[str, Tensor]
    ) -> Tensor:
        return SmallLoss(LossSpec(self.alpha, 0.9)).of_models(student, teacher, batch)


class PromptTrained(SmallLoss):
    """Not listed: labels are made of the ids again, prompt and all."""

    def of_models(
        self, student: nn.Module, teacher: nn.Module, batch: Mapping[str, Tensor]
    ) -> Tensor:
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORED)
        return super().of_models(student, teacher, {**batch, "labels": labels})


class StoredWhileShuffled(SmallLoss):
    """D13 (knowledge-distillation-pytorch#4): stored by a loader that shuffles."""

    def order(self, rows: Sequence[Any], generator: torch.Generator) -> Sequence[Any]:
        return [rows[i] for i in torch.randperm(len(rows), generator=generator)]


class StoredCutToTheShorter(SmallLoss):
    """D13: pairs by the number of the step; what does not fit in length is cut."""

    steps = 0

    def of_stored(self, student: nn.Module, teacher: nn.Module, rows: Any, **given: Any) -> Any:
        self.outputs = [self.asked(teacher, single(row)) for row in rows]
        return super().of_stored(student, teacher, rows, **given)

    def step(self, student: Tensor, stored: Tensor, row: Mapping[str, Tensor]) -> Tensor:
        stored = self.outputs[self.steps % len(self.outputs)]
        self.steps += 1
        size = min(student.shape[1], stored.shape[1])
        return super().step(
            student[:, :size], stored[:, :size], {"labels": row["labels"][:, :size]}
        )


class SizesCompared(SmallLoss):
    """D15 (trl#4562): as many tokens are taken for the same tokens."""

    def check_vocabularies(self, student: Mapping[str, int], teacher: Mapping[str, int]) -> None:
        assert len(student) == len(teacher)


class WordsCompared(SmallLoss):
    """D15: the words are the same, the ids are not."""

    def check_vocabularies(self, student: Mapping[str, int], teacher: Mapping[str, int]) -> None:
        assert student.keys() == teacher.keys()


# Faults of the student's own text


class TeacherWrites(SmallLoss):
    """Not listed: the teacher samples, and the run is off-policy."""

    def written(
        self, student: nn.Module, teacher: nn.Module, prompts: Mapping[str, Tensor], count: int
    ) -> tuple[Tensor, Tensor]:
        return super().written(teacher, teacher, prompts, count)


class PromptOfOwnTextCounts(SmallLoss):
    """Not listed: places of the prompt count too."""

    def of_own_text(self, *arguments: Any, new_tokens: int, seed: int) -> Tensor:
        student, teacher, prompts = arguments
        torch.manual_seed(seed)
        ids, mask = self.written(student, teacher, prompts, new_tokens)
        labels = ids.masked_fill(mask == 0, IGNORED)
        return self.of_models(
            student, teacher, {"input_ids": ids, "attention_mask": mask, "labels": labels}
        )


class SamplingTemperature(SmallLoss):
    """D27 (trl#5731): the loss on own text is at the temperature of sampling."""

    def of_own_text(self, *arguments: Any, **given: Any) -> Tensor:
        return SmallLoss(LossSpec(self.alpha, 0.9)).of_own_text(*arguments, **given)


class ScoreFunction(SmallLoss):
    """Not listed: log-probabilities of the sampled tokens are followed besides."""

    def of_own_text(self, *arguments: Any, new_tokens: int, seed: int) -> Tensor:
        loss = super().of_own_text(*arguments, new_tokens=new_tokens, seed=seed)
        student, _, prompts = arguments
        said = self.said(student, prompts).log_softmax(-1).amax(-1).mean()
        return loss + loss.detach() * (said - said.detach())


class PaddingInTheMiddle(SmallLoss):
    """Not listed: prompts padded right, and text written after the padding."""

    def written(
        self, student: nn.Module, teacher: nn.Module, prompts: Mapping[str, Tensor], count: int
    ) -> tuple[Tensor, Tensor]:
        order = prompts["attention_mask"].argsort(dim=1, descending=True, stable=True)
        moved = {name: value.gather(1, order) for name, value in prompts.items()}
        return super().written(student, teacher, moved, count)


class PositionsOfPadding(SmallLoss):
    """trl 1.16.0: prompts are padded left, and positions begin at the padding."""

    def of_own_text(self, *arguments: Any, new_tokens: int, seed: int) -> Tensor:
        student, teacher, prompts = arguments
        torch.manual_seed(seed)
        ids, mask = self.written(student, teacher, prompts, new_tokens)
        labels = ids.clone()
        labels[:, :-new_tokens] = IGNORED
        said = student(input_ids=ids, attention_mask=mask).logits
        with torch.no_grad():
            meant = teacher.eval()(input_ids=ids, attention_mask=mask).logits
        return self(said, meant, labels)


class OneTokenShort(SmallLoss):
    """Not listed: the last token that was sampled is not judged."""

    def written(
        self, student: nn.Module, teacher: nn.Module, prompts: Mapping[str, Tensor], count: int
    ) -> tuple[Tensor, Tensor]:
        return super().written(student, teacher, prompts, count - 1)


class SmallRuledOut(SmallLoss):
    """Sound: tokens that the teacher rules out are taken out before anything is computed."""

    def divergence(self, q: Tensor, p: Tensor) -> Tensor:
        gone = p.isneginf()
        p, q = p.masked_fill(gone, 0.0), q.masked_fill(gone, 0.0)
        return self.weighed(p.exp() * (p - q), gone).sum(-1)

    def weighed(self, terms: Tensor, gone: Tensor) -> Tensor:
        return terms.masked_fill(gone, 0.0)


class RuledOutStay(SmallRuledOut):
    """Not listed: 0 · (−∞ + ∞) is NaN."""

    def divergence(self, q: Tensor, p: Tensor) -> Tensor:
        return (p.exp() * (p - q)).sum(-1)


class RuledOutInValueAlone(SmallRuledOut):
    """Not listed: the NaN of a term is left out, and comes back with its gradient."""

    def divergence(self, q: Tensor, p: Tensor) -> Tensor:
        p, q = p.exp(), q.exp()
        return torch.where(p == 0, 0.0, p * (p / q).log()).sum(-1)


class RuledOutAsCertain(SmallRuledOut):
    """Not listed: what was set to 0 is a logarithm, and counts as a probability of 1."""

    def weighed(self, terms: Tensor, gone: Tensor) -> Tensor:
        return terms + gone


class KnownInAnotherOrder(SmallLoss):
    """Not listed: the student is read by ids, the teacher by what its tokens weigh."""

    def of_top_k(self, student: Tensor, teacher: Tensor, labels: Tensor, k: int) -> Tensor:
        s, t, targets = self.counted(student, teacher, labels)
        p, q = (t / self.warm).softmax(-1), (s / self.warm).softmax(-1)
        known = p.topk(k, dim=-1)
        soft = self.of_known(known.values, q.gather(-1, known.indices.sort(-1).values))
        return self.mixed(soft, self.hard(s, targets)).mean()


@dataclass(frozen=True)
class LossMutant:
    """A fault, the property that finds it, and what the implementation declares."""

    fault: type[SmallLoss]
    broken: str
    attributes: dict[str, Any] = field(default_factory=lambda: DECLARED)


JSD: dict[str, Any] = {**DECLARED, "divergence": "jsd", "beta": 0.3}
RULED_OUT: dict[str, Any] = {"capabilities": {"temperature", "vocabulary", "ruled-out"}}
SOUND: dict[str, tuple[type[SmallLoss], dict[str, Any]]] = {
    "small": (SmallLoss, DECLARED),
    "ruled-out": (SmallRuledOut, RULED_OUT),
    "by-rows": (
        ByRows,
        {
            "capabilities": {"temperature", "empty"},
            "divergence": "jsd",
            "beta": 0.25,
            "temperature_squared": False,
            "shifted": False,
        },
    ),
    "hand-written": (
        HandWritten,
        {"capabilities": {"hard-labels", "temperature", "accumulation", "empty"} | OF_MODELS},
    ),
}

VALUE = "test_the_loss_is_its_definition"
CLASSES = "test_three_classes_cost_what_the_formula_says"
GRADIENT = "test_the_gradient_is_that_of_the_definition"
EQUAL = "test_a_student_equal_to_its_teacher_costs_nothing"
WARM = "test_the_gradient_keeps_its_size_as_temperature_grows"
HARD = "test_without_a_share_of_the_teacher_it_is_cross_entropy"
IGNORING = "test_places_that_are_ignored_change_nothing"
PLACES = "test_places_that_are_ignored_get_no_gradient"
DOUBLE = "test_a_batch_and_its_double_cost_the_same"
WIDER = "test_tokens_that_nobody_says_change_nothing"
PACKED = "test_rows_packed_one_after_another_cost_what_they_cost_apart"
PARTS = "test_parts_of_a_batch_sum_up_to_the_batch"
ARGUMENTS = "test_arguments_are_not_modified"
SIZES = "test_another_vocabulary_is_refused"
TOP_K = "test_a_top_k_teacher_tells_no_more_than_the_whole_one"
FEATURES = "test_equal_features_cost_nothing_and_others_something"
OWN = "test_a_model_is_its_own_best_teacher"
OF_THEIR_LOGITS = "test_the_loss_of_models_is_that_of_their_logits"
ANSWERS = "test_only_places_that_predict_an_answer_carry_gradient"
STAYS = "test_the_teacher_stays_as_it_was"
SAME_TOKENS = "test_both_models_see_the_same_tokens"
DECIDES = "test_what_the_teacher_says_decides"
STORED = "test_stored_outputs_meet_their_rows_in_every_epoch"
TOKENIZERS = "test_models_of_two_tokenizers_are_refused"
WRITES = "test_the_student_writes_the_text"
FLOWS = "test_gradients_flow_through_the_log_probabilities_of_that_text_alone"

RULED = "test_tokens_that_both_rule_out_change_nothing"

LOSS_MUTANTS = [
    LossMutant(RuledOutStay, RULED, RULED_OUT),
    LossMutant(RuledOutInValueAlone, RULED, RULED_OUT),
    LossMutant(RuledOutAsCertain, RULED, RULED_OUT),
    LossMutant(KnownInAnotherOrder, "test_a_top_k_of_all_tokens_is_the_whole_teacher"),
    LossMutant(NoTemperatureSquared, WARM),
    LossMutant(NoTemperatureSquared, VALUE),
    LossMutant(TemperatureOnce, WARM),
    LossMutant(TeacherNotTempered, EQUAL),
    LossMutant(StudentNotInLogSpace, EQUAL),
    LossMutant(StudentNotInLogSpace, CLASSES),
    LossMutant(TeacherOnBothSides, GRADIENT),
    LossMutant(StudentDetached, GRADIENT),
    LossMutant(DirectionReversed, CLASSES),
    LossMutant(GradientOfTheOtherDirection, GRADIENT),
    LossMutant(MixtureSwapped, CLASSES, JSD),
    LossMutant(CrossEntropyForDivergence, EQUAL),
    LossMutant(MeanSquareOfLogits, "test_logits_shifted_by_a_constant_cost_the_same"),
    LossMutant(EpsilonInLogarithms, VALUE),
    LossMutant(MeanOverClasses, WIDER),
    LossMutant(DividedTwice, DOUBLE),
    LossMutant(SumForMean, DOUBLE),
    LossMutant(BatchMean, VALUE),
    LossMutant(BatchMean, PACKED),
    LossMutant(MeanOfRows, PACKED),
    LossMutant(MeanOfRows, VALUE),
    LossMutant(AllPlacesDivide, VALUE),
    LossMutant(MeansOfParts, PARTS),
    LossMutant(ItemsOfThePaddedBatch, PARTS),
    LossMutant(NaNWhenEmpty, "test_a_batch_without_a_token_costs_nothing"),
    LossMutant(HardTempered, HARD),
    LossMutant(AlphaSwapped, HARD),
    LossMutant(HardAlwaysMixedIn, EQUAL),
    LossMutant(HardAlwaysMixedIn, HARD),
    LossMutant(LabelsSmoothed, HARD),
    LossMutant(LabelsSmoothed, WIDER),
    LossMutant(TeacherShiftedApart, EQUAL),
    LossMutant(TeacherShiftedTwice, EQUAL),
    LossMutant(MaskNotShifted, PLACES),
    LossMutant(LabelsNotShifted, PLACES),
    LossMutant(PaddingCounts, IGNORING),
    LossMutant(PaddingIdIgnored, VALUE),
    LossMutant(LastPlaceOfRowsLeftOut, PLACES),
    LossMutant(TemperedInPlace, ARGUMENTS),
    LossMutant(LabelsReplacedInPlace, ARGUMENTS),
    LossMutant(RunningMean, "test_a_loss_forgets_the_batches_before"),
    LossMutant(CutToTheShorter, SIZES),
    LossMutant(PaddedWithZeros, SIZES),
    LossMutant(Broadcast, SIZES),
    LossMutant(Renormalised, "test_the_mass_beyond_the_top_k_counts"),
    LossMutant(TeacherRenormalised, TOP_K),
    LossMutant(TailDropped, TOP_K),
    LossMutant(FeaturesOfPadding, FEATURES),
    LossMutant(FeaturesTeachTheTeacher, FEATURES),
    LossMutant(FeaturesSummed, FEATURES),
    LossMutant(TeacherInTraining, STAYS),
    LossMutant(TeacherLearns, STAYS),
    LossMutant(TeacherFollows, STAYS),
    LossMutant(AnotherTemplate, SAME_TOKENS),
    LossMutant(AnotherTemplate, OWN),
    LossMutant(TeacherWithoutMask, SAME_TOKENS),
    LossMutant(TeacherNotUsed, DECIDES),
    LossMutant(TeacherOfTheFirstBatch, DECIDES),
    LossMutant(FastPathMixes, OWN),
    LossMutant(FastPathWarmer, OF_THEIR_LOGITS),
    LossMutant(TeacherShiftedApart, OWN),
    LossMutant(MaskNotShifted, ANSWERS),
    LossMutant(PromptTrained, ANSWERS),
    LossMutant(StoredWhileShuffled, STORED),
    LossMutant(StoredCutToTheShorter, STORED),
    LossMutant(SizesCompared, TOKENIZERS),
    LossMutant(WordsCompared, TOKENIZERS),
    LossMutant(TeacherWrites, WRITES),
    LossMutant(PaddingInTheMiddle, WRITES),
    LossMutant(OneTokenShort, WRITES),
    LossMutant(PromptOfOwnTextCounts, FLOWS),
    LossMutant(SamplingTemperature, FLOWS),
    LossMutant(ScoreFunction, FLOWS),
    LossMutant(PositionsOfPadding, FLOWS),
]
