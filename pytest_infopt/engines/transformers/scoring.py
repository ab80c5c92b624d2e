"""A transformers causal language model in process: what it makes of texts.

Shapes: T positions, D hidden width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ...errors import ModelLoadError
from ..base import Capability, InProcessEngine, Scores, capabilities_of
from ..whole_scores import top_scores
from .footprint import noting_states
from .kv_caches import keeps_latents
from .model import LoadedModel, check_finite, check_logits

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
        check_logits(rows, self.engine.name, start)
        return rows


class TransformersScorer(LoadedModel):
    """A loaded transformers model that gives logits, as the protocols of `engines.base` say.

    Its arguments are those of `LoadedModel`. Making one runs three forward passes of 8 tokens: a
    model that loads but cannot run is found here (ModelLoadError), libraries that repack weights at
    first use have done so before anything is weighed or timed, and it shows whether the model's
    head can be run on hidden states alone, and whether the model keeps a cache.
    """

    scores_texts = True

    def __init__(self, name: str, module: Any, tokenizer: Any = None, **details: Any) -> None:
        super().__init__(name, module, tokenizer, **details)
        self._body: Any = None  # the submodule whose output the head takes
        self._body_output: type[Any] | None = None  # None: the head cannot be run on its own
        self._hidden_width = 0
        self.vocabulary = self._probe()
        missing = set() if self._body_output else {Capability.HIDDEN_STATES}
        if self._cache_argument is None:
            missing |= {Capability.CACHE, Capability.KV_SIZE}
        self.capabilities = capabilities_of(InProcessEngine) - missing

    def close(self) -> None:
        self._body = None
        super().close()

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

    def top_scores(
        self, token_ids: Sequence[int], positions: Sequence[int]
    ) -> list[Mapping[int, float]]:
        return top_scores(self.score(token_ids), token_ids, positions)

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
        check_logits(logits, self.name, 0)
        return logits

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
        with noting_states(self._module):
            self._probe_cache(ids)
        # Most models call base_model in their forward; OPT calls the decoder inside it.
        for body in (self._module.base_model, self._module.get_decoder()):
            if self._body_output is None and isinstance(body, torch.nn.Module):
                self._probe_head(body, ids, full)
        return int(full.shape[1])

    @torch.no_grad()
    def _probe_cache(self, ids: torch.Tensor) -> None:
        """Settle whether the model gives its cache away, and what latent attention keeps in it."""
        try:
            output = self.forward(input_ids=ids, use_cache=True)
        except (RuntimeError, ValueError, TypeError, AttributeError, NotImplementedError):
            output = None  # it computes without one alone
        cache = getattr(output, self._cache_argument or "", None)
        if cache is None:
            self._cache_argument = None
        self._keeps_latents = keeps_latents(cache)

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
