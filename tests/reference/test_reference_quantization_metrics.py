"""Error metrics against their formulas."""

import math

import pytest
import torch
from infopt_reference.quantization import max_error, mse, sqnr_db


def test_metrics_are_their_formulas():
    reference = torch.tensor([3.0, -4.0, 0.0, 0.0])
    candidate = torch.tensor([3.0, -3.0, 0.5, 0.0])
    assert mse(reference, candidate) == 1.25 / 4
    assert max_error(reference, candidate) == 1
    assert sqnr_db(reference, candidate) == pytest.approx(10 * math.log10(25 / 1.25))
    assert sqnr_db(reference, reference) == math.inf
    assert sqnr_db(torch.zeros(2), torch.ones(2)) == -math.inf
    assert mse(torch.tensor([6e4]).half(), torch.tensor([-6e4]).half()) > 1e9  # float16 overflows


@pytest.mark.parametrize("metric", [mse, max_error, sqnr_db])
def test_metrics_refuse_what_a_comparison_would_swallow(metric):
    with pytest.raises(ValueError, match="shapes are"):
        metric(torch.zeros(2), torch.zeros(2, 1))
    with pytest.raises(ValueError, match="shapes are"):
        metric(torch.zeros(0), torch.zeros(0))
    with pytest.raises(ValueError, match=r"candidate\[1\] is nan"):
        metric(torch.zeros(2), torch.tensor([0, math.nan]))
