"""A transformers model in process: its forward, its tokenizer, and what both may be given.

Shapes: T positions.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Any

import torch
from infopt_reference.attention.transformers_cache import cache_argument, forward_parameters

from ...errors import InfoptError, ModelLoadError, NonFiniteLogitsError
from ..files.checkpoints import tokenizer_fingerprint_of
from ..spread_ids import spread_ids
from ..tokenizer_texts import TokenizerTexts
from .precision import Float64Arithmetic


class LoadedModel(TokenizerTexts):
    """What `engines.base.Engine` says of any engine, and the model's own forward.

    ``dtype`` is the compute dtype; for float64 every step down to float32 in the model's code is
    undone (`Float64Arithmetic`). ``rounds_to`` is a coarser format that the model's kernels round
    to on the way, whatever the dtype of what goes in and out: the one whose error is granted.
    """

    def __init__(
        self,
        name: str,
        module: Any,
        tokenizer: Any = None,
        *,
        dtype: torch.dtype,
        rounds_to: torch.dtype | None = None,
        fingerprint: str = "",
    ) -> None:
        self.name = name
        self.fingerprint = fingerprint
        self.dtype = str(rounds_to or dtype).removeprefix("torch.")
        self._dtype = dtype
        self._kept_vocabulary: int | None = None
        self.vocabulary = 0  # until the first pass tells
        self._module: Any = module.eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._device: torch.device = next(iter(module.parameters())).device
        self.device = str(self._device)
        self._config: Any = self._module.config
        self.context_window = context_window(self._config, tokenizer)
        self._parameters = forward_parameters(self._module)
        self._cache_argument = cache_argument(self._module)
        # Servers compute the head for the last prompt token alone; so does what is timed here.
        keeps_last = "logits_to_keep" in self._parameters
        self.last_only = {"logits_to_keep": 1} if keeps_last else {}
        self._input_rows = int(self._module.get_input_embeddings().weight.shape[0])

    @cached_property
    def tokenizer_fingerprint(self) -> str:
        self._check_open()
        return tokenizer_fingerprint_of(self._tokenizer)  # a model may come without one

    @property
    def tokenizer(self) -> Any:
        """The tokenizer; raises ModelLoadError when the model came without one."""
        self._check_open()
        if self._tokenizer is None:
            raise ModelLoadError(
                f"model {self.name!r} has no tokenizer; save one beside its weights: "
                "tokenizer.save_pretrained(path)"
            )
        return self._tokenizer

    @property
    def cache_dtype(self) -> str:
        return str(self._dtype).removeprefix("torch.")

    @property
    def module(self) -> Any:
        """The transformers model itself, for dtype errors and localisation."""
        self._check_open()
        return self._module

    def close(self) -> None:
        # Twice is fine.
        self._module = self._tokenizer = None
        gc.collect()  # models hold reference cycles, and would stay until a collection some time
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def forward(self, **inputs: Any) -> Any:
        inputs.setdefault("use_cache", False)
        module = self.module
        with self._arithmetic():
            output = module(return_dict=True, **inputs)
        if self._kept_vocabulary is not None:
            output.logits = output.logits[..., : self._kept_vocabulary]
        return output

    def keep_vocabulary(self, count: int) -> None:
        self._kept_vocabulary = self.vocabulary = count
        self.fingerprint += f"-vocabulary-{count}"  # what is kept of its logits is another thing

    def _arithmetic(self) -> AbstractContextManager[Any]:
        return Float64Arithmetic() if self._dtype is torch.float64 else nullcontext()

    def _probe_ids(self, count: int) -> torch.Tensor:
        """Ids [1, count] spread over the vocabulary."""
        return torch.tensor([spread_ids(count, self._input_rows)], device=self._device)

    def _ids(self, token_ids: Sequence[int]) -> torch.Tensor:
        """Checked ids as [1, T] on the device."""
        self._check_open()
        if len(token_ids) == 0:
            raise ValueError(f"model {self.name!r} was given no token ids; it takes at least one")
        self._check_window(len(token_ids))
        low, high = min(token_ids), max(token_ids)
        if low < 0 or high >= self._input_rows:
            bad = low if low < 0 else high
            raise ValueError(
                f"token id {bad} is outside 0…{self._input_rows - 1}, the vocabulary of model "
                f"{self.name!r}; encode the text with this model's own tokenizer"
            )
        return torch.tensor([list(token_ids)], dtype=torch.long, device=self._device)

    def _check_window(self, count: int) -> None:
        if count > self.context_window:
            raise ValueError(
                f"{count} tokens are more than the context window of {self.context_window} of "
                f"model {self.name!r}; cut the document"
            )

    @property
    def _padding(self) -> int:
        """An id that stands where nothing is: the tokenizer's own, where the model has it too."""
        pad = getattr(self._tokenizer, "pad_token_id", None) or 0
        return int(pad) if pad < self._input_rows else 0

    def _check_open(self) -> None:
        if self._module is None:
            raise InfoptError(f"the engine of model {self.name!r} is closed; load it again")


def check_logits(rows: torch.Tensor, name: str, first_position: int) -> None:
    """Raise NonFiniteLogitsError naming the first row [R, V] that is no distribution: it has NaN or
    +infinity, or is −infinity throughout. A single −infinity rules a token out."""
    largest = rows.amax(dim=-1)  # NaN where there is one
    if not bool(torch.isfinite(largest).all()):
        check_finite(largest[:, None], name, first_position)


def check_finite(rows: torch.Tensor, name: str, first_position: int) -> None:
    """Raise NonFiniteLogitsError naming the first position whose row [R, ·] has NaN or infinity."""
    extremes = torch.stack(torch.aminmax(rows))  # one pass, no [R, V] mask: NaN and inf both show
    if bool(torch.isfinite(extremes).all()):
        return
    broken = ~torch.isfinite(rows).all(dim=-1)
    row = int(broken.nonzero()[0])
    kind = "NaN" if bool(torch.isnan(rows[row]).any()) else "infinity"
    raise NonFiniteLogitsError(
        f"model {name!r} returned {kind} at position {first_position + row}; {int(broken.sum())} "
        f"of {len(rows)} positions are affected: its weights are damaged, or overflow its dtype"
    )


def context_window(config: Any, tokenizer: Any) -> int:
    """The longest text in tokens that a configuration, if there is one, or else the tokenizer
    declares."""
    text = None if config is None else config.get_text_config(decoder=True)
    # MPT's ALiBi biases are a table of max_seq_len positions.
    for name in ("max_position_embeddings", "max_seq_len"):
        declared = getattr(text, name, None)
        if declared and declared > 0:  # XLNet says −1: it has no longest text
            return int(declared)
    longest = getattr(tokenizer, "model_max_length", None)
    # transformers writes int(1e30) where a tokenizer does not know; such models (ALiBi, state
    # space) have no window.
    return int(longest) if longest and longest < sys.maxsize else sys.maxsize
