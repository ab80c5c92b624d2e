"""A transformers causal language model in process: what it makes of texts.

Shapes: T positions, D hidden width, V vocabulary.
"""

from __future__ import annotations

import gc
import inspect
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from ...errors import InfoptError, ModelLoadError, NonFiniteLogitsError
from ..base import Capability, Scores
from ..files.checkpoints import tokenizer_fingerprint_of
from .precision import Float64Arithmetic

_PROBE_TOKENS = 8


@dataclass(frozen=True)
class TransformersScores:
    """Scores kept as the decoder's last hidden states [T, D]; the head runs for the rows asked for.

    Storing hidden states takes V/D times less room than storing logits: 85 times for SmolLM2. Where
    the head cannot be run on its own, ``are_logits``: the whole matrix [T, V] is kept.
    """

    engine: TransformersScorer
    kept: torch.Tensor
    vocabulary: int
    are_logits: bool = False

    @property
    def hidden_states(self) -> torch.Tensor | None:
        return None if self.are_logits else self.kept

    @property
    def positions(self) -> int:
        return len(self.kept)

    def logits(self, start: int, stop: int) -> torch.Tensor:
        """Rows start…stop−1 [stop − start, V]; NonFiniteLogitsError for NaN and infinity."""
        if not 0 <= start < stop <= self.positions:
            raise ValueError(f"rows {start}…{stop} are outside the document's 0…{self.positions}")
        rows = self.kept[start:stop]
        if not self.are_logits:
            rows = self.engine.head(rows)
        check_finite(rows, self.engine.name, start)
        return rows


