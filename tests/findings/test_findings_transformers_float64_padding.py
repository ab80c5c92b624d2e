"""transformers 5.23.0: eager attention in float64 gives NaN for rows padded on the left.

The mask's fill is float64's lowest number, but eager attention takes its softmax in float32, where
that is −∞: a query in a padded slot sees −∞ everywhere, its output is NaN, and so are the values
that it leaves for the tokens behind it (weight 0 times NaN). float32 models, and sdpa, are right.
Found when `infopt_reference.attention.Decoder` was compared with Llama in float64.
"""

from __future__ import annotations

import pytest
import torch
from tiny_models import CONFIGS, SAMPLE_IDS
from transformers import AutoModelForCausalLM


@pytest.mark.parametrize(
    ("attention", "dtype", "finite"),
    [
        ("eager", torch.float64, False),
        ("eager", torch.float32, True),
        ("sdpa", torch.float64, True),
    ],
)
def test_eager_attention_in_float64_has_no_finite_logits_behind_padding(
    attention: str, dtype: torch.dtype, finite: bool
) -> None:
    model = AutoModelForCausalLM.from_config(
        CONFIGS["llama"](), dtype=dtype, attn_implementation=attention
    ).eval()
    ids = torch.tensor([SAMPLE_IDS])
    held = (torch.arange(ids.shape[1]) >= 3).long()[None]
    logits = model(ids, attention_mask=held).logits[:, 3:]
    assert bool(logits.isfinite().all()) is finite
