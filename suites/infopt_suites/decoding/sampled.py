"""Properties of drawn tokens: they are distributed exactly as the target's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from ..base import Suite, requires
from ..tally import each_case
from .evidence import Evidence
from .pairs import PAIRS, PROCESSED, Pair
from .protocol import DecodingParameters, MakeSpeculativeDecoder, SpeculativeCounts, Tokens
from .trial import Trial, context_processor

PROMPT = (1, 4, 2)
FEWER = 6  # faults of parameters are coarse: such a fraction of the tokens shows them


class SampledSuite(Suite):
    """What is drawn, and how often drafts are accepted."""

    topic = ""

    fixture = "make_speculative_decoder"
    fixture_returns = "a callable: target, draft, lookahead -> decoder"
    sampled_tokens: ClassVar[int] = 72_000
    sampled_length: ClassVar[int] = 3

    @requires("sampling")
    def test_drawn_tokens_are_the_targets(
        self, make_speculative_decoder: MakeSpeculativeDecoder
    ) -> None:
        """For pairs that are nearly disjoint, equal, sharp, flat, and a draft that is truncated.

        Usual causes: a draft accepted only if it is the target's likeliest, or always; q taken as
        1; q after other parameters or in another precision than what was drawn from; a residual
        that is not clipped or not made; the last token from the wrong row.
        """
        for pair in each_case(PAIRS.values()):
            self._draw(make_speculative_decoder, pair, DecodingParameters(self.sampled_length, 1.0))

    @requires("sampling")
    def test_drawn_tokens_follow_the_temperature(
        self, make_speculative_decoder: MakeSpeculativeDecoder
    ) -> None:
        """For the target, drafted tokens and the last one alike.

        Usual causes: target probabilities without the temperature, or a draft with another one.
        """
        for temperature in each_case((0.5, 1.6)):
            self._processed(make_speculative_decoder, temperature=temperature)

    @requires("sampling", "top-k")
    def test_drawn_tokens_follow_top_k(
        self, make_speculative_decoder: MakeSpeculativeDecoder
    ) -> None:
        """Usual causes: k applied to the draft or to the last token alone."""
        for top_k in each_case((1, 3)):
            self._processed(make_speculative_decoder, top_k=top_k, temperature=0.8)

    @requires("sampling", "top-p")
    def test_drawn_tokens_follow_top_p(
        self, make_speculative_decoder: MakeSpeculativeDecoder
    ) -> None:
        """Usual causes: verification with the parameters' defaults."""
        self._processed(make_speculative_decoder, top_p=0.6)

    @requires("sampling", "min-p")
    def test_drawn_tokens_follow_min_p(
        self, make_speculative_decoder: MakeSpeculativeDecoder
    ) -> None:
        """Usual causes: processors that only the last token goes through."""
        self._processed(make_speculative_decoder, min_p=0.3)

    @requires("sampling", "processors")
    def test_drawn_tokens_follow_the_processor(
        self, make_speculative_decoder: MakeSpeculativeDecoder
    ) -> None:
        """A processor that bans a token by what came before.

        Usual causes: the tokens of another position, or of the step's beginning.
        """
        self._processed(make_speculative_decoder, processor=context_processor)

    @requires("sampling", "candidates")
    def test_drawn_tokens_are_the_targets_whatever_was_proposed(
        self, make_speculative_decoder: MakeSpeculativeDecoder
    ) -> None:
        """Several ways to go on, chosen and not drawn.

        Usual causes: candidates accepted with p/q for a q that they were not drawn from, siblings
        that are tried again without what was rejected, the likeliest accepted.
        """

        def propose(tokens: Tokens) -> Sequence[Tokens]:
            first = (int(tokens[-1]) + 1) % 8
            return [[first, 0], [first, 1], [0, 2], [5]]

        trial = Trial(make_speculative_decoder, *PROCESSED.models(), 2)
        parameters = DecodingParameters(self.sampled_length, 1.0)

        def generate(seed: int, count: int) -> Sequence[Tokens]:
            seeds = range(seed, seed + count)
            made = trial.decoder.generate_from_candidates
            return [made(PROMPT, parameters, propose, each) for each in seeds]

        trial.draw(PROMPT, parameters, self.sampled_tokens // FEWER, generate)

    @requires("sampling", "counts", "rejection")
    def test_drafts_are_accepted_as_often_as_they_can_be(
        self, make_speculative_decoder: MakeSpeculativeDecoder
    ) -> None:
        """Σ min(p, q) of drafted tokens, all of them where the draft is the target.

        Usual causes: q not passed on and taken as 1, exact match, uniform numbers used twice.
        """
        for name in each_case(("equal", "nearly disjoint", "sharp target")):
            pair = PAIRS[name]
            # One state: the chance of acceptance is the same for every draft.
            still = Pair(name, pair.target[:1], pair.draft[:1])
            p, q = (x[0].softmax(0) for x in (still.target, still.draft))
            # Of equal distributions, rounding may reject a token in a thousand.
            chance = min(float(p.minimum(q).sum()), 0.999)
            trial = Trial(make_speculative_decoder, *still.models(), 1)
            parameters = DecodingParameters(4, 1.0)  # one pass at least has room for a draft
            counts = self._counts(trial, parameters, self.sampled_tokens // FEWER // 4)
            assert 0 <= counts.accepted <= counts.drafted, f"{name}: {counts}"
            assert counts.drafted, f"{name}: {counts}, though a token could be drafted"
            evidence = Evidence()
            rejected = counts.drafted - counts.accepted
            evidence.counts[1 - chance, chance] = [rejected, counts.accepted]
            assert not evidence.refuted, (
                f"{name}: {counts.accepted} of {counts.drafted} drafted tokens were accepted; "
                f"the rule accepts {chance:.4f} of them"
            )

    # How tokens are drawn

    def _processed(self, make: MakeSpeculativeDecoder, **changes: Any) -> None:
        parameters = replace(DecodingParameters(self.sampled_length, 1.0), **changes)
        self._draw(make, PROCESSED, parameters, FEWER)

    def _draw(
        self,
        make: MakeSpeculativeDecoder,
        pair: Pair,
        parameters: DecodingParameters,
        fraction: int = 1,
    ) -> None:
        __tracebackhide__ = True
        trial = Trial(make, *pair.models(), 2)

        def generate(seed: int, count: int) -> Sequence[Tokens]:
            return self._outputs(trial, parameters, seed, count)

        try:
            trial.draw(PROMPT, parameters, self.sampled_tokens // fraction, generate)
        except AssertionError as error:
            error.add_note(f"{pair!r}, {parameters}")
            raise

    def _outputs(
        self, trial: Trial, parameters: DecodingParameters, seed: int, count: int
    ) -> Sequence[Tokens]:
        decoder = trial.decoder
        found: Sequence[Tokens]
        if "samples" in self.capabilities:
            found = decoder.generate_samples(PROMPT, parameters, seed, count)
            assert len(found) == count, f"{len(found)} samples, {count} were asked for"
            return found
        seeds = range(seed, seed + count)
        if "batches" in self.capabilities:
            found = decoder.generate_batch([PROMPT] * count, parameters, seeds)
            assert len(found) == count, f"{len(found)} outputs for {count} prompts"
            return found
        return [decoder.generate(PROMPT, parameters, each) for each in seeds]

    def _counts(
        self, trial: Trial, parameters: DecodingParameters, outputs: int
    ) -> SpeculativeCounts:
        """Over so many outputs."""
        if {"samples", "batches"} & {*self.capabilities}:
            self._outputs(trial, parameters, 0, outputs)
            return trial.counts()
        total = SpeculativeCounts(0, 0, 0)
        for seed in range(outputs):
            trial.decoder.generate(PROMPT, parameters, seed)
            one = trial.counts()
            total = SpeculativeCounts(
                total.target_passes + one.target_passes,
                total.drafted + one.drafted,
                total.accepted + one.accepted,
            )
        return total
