"""Input checks shared by the quantizers. PYTEST_DONT_REWRITE"""

from __future__ import annotations

import torch
from torch import Tensor


def require_finite(values: Tensor, name: str) -> None:
    """Raises ValueError that names the first NaN or infinity and how many there are."""
    bad = ~torch.isfinite(values)
    if not bool(bad.any()):
        return
    where = [int(index) for index in bad.nonzero()[0]]
    raise ValueError(
        f"{name}{where or ''} is {values[tuple(where)].item()} ({int(bad.sum())} of "
        f"{values.numel()} values are not finite); repair or skip this tensor"
    )
