"""The paths by which servers compute what a plain pass computes: `engines.base.ServingPathsEngine`.

Shapes: T positions, B batch rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...errors import NotSupportedError
from .cached_rows import left_padded, positions_of
from .library_generation import LibraryGeneration
from .model import check_logits

_EAGER = "eager"


class ServingPaths(LibraryGeneration):
    """A loaded model's padded batches and other paths of serving.

    Each of the latter raises NotSupportedError where the model has no such path.
    """

    @torch.no_grad()
    def batch_logits(self, prompts: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        ids, mask, lengths = self._batch(prompts)
        extra: dict[str, torch.Tensor] = {}
        if mask is not None:
            extra["attention_mask"] = mask
            if "position_ids" in self._parameters:
                extra["position_ids"] = positions_of(mask)
        logits = self.forward(input_ids=ids, **extra).logits  # [B, T, V]
        return self._without_padding(logits, lengths)

    def _batch(
        self, prompts: Sequence[Sequence[int]]
    ) -> tuple[torch.Tensor, torch.Tensor | None, list[int]]:
        if not prompts:
            raise ValueError("a batch needs at least one prompt")
        rows = [self._ids(prompt)[0] for prompt in prompts]
        return *left_padded(rows, self._padding), [len(row) for row in rows]

    def _without_padding(self, logits: torch.Tensor, lengths: list[int]) -> list[torch.Tensor]:
        """Rows of [B, T, V], each without its padding; NonFiniteLogitsError for NaN, infinity."""
        longest = logits.shape[1]
        return self._checked(
            [row[longest - length :] for row, length in zip(logits, lengths, strict=True)]
        )

    def _checked(self, rows: list[torch.Tensor]) -> list[torch.Tensor]:
        for row in rows:
            check_logits(row, self.name, 0)
        return rows

    @torch.no_grad()
    def last_logits(self, token_ids: Sequence[int], count: int = 1) -> torch.Tensor:
        if not self.last_only:
            raise NotSupportedError("its forward cannot be asked for the last position alone")
        only = dict.fromkeys(self.last_only, count)
        logits: torch.Tensor = self.forward(input_ids=self._ids(token_ids), **only).logits[0]
        check_logits(logits, self.name, len(token_ids) - len(logits))
        return logits

    @torch.no_grad()
    def right_padded_logits(self, prompts: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        if "attention_mask" not in self._parameters:
            raise NotSupportedError("its forward takes no attention mask")
        rows = [self._ids(prompt)[0] for prompt in prompts]
        lengths = [len(row) for row in rows]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self._padding)
        columns = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        mask = (columns < columns.new_tensor(lengths)[:, None]).long()  # [B, T]
        positions = {"position_ids": columns} if "position_ids" in self._parameters else {}
        logits = self.forward(input_ids=ids, attention_mask=mask, **positions).logits
        return self._checked([row[:length] for row, length in zip(logits, lengths, strict=True)])

    @torch.no_grad()
    def eager_logits(self, token_ids: Sequence[int]) -> torch.Tensor | None:
        own = getattr(self._config, "_attn_implementation", None)
        if own in (None, _EAGER) or not hasattr(self.module, "set_attn_implementation"):
            return None
        ids = self._ids(token_ids)
        try:
            self.module.set_attn_implementation(_EAGER)
            logits: torch.Tensor = self.forward(input_ids=ids).logits[0]
        finally:
            self.module.set_attn_implementation(own)
        check_logits(logits, self.name, 0)
        return logits

    @torch.no_grad()
    def uncompiled_logits(self, token_ids: Sequence[int]) -> torch.Tensor | None:
        if not any(is_compiled(part) for part in self.module.modules()):
            return None
        with torch.compiler.set_stance("force_eager"):
            logits: torch.Tensor = self.forward(input_ids=self._ids(token_ids)).logits[0]
        check_logits(logits, self.name, 0)
        return logits


def is_compiled(part: object) -> bool:
    """Whether torch.compile has a part in the call of a module or function: as `module.compile()`
    leaves it, as a wrapper around it, or as its forward."""
    by_call = getattr(part, "_compiled_call_impl", None) is not None
    wraps = hasattr(part, "_orig_mod")
    forward = getattr(part, "forward", part)
    return by_call or wraps or hasattr(forward, "_torchdynamo_orig_callable")
