"""Properties of quantizers in which columns make up for the errors of others (GPTQ)."""

from __future__ import annotations

import torch
from infopt_reference.quantization import Granularity, QuantizationScheme

from ..base import requires
from ..tally import leave_out
from .calibration import (
    ROWS,
    WIDE,
    CalibrationSuite,
    Trial,
    autoregressive,
    normal,
    on_schemes,
    output_error,
)
from .column_by_column import column_by_column, damped_hessian
from .grids import group_ids


def _equal_steps(scheme: QuantizationScheme) -> bool:
    return scheme.codebook is None and not scheme.double_quantization


class GptqProperties(CalibrationSuite):
    """Those of the capabilities "gptq" and "feedback"."""

    topic = ""

    @requires("gptq")
    @on_schemes(lambda s: s.granularity is not Granularity.GROUP)
    def test_columns_are_rounded_as_one_by_one(self, trial: Trial) -> None:
        """Blocks are there for speed: codes are those of the slow algorithm, column by column.

        Each row may leave its path only at a weight so near a tie that float32 decides it. Usual
        causes: the last columns of a block, or the columns after it, without their corrections;
        local for global indices; another damping; the error not divided by the diagonal.
        """
        self._solves(trial, static=False)

    @requires("gptq", "updated-groups")
    @on_schemes(lambda s: s.granularity is Granularity.GROUP)
    def test_groups_are_scaled_when_their_turn_comes(self, trial: Trial) -> None:
        """Scales of a group come from its weights with the corrections of all columns before it.

        Usual causes: scales of the original weights, corrections that are still missing when the
        group starts inside a block, the first group's scale for all.
        """
        self._solves(trial, static=False)

    @requires("gptq", "static-groups")
    @on_schemes(lambda s: s.granularity is Granularity.GROUP)
    def test_static_groups_keep_the_scales_of_the_original_weights(self, trial: Trial) -> None:
        """Usual causes: scales of updated weights, scales in the order of processed columns."""
        self._solves(trial, static=True)

    @requires("feedback")
    @on_schemes(_equal_steps)
    def test_errors_of_columns_are_made_up_for_by_others(self, trial: Trial) -> None:
        """On inputs of low rank nearly every error can be undone, across more than 128 columns.

        The output error is held against the slow algorithm's in four orders of the columns: at most
        as much above the worst of them as they lie apart. Usual causes: corrections that end with
        their block of 128, a last block left out, the error not divided by the diagonal.
        """
        columns = self._wide(trial.scheme)
        weight = normal(ROWS, columns, seed=0)
        inputs = normal(2 * columns, columns // 8, seed=1) @ normal(columns // 8, columns, seed=2)
        damping = getattr(trial.make(trial.scheme), "damping", 0.01)
        falling = damped_hessian(inputs, damping).diagonal().argsort(descending=True)
        shuffled = torch.randperm(columns, generator=torch.Generator().manual_seed(3))
        errors = []
        for order in (torch.arange(columns), torch.arange(columns).flip(0), falling, shuffled):
            path = column_by_column(weight, inputs, trial.scheme, damping, order=order)
            errors.append(output_error(weight, path.rounded, inputs))
        found = output_error(weight, trial.calibrated(weight, inputs), inputs)
        allowed = 2 * max(errors) - min(errors)
        assert found <= allowed, (
            f"{trial.scheme}: output error {found:.6g}; one by one, in four orders, "
            f"{', '.join(f'{error:.6g}' for error in errors)}"
        )

    @requires("gptq")
    @on_schemes()
    def test_decoded_weights_take_no_more_levels_than_there_are_codes(self, trial: Trial) -> None:
        """At most 2^bits different weights in a group. Usual causes: corrections that are added
        after rounding, scales that decoding takes from another group."""
        weight = self._weight(trial.scheme, 0)
        restored = trial.calibrated(weight, self._inputs(trial.scheme, 0))
        ids = group_ids(weight.shape, trial.scheme)
        most = max(len(set(restored[ids == i].tolist())) for i in range(int(ids.max()) + 1))
        assert most <= 2**trial.scheme.bits, f"{trial.scheme}: {most} levels in one group"

    def _solves(self, trial: Trial, static: bool) -> None:
        scheme = trial.scheme
        if not _equal_steps(scheme):
            leave_out()
            return
        columns = self._wide(scheme)
        weight = normal(ROWS, columns, seed=0)
        inputs = autoregressive(4 * columns, columns, seed=0)
        found = trial.calibrated(weight, inputs)
        damping = getattr(trial.make(scheme), "damping", 0.01)
        order = None
        if "act-order" in self.capabilities:
            order = damped_hessian(inputs, damping).diagonal().argsort(descending=True, stable=True)
        path = column_by_column(weight, inputs, scheme, damping, static_groups=static, order=order)
        row, column = path.first_unexplained_step(found)
        assert row is None, (
            f"{scheme}: weight [{row}, {column}] became {found[row, column].item():.6g}, one by "
            f"one {path.rounded[row, column].item():.6g}, and is no near tie "
            f"({path.from_tie[row, column].item():.3g} steps from one)"
        )

    def _wide(self, scheme: QuantizationScheme) -> int:
        """Columns of whole groups, the last one short where that is offered, more than `WIDE`."""
        columns = self._columns(scheme)
        while columns <= WIDE:
            columns += scheme.group_size or 32
        return columns
