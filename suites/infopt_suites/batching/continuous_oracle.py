"""A tiny language model, and what it generates for a prompt alone and without a cache."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from .continuous_protocol import GenerationParameters

VOCABULARY = 40
LENGTH = 128  # positions
LAYERS, HIDDEN, INTERMEDIATE = 2, 32, 48


class Gate:
    """Where passes wait that are computed in another thread than the one that made the gate."""

    def __init__(self) -> None:
        self.waits = threading.Event()  # a pass is there
        self.in_this_thread = False  # one was computed where it cannot wait
        self._thread = threading.get_ident()
        self._is_open = False
        self._passes = threading.Semaphore(0)

    def pass_through(self, module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        if threading.get_ident() == self._thread:
            self.in_this_thread = True
        elif not self._is_open:
            self.waits.set()
            self._passes.acquire()

    def let_one_through(self) -> None:
        self.waits.clear()
        self._passes.release()

    def open(self) -> None:
        self._is_open = True
        self._passes.release()


class Oracle:
    """A Llama of random weights large enough that each token depends on all before it.

    ``served`` is a copy for the batcher, which may compute in a thread while ``model`` is used.
    """

    def __init__(self, dtype: torch.dtype, device: str) -> None:
        import transformers

        config = transformers.LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=HIDDEN,
            intermediate_size=INTERMEDIATE,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=LENGTH,
            initializer_range=0.5,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
        )
        with torch.random.fork_rng():
            torch.manual_seed(23)
            # float64 eager attention gives NaN behind padding; sdpa does not.
            model: Any = transformers.AutoModelForCausalLM.from_config(
                config, attn_implementation="sdpa"
            )
        self.model = model.to(device, dtype).eval()
        self.served = copy.deepcopy(self.model)
        self.dtype, self.device = dtype, device
        self._greedy: dict[tuple[int, ...], tuple[int, bool]] = {}

    def prompt(self, length: int, seed: int = 0) -> list[int]:
        """Token ids of no pattern; prompts of one seed begin alike."""
        generator = torch.Generator().manual_seed(97 + seed)
        return torch.randint(VOCABULARY, (LENGTH,), generator=generator)[:length].tolist()

    def probabilities(self, prompt: Sequence[int], temperature: float) -> torch.Tensor:
        """The distribution of the next token, [V]."""
        return torch.softmax(self._logits(prompt) / temperature, dim=0)

    def tokens(self, prompt: Sequence[int], count: int) -> tuple[list[int], int]:
        """The greedy tokens, and how many of them no rounding can change."""
        ids, certain = list(prompt), count
        for index in range(count):
            key = tuple(ids)
            if key not in self._greedy:
                self._greedy[key] = self._next(key)
            token, clear = self._greedy[key]
            if not clear:
                certain = min(certain, index)
            ids.append(token)
        return ids[len(prompt) :], certain

    def expected(
        self, prompt: Sequence[int], parameters: GenerationParameters
    ) -> tuple[list[int], int]:
        """As `tokens`, cut where the request ends."""
        tokens, certain = self.tokens(prompt, parameters.max_new_tokens)
        for end in range(1, len(tokens) + 1):
            runs = parameters.stop_sequences
            if tokens[end - 1] in parameters.stop_token_ids or any(
                tuple(tokens[max(end - len(run), 0) : end]) == run for run in runs
            ):
                return tokens[:end], min(certain, end)
        return tokens, certain

    @contextmanager
    def failing_on(self, token: int) -> Iterator[None]:
        """Passes of the served model raise if this token is among those computed."""

        def refuse(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            if bool((inputs[0] == token).any()):
                raise ArithmeticError(f"token {token} cannot be computed")

        hook = self.served.get_input_embeddings().register_forward_pre_hook(refuse)
        try:
            yield
        finally:
            hook.remove()

    @contextmanager
    def watched(self, step: Callable[[], int | None]) -> Iterator[list[int]]:
        """How many tokens the served model computes in each step; to be read when it has ended.

        ``step`` tells which step a pass belongs to, where several may be one; None: to none other.
        """
        sizes: list[int] = []
        steps: list[int | None] = []

        def count(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            now = step()
            if now is None or not steps or steps[-1] != now:
                sizes.append(0)
            steps.append(now)
            sizes[-1] += inputs[0].numel()

        hook = self.served.get_input_embeddings().register_forward_pre_hook(count)
        try:
            yield sizes
        finally:
            hook.remove()

    @contextmanager
    def gated(self) -> Iterator[Gate]:
        """Passes of the served model wait at the gate, in their thread."""
        gate = Gate()
        hook = self.served.get_input_embeddings().register_forward_pre_hook(gate.pass_through)
        try:
            yield gate
        finally:
            gate.open()
            hook.remove()

    def _logits(self, ids: Sequence[int]) -> torch.Tensor:
        with torch.no_grad():
            rows = torch.tensor([list(ids)], device=self.device)
            logits: torch.Tensor = self.model(rows, use_cache=False).logits
        return logits[0, -1].double()

    def _next(self, ids: Sequence[int]) -> tuple[int, bool]:
        """The most likely token, and whether it is so by more than two sums may differ.

        A logit is a sum of the products along a path through all layers; taken in two orders, it
        differs by eps for each addition on the path.
        """
        logits = self._logits(ids)
        best = logits.topk(2)
        additions = LAYERS * (2 * HIDDEN + INTERMEDIATE + len(ids)) + HIDDEN
        rounding = 2 * additions * torch.finfo(self.dtype).eps * float(logits.abs().max())
        return int(best.indices[0]), float(best.values[0] - best.values[1]) > rounding
