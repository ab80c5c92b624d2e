"""ml_dtypes 0.6.0: float8_e8m0fnu rounds all between its two smallest numbers up.

1.2 · 2⁻¹²⁷ becomes 2⁻¹²⁶, although 2⁻¹²⁷ exists and is nearer; one binade above, 1.2 · 2⁻¹²⁶ is
rounded to nearest as everywhere else. ml_dtypes#298 asks which rounding is meant, and says nearest
today. The same was seen in onnxruntime's cast while it was written (onnxruntime#28435). Breaks
CodebookSuite.test_each_number_gets_the_nearest_level.
"""

from __future__ import annotations

import numpy as np
import pytest
from recorded import recorded

ml_dtypes = recorded("ml_dtypes", "ml_dtypes>=0.6,<0.7")


@pytest.mark.parametrize(("exponent", "factor"), [(-127, 2.0), (-126, 1.0), (-100, 1.0)])
def test_just_above_the_smallest_number_is_rounded_up(exponent: int, factor: float) -> None:
    power = 2.0**exponent
    rounded = np.float64(1.2 * power).astype(ml_dtypes.float8_e8m0fnu)
    assert float(rounded) == factor * power  # right: 1.0 in each case
