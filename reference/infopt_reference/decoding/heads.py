"""Draft heads on a model's last hidden state: head i guesses the token i + 2 places on.

    guess_i = lm_head(h + silu(W_i h)),    W_i = 0 at first: the model's own next token

Contract. The model and its head stay as they are; only the W are trained, by cross entropy against
the text's own tokens.
Source: Cai et al. 2024, "Medusa", section 2.1.1 and 2.2 (Medusa-1).
Legend: T tokens, H hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .tree import DraftTree


class DraftHeads(nn.Module):
    """``count`` heads over one model's hidden states, which share its ``lm_head``."""

    def __init__(self, model: Any, count: int) -> None:
        super().__init__()
        self._lm_head = [model.get_output_embeddings()]  # in a list: no module of ours
        weight: Tensor = self._lm_head[0].weight
        self.layers = nn.ModuleList(
            nn.Linear(weight.shape[1], weight.shape[1], device=weight.device, dtype=weight.dtype)
            for _ in range(count)
        )
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits [heads, …, V] behind hidden states […, H]."""
        guesses = [hidden + functional.silu(layer(hidden)) for layer in self.layers]
        logits: Tensor = self._lm_head[0](torch.stack(guesses))
        return logits

    @torch.no_grad()
    def propose(self, hidden: Tensor, widths: tuple[int, ...]) -> DraftTree:
        """The ``widths[i]`` most likely tokens of head i on each level, behind a hidden state [H]
        and the token that was drawn there."""
        logits = self(hidden)
        levels = [
            row.topk(width).indices.tolist() for row, width in zip(logits, widths, strict=True)
        ]
        return DraftTree.of_levels(levels)


def fit_heads(
    model: Any, heads: DraftHeads, rows: Tensor, epochs: int, learning_rate: float = 1e-3
) -> list[float]:
    """Train heads on rows of text [rows, T]; the mean loss of each epoch, in nats."""
    body = model.get_decoder()
    optimizer = torch.optim.Adam(heads.parameters(), lr=learning_rate)
    losses = []
    for _ in range(epochs):
        total = 0.0
        for row in rows:
            with torch.no_grad():
                hidden = body(input_ids=row[None]).last_hidden_state[0]  # [T, H]
            loss = torch.zeros((), device=hidden.device)
            for i, logits in enumerate(heads(hidden)):
                ahead = i + 2
                loss = loss + functional.cross_entropy(logits[:-ahead].float(), row[ahead:])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch's
            optimizer.step()
            total += loss.item() / len(heads.layers)
        losses.append(total / len(rows))
    return losses
