"""Small engines with known answers, for the tests of measuring."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from pytest_infopt.engines.base import Capability, MemoryFootprint, TokenEvent


@dataclass
class MatrixScores:
    """Logits that lie ready as a matrix; remembers which rows were asked for."""

    matrix: torch.Tensor
    asked: list[tuple[int, int]] = field(default_factory=list)

    @property
    def positions(self) -> int:
        return self.matrix.shape[0]

    @property
    def vocabulary(self) -> int:
        return self.matrix.shape[1]

    def logits(self, start: int, stop: int) -> torch.Tensor:
        self.asked.append((start, stop))
        return self.matrix[start:stop]


class FakeClock:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class ScriptedEngine:
    """Streams tokens with given delays before each, on a fake clock; records its requests.

    A delay of 0 makes a token arrive in the same chunk as the one before it.
    """

    device = "cpu"

    def __init__(
        self,
        name: str,
        clock: FakeClock,
        delays: Sequence[float],
        log: list[str] | None = None,
    ) -> None:
        self.name = name
        self.clock = clock
        self.delays = list(delays)
        self.log = log if log is not None else []

    def stream(self, prompt_ids: Sequence[int], max_new_tokens: int) -> Iterator[TokenEvent]:
        self.log.append(self.name)
        for index, delay in enumerate(self.delays[:max_new_tokens]):
            self.clock.advance(delay)
            yield TokenEvent(10 + index, self.clock())


class ToyTransformer:
    """One attention layer with learned absolute positions, in any dtype.

    An engine small enough to break on purpose. Faults: ``mask_ahead`` sees one token ahead,
    ``padding_moves_positions`` counts padding as positions, ``stale_cache`` attends to a cache
    without the newest key, ``padding_is_seen`` attends to padding, ``last_is_shifted`` gives each
    logit to the token behind when the last position alone is asked for, ``right_padding_is_first``
    puts the padding before the text, ``eager_has_no_scale`` leaves out 1/√d without a fused kernel,
    ``compiled_is_another`` was compiled from code with another scale.
    """

    tokenizer_fingerprint = "toy"
    device = "cpu"
    vocabulary = 96
    context_window = 64

    def __init__(
        self, dtype: torch.dtype, fault: str = "", damage: float = 0.0, width: int = 48
    ) -> None:
        generator = torch.Generator().manual_seed(5)

        def weights(*shape: int) -> torch.Tensor:
            drawn = torch.randn(*shape, generator=generator, dtype=torch.float64)
            noise = torch.randn(*shape, generator=generator, dtype=torch.float64)
            return ((drawn + damage * noise) / shape[-1] ** 0.5).to(dtype)

        self.name = f"toy-{fault or 'sound'}"
        self.fingerprint = f"toy-{dtype}-{damage}"
        self.dtype = str(dtype).removeprefix("torch.")
        self.capabilities = frozenset(
            {Capability.FULL_LOGITS, Capability.CACHE, Capability.SERVING_PATHS}
        )
        self.fault = fault
        self.embedding = weights(self.vocabulary, width) * width**0.5
        self.places = weights(self.context_window, width) * width**0.5
        self.query, self.key, self.value = (weights(width, width) for _ in range(3))
        self.out = weights(self.vocabulary, width) * 2

    def encode(self, text: str, begins_with: str = "nothing") -> list[int]:
        return [ord(letter) % self.vocabulary for letter in text]

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(f"<{token}>" for token in token_ids)

    def score(self, token_ids: Sequence[int]) -> MatrixScores:
        return MatrixScores(self.full_logits(token_ids))

    def stream(self, prompt_ids: Sequence[int], max_new_tokens: int) -> Iterator[TokenEvent]:
        raise NotImplementedError

    def memory(self) -> MemoryFootprint:
        return MemoryFootprint(weight_bytes=self.out.nbytes, buffer_bytes=0)

    def reset_peaks(self) -> None: ...

    def close(self) -> None: ...

    def full_logits(self, token_ids: Sequence[int]) -> torch.Tensor:
        count = len(token_ids)
        x = self._embed(token_ids, list(range(count)))
        return self._attend(x, x, self._causal(count))

    def cached_logits(self, token_ids: Sequence[int], prefill: int) -> torch.Tensor:
        rows = [self.full_logits(token_ids[:prefill])]
        for t in range(prefill, len(token_ids)):
            x = self._embed(token_ids[: t + 1], list(range(t + 1)))
            seen = torch.ones(1, t + 1, dtype=torch.bool)
            if self.fault == "stale_cache":
                seen[0, -1] = False
            rows.append(self._attend(x[-1:], x, seen))
        return torch.cat(rows)

    def batch_logits(self, prompts: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        longest = max(len(prompt) for prompt in prompts)
        found = []
        for prompt in prompts:
            padding = longest - len(prompt)
            moved = padding if self.fault == "padding_moves_positions" else 0
            places = [0] * padding + [moved + place for place in range(len(prompt))]
            x = self._embed([0] * padding + list(prompt), places)
            mask = self._causal(longest)
            if self.fault != "padding_is_seen":
                mask[padding:, :padding] = False
            found.append(self._attend(x, x, mask)[padding:])
        return found

    def last_logits(self, token_ids: Sequence[int], count: int = 1) -> torch.Tensor:
        logits = self.full_logits(token_ids)[-count:]
        shifted = self.fault == "last_is_shifted" and count == 1
        return logits.roll(1, -1) if shifted else logits

    def right_padded_logits(self, prompts: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        if self.fault == "right_padding_is_first":
            longest = max(len(prompt) for prompt in prompts)
            padded = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
        else:
            padded = [list(prompt) for prompt in prompts]
        pairs = zip(padded, prompts, strict=True)
        return [self.full_logits(row)[-len(prompt) :] for row, prompt in pairs]

    def library_tokens(self, token_ids: Sequence[int], count: int) -> list[int]:
        raise NotImplementedError

    def eager_logits(self, token_ids: Sequence[int]) -> torch.Tensor | None:
        return self._logits(token_ids, scaled=self.fault != "eager_has_no_scale")

    def uncompiled_logits(self, token_ids: Sequence[int]) -> torch.Tensor | None:
        return self._logits(token_ids, scaled=self.fault != "compiled_is_another")

    def _logits(self, token_ids: Sequence[int], *, scaled: bool) -> torch.Tensor:
        query = self.query
        if not scaled:
            self.query = query * query.shape[0] ** 0.5
        try:
            return self.full_logits(token_ids)
        finally:
            self.query = query

    def _embed(self, token_ids: Sequence[int], places: list[int]) -> torch.Tensor:
        return self.embedding[list(token_ids)] + self.places[places]  # [T, D]

    def _causal(self, count: int) -> torch.Tensor:
        ahead = 1 if self.fault == "mask_ahead" else 0
        return torch.ones(count, count, dtype=torch.bool).tril(ahead)

    def _attend(self, x: torch.Tensor, y: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        weights = (x @ self.query.T) @ (y @ self.key.T).T / x.shape[1] ** 0.5  # [T, S]
        weights = weights.masked_fill(~mask, -torch.inf).softmax(-1)
        return (x + weights @ (y @ self.value.T)) @ self.out.T


class HiddenStateEngine(ToyTransformer):
    """A toy that scores through hidden states and counts its passes."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(dtype)
        self.capabilities |= {Capability.SCORES, Capability.HIDDEN_STATES}
        self.passes = 0

    def score(self, token_ids: Sequence[int]) -> HiddenScores:  # type: ignore[override]  # richer scores
        self.passes += 1
        return self.scores_from_hidden(self._embed(token_ids, list(range(len(token_ids)))))

    def scores_from_hidden(self, hidden: torch.Tensor) -> HiddenScores:
        return HiddenScores(hidden, self.out)


@dataclass
class HiddenScores:
    hidden_states: torch.Tensor
    head: torch.Tensor

    @property
    def positions(self) -> int:
        return self.hidden_states.shape[0]

    @property
    def vocabulary(self) -> int:
        return self.head.shape[0]

    def logits(self, start: int, stop: int) -> torch.Tensor:
        return self.hidden_states[start:stop] @ self.head.T


def seeded_ids(text: str, count: int, vocabulary: int) -> list[int]:
    """Token ids that depend on ``text`` alone."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(vocabulary, (count,), generator=generator).tolist()
