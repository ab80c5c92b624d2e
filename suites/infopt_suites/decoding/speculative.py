"""SpeculativeSuite: is what a speculative decoder emits what its target says?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from math import ceil
from typing import Any, ClassVar

from ..base import requires
from ..properties import for_all, tried
from ..tally import each_case
from .oracle import greedy
from .pairs import PAIRS
from .protocol import DecodingParameters, MakeSpeculativeDecoder, Tokens
from .sampled import SampledSuite
from .table_model import CachedPass, draft_tables
from .trial import (
    DRAFTS,
    GreedyCase,
    Trial,
    context_processor,
    greedy_cases,
    greedy_traps,
    place_processor,
)

on_case = tried("make_speculative_decoder")  # a property of a `Trial` and its `GreedyCase`
PROMPTS = ((1,), (3, 4, 5, 0), (7, 7))


class SpeculativeSuite(SampledSuite):
    """Properties of speculative decoding, on tiny models that the suite brings.

    Give a fixture ``make_speculative_decoder``: a `protocol.MakeSpeculativeDecoder`. Greedy outputs
    are compared with plain decoding token by token, up to a near-tie; the suite's logits are whole
    numbers apart, so that no dtype confuses them. Drawn outputs are compared with the target's
    distribution: a sound decoder fails with a chance of at most 10⁻⁶ a case, whatever the number of
    tokens. Class attributes say how it is tried:

    | attribute | default | meaning |
    |---|---|---|
    | ``sampled_tokens`` | 72 000 | drawn in each case; shows a total variation of .02 with a chance of .99, and of .02 · √(72 000 / tokens) with fewer |
    | ``sampled_length`` | 3 | tokens of a drawn output |
    | ``examples`` | 40 | greedy cases of each property |
    """  # noqa: E501  # a table

    topic = "speculative_decoder"
    offers = {  # noqa: RUF012  # read only
        "sampling": "a temperature above 0 draws tokens",
        "samples": "generate_samples(prompt, parameters, seed, count) draws many outputs at once",
        "batches": "generate_batch(prompts, parameters, seeds) decodes several prompts at once",
        "seeds": "an output depends on its prompt, parameters and seed alone",
        "stop-tokens": "stop_token_ids end an output",
        "stop-sequences": "stop_sequences end an output",
        "top-k": "top_k",
        "top-p": "top_p",
        "min-p": "min_p",
        "repetition-penalty": "repetition_penalty",
        "output-penalties": "presence_penalty and frequency_penalty",
        "processors": "processor",
        "counts": "counts() says what the last call took",
        "lookahead": "as many tokens as lookahead says are drafted for every pass with room for "
        "them, and each pass emits one token more than it accepts",
        "rejection": "a drafted token is accepted with min(1, p / q)",
        "caches": "target and draft are asked through caches, and not for whole sequences",
        "candidates": "generate_from_candidates(prompt, parameters, propose, seed)",
    }
    methods = {  # noqa: RUF012  # read only
        "": ("generate",),
        "samples": ("generate_samples",),
        "batches": ("generate_batch",),
        "counts": ("counts",),
        "candidates": ("generate_from_candidates",),
    }
    examples: ClassVar[int] = 40

    @on_case()
    def test_greedy_output_is_the_targets(self, trial: Trial, case: GreedyCase) -> None:
        """Whatever is drafted: the right tokens, others, wrong ones in places, or none that is
        right.

        Usual causes: a first draft that is never verified, acceptance counted beyond the first
        rejection, the last token from another row, a rejected token that stays.
        """
        trial.check(case.prompt, DecodingParameters(case.length))

    @on_case(lengths=range(1, 12))
    def test_an_output_has_the_length_that_was_asked_for(
        self, trial: Trial, case: GreedyCase
    ) -> None:
        """Also where the last pass drafts more than there is room for.

        Usual causes: a length that is looked at between passes, a draft cut and no token behind it.
        """
        trial.check(case.prompt, DecodingParameters(case.length))

    @requires("stop-tokens")
    @on_case()
    def test_nothing_follows_a_stop_token(self, trial: Trial, case: GreedyCase) -> None:
        """At each place of a block of drafted tokens.

        Usual causes: only the last token of a pass is looked at.
        """
        for place in range(min(case.length, 6)):
            for stop in self._plain(trial, case)[place : place + 1]:
                trial.check(case.prompt, DecodingParameters(case.length, stop_token_ids=(stop,)))

    @requires("stop-sequences")
    @on_case()
    def test_nothing_follows_a_stop_sequence(self, trial: Trial, case: GreedyCase) -> None:
        """Within one block, and across two of them; not where prompt and output make it up.

        Usual causes: only the ends of blocks are looked at, or the tokens of one block.
        """
        output = self._plain(trial, case)
        for place in range(min(len(output) - 1, 6)):
            runs = (tuple(output[place : place + 2]), (case.prompt[-1], output[0]))
            trial.check(case.prompt, DecodingParameters(case.length, stop_sequences=runs))

    @requires("repetition-penalty")
    @on_case()
    def test_repetition_counts_emitted_tokens_alone(self, trial: Trial, case: GreedyCase) -> None:
        """Of prompt and output, behind each drafted token too.

        Usual causes: penalties that see rejected tokens, or not the accepted ones before them.
        """
        trial.check(case.prompt, DecodingParameters(case.length, repetition_penalty=3.3))

    @requires("output-penalties")
    @on_case()
    def test_penalties_count_emitted_tokens_alone(self, trial: Trial, case: GreedyCase) -> None:
        """Each token once or each time, and none of the prompt.

        Usual causes: counts that keep rejected tokens, or miss what is accepted in one pass.
        """
        for parameters in (
            DecodingParameters(case.length, presence_penalty=2.3),
            DecodingParameters(case.length, frequency_penalty=1.37),
        ):
            trial.check(case.prompt, parameters)

    @requires("processors")
    @on_case()
    def test_a_processor_sees_the_tokens_before_each_token(
        self, trial: Trial, case: GreedyCase
    ) -> None:
        """It bans tokens by what came before.

        Usual causes: processors that the last token alone goes through, tokens of the pass's
        beginning for all its rows, a state that rejected tokens have moved.
        """
        parameters = DecodingParameters(case.length, processor=context_processor)
        trial.check(case.prompt, parameters)

    @on_case(traps_only=True)
    def test_one_output_leaves_no_trace_in_the_next(self, trial: Trial, case: GreedyCase) -> None:
        """From one decoder, whichever prompt came before, and however it ended.

        Usual causes: caches and penalties of an earlier prompt, a draft that is left over.
        """
        for prompt in (*PROMPTS, *PROMPTS[::-1]):
            trial.check(prompt, DecodingParameters(case.length), "after other prompts, ")

    @requires("batches")
    @on_case()
    def test_rows_of_a_batch_are_decoded_as_alone(self, trial: Trial, case: GreedyCase) -> None:
        """With prompts of several lengths, of which different numbers of drafts are accepted.

        Usual causes: the fewest accepted tokens taken for all, positions of the longest row, rows
        that have ended and go on.
        """
        prompts = [case.prompt, *PROMPTS]
        parameters = DecodingParameters(case.length)
        if "stop-tokens" in self.capabilities:
            parameters = replace(parameters, stop_token_ids=(2,))
        found = trial.decoder.generate_batch(prompts, parameters, range(len(prompts)))
        for row, (prompt, output) in enumerate(zip(prompts, found, strict=True)):
            trial.compare(prompt, parameters, output, f"row {row} of a batch: ")

    @requires("batches", "processors")
    @on_case(drafts=("random", "wrong in places", "right in places"))
    def test_rows_that_begin_alike_are_decoded_as_alone(
        self, trial: Trial, case: GreedyCase
    ) -> None:
        """Batch after batch from one decoder, which may know how they begin; with one processor,
        another and none, and with penalties and stops where they are claimed.

        Usual causes: a prefix that is kept with rejected drafts, or with what a processor made of
        its logits; one that ends where a token was emitted and never computed; rows that write to
        one cache; processors and penalties that see another row's tokens, or those alone that were
        not kept.
        """
        shared = (*case.prompt, 5, 2, 6)
        prompts = [shared, (*shared, 1), case.prompt, (*shared, 3, 0), shared]
        for processor in (None, place_processor, context_processor):
            parameters = replace(self._penalised(case.length), processor=processor)
            found = trial.decoder.generate_batch(prompts, parameters, range(len(prompts)))
            for row, (prompt, output) in enumerate(zip(prompts, found, strict=True)):
                compared = trial.compare(prompt, parameters, output, f"row {row} of a batch: ")
                if row:  # the next batch goes on where this one ended, but for a row
                    prompts[row] = (*prompt, *compared[: 3 + row], 4)

    @requires("seeds", "sampling")
    def test_a_seed_gives_one_output(
        self, make_speculative_decoder: MakeSpeculativeDecoder
    ) -> None:
        """From this decoder or another, alone or in a batch, whatever was drawn before.

        Usual causes: a generator that goes on where the last output ended, one for all rows.
        """
        parameters = DecodingParameters(9, 1.0)
        outputs: set[tuple[int, ...]] = set()
        for pair in each_case(PAIRS.values()):
            trials = [Trial(make_speculative_decoder, *pair.models(), 3) for _ in range(2)]
            cases = [(prompt, seed) for prompt in PROMPTS for seed in (0, 1, 77)]
            first = [[*trials[0].decoder.generate(p, parameters, s)] for p, s in cases]
            for (prompt, seed), output in zip(cases[::-1], first[::-1], strict=True):
                again = [*trials[1].decoder.generate(prompt, parameters, seed)]
                assert again == output, f"seed {seed} of {prompt} gave {output}, then {again}"
            outputs |= {tuple(output) for output in first}
            if "batches" in self.capabilities:
                prompts, seeds = zip(*cases, strict=True)
                rows = trials[0].decoder.generate_batch(prompts, parameters, seeds)
                for (prompt, seed), output, row in zip(cases, first, rows, strict=True):
                    assert [*row] == output, (
                        f"seed {seed} of {prompt} gave {output} alone and {[*row]} in a batch"
                    )
        # Of a sharp target, several seeds may well draw one output; of all pairs they do not.
        assert len(outputs) > len(PAIRS), "all seeds give one output"

    @requires("counts")
    @on_case()
    def test_counts_add_up(self, trial: Trial, case: GreedyCase) -> None:
        """A pass emits what it accepts and one token; the last one may end before that.

        Usual causes: the last token counted as accepted, rejected tokens or those behind a stop
        counted, passes in the place of drafted tokens.
        """
        stops: list[tuple[int, ...]] = [()]
        if "stop-tokens" in self.capabilities:
            stops += [(token,) for token in self._plain(trial, case)[1:4]]
        for stop in stops:
            parameters = DecodingParameters(case.length, stop_token_ids=stop)
            emitted = len(trial.check(case.prompt, parameters))
            counts = trial.counts()
            told = f"{counts} for {emitted} tokens"
            assert 0 <= counts.accepted <= counts.drafted, told
            assert 0 <= counts.accepted - (emitted - counts.target_passes) <= 1, told
            if case.draft == "always wrong":
                assert counts.accepted == 0, f"{told}, and every draft was wrong"
            if case.draft == "identical" and not stop:
                unused = counts.drafted - counts.accepted
                assert unused <= case.lookahead, f"{told}, and every draft was right"

    @requires("counts", "lookahead")
    @on_case(drafts=("identical",))
    def test_no_pass_is_wasted(self, trial: Trial, case: GreedyCase) -> None:
        """Where every draft is right, each pass emits lookahead + 1 tokens; one may come before.

        Usual causes: no token behind a draft that is accepted as a whole, a draft's cache without
        the last accepted token, a pass for each drafted token.
        """
        emitted = len(trial.check(case.prompt, DecodingParameters(case.length)))
        passes, each = trial.counts().target_passes, case.lookahead + 1
        allowed = {ceil(emitted / each), 1 + ceil((emitted - 1) / each)}
        assert passes in allowed, (
            f"{passes} passes of the target for {emitted} tokens with {case.lookahead} right "
            f"drafts each; {min(allowed)} are enough"
        )

    @requires("caches")
    @on_case()
    def test_caches_hold_emitted_tokens_alone(self, trial: Trial, case: GreedyCase) -> None:
        """At each pass of the target, and in the draft all tokens that the target has.

        Usual causes: a cache that is cropped by one too many or too few, a draft that never saw
        the last accepted token, rejected drafts that stay.
        """
        trial.target.log.clear()
        output = trial.check(case.prompt, DecodingParameters(case.length))
        tokens = (*case.prompt, *output)
        log = trial.target.log
        assert any(each.model == "target" for each in log), "the target's cache was never used"
        drafted: CachedPass | None = None
        for each in log:
            if each.model == "draft":
                drafted = each
                continue
            assert each.held == tokens[: len(each.held)], (
                f"the target's cache holds {each.held}; prompt and output begin {tokens}"
            )
            if drafted is not None:
                seen, asked = drafted.held + drafted.added, each.held + each.added
                assert seen == asked[: len(seen)], (
                    f"the draft went on from {seen}, and the target was asked for {asked}"
                )
            drafted = None

    @requires("candidates")
    @on_case()
    def test_candidates_change_no_token(self, trial: Trial, case: GreedyCase) -> None:
        """Ways that are right for a while, beside others, some of which begin alike.

        Usual causes: nodes that see each other, the longest way taken and not the target's, slots
        of other ways kept.
        """
        tables = draft_tables(trial.target.logits)

        def propose(tokens: Tokens) -> Sequence[Tokens]:
            ways = []
            for name in DRAFTS:
                way = [*tokens]
                for _ in range(case.lookahead):
                    state = trial.target.states(way)[-1]
                    way.append(int(tables[name][state].argmax()))
                ways.append(way[len(tokens) :])
            return ways if case.draft != "always wrong" else ways[1:3]

        parameters = DecodingParameters(case.length)
        if "stop-tokens" in self.capabilities:
            parameters = replace(parameters, stop_token_ids=(6,))
        found = trial.decoder.generate_from_candidates(case.prompt, parameters, propose, 0)
        trial.compare(case.prompt, parameters, found)

    # How properties are tried

    def made_from(self, implementation: Any) -> Any:
        return Trial.greedy(implementation, GreedyCase()).decoder

    def first_cases(self, implementation: Any) -> Iterable[tuple[str, Callable[[], object]]]:
        decoder = self.made_from(implementation)
        parameters = DecodingParameters(4)
        yield "generate, greedily", lambda: decoder.generate([1], parameters, 0)

    def _penalised(self, length: int) -> DecodingParameters:
        claimed, parameters = {*self.capabilities}, DecodingParameters(length)
        if "repetition-penalty" in claimed:
            parameters = replace(parameters, repetition_penalty=3.3)
        if "stop-tokens" in claimed:
            parameters = replace(parameters, stop_token_ids=(2,))
        return parameters

    def _plain(self, trial: Trial, case: GreedyCase) -> list[int]:
        return greedy(trial.target, case.prompt, DecodingParameters(case.length))[0]

    def _hold(
        self,
        make: MakeSpeculativeDecoder,
        holds: Callable[[Trial, GreedyCase], None],
        *,
        drafts: Sequence[str] = DRAFTS,
        lengths: Iterable[int] = (),
        traps_only: bool = False,
    ) -> None:
        """``drafts``: those that are tried. ``lengths``: of further traps."""
        __tracebackhide__ = True

        def tried_on(case: GreedyCase) -> None:
            holds(Trial.greedy(make, case), case)

        traps = [
            *((name, case) for name, case in greedy_traps() if case.draft in drafts),
            *(
                (f"{draft} draft, {length} tokens", GreedyCase(draft, 3, length=length))
                for draft in drafts
                for length in lengths
            ),
        ]
        cases = greedy_cases().filter(lambda case: case.draft in drafts)
        if len(drafts) == 1:
            cases = greedy_cases().map(lambda case: replace(case, draft=drafts[0]))
        for_all(tried_on, cases, traps=traps, examples=1 if traps_only else self.examples)
