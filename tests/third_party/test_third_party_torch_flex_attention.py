"""torch's FlexAttention on CPU through AttentionSuite: masks as functions, grouped heads, lse.

Not compiled, `flex_attention` computes all scores and masks them. Its kernel is made for each shape
by a compiler of C++, some seconds each, so that only a few problems are put to it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from infopt_suites.attention import AttentionSpec, AttentionSuite
from infopt_suites.attention.cases import AttentionCase
from infopt_suites.attention.oracle import plain_attention, rounding_bound
from infopt_suites.attention.protocol import MakeAttention
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention


class Flex:
    """`flex_attention` with a block mask made of the spec."""

    def __init__(self, spec: AttentionSpec) -> None:
        self.spec = spec

    def attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, padding: Tensor | None
    ) -> Tensor:
        return self.attend_with_lse(queries, keys, values, padding)[0]

    def attend_with_lse(
        self, queries: Tensor, keys: Tensor, values: Tensor, padding: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        mask = block_mask(self.spec, queries, keys, padding)
        found: Any = flex_attention(
            queries, keys, values, block_mask=mask, enable_gqa=True, return_lse=True
        )
        output, lse = found
        return output, lse


def block_mask(
    spec: AttentionSpec, queries: Tensor, keys: Tensor, padding: Tensor | None
) -> BlockMask:
    batch, count, held = queries.shape[0], queries.shape[2], keys.shape[2]
    empty = torch.zeros(batch, dtype=torch.long) if padding is None else padding

    def seen(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        query = query + held - count
        visible = key >= empty[row]
        if spec.causal:
            visible = visible & (key <= query)
        if spec.window is not None:
            visible = visible & (query - key < spec.window)
        if spec.chunk is not None:
            of_query, of_key = (
                torch.div(slot - empty[row], spec.chunk, rounding_mode="floor")
                for slot in (query, key)
            )
            visible = visible & (of_query == of_key)
        return visible

    return create_block_mask(seen, batch, None, count, held, device="cpu")


@pytest.mark.filterwarnings("ignore:flex_attention called without")
class TestFlexAttention(AttentionSuite):
    capabilities = frozenset(
        {"grouped", "bidirectional", "window", "chunk", "left-padding", "zero-rows", "lse"}
    )

    @pytest.fixture
    def make_attention(self) -> MakeAttention:
        return Flex


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the compiler, whichever it is
@pytest.mark.skipif(shutil.which("g++") is None, reason="the kernel is compiled by g++")
@pytest.mark.parametrize(
    "case",
    [
        AttentionCase(kv_heads=2, repeats=2, queries=3, keys=7, head_dim=16, padding=(0, 0)),
        AttentionCase(kv_heads=2, queries=1, keys=7, head_dim=16, padding=(0, 2)),
        AttentionCase(AttentionSpec(window=3), kv_heads=7, queries=7, keys=7, head_dim=16),
        AttentionCase(kv_heads=1, repeats=3, queries=5, keys=150, head_dim=16, padding=(0, 133)),
    ],
    ids=["grouped", "one padded query", "window", "several blocks of keys"],
)
def test_the_compiled_kernel_computes_the_definition(case: AttentionCase) -> None:
    queries, keys, values = case.tensors(torch.float32, "cpu")
    padding = case.padding_on("cpu")
    expected, _ = plain_attention(queries, keys, values, case.spec, padding)
    with torch.compiler.set_stance("default"), torch.no_grad():
        # With lengths that vary, torch 2.13 writes a kernel that g++ refuses.
        kernel: Callable[..., Tensor] = torch.compile(flex_attention, dynamic=False)
        mask = block_mask(case.spec, queries, keys, padding)
        output = kernel(queries, keys, values, block_mask=mask, enable_gqa=True)
    allowed = rounding_bound(queries, keys, values, torch.float32)
    assert float((output.double() - expected).abs().max()) <= allowed
