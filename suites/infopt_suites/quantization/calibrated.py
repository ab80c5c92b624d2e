"""CalibratedQuantizerSuite: do GPTQ, AWQ and their kin make good use of calibration inputs?

Legend: N tokens, M output features (rows), K input features (columns).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from infopt_reference.quantization import Granularity
from torch import Tensor

from ..base import requires
from .calibration import (
    SEEDS,
    TOKENS,
    CalibratedStateKept,
    Trial,
    normal,
    on_schemes,
    output_error,
    padded,
    rounded,
    rounding,
)
from .gptq_properties import GptqProperties


class CalibratedQuantizerSuite(GptqProperties):
    """Properties of weight quantizers that are calibrated on layer inputs, for each of ``schemes``.

    Give a fixture ``make_calibrated_quantizer``: a `calibration.MakeCalibratedQuantizer`. Errors
    are those of the layer's outputs, ‖X·(W − Q)ᵀ‖², in float64. Class attributes say what is tried:

    | attribute | default | meaning |
    |---|---|---|
    | ``schemes`` | 4 bits a channel, int4 in groups of 32 | schemes of weights |
    | ``dtypes`` | float32, bfloat16 | dtypes of weights |
    """

    topic = "calibrated_quantizer"
    fixture = "make_calibrated_quantizer"
    fixture_returns = "a callable: QuantizationScheme -> calibrated quantizer"
    offers = {  # noqa: RUF012  # read only
        "ragged": "the last group of a row may be shorter than group_size",
        "streaming": "observe may be called again and again; tokens add up",
        "masks": "observe(inputs, mask) leaves out positions whose mask is 0",
        "gptq": "solves GPTQ's problem, columns in their order unless 'act-order' is claimed",
        "updated-groups": "a group's scales come from its weights with all corrections so far",
        "static-groups": "a group's scales come from the original weights",
        "act-order": "columns are rounded by the falling diagonal of the Hessian",
        "feedback": "columns make up for each other's errors, in whatever order",
        "searched": "the output error decides between candidates, rounding to nearest among them",
        "keeps-zeros": "a weight of 0 comes back as 0, as pruned models need it",
        "drops-dead": "weights of features that are always 0 do not take part in scales",
        "state": "state(quantized) is all that has to be kept, restore(state, quantized) reads it",
        "mean-statistic": "scales follow mean |x|, on which one token has little influence (AWQ)",
    }
    methods = {  # noqa: RUF012  # read only
        "": ("observe", "quantize", "dequantize"),
        "state": ("state", "restore"),
    }

    @classmethod
    def check_declaration(cls) -> None:
        super().check_declaration()
        groups = {"updated-groups", "static-groups"} & {*cls.capabilities}
        grouped = any(scheme.granularity is Granularity.GROUP for scheme in cls.schemes)
        if "gptq" in cls.capabilities and grouped and len(groups) != 1:
            raise TypeError(
                "'gptq' in groups needs exactly one of 'updated-groups' and 'static-groups': where "
                "a group's scales come from"
            )

    # What calibration is for

    @on_schemes()
    def test_outputs_are_nearer_than_with_rounding_to_nearest(self, trial: Trial) -> None:
        """On correlated inputs with large features no layer gets worse, and most get better.

        Usual causes: corrections that reach the wrong columns (a local index for a global one), a
        last block that is left out, scales that are searched for and not applied, a permutation
        that is not undone, the Hessian of another layer.
        """
        ratios = []
        for seed in range(SEEDS):
            weight, inputs = self._weight(trial.scheme, seed), self._inputs(trial.scheme, seed)
            found = output_error(weight, trial.calibrated(weight, inputs), inputs)
            nearest = output_error(weight, rounded(weight, trial.scheme), inputs)
            assert found <= nearest * (1 + rounding(trial.scheme)), (
                f"{trial.scheme}, seed {seed}: output error {found:.6g}, rounding to nearest has "
                f"{nearest:.6g}"
            )
            ratios.append(found / nearest)
        assert min(ratios) < 0.95, f"{trial.scheme}: calibration changes next to nothing: {ratios}"

    @on_schemes()
    def test_unrelated_inputs_do_no_harm(self, trial: Trial) -> None:
        """Where all features are alike and independent, little can be won, and nothing be lost.

        A tenth is left for sampling: N tokens never look quite independent. Usual causes: scales
        by a fixed rule, without a search that has rounding to nearest among its candidates.
        """
        weight = self._weight(trial.scheme, 0)
        inputs = normal(TOKENS, self._columns(trial.scheme), seed=9)
        restored = trial.calibrated(weight, inputs)
        found = output_error(weight, restored, inputs)
        nearest = output_error(weight, rounded(weight, trial.scheme), inputs)
        assert found <= 1.1 * nearest, f"{trial.scheme}: {found:.6g} for {nearest:.6g}"

    @on_schemes()
    def test_calibration_is_really_used(self, trial: Trial) -> None:
        """Each of two layers' inputs gives weights of its own, the better ones for that layer.

        Usual causes: statistics that are collected and not read, those of an earlier layer.
        """
        weight = self._weight(trial.scheme, 0)
        one, other = self._inputs(trial.scheme, 0), self._inputs(trial.scheme, 1)
        by_one = trial.calibrated(weight, one)
        by_other = trial.calibrated(weight, other)
        assert not torch.equal(by_one, by_other), f"{trial.scheme}: inputs make no difference"
        for inputs, own, foreign in ((one, by_one, by_other), (other, by_other, by_one)):
            better, worse = (output_error(weight, q, inputs) for q in (own, foreign))
            assert better < worse, (
                f"{trial.scheme}: calibrated on its inputs, error {better:.6g}; on others "
                f"{worse:.6g}"
            )

    @requires("searched")
    @on_schemes()
    def test_a_searched_scale_serves_the_outputs_best(self, trial: Trial) -> None:
        """It errs no more than rounding to nearest, on correlated inputs, independent ones and few.

        Where some features are large, it errs no more than the search on unit inputs either, which
        knows the weights alone. Usual causes: a search by the weights' own error, one that leaves
        scale 1 out, the last candidate for the best.
        """
        columns = self._columns(trial.scheme)
        weight, inputs = self._weight(trial.scheme, 0), self._inputs(trial.scheme, 0)
        nearest = rounded(weight, trial.scheme)
        on_units = trial.calibrated(weight, torch.eye(columns))
        few, independent = self._inputs(trial.scheme, 1)[:3], normal(TOKENS, columns, seed=9)
        for tokens, what, candidate in (
            (inputs, "rounding to nearest", nearest),
            (inputs, "the search on unit inputs", on_units),
            (independent, "rounding to nearest, on independent inputs", nearest),
            (few, "rounding to nearest, on three tokens", nearest),
        ):
            found = output_error(weight, trial.calibrated(weight, tokens), tokens)
            error = output_error(weight, candidate, tokens)
            assert found <= error * (1 + rounding(trial.scheme)), (
                f"{trial.scheme}: output error {found:.6g}; {what} has {error:.6g}"
            )

    @requires("keeps-zeros")
    @on_schemes()
    def test_zeros_of_a_pruned_weight_stay_zero(self, trial: Trial) -> None:
        """Half of the weights are 0, and kernels for sparse weights skip them for ever.

        Usual causes: corrections that are added to pruned weights, a zero point that is no level.
        """
        weight, inputs = self._weight(trial.scheme, 0), self._inputs(trial.scheme, 0)
        zeros = torch.rand(weight.shape, generator=torch.Generator().manual_seed(6)) < 0.5
        revived = trial.calibrated(weight.masked_fill(zeros, 0), inputs)[zeros]
        assert not bool(revived.any()), (
            f"{trial.scheme}: {int(revived.count_nonzero())} of {revived.numel()} zeros are none "
            f"any more, one is {revived[revived != 0][0].item():.6g}"
        )

    @requires("state")
    @on_schemes()
    def test_saved_weights_decode_as_before(self, trial: Trial) -> None:
        """A quantizer that was never calibrated reads the same weights, bit for bit.

        Usual causes: scales of columns, or their order, that are kept in the quantizer, constants
        that are stored in half precision.
        """
        weight, inputs = self._weight(trial.scheme, 0), self._inputs(trial.scheme, 0)
        writer = cast(CalibratedStateKept, trial.make(trial.scheme))
        writer.observe(inputs)
        quantized = writer.quantize(weight.clone())
        expected = writer.dequantize(quantized)
        state = {name: tensor.clone() for name, tensor in writer.state(quantized).items()}
        other = cast(CalibratedStateKept, trial.make(trial.scheme))
        other.observe(self._inputs(trial.scheme, 1))
        made = other.quantize(self._weight(trial.scheme, 1))
        reader = cast(CalibratedStateKept, trial.make(trial.scheme))
        restored = reader.dequantize(reader.restore(state, made))
        assert torch.equal(restored, expected), (
            f"{trial.scheme}: {int((restored != expected).sum())} of {expected.numel()} weights "
            "decode to others"
        )

    # On what the statistics depend

    @requires("streaming")
    @on_schemes()
    def test_batches_split_otherwise_give_the_same_weights(self, trial: Trial) -> None:
        """The unit is the token: 1 x 64, 4 x 16 and 1 + 63 tokens are the same calibration.

        Usual causes: a running mean over batches, weighted as if all were of one size; only the
        last batch kept; a normalisation by calls.
        """

        def split(inputs: Tensor) -> Iterator[tuple[str, list[Tensor]]]:
            yield "4 x 16", list(torch.tensor_split(inputs, 4))
            yield "1 + 63", [inputs[:1], inputs[1:]]
            yield "63 + 1", [inputs[:63], inputs[63:]]
            yield "a batch of 4 x 16", [inputs.view(4, 16, -1)]

        self._same(trial, split, tokens=64)

    @on_schemes()
    def test_the_order_of_tokens_does_not_matter(self, trial: Trial) -> None:
        """Sums have no order. Usual causes: only the first, or the last, tokens are read."""
        order = torch.randperm(TOKENS, generator=torch.Generator().manual_seed(5))
        self._same(trial, lambda x: [("shuffled", [x[order]])])

    @requires("masks")
    @on_schemes()
    def test_padding_is_not_observed(self, trial: Trial) -> None:
        """A padded batch calibrates as its sequences do, whatever stands at the padding.

        Usual causes: a mask that is dropped (invisible with one sequence), statistics over all
        positions, a mask applied to one statistic of two.
        """
        weight, inputs = self._weight(trial.scheme, 0), self._inputs(trial.scheme, 0)
        sequences = [inputs[:96], inputs[96:136], inputs[136:160]]
        expected = trial.calibrated(weight, torch.cat(sequences)[None])
        for side in ("right", "left"):
            batch, mask = padded(sequences, side)
            quantizer = trial.make(trial.scheme)
            quantizer.observe(batch, mask)
            restored = quantizer.dequantize(quantizer.quantize(weight.clone()))
            self._assert_same(restored, expected, trial.scheme, f"padding on the {side}")

    @on_schemes()
    def test_scaling_inputs_by_powers_of_two_changes_nothing(self, trial: Trial) -> None:
        """Which rounding serves the outputs best does not depend on the size of all inputs.

        Usual causes: an absolute damping, an epsilon that suits activations of one size.
        """

        def scaled(inputs: Tensor) -> Iterator[tuple[str, list[Tensor]]]:
            for exponent in (-8, 8):
                yield f"times 2^{exponent}", [inputs * 2.0**exponent]

        self._same(trial, scaled)

    @requires("mean-statistic")
    @on_schemes()
    def test_one_outlier_token_costs_little(self, trial: Trial) -> None:
        """One token of hundreds must not decide which features matter.

        With it the other tokens keep at least half, in decibels, of what calibration gains them.
        Usual causes: the maximum of |x| where the mean is meant.
        """
        weight, inputs = self._weight(trial.scheme, 0), self._salient(trial.scheme)
        spoilt = inputs.clone()
        spoilt[0, 1::4] = 128.0  # features that are small in all other tokens
        errors = [
            output_error(weight, candidate, inputs[1:])
            for candidate in (
                trial.calibrated(weight, spoilt),
                trial.calibrated(weight, inputs),
                rounded(weight, trial.scheme),
            )
        ]
        found, without, nearest = errors
        assert found <= (without * nearest) ** 0.5, (
            f"{trial.scheme}: output error {found:.6g} after one outlier, {without:.6g} without, "
            f"rounding to nearest {nearest:.6g}"
        )

    # Hard inputs

    @on_schemes()
    def test_features_that_are_always_zero_do_no_harm(self, trial: Trial) -> None:
        """Dead features occur in every model; their statistics are 0.

        Usual causes: a division by the statistic, an inverse of a singular Hessian.
        """
        weight, inputs = self._weight(trial.scheme, 0), self._inputs(trial.scheme, 0)
        inputs[:, [0, 7, -1]] = 0
        weight[:, 7] *= 100
        restored = trial.calibrated(weight, inputs)
        self._assert_no_harm(weight, restored, inputs, trial.scheme)

    @requires("drops-dead")
    @on_schemes()
    def test_large_weights_of_dead_features_cost_nothing(self, trial: Trial) -> None:
        """A weight that meets 0 alone must not widen the steps of the weights beside it.

        Held against the same weight with zeros there. Usual causes: scales that are taken before
        dead columns are cleared, columns that are cleared in the result alone.
        """
        weight, inputs = self._weight(trial.scheme, 0), self._inputs(trial.scheme, 0)
        dead = [0, 7, -1]
        inputs[:, dead] = 0
        weight[:, dead] *= 100
        cleared = weight.clone()
        cleared[:, dead] = 0
        found, without = (
            output_error(weight, trial.calibrated(each, inputs), inputs)
            for each in (weight, cleared)
        )
        assert found <= without * (1 + rounding(trial.scheme)), (
            f"{trial.scheme}: output error {found:.6g}; {without:.6g} with zeros in dead columns"
        )

    @on_schemes()
    def test_inputs_that_are_all_zero_are_survived_or_refused(self, trial: Trial) -> None:
        """An expert that no text reaches is calibrated on zeros: finite weights, or a ValueError.

        Usual causes: 0/0 in a statistic, the inverse of a Hessian that is 0.
        """
        weight, inputs = self._weight(trial.scheme, 0), self._inputs(trial.scheme, 0)
        try:
            restored = trial.calibrated(weight, torch.zeros_like(inputs))
        except ValueError:
            return
        assert restored.shape == weight.shape
        assert bool(torch.isfinite(restored).all()), (
            f"{trial.scheme}: {int((~torch.isfinite(restored)).sum())} weights are not finite"
        )

    @on_schemes()
    def test_fewer_tokens_than_features_are_enough(self, trial: Trial) -> None:
        """The Hessian is singular then, and damping makes up for it.

        Usual causes: no damping, a Cholesky factorisation whose failure is not noticed.
        """
        weight = self._weight(trial.scheme, 0)
        inputs = self._inputs(trial.scheme, 0)[: self._columns(trial.scheme) // 4]
        restored = trial.calibrated(weight, inputs)
        self._assert_no_harm(weight, restored, inputs, trial.scheme)

    @on_schemes()
    def test_shape_and_dtype_come_back_and_nothing_is_modified(self, trial: Trial) -> None:
        """Usual causes: float32 throughout, updates in place of the caller's weight or inputs."""
        for dtype in self.dtypes:
            weight = self._weight(trial.scheme, 0).to(dtype)
            inputs = self._inputs(trial.scheme, 0).to(dtype)
            quantizer = trial.make(trial.scheme)
            given = weight.clone(), inputs.clone()
            quantizer.observe(given[1])
            restored = quantizer.dequantize(quantizer.quantize(given[0]))
            assert torch.equal(given[0], weight), f"{trial.scheme}: the weight was modified"
            assert torch.equal(given[1], inputs), f"{trial.scheme}: inputs were modified"
            assert restored.shape == weight.shape
            assert restored.dtype is dtype, f"{trial.scheme}: {dtype} came back as {restored.dtype}"
            assert bool(torch.isfinite(restored).all()), f"{trial.scheme}: not finite"

    @on_schemes()
    def test_nothing_is_left_over_from_other_layers(self, trial: Trial) -> None:
        """Neither other instances nor other weights of the same inputs change the result.

        Usual causes: statistics in a class attribute, a Hessian that is inverted in place, dead
        columns of one weight kept for the next (q, k and v share their inputs).
        """
        weight, inputs = self._weight(trial.scheme, 0), self._inputs(trial.scheme, 0)
        fresh = trial.calibrated(weight, inputs)
        trial.calibrated(weight, self._inputs(trial.scheme, 1))
        quantizer = trial.make(trial.scheme)
        quantizer.observe(inputs)
        first = quantizer.quantize(weight.clone())
        other = self._weight(trial.scheme, 1)
        second = quantizer.quantize(other.clone())
        again = quantizer.quantize(weight.clone())
        for what, quantized, expected in (
            ("its result", first, fresh),
            ("another weight's", second, trial.calibrated(other, inputs)),
            ("a second use", again, fresh),
        ):
            assert torch.equal(quantizer.dequantize(quantized), expected), (
                f"{trial.scheme}: {what} depends on what else was quantized"
            )
