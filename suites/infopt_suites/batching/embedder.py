"""EmbedderSuite: is a text's vector its own, or does it depend on the texts beside it?"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from ..base import Suite, requires

Embed = Callable[[list[str]], Any]  # one vector for each text: rows of an array, tensor or list

WORDS = ("the", "cat", "sat", "on", "a", "mat", "and", "two", "dogs", "ran", "home", "in", "rain")
MARGIN = 2.0  # of the error that the same dtype makes of each text alone


class MakeEmbedder(Protocol):
    """The factory that `EmbedderSuite` asks for."""

    def __call__(self, dtype: torch.dtype, batch_size: int) -> Embed:
        """A model that computes in ``dtype``, at most ``batch_size`` texts at a time."""


class EmbedderSuite(Suite):
    """Properties of models that turn texts into vectors, in batches with padding.

    Give a fixture ``make_embedder``: a `MakeEmbedder`. Vectors of ``dtype`` may be off by rounding:
    by `MARGIN` times what each text alone is off from float64, over all texts.
    """

    topic = "embedder"
    fixture = "make_embedder"
    fixture_returns = "a callable: dtype, batch size -> texts -> vectors"
    offers = {  # noqa: RUF012  # read only
        "empty": "a text without any token has a vector",
        "normalized": "vectors have length 1",
    }
    dtype: ClassVar[torch.dtype] = torch.float32
    lengths: ClassVar[Sequence[int]] = (1, 24, 2, 9, 1, 60, 3, 17, 5)  # in words
    truncated: ClassVar[int] = 2000  # words: more than the model takes

    def test_a_vector_does_not_depend_on_its_neighbours(self, make_embedder: MakeEmbedder) -> None:
        """A short text beside a long one is padded; its vector is that of the text alone.

        Usual causes: a mean over padding, attention without its mask, the last position taken for
        the last token, positions that count from the padding.
        """
        texts = self.texts()
        for batch_size in (2, len(texts)):
            self._check(make_embedder, texts, batch_size)
            self._check(make_embedder, texts[::-1], batch_size)

    def test_a_vector_does_not_depend_on_its_place(self, make_embedder: MakeEmbedder) -> None:
        """Any order of the texts, any number of batches, the last of which is not full.

        Usual causes: sorted by length and not sorted back, batches joined in another order, an
        accumulator that each batch overwrites.
        """
        texts = self.texts()
        order = random.Random(7)
        for batch_size in (1, 4, 5):
            for _ in range(2):
                order.shuffle(texts)
                self._check(make_embedder, texts, batch_size)

    def test_a_text_that_is_cut_leaves_the_others_alone(self, make_embedder: MakeEmbedder) -> None:
        """Of a text longer than the model takes, what is cut off is its own.

        Usual causes: all texts of the batch are cut where the longest is, positions that run over.
        """
        long = _text(self.truncated, seed=3)
        self._check(make_embedder, [*self.texts()[:2], long, *self.texts()[2:4]], 5)

    def test_equal_texts_have_equal_vectors_and_others_have_others(
        self, make_embedder: MakeEmbedder
    ) -> None:
        """Next to each other, and in different batches.

        Usual causes: duplicates that are dropped, vectors of padding alone.
        """
        one, other = _text(4, seed=1), _text(4, seed=2)
        texts = [one, one, other, one, other]
        self._check(make_embedder, texts, 2)
        vectors = self._vectors(make_embedder(self.dtype, 2)(texts), len(texts))
        apart = float((vectors[0] - vectors[2]).norm())
        noise = float((vectors[0] - vectors[1]).norm())
        assert apart > noise, f"different texts are {apart:g} apart, equal ones {noise:g}"

    def test_no_texts_have_no_vectors(self, make_embedder: MakeEmbedder) -> None:
        """An empty list gives nothing, and does not raise.

        Usual causes: the longest of no texts, stack of no tensors.
        """
        vectors = make_embedder(self.dtype, 2)([])
        assert len(vectors) == 0, f"{len(vectors)} vectors of no texts"

    @requires("empty")
    def test_an_empty_text_has_a_vector(self, make_embedder: MakeEmbedder) -> None:
        """A finite one, alone and beside others.

        Usual causes: a mean over no tokens, 0 / 0.
        """
        self._check(make_embedder, [""], 1)
        self._check(make_embedder, ["", _text(9, seed=4), " "], 3)

    @requires("normalized")
    def test_vectors_have_length_1(self, make_embedder: MakeEmbedder) -> None:
        """Short texts' and long ones'.

        Usual causes: normalized before the mean, or over the wrong dimension.
        """
        texts = self.texts()
        vectors = self._vectors(make_embedder(self.dtype, 3)(texts), len(texts))
        # A norm of D numbers, each rounded, summed and divided: an eps for each step at most.
        most = (vectors.shape[1] + 2) * torch.finfo(self.dtype).eps
        off = float((vectors.norm(dim=1) - 1).abs().max())
        assert off <= most, f"a vector's length is off from 1 by {off:g}, at most {most:g}"

    def texts(self) -> list[str]:
        return [_text(length, seed) for seed, length in enumerate(self.lengths)]

    def _check(self, make_embedder: MakeEmbedder, texts: list[str], batch_size: int) -> None:
        """Raise AssertionError unless texts get the vectors that they have alone."""
        vectors = self._vectors(make_embedder(self.dtype, batch_size)(texts), len(texts))
        exact = self._alone(make_embedder, torch.float64, texts)
        plain = self._alone(make_embedder, self.dtype, texts)
        error, usual = _rms(vectors - exact), _rms(plain - exact)
        most = MARGIN * usual + torch.finfo(self.dtype).eps * _rms(exact)
        worst = int((vectors - exact).norm(dim=1).argmax())
        assert error <= most, (
            f"in batches of {batch_size}, vectors are off by {error:.3g}, at most {most:.3g}: each "
            f"text alone is off by {usual:.3g}; most of all {texts[worst][:40]!r}"
        )

    def _alone(self, make_embedder: MakeEmbedder, dtype: torch.dtype, texts: list[str]) -> Tensor:
        embed = make_embedder(dtype, 1)
        known: dict[tuple[torch.dtype, str], Tensor] = self.__dict__.setdefault("_known", {})
        for text in texts:
            if (dtype, text) not in known:
                known[dtype, text] = self._vectors(embed([text]), 1)
        return torch.cat([known[dtype, text] for text in texts])

    def _vectors(self, result: Any, count: int) -> Tensor:
        assert len(result) == count, f"{len(result)} vectors of {count} texts"
        rows = [torch.as_tensor(row).detach().cpu().double() for row in result]
        vectors = torch.stack(rows)
        assert bool(vectors.isfinite().all()), "a vector is not finite"
        return vectors


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def _text(length: int, seed: int) -> str:
    """Words in a random order, the same for each seed."""
    choose = random.Random(seed)
    return " ".join(choose.choice(WORDS) for _ in range(length))
