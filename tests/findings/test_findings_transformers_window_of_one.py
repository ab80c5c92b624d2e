"""transformers 5.23.0: a sliding window of 1 keeps every token, and the logits are wrong.

`DynamicSlidingWindowLayer.update` keeps the last ``window − 1`` tokens by ``[-window + 1 :]``, for
a window of 1 ``[0:]``: all of them. `get_mask_sizes` says that none are held, so the mask is made
for fewer keys than there are, and is silently read for the wrong ones. Found while
`infopt_reference.attention.SlidingCache` was compared with it; a window of 1 is legal there.
"""

from __future__ import annotations

import torch
from transformers.cache_utils import DynamicSlidingWindowLayer


def test_a_window_of_one_holds_all_tokens_and_announces_none() -> None:
    layer, tokens = DynamicSlidingWindowLayer(sliding_window=1), torch.zeros(1, 1, 5, 2)
    layer.update(tokens, tokens)
    announced, offset = layer.get_mask_sizes(query_length=1)
    assert (announced, offset) == (1, 5)
    keys, _ = layer.update(tokens[:, :, :1], tokens[:, :, :1])
    assert keys.shape[2] == 6, "transformers drops what a window of 1 does not need: delete this"