class TransformersScorer:
    """A loaded transformers model that gives logits, as the protocols of `engines.base` say.

    Making one runs two forward passes of 8 tokens: a model that loads but cannot run is found here
    (ModelLoadError), libraries that repack weights at first use have done so before anything is
    weighed or timed, and it shows whether the model's head can be run on hidden states alone.
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
        self.tokenizer_fingerprint = tokenizer_fingerprint_of(tokenizer)
        self.dtype = str(rounds_to or dtype).removeprefix("torch.")
        self._dtype = dtype
        self._module: Any = module.eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._device: torch.device = next(iter(module.parameters())).device
        self.device = str(self._device)
        self._config: Any = self._module.config
        self.context_window = _context_window(self._config, tokenizer)
        self._parameters = frozenset(inspect.signature(self._module.forward).parameters)
        # Servers compute the head for the last prompt token alone; so does what is timed here.
        keeps_last = "logits_to_keep" in self._parameters
        self.last_only = {"logits_to_keep": 1} if keeps_last else {}
        self._input_rows = int(self._module.get_input_embeddings().weight.shape[0])
        self._body: Any = None  # the submodule whose output the head takes
        self._body_output: type[Any] | None = None  # None: the head cannot be run on its own
        self._hidden_width = 0
        self.vocabulary = self._probe()
        missing = {Capability.HIDDEN_STATES} if self._body_output is None else frozenset()
        self.capabilities = frozenset(Capability) - missing

    # Text

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False, verbose=False)
        return ids

    def decode(self, token_ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(list(token_ids), clean_up_tokenization_spaces=False)
        return text

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

    # Scoring

    @torch.no_grad()
    def score(self, token_ids: Sequence[int]) -> Scores:
        """Teacher-forced logits of one document, from one pass of the decoder body.

        Raises ValueError for no ids, ids outside the vocabulary or more than the context window,
        and NonFiniteLogitsError, here or when rows are read, for NaN and infinity.
        """
        ids = self._ids(token_ids)  # [1, T]
        if self._body_output is None:
            logits = self.forward(input_ids=ids).logits[0]
            return TransformersScores(self, logits, self.vocabulary, are_logits=True)
        with self._arithmetic():
            output = self._body(input_ids=ids, use_cache=False, return_dict=True)
        hidden = output.last_hidden_state[0]  # [T, D]
        check_finite(hidden, self.name, 0)
        return TransformersScores(self, hidden, self.vocabulary)

    def scores_from_hidden(self, hidden: torch.Tensor) -> Scores:
        self._check_open()
        if self._body_output is None:
            raise ValueError(f"the head of model {self.name!r} cannot be run on hidden states")
        width = self._hidden_width
        if hidden.ndim != 2 or hidden.shape[1] != width or hidden.dtype != self._dtype:
            raise ValueError(
                f"hidden states of {self.name!r} are [T, {width}] in {self.dtype}; "
                f"got {tuple(hidden.shape)} in {str(hidden.dtype).removeprefix('torch.')}"
            )
        return TransformersScores(self, hidden, self.vocabulary)

    @torch.no_grad()
    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits [R, V] of hidden states [R, D], by the model's own forward around a stubbed body.

        The model's forward does what comes after the body: soft-capping (Gemma 2), logit scaling
        (Cohere, Granite), padding of the vocabulary.
        """
        with self._body_returning(hidden.to(self._device)[None]):
            dummy = torch.zeros(1, hidden.shape[0], dtype=torch.long, device=self._device)
            logits: torch.Tensor = self.forward(input_ids=dummy).logits[0]
        return logits

    @torch.no_grad()
    def full_logits(self, token_ids: Sequence[int]) -> torch.Tensor:
        logits: torch.Tensor = self.forward(input_ids=self._ids(token_ids)).logits[0]
        check_finite(logits, self.name, 0)
        return logits

    def close(self) -> None:
        # Twice is fine.
        self._module = self._body = None
        self._tokenizer = None
        gc.collect()  # models hold reference cycles, and would stay until a collection some time
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    # Inside

    def forward(self, **inputs: Any) -> Any:
        inputs.setdefault("use_cache", False)
        module = self.module
        with self._arithmetic():
            return module(return_dict=True, **inputs)

    def _arithmetic(self) -> AbstractContextManager[Any]:
        return Float64Arithmetic() if self._dtype is torch.float64 else nullcontext()

    @contextmanager
    def _body_returning(self, hidden: torch.Tensor) -> Iterator[None]:
        """Let the decoder body return given hidden states [1, R, D] instead of computing them."""
        self._check_open()
        body = self._body
        assert self._body_output is not None
        output = self._body_output(last_hidden_state=hidden)
        own = vars(body).get("forward")  # accelerate's hooks also set it on the instance
        body.forward = lambda *args, **kwargs: output
        try:
            yield
        finally:
            if own is None:
                del body.forward
            else:
                body.forward = own

    def _probe(self) -> int:
        """Run a few tokens, settle how scores are computed, and return the logits' width."""
        ids = self._probe_ids(min(_PROBE_TOKENS, self.context_window))
        try:
            with torch.no_grad():
                full = self.forward(input_ids=ids).logits[0]  # [T, V]
        except (RuntimeError, ValueError, TypeError, NotImplementedError, ImportError) as error:
            raise ModelLoadError(
                f"model {self.name!r} was loaded, but a forward pass of {ids.shape[1]} tokens on "
                f"{self.device} in {self.dtype} failed: {error}"
            ) from error
        # Most models call base_model in their forward; OPT calls the decoder inside it.
        for body in (self._module.base_model, self._module.get_decoder()):
            if self._body_output is None and isinstance(body, torch.nn.Module):
                self._probe_head(body, ids, full)
        return int(full.shape[1])

    @torch.no_grad()
    def _probe_head(self, body: Any, ids: torch.Tensor, full: torch.Tensor) -> None:
        """Keep the body and its output type if its hidden states and the head give full logits.

        All rows in one chunk are the very same computation, so they must agree in every bit; rows
        in two chunks may differ by the rounding of a dot product of D terms, and no more.
        """
        if body is self._module:
            return
        try:
            with self._arithmetic():
                output = body(input_ids=ids, use_cache=False, return_dict=True)
            hidden = output.last_hidden_state[0]  # [T, D]
            self._body, self._body_output = body, type(output)
            whole = self.head(hidden)
            half = (hidden.shape[0] + 1) // 2
            halves = [self.head(part) for part in hidden.split(half)]
        except (RuntimeError, ValueError, TypeError, AttributeError):
            self._body = self._body_output = None  # a body or head of its own making
            return
        self._hidden_width = int(hidden.shape[1])
        rounding = torch.finfo(full.dtype).eps * math.sqrt(self._hidden_width)
        scale = full.abs().nan_to_num().max()
        difference = (torch.cat(halves) - full).abs().nan_to_num().max()
        same = torch.equal(whole.nan_to_num(), full.nan_to_num())
        if not same or float(difference) > rounding * float(scale):
            self._body = self._body_output = None

    def _probe_ids(self, count: int) -> torch.Tensor:
        """Ids [1, count] spread over the vocabulary by a stride prime to most sizes."""
        ids = (torch.arange(count, device=self._device) * 7919 + 1) % self._input_rows
        return ids[None]

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

    def _check_open(self) -> None:
        if self._module is None:
            raise InfoptError(f"the engine of model {self.name!r} is closed; load it again")


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


def _context_window(config: Any, tokenizer: Any) -> int:
    text = config.get_text_config(decoder=True)
    declared = getattr(text, "max_position_embeddings", None)
    if declared:
        return int(declared)
    longest = getattr(tokenizer, "model_max_length", None)
    # transformers writes int(1e30) where a tokenizer does not know; such models (ALiBi, state
    # space) have no window.
    return int(longest) if longest and longest < sys.maxsize else sys.maxsize
