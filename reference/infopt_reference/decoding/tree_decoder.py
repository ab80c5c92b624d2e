"""Decoding with trees of drafts, on a transformers model with draft heads.

    hidden state of the last computed token  →  heads propose a tree behind the token drawn there
    →  one pass of the model over that token and all nodes, each seeing its own way alone
    →  walk the tree  →  the cache keeps the slots of the way

Contract. As `speculative`: the output is distributed as plain decoding's, with temperature 0 equal
to it, ends by the same rules, and is counted in the same way (a tree's drafted tokens are its
nodes).
Leaves out: several rows at once, trees whose shape follows the confidence of heads, EAGLE's
autoregression on hidden states.
Sources: as `tree`.
Legend: N nodes, S slots, T new slots, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .heads import DraftHeads
from .pipeline import LogitsPipeline
from .speculative import DecodedRow
from .statistics import SpeculativeStatistics
from .stopping import StoppingRules
from .transformers_scorer import TransformersScorer, shared_length
from .tree import DraftTree, walk


class TreeScorer(TransformersScorer):
    """Scores one row and the trees behind it, whose mask knows of no window."""

    kinds = ("full_attention",)

    @torch.no_grad()
    def score_tree(self, row: Sequence[int], tree: DraftTree) -> tuple[Tensor, Tensor]:
        """Logits [1 + N, V] and hidden states [1 + N, H] behind the row and each node."""
        if len(self.tokens) != 1:
            self._reset(1)
        kept = min(shared_length(self.tokens[0], row), len(row) - 1)
        self._keep([kept])
        new = [*row[kept:], *tree.tokens]
        device = self.mask.device
        positions = [*range(kept, len(row)), *(len(row) + depth for depth in tree.depths())]
        output = self.model(
            input_ids=torch.tensor([new], device=device),
            attention_mask=self._tree_mask(len(row), kept, tree),
            position_ids=torch.tensor([positions], device=device),
            use_cache=True,
            output_hidden_states=True,
            logits_to_keep=len(tree.tokens) + 1,
            **{self._cache_argument: self.cache},
        )
        self.mask = torch.ones(1, kept + len(new), dtype=torch.bool, device=device)
        # Of the nodes' slots, those of the way taken become the row's own (`keep_way`).
        self.tokens = [[*row]]
        return output.logits[0], output.hidden_states[-1][0, -len(tree.tokens) - 1 :]

    def _tree_mask(self, length: int, kept: int, tree: DraftTree) -> Tensor:
        """What is added to attention's logits, [1, 1, T, S]: 0 where a slot is seen."""
        nodes = len(tree.tokens)
        seen = torch.zeros(length + nodes, length + nodes, dtype=torch.bool)
        seen[:length, :length] = torch.ones(length, length, dtype=torch.bool).tril()
        seen[length:, :length] = True
        seen[length:, length:] = tree.sees()
        dtype = self.model.dtype
        added = torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)
        return added[None, None, kept:].to(self.mask.device)

    def keep_way(self, tree: DraftTree, nodes: Sequence[int]) -> None:
        """After `score_tree`: the row goes on through these nodes, and the others never were."""
        length = len(self.tokens[0])
        slots = torch.tensor([[*range(length), *(length + node for node in nodes)]])
        self.move(slots)
        self.mask = self.mask[:, : slots.shape[1]]
        self.tokens[0] += [tree.tokens[node] for node in nodes]


class TreeDecoder:
    """Decodes one row at a time.

    Args:
        model: a causal language model of transformers.
        heads: what proposes the trees.
        widths: how many tokens each level of a tree offers behind each node above.
    """

    def __init__(
        self,
        model: Any,
        heads: DraftHeads,
        widths: tuple[int, ...],
        pipeline: LogitsPipeline,
        stopping: StoppingRules,
    ) -> None:
        if len(widths) != len(heads.layers) or min(widths, default=1) < 1:
            raise ValueError(
                f"widths are {widths}; give one of 1 or more for each of {len(heads.layers)} heads"
            )
        self.scorer, self.heads, self.widths = TreeScorer(model), heads, widths
        self.pipeline, self.stopping = pipeline, stopping

    def decode(self, prompt: Sequence[int], seed: int = 0) -> DecodedRow:
        """The output of a prompt.

        Raises:
            ValueError: the prompt is empty, or logits are not fit to draw from.
        """
        if not len(prompt):
            raise ValueError("the prompt is empty; give one token at least")
        generator = torch.Generator().manual_seed(seed)
        output: list[int] = []
        counted, tree, reason = SpeculativeStatistics(), DraftTree(), None
        while reason is None:
            row = [*prompt, *output]
            logits, hidden = self.scorer.score_tree(row, tree)
            chances = self.pipeline(logits, *self._behind(row, tree, len(prompt)))
            uniforms = torch.rand(len(self.widths) + 1, generator=generator, dtype=torch.float64)
            nodes, token = walk(tree, chances, uniforms)
            self.scorer.keep_way(tree, nodes)
            before = len(output)
            drawn = [*(tree.tokens[node] for node in nodes), token]
            output, reason = self.stopping.extended(output, drawn)
            emitted = len(output) - before
            accepted = min(emitted, len(nodes))
            counted += SpeculativeStatistics(1, len(tree.tokens), accepted, emitted)
            last = nodes[-1] + 1 if nodes else 0
            tree = self.heads.propose(hidden[last], self.widths)
        return DecodedRow(tuple(output), reason, counted)

    def _behind(
        self, row: Sequence[int], tree: DraftTree, prompt: int
    ) -> tuple[list[list[int]], list[int]]:
        """The tokens that each distribution is behind, for penalties."""
        ways = [[], *(tree.way(node) for node in range(len(tree.tokens)))]
        return [[*row, *(tree.tokens[i] for i in way)] for way in ways], [prompt] * len(ways)
