"""DistillationLossSuite: is a distillation loss what it says, in value, gradient and average?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from ..base import requires
from ..properties import EXAMPLES, for_all, tried
from ..tally import each_case
from .cases import (
    TEMPERATURES,
    Accepted,
    LossCase,
    Trial,
    backward,
    loss_cases,
    loss_traps,
    make_case,
    number,
)
from .definition import Definition, rounding
from .models import ModelProperties
from .protocol import (
    AccumulatingLoss,
    FeatureDistillation,
    LossSpec,
    MakeDistillationLoss,
    TopKLoss,
)

on_logits = tried("make_distillation_loss")  # a property of a `Trial`


class DistillationLossSuite(ModelProperties):
    """Properties of α · T² · D(teacher, student) + (1 − α) · CE, of its parts, and of its use.

    Give a fixture ``make_distillation_loss``: a `protocol.MakeDistillationLoss`. Class attributes
    say what is tried:

    | attribute | default | meaning |
    |---|---|---|
    | ``divergence`` | "forward" | D: KL(teacher ‖ student); "reverse", "jsd", or "cross-entropy" |
    | ``beta`` | 0.5 | of "jsd": the teacher's share of the mixture, as in GKD |
    | ``temperature_squared`` | True | D is multiplied by T² |
    | ``shifted`` | True | the loss holds the logits of a place against the next place's label |
    | ``ignored`` | −100 | the label of a place that does not count |
    | ``dtype`` | float32 | dtype of logits |
    | ``examples`` | 40 | drawn cases of a property |
    """

    topic = "distillation_loss"
    fixture = "make_distillation_loss"
    fixture_returns = "a callable that takes a LossSpec and returns a loss"
    offers = {  # noqa: RUF012  # read only
        "hard-labels": "α below 1 mixes in the cross entropy of labels, at temperature 1",
        "temperature": "T other than 1",
        "accumulation": "loss(…, num_items=n) divides by n, the tokens of the whole batch",
        "ruled-out": "tokens whose logits are −∞ in both models",
        "empty": "a batch without a token that counts costs 0",
        "vocabulary": "logits of vocabularies of different sizes raise",
        "top-k": "of_top_k(…, k) knows the teacher's k likeliest tokens, and the mass of the rest",
        "features": "of_features(…) compares hidden states",
        "models": "of_models(student, teacher, batch) runs both models",
        "stored": "of_stored(…) trains on what the teacher once said of each row",
        "on-policy": "of_own_text(…) trains on text that the student samples",
        "absolute-positions": "of models with absolute positions, padded rows are as if alone",
        "tokenizers": "check_vocabularies(student, teacher) raises where ids differ",
    }
    methods = {  # noqa: RUF012  # read only
        "top-k": ("of_top_k",),
        "features": ("of_features",),
        "models": ("of_models",),
        "stored": ("of_stored",),
        "on-policy": ("of_own_text",),
        "tokenizers": ("check_vocabularies",),
    }
    shifted: ClassVar[bool] = True
    ignored: ClassVar[int] = -100
    dtype: ClassVar[torch.dtype] = torch.float32
    examples: ClassVar[int] = EXAMPLES

    def made_from(self, implementation: Any) -> Any:
        return implementation(LossSpec())

    def first_cases(self, implementation: Any) -> Iterator[tuple[str, Callable[[], object]]]:
        case = make_case(self._accepted, (2, 3, 4), LossSpec(), ignoring=0.0, seed=0)
        loss = self.made_from(implementation)
        attempt = partial(loss, case.student, case.teacher, case.labels)
        yield f"the loss of {self.dtype} logits", attempt

    # The definition

    def test_three_classes_cost_what_the_formula_says(
        self, make_distillation_loss: MakeDistillationLoss
    ) -> None:
        """A teacher of 1/2, 1/4, 1/4 and a student of 1/8, 1/8, 3/4, at T = 1, have known values.

        Forward and reverse KL differ here by a third. Usual causes: the arguments of kl_div the
        wrong way round, weights of a mixture swapped, probabilities for their logarithms.
        """
        two, three = math.log(2), math.log(3)
        teacher = [-two, -2 * two, -2 * two]
        student = [-3 * two, -3 * two, three - 2 * two]
        p, q = ([math.exp(x) for x in logs] for logs in (teacher, student))
        mixture = [math.log(self.beta * a + (1 - self.beta) * b) for a, b in zip(p, q, strict=True)]

        def kl(first: list[float], second: list[float]) -> float:
            return sum(math.exp(a) * (a - b) for a, b in zip(first, second, strict=True))

        values = {
            "forward": kl(teacher, student),
            "reverse": kl(student, teacher),
            "jsd": self.beta * kl(teacher, mixture) + (1 - self.beta) * kl(student, mixture),
            "cross-entropy": -sum(a * b for a, b in zip(p, student, strict=True)),
        }
        values |= {"jsd": values["forward"]} if self.beta == 0 else {}
        values |= {"jsd": values["reverse"]} if self.beta == 1 else {}
        logits = [torch.tensor([[x, x]], dtype=self.dtype) for x in (student, teacher)]
        labels = torch.tensor([[0, 1]])
        case = LossCase(logits[0], logits[1], labels, LossSpec())
        found = number(make_distillation_loss(case.spec)(logits[0], logits[1], labels))
        self._assert_near(found, values[self.divergence], case, "the loss")

    @on_logits()
    def test_the_loss_is_its_definition(self, trial: Trial) -> None:
        """Value: the mean of every token's own, within what the dtype's rounding may cost.

        Usual causes: a mean over classes or over ignored places too, a mean of rows' means, labels
        that are not shifted, T² forgotten or squared again, α for 1 − α.
        """
        expected = float(self._definition.loss(trial.case))
        self._assert_near(number(trial.loss()), expected, trial.case, "the loss")

    @on_logits()
    def test_the_gradient_is_that_of_the_definition(self, trial: Trial) -> None:
        """What training follows. Two losses may have one value and differ here.

        Usual causes: the teacher on both sides, a detached student, a part under no_grad, a
        gradient written by hand for the other direction.
        """
        found, expected = trial.gradient(), self._definition.gradient(trial.case)
        away = float((found.double() - expected).abs().max())
        allowed = self._rounding(trial.case)
        assert away <= allowed, f"the gradient is {away:.3g} away; rounding allows {allowed:.3g}"

    @on_logits()
    def test_a_student_equal_to_its_teacher_costs_nothing(self, trial: Trial) -> None:
        """Without hard labels the loss is 0, and so is its gradient (cross entropy: gradient only).

        Usual causes: cross entropy told as a divergence, a hard part that is always mixed in,
        another temperature on each side, probabilities where logarithms belong.
        """
        case = replace(trial.case, student=trial.case.teacher)
        case = replace(case, spec=replace(case.spec, alpha=1.0))
        same = Trial(trial.make, case)
        if self.divergence != "cross-entropy":
            self._assert_near(number(same.loss()), 0.0, case, "the loss")
        away, allowed = float(same.gradient().abs().max()), self._rounding(case)
        assert away <= allowed, f"a gradient of {away:.3g}; rounding allows {allowed:.3g}"

    @on_logits()
    def test_logits_shifted_by_a_constant_cost_the_same(self, trial: Trial) -> None:
        """A softmax does not see what is added to all its logits.

        Usual causes: exp before log, logits compared with logits, a maximum that is not taken off.
        """
        case = trial.case
        moved = {"student": case.student + 8.0, "teacher": case.teacher - 16.0}
        self._assert_near(number(trial.loss(**moved)), number(trial.loss()), case, "the loss")

    @requires("temperature")
    def test_the_gradient_keeps_its_size_as_temperature_grows(
        self, make_distillation_loss: MakeDistillationLoss
    ) -> None:
        """With T² it is the same at T = 32 as at 64, to a tenth; declared without, a quarter.

        So α means one thing at any T. Usual causes: T² missing, T for T², T on one side only.
        """
        for seed in each_case(range(4)):
            case = make_case(self._accepted, (2, 4, 5), LossSpec(), ignoring=0.3, seed=seed)
            trial = Trial(make_distillation_loss, case)
            sizes = [
                float(trial.gradient(spec=LossSpec(1.0, warm)).norm()) for warm in (32.0, 64.0)
            ]
            expected = 1.0 if self.temperature_squared else 4.0
            assert 0.9 * expected <= sizes[0] / sizes[1] <= 1.1 * expected, (
                f"the gradient at T = 32 is {sizes[0] / sizes[1]:.3g} times that at T = 64, not "
                f"{expected:g} times"
            )

    @requires("hard-labels")
    @on_logits()
    def test_without_a_share_of_the_teacher_it_is_cross_entropy(self, trial: Trial) -> None:
        """At α = 0 the loss is torch's cross entropy, at temperature 1 whatever T is.

        Usual causes: logits divided by T for both parts, α and 1 − α swapped, a part that is added
        whatever α is.
        """
        case = trial.case
        places = self._definition.counted(case.labels)
        expected = torch.nn.functional.cross_entropy(
            case.student.double()[places], self._definition.targets(case.labels)[places]
        )
        found = float(trial.loss(spec=replace(case.spec, alpha=0.0)))
        self._assert_near(found, float(expected), case, "the loss")

    # What counts, and how much

    @on_logits()
    def test_places_that_are_ignored_change_nothing(self, trial: Trial) -> None:
        """Whatever both models say there. Usual causes: a mean over all places, a mask of another
        place, a mask for one of the two parts."""
        case = trial.case
        ignored = ~self._definition.counted(case.labels)
        other = case.student.clone(), case.teacher.clone()
        other[0][ignored], other[1][ignored] = 3.0, -2.0
        other[0][..., 0][ignored], other[1][..., 1][ignored] = -50.0, 40.0
        found = number(trial.loss(student=other[0], teacher=other[1]))
        self._assert_near(found, number(trial.loss()), case, "the loss")

    @on_logits()
    def test_places_that_are_ignored_get_no_gradient(self, trial: Trial) -> None:
        """Exactly 0 there; and some of it wherever a token counts and the models differ.

        Usual causes: labels shifted and the mask not, or twice; logits of student and teacher
        shifted apart.
        """
        case = trial.case
        counts = self._definition.counted(case.labels)
        found = trial.gradient()
        assert not bool(found[~counts].any()), "a place that is ignored has a gradient"
        wanted = self._definition.gradient(case).abs().amax(dim=-1) > self._rounding(case)
        missing = wanted & ~found.any(dim=-1)
        assert not bool(missing.any()), f"places {missing.nonzero().tolist()} have no gradient"

    @on_logits()
    def test_a_batch_and_its_double_cost_the_same(self, trial: Trial) -> None:
        """Usual causes: a sum for a mean, a division by the batch's size, or by tokens twice."""
        case = trial.case
        double = {name: torch.cat([getattr(case, name)] * 2) for name in ("student", "teacher")}
        found = float(trial.loss(labels=torch.cat([case.labels] * 2), **double))
        self._assert_near(found, number(trial.loss()), case, "the loss")

    @on_logits()
    def test_tokens_that_nobody_says_change_nothing(self, trial: Trial) -> None:
        """More classes, at a probability too small for the dtype, leave the loss as it is.

        Usual causes: a mean over classes, a smoothing over the vocabulary that nobody asked for.
        """
        case = trial.case
        smallest = math.log(torch.finfo(case.student.dtype).tiny)
        self._assert_same_with_more_classes(trial, smallest * max(1.0, case.spec.temperature))

    @requires("ruled-out")
    @on_logits()
    def test_tokens_that_both_rule_out_change_nothing(self, trial: Trial) -> None:
        """Padding of a vocabulary has logits of −∞; 0 · ∞ is NaN, in value or gradient.

        Usual causes: p · (log p − log q) without a guard, logsumexp of −∞ alone.
        """
        self._assert_same_with_more_classes(trial, -math.inf)

    @on_logits()
    def test_rows_packed_one_after_another_cost_what_they_cost_apart(self, trial: Trial) -> None:
        """One long row, its seams ignored, is the batch. Usual causes: a mean of rows' means, a
        loss that reaches over the seam, the last place of each row left out whatever it holds."""
        case = trial.case
        labels = case.labels.clone()
        if self.shifted:
            labels[:, 0] = self.ignored
        if not bool(self._definition.counted(labels).any()):
            return
        packed = {
            "student": case.student.flatten(0, 1)[None],
            "teacher": case.teacher.flatten(0, 1)[None],
            "labels": labels.flatten()[None],
        }
        apart = number(trial.loss(labels=labels))
        self._assert_near(number(trial.loss(**packed)), apart, case, "the packed loss")

    @requires("accumulation")
    @on_logits()
    def test_parts_of_a_batch_sum_up_to_the_batch(self, trial: Trial) -> None:
        """Each with num_items of the whole, however unevenly the tokens fall.

        Usual causes: a mean of the parts' means, num_items for one part of the loss only, places
        that are ignored counted among the items.
        """
        case = trial.case
        loss = cast(AccumulatingLoss, trial.make(case.spec))
        items = int(self._definition.counted(case.labels).sum())
        total = sum(
            float(loss(case.student[i, None], case.teacher[i, None], labels[None], num_items=items))
            for i, labels in enumerate(case.labels)
            if bool(self._definition.counted(labels[None]).any())
        )
        self._assert_near(total, number(trial.loss()), case, "the sum over rows")

    @requires("empty")
    @on_logits()
    def test_a_batch_without_a_token_costs_nothing(self, trial: Trial) -> None:
        """0, with a gradient of 0: a text that was cut to its prompt must not end a training.

        Usual causes: 0 / 0, a maximum over nothing.
        """
        nothing = torch.full_like(trial.case.labels, self.ignored)
        assert number(trial.loss(labels=nothing)) == 0
        student = trial.case.student.clone().requires_grad_()
        loss = trial.loss(student=student, labels=nothing)
        if loss.requires_grad:  # a constant has no gradient either
            backward(loss)
        assert student.grad is None or not bool(student.grad.any())

    # What is left as it is

    @on_logits()
    def test_arguments_are_not_modified(self, trial: Trial) -> None:
        """Usual causes: logits divided by T in place, ignored labels replaced in place."""
        case = trial.case
        given = case.student.clone(), case.teacher.clone(), case.labels.clone()
        trial.make(case.spec)(*given)
        for name, after in zip(("student", "teacher", "labels"), given, strict=True):
            assert torch.equal(after, getattr(case, name)), f"{name} was changed"

    @on_logits()
    def test_a_loss_forgets_the_batches_before(self, trial: Trial) -> None:
        """Usual causes: a running mean, what the teacher said of another batch."""
        case = trial.case
        loss = trial.make(case.spec)
        first = float(loss(case.student, case.teacher, case.labels))
        float(loss(case.student.flip(0) * 0.5, case.teacher.flip(-1), case.labels))
        assert float(loss(case.student, case.teacher, case.labels)) == first

    @requires("vocabulary")
    @on_logits()
    def test_another_vocabulary_is_refused(self, trial: Trial) -> None:
        """A teacher with one token more, one fewer, or one at all has no loss: it raises.

        Usual causes: logits cut to the shorter vocabulary, padded with zeros, or broadcast.
        """
        case = trial.case
        number(trial.loss())  # what raises always refuses nothing
        wider = torch.cat([case.teacher, case.teacher[..., :1]], dim=-1)
        for teacher in (wider, case.teacher[..., :-1], case.teacher[..., :1]):
            try:
                found = number(trial.loss(teacher=teacher))
            except Exception:
                continue
            raise AssertionError(
                f"{case.student.shape[-1]} tokens against {teacher.shape[-1]} cost {found:.4g}"
            )

    # A teacher of whom little is known, and hidden states

    @requires("top-k")
    @on_logits()
    def test_a_top_k_of_all_tokens_is_the_whole_teacher(self, trial: Trial) -> None:
        """Usual causes: a tail that is 0 and not left out, tokens in another order than values."""
        case = trial.case
        found = float(self._of_top_k(trial, case.student.shape[-1]))
        self._assert_near(found, number(trial.loss()), case, "the loss at k = V")

    @requires("top-k")
    @on_logits()
    def test_a_top_k_teacher_tells_no_more_than_the_whole_one(self, trial: Trial) -> None:
        """The loss is at most the whole one, grows with k, and is 0 for an equal student.

        Usual causes: the k scaled up to 1, so that an equal student pays; the tail spread out over
        tokens of which nothing is known.
        """
        case = replace(trial.case, spec=replace(trial.case.spec, alpha=1.0))
        trial = Trial(trial.make, case)
        allowed = self._rounding(case)
        ks = range(1, case.student.shape[-1])
        losses = [number(self._of_top_k(trial, k)) for k in ks] + [number(trial.loss())]
        for k, (less, more) in enumerate(pairwise(losses), start=1):
            assert less <= more + allowed, (
                f"k = {k} costs {less:.6g}, which is more than {more:.6g} of a larger k"
            )
        for k in ks:
            equal = float(self._of_top_k(Trial(trial.make, replace(case, student=case.teacher)), k))
            assert abs(equal) <= allowed, f"k = {k}: an equal student costs {equal:.3g}"

    @requires("top-k")
    def test_the_mass_beyond_the_top_k_counts(
        self, make_distillation_loss: MakeDistillationLoss
    ) -> None:
        """A student right among the top k, with other mass on all else, pays for that.

        Usual causes: both renormalised over the k, the tail dropped.
        """
        for seed in each_case(range(4)):
            case = make_case(self._accepted, (2, 4, 6), LossSpec(), ignoring=0.3, seed=seed)
            best = case.teacher.topk(2, dim=-1).indices
            unknown = torch.ones_like(case.teacher).scatter(-1, best, 0.0)
            case = replace(case, student=case.teacher + 4 * unknown)
            straying = Trial(make_distillation_loss, case)
            found = number(self._of_top_k(straying, 2))
            allowed = self._rounding(case)
            assert found > allowed, f"e⁴ times the mass beyond the top 2 costs {found:.3g}"

    @requires("features")
    def test_equal_features_cost_nothing_and_others_something(
        self, make_distillation_loss: MakeDistillationLoss
    ) -> None:
        """At places that count, and at no others; the teacher gets no gradient.

        Usual causes: no mask, a mean over padding too, gradients into the teacher.
        """
        for seed in each_case(range(4)):
            case = make_case(self._accepted, (3, 5, 6), LossSpec(), ignoring=0.3, seed=seed)
            loss = cast(FeatureDistillation, make_distillation_loss(case.spec)).of_features
            student = case.student.clone().requires_grad_()
            teacher = case.teacher.clone().requires_grad_()
            value = loss(student, teacher, case.labels)
            backward(value)
            equal = number(loss(case.teacher, case.teacher, case.labels))
            self._assert_near(equal, 0.0, case, "the loss of equal features")
            assert number(value) > self._rounding(case), "other features cost nothing"
            assert teacher.grad is None or not bool(teacher.grad.any()), "the teacher's gradient"
            counts = self._definition.counted(case.labels)
            assert student.grad is not None
            assert not bool(student.grad[~counts].any()), "a gradient where nothing counts"
            double = (torch.cat([x.detach()] * 2) for x in (student, teacher, case.labels))
            self._assert_near(number(loss(*double)), number(value), case, "a batch twice")

    # How properties are tried

    @property
    def _accepted(self) -> Accepted:
        hard, warm = ("hard-labels" in self.capabilities), ("temperature" in self.capabilities)
        return Accepted(
            (0.0, 1.0, 0.3, 0.5) if hard else (1.0,),
            TEMPERATURES if warm else (1.0,),
            self.dtype,
            self.ignored,
        )

    @property
    def _definition(self) -> Definition:
        return Definition(
            self.divergence, self.beta, self.temperature_squared, self.shifted, self.ignored
        )

    def _rounding(self, case: LossCase) -> float:
        return rounding(case, self.temperature_squared)

    def _assert_near(self, found: float, expected: float, case: LossCase, what: str) -> None:
        allowed = self._rounding(case)
        assert abs(found - expected) <= allowed, (
            f"{what} is {found:.9g}, not {expected:.9g}; rounding allows {allowed:.3g}"
        )

    def _assert_same_with_more_classes(self, trial: Trial, logit: float) -> None:
        """The loss and its gradient, as without three classes of this logit."""
        case = trial.case
        more = torch.full((*case.student.shape[:-1], 3), logit, dtype=case.student.dtype)
        wide = {
            "student": torch.cat([case.student, more], dim=-1),
            "teacher": torch.cat([case.teacher, more], dim=-1),
        }
        self._assert_near(number(trial.loss(**wide)), number(trial.loss()), case, "the loss")
        found = trial.gradient(**wide)[..., :-3]
        away = float((found.double() - trial.gradient().double()).abs().max())
        allowed = self._rounding(case)
        assert away <= allowed, f"the gradient is {away:.3g} away; rounding allows {allowed:.3g}"

    def _of_top_k(self, trial: Trial, k: int) -> Tensor:
        case = trial.case
        loss = cast(TopKLoss, trial.make(case.spec))
        return loss.of_top_k(case.student, case.teacher, case.labels, k)

    def _hold(
        self, make_distillation_loss: MakeDistillationLoss, holds: Callable[[Trial], None]
    ) -> None:
        __tracebackhide__ = True

        def tried_on(case: LossCase) -> None:
            holds(Trial(make_distillation_loss, case))

        accepted = self._accepted
        traps = loss_traps(accepted)
        for_all(tried_on, loss_cases(accepted), traps=traps, examples=self.examples)
