"""Trees of drafted tokens: several ways to go on, checked in one pass.

    node i: a token behind node parents[i], or behind the row (parent −1)
    it sees the row, the nodes on its way from the root, and itself; its position is the row's
    length plus its depth

Contract. Parents come before their children, and children of one node have different tokens. A
chain is a tree. Walking it draws the target's own token at each node and follows the child that
has it: what is emitted is the target's own drawing, whatever was drafted.
Sources: Miao et al. 2024, "SpecInfer", section 4 (tree attention); Cai et al. 2024, "Medusa",
section 2.1.2; Li et al. 2024, "EAGLE-2".
Legend: N nodes, W widths, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .pipeline import drawn


@dataclass(frozen=True)
class DraftTree:
    """Tokens of the nodes, and the node behind which each stands (−1: the row).

    Raises:
        ValueError: a parent does not come before its child, or siblings have one token.
    """

    tokens: tuple[int, ...] = ()
    parents: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for node, parent in enumerate(self.parents):
            if not -1 <= parent < node:
                raise ValueError(f"node {node} has the parent {parent}; parents come first")
        if len({*zip(self.tokens, self.parents, strict=True)}) < len(self.tokens):
            raise ValueError("two children of a node have the same token; join them")

    @classmethod
    def of_levels(cls, levels: Sequence[Sequence[int]]) -> DraftTree:
        """Behind each node of a level, all tokens of the next: what independent heads propose."""
        tokens: list[int] = []
        parents: list[int] = []
        above = [-1]
        for level in levels:
            first = len(tokens)
            for parent in above:
                tokens += level
                parents += [parent] * len(level)
            above = [*range(first, len(tokens))]
        return cls(tuple(tokens), tuple(parents))

    @classmethod
    def of_paths(cls, paths: Sequence[Sequence[int]]) -> DraftTree:
        """Several ways to go on, joined where they begin alike."""
        nodes: dict[tuple[int, int], int] = {}
        for path in paths:
            parent = -1
            for token in path:
                parent = nodes.setdefault((token, parent), len(nodes))
        return cls(tuple(token for token, _ in nodes), tuple(parent for _, parent in nodes))

    def way(self, node: int) -> list[int]:
        """The nodes from the row to ``node``, itself included."""
        nodes: list[int] = []
        while node >= 0:
            nodes.insert(0, node)
            node = self.parents[node]
        return nodes

    def depths(self) -> list[int]:
        """How many nodes lie before each on its way."""
        return [len(self.way(node)) - 1 for node in range(len(self.tokens))]

    def child(self, node: int, token: int) -> int | None:
        """The child of a node that has a token."""
        children = (i for i, parent in enumerate(self.parents) if parent == node)
        return next((i for i in children if self.tokens[i] == token), None)

    def sees(self) -> Tensor:
        """Which nodes each node sees, bool [N, N]."""
        seen = torch.zeros(len(self.tokens), len(self.tokens), dtype=torch.bool)
        for node in range(len(self.tokens)):
            seen[node, self.way(node)] = True
        return seen


def walk(tree: DraftTree, chances: Tensor, uniforms: Tensor) -> tuple[list[int], int]:
    """The nodes whose tokens were drawn, in order, and the token behind the last of them.

    ``chances`` [1 + N, V] are the target's distributions behind the row and behind each node; a
    level of the tree takes one of the numbers ``uniforms``, and so does the token at its end.
    """
    nodes: list[int] = []
    for uniform in uniforms:
        at = nodes[-1] if nodes else -1
        token = int(drawn(chances[at + 1][None], uniform[None]))
        child = tree.child(at, token)
        if child is None:
            break
        nodes.append(child)
    return nodes, token
