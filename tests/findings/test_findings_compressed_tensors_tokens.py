"""compressed-tensors 0.20.0: the strategy "token" gives a matrix [T, K] one scale.

`compute_dynamic_scales_and_zp` keeps the axes 0 and 1 and reduces the others, which a matrix has
none of; without an axis it takes the extremes of the whole tensor. So a layer that is called with
[T, K], as experts and engines with flattened batches call it, rounds every token by the largest
activation of the batch, and differently in every batch. [1, T, K] is rounded token by token. Found
by ActivationQuantizerSuite.test_error_is_within_the_bound_of_the_scheme
(tests/third_party/test_third_party_activations.py).
"""

from __future__ import annotations

import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp


def test_tokens_of_a_matrix_share_a_scale() -> None:
    arguments = QuantizationArgs(num_bits=8, strategy="token", dynamic=True)
    x = torch.tensor([[1.0, 2.0], [1000.0, 0.0], [0.5, 0.25]])
    of_matrix, _ = compute_dynamic_scales_and_zp(x, arguments, torch.nn.Module())
    of_batch, _ = compute_dynamic_scales_and_zp(x[None], arguments, torch.nn.Module())
    assert of_batch.shape == (1, 3, 1)
    assert of_matrix.numel() == 1, "tokens have scales: accept TestCompressedTensorsMatrices"
