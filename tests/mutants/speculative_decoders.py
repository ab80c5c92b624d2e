"""A small speculative decoder that is right, and the same with faults that real ones have shipped.

Plain lists and numbers, since tens of thousands of tokens are drawn from each.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from infopt_suites.decoding import DecodingParameters, LanguageModel, SpeculativeCounts

AREA = "5 speculative decoding"
Row = list[float]
Tokens = Sequence[int]


def softmax(logits: Row, temperature: float) -> Row:
    peak = max(logits)
    weights = [math.exp((x - peak) / temperature) for x in logits]
    total = sum(weights)
    return [w / total for w in weights]


def normalised(weights: Row) -> Row:
    total = sum(weights)
    return [w / total for w in weights]


class SmallDecoder:
    """Drafts, verifies, extends. Each pass asks the target once for all drafted tokens."""

    capabilities = frozenset(
        {
            "sampling", "batches", "seeds", "stop-tokens", "stop-sequences", "top-k", "top-p",
            "min-p", "repetition-penalty", "output-penalties", "processors", "counts", "lookahead",
            "rejection", "candidates",
        }
    )  # fmt: skip

    def __init__(self, target: LanguageModel, draft: LanguageModel, lookahead: int) -> None:
        self.target, self.draft, self.lookahead = target, draft, lookahead
        self.reset()

    def reset(self) -> None:
        self.passes = self.drafted = self.accepted = 0

    # One output

    def generate(self, prompt: Tokens, parameters: DecodingParameters, seed: int) -> Tokens:
        self.reset()
        self.begin(prompt)
        return self.output(prompt, parameters, self.generator(seed))

    def generator(self, seed: int) -> random.Random:
        return random.Random(seed)

    def begin(self, prompt: Tokens) -> None:
        pass

    def output(
        self, prompt: Tokens, parameters: DecodingParameters, luck: random.Random
    ) -> list[int]:
        output: list[int] = []
        while not self.step(prompt, output, parameters, luck):
            pass
        return output

    def step(
        self, prompt: Tokens, output: list[int], parameters: DecodingParameters, luck: random.Random
    ) -> bool:
        """One pass; whether the output has ended."""
        row = [*prompt, *output]
        room = self.room(parameters, output)
        drafts, q = self.propose(row, min(self.ahead(), room), len(prompt), parameters, luck)
        p = self.verified(row, drafts, len(prompt), parameters)
        accepted, token = self.rule(drafts, p, q, luck)
        return self.extend(prompt, output, drafts[:accepted] + token, parameters, len(drafts))

    def ahead(self) -> int:
        return self.lookahead

    def room(self, parameters: DecodingParameters, output: list[int]) -> int:
        return parameters.max_new_tokens - len(output) - 1

    def extend(
        self,
        prompt: Tokens,
        output: list[int],
        new: list[int],
        parameters: DecodingParameters,
        drafted: int,
    ) -> bool:
        before, ended = len(output), False
        for token in new:
            output.append(token)
            if self.ends(prompt, output, parameters):
                ended = True
                break
        self.count(drafted, len(output) - before, len(new))
        return ended

    def count(self, drafted: int, emitted: int, new: int) -> None:
        self.passes += 1
        self.drafted += drafted
        self.accepted += min(emitted, new - 1)

    def ends(self, prompt: Tokens, output: list[int], parameters: DecodingParameters) -> bool:
        return (
            len(output) >= parameters.max_new_tokens
            or output[-1] in parameters.stop_token_ids
            or any(tuple(output[-len(run) :]) == run for run in parameters.stop_sequences)
        )

    # Distributions

    def propose(
        self,
        row: list[int],
        count: int,
        prompt: int,
        parameters: DecodingParameters,
        luck: random.Random,
    ) -> tuple[list[int], list[Row]]:
        drafts: list[int] = []
        q: list[Row] = []
        for _ in range(count):
            tokens = [*row, *drafts]
            logits = self.draft_logits(tokens)
            drawn, said = self.of_draft(logits, tokens, prompt, parameters)
            drafts.append(self.draw(drawn, luck.random()))
            q.append(said)
        return drafts, q

    def draft_logits(self, tokens: list[int]) -> Row:
        logits: Row = self.draft(tokens)[-1].tolist()
        return logits

    def of_draft(
        self, logits: Row, tokens: list[int], prompt: int, parameters: DecodingParameters
    ) -> tuple[Row, Row]:
        """What is drawn from, and what the rule is told."""
        q = self.distribution(logits, tokens, prompt, parameters)
        return q, q

    def target_logits(self, row: list[int], drafts: list[int]) -> list[Row]:
        logits: list[Row] = self.target([*row, *drafts])[len(row) - 1 :].tolist()
        return logits

    def verified(
        self, row: list[int], drafts: list[int], prompt: int, parameters: DecodingParameters
    ) -> list[Row]:
        """The target's distribution behind the row and behind each drafted token."""
        return [
            self.of_target(logits, self.seen(row, drafts, n), prompt, parameters, n == len(drafts))
            for n, logits in enumerate(self.target_logits(row, drafts))
        ]

    def seen(self, row: list[int], drafts: list[int], place: int) -> list[int]:
        """The tokens that penalties and processors know of at a place of the block."""
        return [*row, *drafts[:place]]

    def of_target(
        self,
        logits: Row,
        tokens: list[int],
        prompt: int,
        parameters: DecodingParameters,
        is_last: bool,
    ) -> Row:
        return self.distribution(logits, tokens, prompt, parameters)

    def distribution(
        self, logits: Row, tokens: list[int], prompt: int, parameters: DecodingParameters
    ) -> Row:
        logits = self.processed(logits, tokens, prompt, parameters)
        if parameters.temperature == 0:
            best = logits.index(max(logits))
            return [float(i == best) for i in range(len(logits))]
        p = softmax(logits, parameters.temperature)
        if parameters.top_k is not None:
            least = sorted(p)[-parameters.top_k]
            p = [x if x >= least else 0.0 for x in p]
        if parameters.top_p < 1:
            reached, kept = 0.0, set()
            for i in sorted(range(len(p)), key=lambda i: -p[i]):
                if reached < parameters.top_p:
                    kept.add(i)
                    reached += p[i]
            p = [x if i in kept else 0.0 for i, x in enumerate(p)]
        if parameters.min_p > 0:
            least = parameters.min_p * max(p)
            p = [x if x >= least else 0.0 for x in p]
        return normalised(p)

    def processed(
        self, logits: Row, tokens: list[int], prompt: int, parameters: DecodingParameters
    ) -> Row:
        if parameters.processor is not None:
            logits = parameters.processor(tokens, torch.tensor(logits).double()).tolist()
        by, output = parameters.repetition_penalty, tokens[prompt:]
        if by != 1:
            logits = [
                x if i not in tokens else x / by if x > 0 else x * by for i, x in enumerate(logits)
            ]
        if parameters.presence_penalty or parameters.frequency_penalty:
            logits = [
                x
                - parameters.presence_penalty * (i in output)
                - parameters.frequency_penalty * output.count(i)
                for i, x in enumerate(logits)
            ]
        return logits

    # The rule

    def draw(self, weights: Row, number: float) -> int:
        """A token in proportion to weights, the sum of which is 1."""
        reached = 0.0
        for token, weight in enumerate(weights):
            reached += weight
            if number < reached:
                return token
        return max(i for i, weight in enumerate(weights) if weight > 0)

    def rule(
        self, drafts: list[int], p: list[Row], q: list[Row], luck: random.Random
    ) -> tuple[int, list[int]]:
        """How many drafted tokens stay, and the token behind them, in a list."""
        for place, token in enumerate(drafts):
            if not self.accepts(p[place], q[place], token, luck.random()):
                left = self.residual(p[place], q[place], token)
                return place, [self.draw(left, luck.random())]
        return len(drafts), [self.draw(self.bonus(p), luck.random())]

    def accepts(self, p: Row, q: Row, token: int, number: float) -> bool:
        return number * q[token] < p[token]

    def residual(self, p: Row, q: Row, token: int) -> Row:
        left = [max(a - b, 0.0) for a, b in zip(p, q, strict=True)]
        return normalised(left) if any(left) else p

    def bonus(self, p: list[Row]) -> Row:
        return p[-1]

    # The rest of the protocol

    def counts(self) -> SpeculativeCounts:
        return SpeculativeCounts(self.passes, self.drafted, self.accepted)

    def generate_batch(
        self, prompts: Sequence[Tokens], parameters: DecodingParameters, seeds: Sequence[int]
    ) -> Sequence[Tokens]:
        self.reset()
        outputs = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            self.begin(prompt)
            outputs.append(self.output(prompt, parameters, self.generator(seed)))
        return outputs

    def generate_from_candidates(
        self,
        prompt: Tokens,
        parameters: DecodingParameters,
        propose: Callable[[Tokens], Sequence[Tokens]],
        seed: int,
    ) -> Tokens:
        """The target's own token at each place, as long as a way has it."""
        luck, output = random.Random(seed), list[int]()
        while True:
            new: list[int] = []
            row = [*prompt, *output]
            ways = [[*way] for way in propose(row)]
            while True:
                at = [*row, *new]
                p = self.way_chances(at, row, ways, prompt, parameters)
                new.append(
                    self.way_token(p, [w[len(new)] for w in ways if len(w) > len(new)], luck)
                )
                ways = self.going_on(ways, new)
                if not ways:
                    break
            if self.extend(prompt, output, new, parameters, 0):
                return output

    def way_chances(
        self,
        at: list[int],
        row: list[int],
        ways: list[list[int]],
        prompt: Tokens,
        parameters: DecodingParameters,
    ) -> Row:
        logits: Row = self.target(at)[-1].tolist()
        return self.distribution(logits, at, len(prompt), parameters)

    def way_token(self, p: Row, offered: list[int], luck: random.Random) -> int:
        return self.draw(p, luck.random())

    def going_on(self, ways: list[list[int]], new: list[int]) -> list[list[int]]:
        return [way for way in ways if way[: len(new)] == new]


# Sound in other ways


class MatchesASample(SmallDecoder):
    """Lossless without q: the target's own token is drawn, and a draft that is not it ends it."""

    capabilities = SmallDecoder.capabilities - {"rejection"}

    def rule(
        self, drafts: list[int], p: list[Row], q: list[Row], luck: random.Random
    ) -> tuple[int, list[int]]:
        for place, row in enumerate(p):
            token = self.draw(row, luck.random())
            if place == len(drafts) or drafts[place] != token:
                return place, [token]
        raise AssertionError("a row is left behind the last draft")


class CachedDecoder(SmallDecoder):
    """Through caches; a prompt is computed in a pass of its own, and the lookahead changes."""

    capabilities = (SmallDecoder.capabilities - {"lookahead", "candidates", "batches"}) | {"caches"}

    def begin(self, prompt: Tokens) -> None:
        self.models = {"target": self.target, "draft": self.draft}
        self.caches = {name: model.new_cache() for name, model in self.models.items()}
        self.held: dict[str, list[int]] = {"target": [], "draft": []}
        self.turn = 0

    def ahead(self) -> int:
        self.turn += 1
        return 0 if self.turn == 1 else (self.lookahead, 0, 1)[self.turn % 3]

    def asked(self, name: str, tokens: list[int], count: int) -> list[Row]:
        """The last ``count`` rows of logits behind tokens."""
        held = self.held[name]
        shared = 0
        while shared < min(len(held), len(tokens) - count) and held[shared] == tokens[shared]:
            shared += 1
        kept = self.kept(name, shared)
        self.caches[name].crop(kept)
        rows: list[Row] = self.models[name].extend(self.caches[name], tokens[kept:]).tolist()
        self.held[name] = [*tokens]
        return rows[-count:]

    def kept(self, name: str, shared: int) -> int:
        return shared

    def draft_logits(self, tokens: list[int]) -> Row:
        return self.asked("draft", tokens, 1)[-1]

    def target_logits(self, row: list[int], drafts: list[int]) -> list[Row]:
        return self.asked("target", [*row, *drafts], len(drafts) + 1)


class CachedWithLookahead(CachedDecoder):
    """As above, with the lookahead that was asked for."""

    capabilities = CachedDecoder.capabilities | {"lookahead"}

    def ahead(self) -> int:
        return self.lookahead


class RoundsItsDraft(SmallDecoder):
    """A draft in bfloat16 whose rounded distribution is what is drawn from and what is told."""

    capabilities = SmallDecoder.capabilities - {"rejection", "seeds"}

    def draft_logits(self, tokens: list[int]) -> Row:
        logits: Row = self.draft(tokens)[-1].bfloat16().tolist()
        return logits


PREFIXES = {"batches", "processors", "repetition-penalty", "stop-tokens", "counts", "lookahead"}


class KeepsPrefixes(SmallDecoder):
    """The target's logits behind every beginning of every row are kept, and never asked again."""

    capabilities = frozenset(PREFIXES)

    def __init__(self, target: LanguageModel, draft: LanguageModel, lookahead: int) -> None:
        super().__init__(target, draft, lookahead)
        self.kept: dict[tuple[int, ...], Row] = {}

    def target_logits(self, row: list[int], drafts: list[int]) -> list[Row]:
        tokens = [*row, *drafts]
        keys = [self.key(tokens[:end]) for end in range(1, len(tokens) + 1)]
        if not all(key in self.kept for key in keys):
            self.keep(keys, self.target(tokens).tolist())
        return [[*self.kept[key]] for key in keys[len(row) - 1 :]]

    def key(self, beginning: list[int]) -> tuple[int, ...]:
        return tuple(beginning)

    def keep(self, keys: Sequence[tuple[int, ...]], logits: list[Row]) -> None:
        self.kept.update(zip(keys, logits, strict=True))


class TakesTurns(SmallDecoder):
    """Rows of a batch take turns, pass by pass. Each has the cache of the row that begins most like
    it, or, where that is taken, one that is filled with its tokens."""

    capabilities = frozenset(PREFIXES)

    def __init__(self, target: LanguageModel, draft: LanguageModel, lookahead: int) -> None:
        super().__init__(target, draft, lookahead)
        self.caches: list[tuple[list[int], Any]] = []  # of earlier rows: tokens, and their cache

    def generate(self, prompt: Tokens, parameters: DecodingParameters, seed: int) -> Tokens:
        return self.generate_batch([prompt], parameters, [seed])[0]

    def generate_batch(
        self, prompts: Sequence[Tokens], parameters: DecodingParameters, seeds: Sequence[int]
    ) -> Sequence[Tokens]:
        self.reset()
        self.rows = [self.found(prompt) for prompt in prompts]
        outputs: list[list[int]] = [[] for _ in prompts]
        luck = [self.generator(seed) for seed in seeds]
        active = [*range(len(prompts))]
        while active:
            going = []
            for self.row in active:
                row = self.row
                if not self.step(prompts[row], outputs[row], parameters, luck[row]):
                    going.append(row)
            active = going
        self.caches += self.rows
        return outputs

    def found(self, prompt: Tokens) -> tuple[list[int], Any]:
        """The tokens that a row's cache holds, and the cache."""
        if not self.caches:
            return [], self.target.new_cache()
        best = max(self.caches, key=lambda each: self.shared(each[0], prompt))
        self.caches.remove(best)
        return best

    def shared(self, held: Tokens, tokens: Tokens) -> int:
        pairs = enumerate(zip(held, tokens, strict=False))
        return next((i for i, (a, b) in pairs if a != b), min(len(held), len(tokens)))

    def target_logits(self, row: list[int], drafts: list[int]) -> list[Row]:
        tokens, (held, cache) = [*row, *drafts], self.rows[self.row]
        kept = min(self.shared(held, tokens), len(row) - 1)
        cache.crop(kept)
        logits: list[Row] = self.target.extend(cache, tokens[kept:]).tolist()
        held[:] = self.known(row, drafts)
        return logits[-len(drafts) - 1 :]

    def known(self, row: list[int], drafts: list[int]) -> list[int]:
        """The tokens that a cache is said to hold after a pass."""
        return [*row, *drafts]


SOUND = [
    SmallDecoder,
    MatchesASample,
    CachedDecoder,
    CachedWithLookahead,
    RoundsItsDraft,
    KeepsPrefixes,
    TakesTurns,
]


# Faults of the rule


class AcceptsAll(SmallDecoder):
    """S01: the uniform number is 0 (vllm-ascend#13730)."""

    def accepts(self, p: Row, q: Row, token: int, number: float) -> bool:
        return p[token] > 0


class OneNumberForAll(SmallDecoder):
    """S01's neighbour: a pass's drafts and its last token share one number."""

    def rule(
        self, drafts: list[int], p: list[Row], q: list[Row], luck: random.Random
    ) -> tuple[int, list[int]]:
        number = luck.random()

        class Fixed(random.Random):
            def random(self) -> float:
                return number

        return super().rule(drafts, p, q, Fixed())


class AcceptsTheLikeliest(SmallDecoder):
    """S02: accepted iff it is the target's argmax (mlxcel#902)."""

    def accepts(self, p: Row, q: Row, token: int, number: float) -> bool:
        return p[token] == max(p)


class MatchesAThrownAwaySample(MatchesASample):
    """S02: compared with a sample, and another one is emitted (mlx-swift-lm#459)."""

    def rule(
        self, drafts: list[int], p: list[Row], q: list[Row], luck: random.Random
    ) -> tuple[int, list[int]]:
        place, _ = super().rule(drafts, p, q, luck)
        return place, [self.draw(p[place], luck.random())]


class AcceptsSeldom(MatchesASample):
    """S02: lossless, but p · q of the drafts are accepted (mlx-lm#1709)."""

    capabilities = SmallDecoder.capabilities


class TakesQAsOne(SmallDecoder):
    """S07: accepted with p(x), resampled with q (vllm#40149)."""

    def accepts(self, p: Row, q: Row, token: int, number: float) -> bool:
        return number < p[token]


class TakesQAsOneHot(TakesQAsOne):
    """S07: lossless, since the residual leaves the token out; too few are accepted."""

    def residual(self, p: Row, q: Row, token: int) -> Row:
        left = [0.0 if i == token else x for i, x in enumerate(p)]
        return normalised(left) if any(left) else p


class InvertsTheRatio(SmallDecoder):
    """Not listed: min(1, q/p)."""

    def accepts(self, p: Row, q: Row, token: int, number: float) -> bool:
        return number * p[token] < q[token] and p[token] > 0


class RatioOfLogs(SmallDecoder):
    """Not listed: log-probabilities divided."""

    def accepts(self, p: Row, q: Row, token: int, number: float) -> bool:
        if not 0 < p[token] < 1:
            return p[token] > 0
        return number < math.log(q[token]) / math.log(p[token])


class LenientRule(SmallDecoder):
    """Not listed: typical acceptance sold as lossless; 1.1 p/q."""

    def accepts(self, p: Row, q: Row, token: int, number: float) -> bool:
        return number * q[token] < 1.1 * p[token]


class HalfTheRatio(SmallDecoder):
    """Not listed: lossless, and half as many drafts are accepted as could be."""

    def accepts(self, p: Row, q: Row, token: int, number: float) -> bool:
        return 2 * number * q[token] < p[token]

    def residual(self, p: Row, q: Row, token: int) -> Row:
        left = [a - min(b, a / 2) for a, b in zip(p, q, strict=True)]
        return normalised(left)


class ResamplesFromTheTarget(SmallDecoder):
    """Not listed: after a rejection, p itself."""

    def residual(self, p: Row, q: Row, token: int) -> Row:
        return p


class ResidualNotClipped(SmallDecoder):
    """The issue's list: |p − q|."""

    def residual(self, p: Row, q: Row, token: int) -> Row:
        left = [abs(a - b) for a, b in zip(p, q, strict=True)]
        return normalised(left) if any(left) else p


class ResidualNotNormalised(SmallDecoder):
    """The issue's list: weights that sum to less than 1."""

    def residual(self, p: Row, q: Row, token: int) -> Row:
        left = [max(a - b, 0.0) for a, b in zip(p, q, strict=True)]
        return left if any(left) else p


class ResidualWithoutTheTokenAlone(SmallDecoder):
    """S07's neighbour: the rejected token is left out of p, though it was drawn from q."""

    def residual(self, p: Row, q: Row, token: int) -> Row:
        left = [0.0 if i == token else x for i, x in enumerate(p)]
        return normalised(left) if any(left) else p


class LastTokenFromTheRowBefore(SmallDecoder):
    """The issue's list: after a full accept, the row of the last drafted token."""

    def bonus(self, p: list[Row]) -> Row:
        return p[max(len(p) - 2, 0)]


class LastTokenIsTheLikeliest(SmallDecoder):
    """Not listed: the token behind the drafts is not drawn."""

    def bonus(self, p: list[Row]) -> Row:
        best = p[-1].index(max(p[-1]))
        return [float(i == best) for i in range(len(p[-1]))]


class VerifiesWithTheNextRow(SmallDecoder):
    """Not listed: the target's rows shifted by one."""

    def rule(
        self, drafts: list[int], p: list[Row], q: list[Row], luck: random.Random
    ) -> tuple[int, list[int]]:
        return super().rule(drafts, p[1:] + p[-1:] if drafts else p, q, luck)


class FirstDraftUnverified(SmallDecoder):
    """S26: only later drafts can be rejected (lattice#243)."""

    def rule(
        self, drafts: list[int], p: list[Row], q: list[Row], luck: random.Random
    ) -> tuple[int, list[int]]:
        if not drafts:
            return super().rule(drafts, p, q, luck)
        accepted, token = super().rule(drafts[1:], p[1:], q[1:], luck)
        return accepted + 1, token


class CountsTheWholeMask(SmallDecoder):
    """S14: accepted drafts behind a rejected one count (vllm#2658)."""

    def rule(
        self, drafts: list[int], p: list[Row], q: list[Row], luck: random.Random
    ) -> tuple[int, list[int]]:
        accepted = sum(
            self.accepts(p[i], q[i], token, luck.random()) for i, token in enumerate(drafts)
        )
        if accepted == len(drafts):
            return accepted, [self.draw(p[-1], luck.random())]
        left = self.residual(p[accepted], q[accepted], drafts[accepted])
        return accepted, [self.draw(left, luck.random())]


class EmitsTheRejectedToken(SmallDecoder):
    """Not listed: an acceptance too many by one."""

    def rule(
        self, drafts: list[int], p: list[Row], q: list[Row], luck: random.Random
    ) -> tuple[int, list[int]]:
        accepted, token = super().rule(drafts, p, q, luck)
        return (accepted, token) if accepted == len(drafts) else (accepted + 1, token)


class NoTokenBehindAFullDraft(SmallDecoder):
    """S22: k tokens where all k are accepted (vllm#4592)."""

    def rule(
        self, drafts: list[int], p: list[Row], q: list[Row], luck: random.Random
    ) -> tuple[int, list[int]]:
        accepted, token = super().rule(drafts, p, q, luck)
        return accepted, [] if drafts and accepted == len(drafts) else token

    def count(self, drafted: int, emitted: int, new: int) -> None:
        super().count(drafted, emitted, new + (new == drafted > 0))


# Faults of q


class DrawsWithAnotherTemperature(SmallDecoder):
    """Q is not what was drawn from: drawn at 1, told after the temperature."""

    def of_draft(
        self, logits: Row, tokens: list[int], prompt: int, parameters: DecodingParameters
    ) -> tuple[Row, Row]:
        plain = replace(parameters, temperature=1.0) if parameters.temperature else parameters
        q = self.distribution(logits, tokens, prompt, parameters)
        return self.distribution(logits, tokens, prompt, plain), q


class DrawsFromRoundedLogits(SmallDecoder):
    """The issue's list: drawn in bfloat16, told in float32."""

    def of_draft(
        self, logits: Row, tokens: list[int], prompt: int, parameters: DecodingParameters
    ) -> tuple[Row, Row]:
        rounded: Row = torch.tensor(logits).bfloat16().tolist()
        drawn = self.distribution(rounded, tokens, prompt, parameters)
        return drawn, self.distribution(logits, tokens, prompt, parameters)


class DrawsFromTopK(SmallDecoder):
    """Q is not what was drawn from: the draft's own top-k."""

    def of_draft(
        self, logits: Row, tokens: list[int], prompt: int, parameters: DecodingParameters
    ) -> tuple[Row, Row]:
        q = self.distribution(logits, tokens, prompt, parameters)
        least = sorted(q)[-4]
        return normalised([x if x >= least else 0.0 for x in q]), q


class TakesTheLikeliestDraft(SmallDecoder):
    """The issue's list: drafts of a beam or argmax, q from the softmax."""

    def of_draft(
        self, logits: Row, tokens: list[int], prompt: int, parameters: DecodingParameters
    ) -> tuple[Row, Row]:
        q = self.distribution(logits, tokens, prompt, parameters)
        best = q.index(max(q))
        return [float(i == best) for i in range(len(q))], q


class ToldTheFirstQ(SmallDecoder):
    """Not listed: the distributions of a pass share one buffer."""

    def propose(
        self,
        row: list[int],
        count: int,
        prompt: int,
        parameters: DecodingParameters,
        luck: random.Random,
    ) -> tuple[list[int], list[Row]]:
        drafts, q = super().propose(row, count, prompt, parameters, luck)
        return drafts, q[-1:] * len(q)


# Faults of parameters


class TargetWithDefaults(SmallDecoder):
    """S04: drafted tokens are verified at the defaults (vllm#10198, mlc-llm#2940)."""

    def of_target(
        self,
        logits: Row,
        tokens: list[int],
        prompt: int,
        parameters: DecodingParameters,
        is_last: bool,
    ) -> Row:
        if parameters.temperature and not is_last:
            parameters = replace(parameters, temperature=1.0, top_k=None, top_p=1.0, min_p=0.0)
        return super().of_target(logits, tokens, prompt, parameters, is_last)


class ProcessorsOnTheLastTokenAlone(SmallDecoder):
    """S05: penalties, min-p and bans skip drafted tokens (vllm#42744, TensorRT-LLM#17701)."""

    def of_target(
        self,
        logits: Row,
        tokens: list[int],
        prompt: int,
        parameters: DecodingParameters,
        is_last: bool,
    ) -> Row:
        if not is_last:
            parameters = replace(
                parameters,
                min_p=0.0,
                processor=None,
                repetition_penalty=1.0,
                presence_penalty=0.0,
                frequency_penalty=0.0,
            )
        return super().of_target(logits, tokens, prompt, parameters, is_last)


class PenaltiesOfTheBeginning(SmallDecoder):
    """Not listed: every row of a pass knows the tokens before the pass alone."""

    def seen(self, row: list[int], drafts: list[int], place: int) -> list[int]:
        return row


class PenaltiesOfAllDrafts(SmallDecoder):
    """The issue's list: penalties see tokens that are not accepted yet, or never."""

    def seen(self, row: list[int], drafts: list[int], place: int) -> list[int]:
        return [*row, *drafts]


class StateMovedByDrafts(SmallDecoder):
    """S24: a grammar goes on with drafts and is not rolled back (openvino.genai#4081)."""

    def begin(self, prompt: Tokens) -> None:
        self.moved: list[int] = []

    def seen(self, row: list[int], drafts: list[int], place: int) -> list[int]:
        if place == 0:
            self.moved = self.moved or [*row]
            return [*self.moved]
        self.moved.append(drafts[place - 1])
        return [*self.moved]


class FrequencyOfThePrompt(SmallDecoder):
    """Not listed: output penalties count the prompt."""

    def processed(
        self, logits: Row, tokens: list[int], prompt: int, parameters: DecodingParameters
    ) -> Row:
        return super().processed(logits, tokens, 0, parameters)


# Faults of ends and counts


class StopsAtTheEndOfABlock(SmallDecoder):
    """S15: only the last token of a pass is looked at (koboldcpp#1276, transformers#47912)."""

    def extend(
        self,
        prompt: Tokens,
        output: list[int],
        new: list[int],
        parameters: DecodingParameters,
        drafted: int,
    ) -> bool:
        output += new
        self.count(drafted, len(new), len(new))
        return self.ends(prompt, output, parameters)


class StopsBehindTheBlock(SmallDecoder):
    """S15: a stop is seen, and the rest of the block is emitted."""

    def extend(
        self,
        prompt: Tokens,
        output: list[int],
        new: list[int],
        parameters: DecodingParameters,
        drafted: int,
    ) -> bool:
        longer = [*output]
        ended = super().extend(prompt, longer, new, parameters, drafted)
        output += new
        return ended


class DraftsBeyondTheEnd(SmallDecoder):
    """Not listed: no room is left for the drafts of the last pass, and nobody cuts them."""

    def room(self, parameters: DecodingParameters, output: list[int]) -> int:
        return self.lookahead

    def ends(self, prompt: Tokens, output: list[int], parameters: DecodingParameters) -> bool:
        spoilt = replace(parameters, max_new_tokens=10**9)
        return super().ends(prompt, output, spoilt)

    def extend(
        self,
        prompt: Tokens,
        output: list[int],
        new: list[int],
        parameters: DecodingParameters,
        drafted: int,
    ) -> bool:
        ended = super().extend(prompt, output, new, parameters, drafted)
        return ended or len(output) >= parameters.max_new_tokens


class StopSequenceOfABlock(SmallDecoder):
    """Not listed: a run that begins in one pass and ends in the next is missed."""

    def extend(
        self,
        prompt: Tokens,
        output: list[int],
        new: list[int],
        parameters: DecodingParameters,
        drafted: int,
    ) -> bool:
        self.block = len(output)
        return super().extend(prompt, output, new, parameters, drafted)

    def ends(self, prompt: Tokens, output: list[int], parameters: DecodingParameters) -> bool:
        runs = parameters.stop_sequences
        kept = tuple(run for run in runs if len(run) <= len(output) - self.block)
        return super().ends(prompt, output, replace(parameters, stop_sequences=kept))


class StopSequenceOfThePrompt(SmallDecoder):
    """Not listed: the prompt's last token and the first new one make up a run."""

    def ends(self, prompt: Tokens, output: list[int], parameters: DecodingParameters) -> bool:
        row = [*prompt, *output]
        return super().ends(prompt, output, parameters) or any(
            tuple(row[-len(run) :]) == run for run in parameters.stop_sequences
        )


class CountsTheLastToken(SmallDecoder):
    """S20: accepted has the token behind the drafts (sglang#11572)."""

    def count(self, drafted: int, emitted: int, new: int) -> None:
        super().count(drafted, emitted, new + 1)


class CountsBeyondAStop(SmallDecoder):
    """S20: all accepted drafts count, also those behind a stop (vllm#56101)."""

    def count(self, drafted: int, emitted: int, new: int) -> None:
        super().count(drafted, new - 1, new)


class CountsPassesAsDrafts(SmallDecoder):
    """S20: drafted counts passes, so that the rate exceeds 1."""

    def count(self, drafted: int, emitted: int, new: int) -> None:
        super().count(min(drafted, 1), emitted, new)


class CountsRejectedDrafts(SmallDecoder):
    """S20's neighbour: every drafted token is accepted."""

    def count(self, drafted: int, emitted: int, new: int) -> None:
        super().count(drafted, emitted, new)
        self.accepted += drafted - (new - 1)


class CountsDraftPasses(SmallDecoder):
    """Not listed: the draft's passes are counted as the target's."""

    def count(self, drafted: int, emitted: int, new: int) -> None:
        super().count(drafted, emitted, new)
        self.passes += drafted


class StopsDrafting(SmallDecoder):
    """S23: one token is drafted, whatever was asked for: all are accepted (llama.cpp#3919)."""

    def ahead(self) -> int:
        return 1


# Faults of caches


class DraftLacksTheLastToken(CachedWithLookahead):
    """S10: after a full accept, the draft's cache misses the last drafted token (vllm#9730)."""

    def begin(self, prompt: Tokens) -> None:
        super().begin(prompt)
        self.full: int | None = None

    def rule(
        self, drafts: list[int], p: list[Row], q: list[Row], luck: random.Random
    ) -> tuple[int, list[int]]:
        accepted, token = super().rule(drafts, p, q, luck)
        self.full = len(self.held["draft"]) if drafts and accepted == len(drafts) else None
        return accepted, token

    def draft_logits(self, tokens: list[int]) -> Row:
        if self.full is None:
            return super().draft_logits(tokens)
        missed = self.full
        return self.asked("draft", tokens[:missed] + tokens[missed + 1 :], 1)[-1]


class KeepsOneTooFew(CachedWithLookahead):
    """S11: a cache that is cropped by one too many, and goes on (mlxcel#994)."""

    name = "draft"

    def asked(self, name: str, tokens: list[int], count: int) -> list[Row]:
        held = self.held[name]
        rejected = held[: len(tokens)] != tokens[: len(held)]
        if name == self.name and rejected and len(tokens) > count + 1:
            shared = next(i for i, (a, b) in enumerate(zip(held, tokens, strict=False)) if a != b)
            self.caches[name].crop(max(min(shared, len(tokens) - count) - 1, 0))
            new = tokens[min(shared, len(tokens) - count) :]
            rows: list[Row] = self.models[name].extend(self.caches[name], new).tolist()
            self.held[name] = [*self.caches[name].tokens]  # type: ignore[attr-defined]
            return rows[-count:]
        return super().asked(name, tokens, count)


class TargetKeepsOneTooFew(KeepsOneTooFew):
    """S11 in the target: seen in the tokens, too."""

    name = "target"


class KeepsRejectedDrafts(CachedWithLookahead):
    """Not listed: nothing is cropped; what is new is added behind rejected tokens."""

    def asked(self, name: str, tokens: list[int], count: int) -> list[Row]:
        shared = 0
        held = self.held[name]
        while shared < min(len(held), len(tokens) - count) and held[shared] == tokens[shared]:
            shared += 1
        rows: list[Row] = self.models[name].extend(self.caches[name], tokens[shared:]).tolist()
        self.held[name] = [*tokens]
        return rows[-count:]


class DraftStaleWithoutDrafts(CachedDecoder):
    """S21: a pass without drafts tells the draft nothing of its token (vllm-metal#716)."""

    def begin(self, prompt: Tokens) -> None:
        super().begin(prompt)
        self.skipped: list[int] = []

    def target_logits(self, row: list[int], drafts: list[int]) -> list[Row]:
        if not drafts and self.turn > 1:
            self.skipped.append(len(row))
        return super().target_logits(row, drafts)

    def draft_logits(self, tokens: list[int]) -> Row:
        known = [token for place, token in enumerate(tokens) if place not in self.skipped]
        return self.asked("draft", known, 1)[-1]


# Faults of state, seeds and rows


class KeepsAnEarlierPrompt(SmallDecoder):
    """Not listed: logits are remembered by length."""

    def __init__(self, target: LanguageModel, draft: LanguageModel, lookahead: int) -> None:
        super().__init__(target, draft, lookahead)
        self.known: dict[int, Row] = {}

    def verified(
        self, row: list[int], drafts: list[int], prompt: int, parameters: DecodingParameters
    ) -> list[Row]:
        first, *others = super().verified(row, drafts, prompt, parameters)
        return [self.known.setdefault(len(row), first), *others]


class OneGeneratorForAll(SmallDecoder):
    """Not listed: seeds begin where another output ended."""

    luck = random.Random(0)

    def generator(self, seed: int) -> random.Random:
        return self.luck


class BatchWithOneSeed(SmallDecoder):
    """Not listed: rows of a batch share the first row's numbers."""

    def generate_batch(
        self, prompts: Sequence[Tokens], parameters: DecodingParameters, seeds: Sequence[int]
    ) -> Sequence[Tokens]:
        return super().generate_batch(prompts, parameters, [seeds[0]] * len(seeds))


class RowsOfTheFirst(SmallDecoder):
    """S27's kind: the number of accepted tokens of the first row is taken for all."""

    def generate_batch(
        self, prompts: Sequence[Tokens], parameters: DecodingParameters, seeds: Sequence[int]
    ) -> Sequence[Tokens]:
        self.script: list[int] | None = None
        return super().generate_batch(prompts, parameters, seeds)

    def output(
        self, prompt: Tokens, parameters: DecodingParameters, luck: random.Random
    ) -> list[int]:
        self.place, self.taken = 0, list[int]()
        found = super().output(prompt, parameters, luck)
        if getattr(self, "script", 0) is None:
            self.script = self.taken
        return found

    def rule(
        self, drafts: list[int], p: list[Row], q: list[Row], luck: random.Random
    ) -> tuple[int, list[int]]:
        accepted, token = super().rule(drafts, p, q, luck)
        self.taken.append(accepted)
        script = getattr(self, "script", None)
        if script and self.place < len(script):
            accepted = min(script[self.place], len(drafts))
        self.place += 1
        return accepted, token


class EndedRowsGoOn(SmallDecoder):
    """Not listed: a row that has ended is filled up while others run."""

    def generate_batch(
        self, prompts: Sequence[Tokens], parameters: DecodingParameters, seeds: Sequence[int]
    ) -> Sequence[Tokens]:
        rows = [[*row] for row in super().generate_batch(prompts, parameters, seeds)]
        longest = max(map(len, rows))
        return [row + [0] * (longest - len(row)) for row in rows]


# Faults of prefixes that are kept


class KeepsWhatAProcessorMade(KeepsPrefixes):
    """The distributions behind a prompt are kept, with the processor of the batch before."""

    def __init__(self, target: LanguageModel, draft: LanguageModel, lookahead: int) -> None:
        super().__init__(target, draft, lookahead)
        self.made: dict[tuple[int, ...], Row] = {}

    def of_target(
        self,
        logits: Row,
        tokens: list[int],
        prompt: int,
        parameters: DecodingParameters,
        is_last: bool,
    ) -> Row:
        p = super().of_target(logits, tokens, prompt, parameters, is_last)
        return self.made.setdefault(tuple(tokens), p) if len(tokens) == prompt else p


class KeepsBlocksByTheirOwnTokens(KeepsPrefixes):
    """The key of a block of four has not what came before it (a hash without its parent's)."""

    def key(self, beginning: list[int]) -> tuple[int, ...]:
        start = (len(beginning) - 1) // 4 * 4
        return (start, *beginning[start:])


class KeepsTheFirstTokens(KeepsPrefixes):
    """Keys are cut: rows that begin alike for long are one row."""

    def key(self, beginning: list[int]) -> tuple[int, ...]:
        return (len(beginning), *beginning[:6])


class ProcessorSeesWhatWasNotKept(TakesTurns):
    """Where a prefix was kept, penalties and processors begin behind it."""

    def found(self, prompt: Tokens) -> tuple[list[int], Any]:
        held, cache = super().found(prompt)
        self.skipped = getattr(self, "skipped", {})
        self.skipped[len(prompt)] = min(self.shared(held, prompt), len(prompt) - 1)
        return held, cache

    def processed(
        self, logits: Row, tokens: list[int], prompt: int, parameters: DecodingParameters
    ) -> Row:
        skipped = self.skipped[prompt]
        return super().processed(logits, tokens[skipped:], prompt - skipped, parameters)


class ProcessorOfAnotherRow(TakesTurns):
    """Processors see the tokens of the row that was decoded before, where both are as long."""

    def seen(self, row: list[int], drafts: list[int], place: int) -> list[int]:
        tokens = super().seen(row, drafts, place)
        self.before = getattr(self, "before", {})
        other: list[int] = self.before.get(len(tokens), tokens)
        self.before[len(tokens)] = tokens
        return other


class HoldsRejectedDrafts(TakesTurns):
    """A cache is said to hold what was emitted, and holds rejected drafts: the next batch's fault,
    since a row itself goes on from what it computed."""

    def generate_batch(
        self, prompts: Sequence[Tokens], parameters: DecodingParameters, seeds: Sequence[int]
    ) -> Sequence[Tokens]:
        outputs = super().generate_batch(prompts, parameters, seeds)
        for (held, cache), prompt, output in zip(self.rows, prompts, outputs, strict=True):
            held[:] = [*prompt, *output][: len(cache)]
        return outputs


class HoldsTheLastToken(TakesTurns):
    """The last emitted token is said to be in the cache; nobody computed it."""

    def found(self, prompt: Tokens) -> tuple[list[int], Any]:
        held, cache = super().found(prompt)
        shared = self.shared(held, prompt)
        if held and shared < len(prompt) - 1:
            cache.crop(shared)
            held[:] = prompt[: shared + 1]
        return held, cache

    def target_logits(self, row: list[int], drafts: list[int]) -> list[Row]:
        tokens, (held, cache) = [*row, *drafts], self.rows[self.row]
        kept = min(self.shared(held, tokens), len(row) - 1)
        cache.crop(min(kept, len(cache)))
        logits: list[Row] = self.target.extend(cache, tokens[kept:]).tolist()
        held[:] = tokens
        return logits[-len(drafts) - 1 :]


class RowsWriteToOneCache(TakesTurns):
    """Rows with the same prompt share a cache, and each goes on from what the other wrote."""

    def generate_batch(
        self, prompts: Sequence[Tokens], parameters: DecodingParameters, seeds: Sequence[int]
    ) -> Sequence[Tokens]:
        self.sharing: dict[tuple[int, ...], tuple[list[int], Any]] = {}
        return super().generate_batch(prompts, parameters, seeds)

    def found(self, prompt: Tokens) -> tuple[list[int], Any]:
        return self.sharing.setdefault(tuple(prompt[:4]), super().found(prompt))

    def target_logits(self, row: list[int], drafts: list[int]) -> list[Row]:
        tokens, (_, cache) = [*row, *drafts], self.rows[self.row]
        kept = min(len(cache), len(row) - 1)
        cache.crop(kept)
        logits: list[Row] = self.target.extend(cache, tokens[kept:]).tolist()
        return logits[-len(drafts) - 1 :]


# Faults of candidates


class SiblingsSeen(SmallDecoder):
    """Trees: a node sees the first way's tokens too."""

    def way_chances(
        self,
        at: list[int],
        row: list[int],
        ways: list[list[int]],
        prompt: Tokens,
        parameters: DecodingParameters,
    ) -> Row:
        depth = len(at) - len(row)
        other = [*row, *ways[0][:1], *at[len(row) :]] if depth else at
        return super().way_chances(other, row, ways, prompt, parameters)


class TakesTheLongestWay(SmallDecoder):
    """Trees: a way that is right at first is taken as a whole."""

    def way_token(self, p: Row, offered: list[int], luck: random.Random) -> int:
        token = super().way_token(p, offered, luck)
        return token if p[token] < 1 or token in offered or len(offered) != 1 else offered[0]


class AcceptsOfferedTokens(SmallDecoder):
    """Trees: each offered token gets its own try with p(x), with nothing taken out between."""

    def way_token(self, p: Row, offered: list[int], luck: random.Random) -> int:
        for token in dict.fromkeys(offered):
            if luck.random() < p[token]:
                return token
        left = [0.0 if i in offered else x for i, x in enumerate(p)]
        return self.draw(normalised(left) if any(left) else p, luck.random())


@dataclass(frozen=True)
class SpeculativeMutant:
    fault: type[SmallDecoder]
    broken: str


DRAWN = "test_drawn_tokens_are_the_targets"
GREEDY = "test_greedy_output_is_the_targets"
LENGTH = "test_an_output_has_the_length_that_was_asked_for"
STOP = "test_nothing_follows_a_stop_token"
RUN = "test_nothing_follows_a_stop_sequence"
COUNTS = "test_counts_add_up"
WASTED = "test_no_pass_is_wasted"
CACHES = "test_caches_hold_emitted_tokens_alone"
RATE = "test_drafts_are_accepted_as_often_as_they_can_be"
SEED = "test_a_seed_gives_one_output"
ROWS = "test_rows_of_a_batch_are_decoded_as_alone"
COLD = "test_drawn_tokens_follow_the_temperature"
PROCESSOR = "test_a_processor_sees_the_tokens_before_each_token"
ALIKE = "test_rows_that_begin_alike_are_decoded_as_alone"
OUTPUT = "test_penalties_count_emitted_tokens_alone"
REPEATED = "test_repetition_counts_emitted_tokens_alone"
MUTANTS = [
    SpeculativeMutant(AcceptsAll, DRAWN),
    SpeculativeMutant(AcceptsAll, RATE),
    SpeculativeMutant(OneNumberForAll, DRAWN),
    SpeculativeMutant(AcceptsTheLikeliest, DRAWN),
    SpeculativeMutant(MatchesAThrownAwaySample, DRAWN),
    SpeculativeMutant(AcceptsSeldom, RATE),
    SpeculativeMutant(TakesQAsOne, DRAWN),
    SpeculativeMutant(TakesQAsOneHot, RATE),
    SpeculativeMutant(InvertsTheRatio, DRAWN),
    SpeculativeMutant(RatioOfLogs, DRAWN),
    SpeculativeMutant(LenientRule, DRAWN),
    SpeculativeMutant(HalfTheRatio, RATE),
    SpeculativeMutant(ResamplesFromTheTarget, DRAWN),
    SpeculativeMutant(ResidualNotClipped, DRAWN),
    SpeculativeMutant(ResidualNotNormalised, DRAWN),
    SpeculativeMutant(ResidualWithoutTheTokenAlone, DRAWN),
    SpeculativeMutant(LastTokenFromTheRowBefore, DRAWN),
    SpeculativeMutant(LastTokenFromTheRowBefore, GREEDY),
    SpeculativeMutant(LastTokenIsTheLikeliest, DRAWN),
    SpeculativeMutant(VerifiesWithTheNextRow, DRAWN),
    SpeculativeMutant(VerifiesWithTheNextRow, GREEDY),
    SpeculativeMutant(FirstDraftUnverified, GREEDY),
    SpeculativeMutant(FirstDraftUnverified, DRAWN),
    SpeculativeMutant(CountsTheWholeMask, GREEDY),
    SpeculativeMutant(EmitsTheRejectedToken, GREEDY),
    SpeculativeMutant(NoTokenBehindAFullDraft, WASTED),
    SpeculativeMutant(NoTokenBehindAFullDraft, COUNTS),
    SpeculativeMutant(DrawsWithAnotherTemperature, COLD),
    SpeculativeMutant(DrawsFromRoundedLogits, DRAWN),
    SpeculativeMutant(DrawsFromTopK, DRAWN),
    SpeculativeMutant(TakesTheLikeliestDraft, DRAWN),
    SpeculativeMutant(ToldTheFirstQ, DRAWN),
    SpeculativeMutant(TargetWithDefaults, COLD),
    SpeculativeMutant(TargetWithDefaults, "test_drawn_tokens_follow_top_k"),
    SpeculativeMutant(TargetWithDefaults, "test_drawn_tokens_follow_top_p"),
    SpeculativeMutant(TargetWithDefaults, "test_drawn_tokens_follow_min_p"),
    SpeculativeMutant(ProcessorsOnTheLastTokenAlone, "test_drawn_tokens_follow_min_p"),
    SpeculativeMutant(ProcessorsOnTheLastTokenAlone, "test_drawn_tokens_follow_the_processor"),
    SpeculativeMutant(ProcessorsOnTheLastTokenAlone, PROCESSOR),
    SpeculativeMutant(ProcessorsOnTheLastTokenAlone, OUTPUT),
    SpeculativeMutant(ProcessorsOnTheLastTokenAlone, REPEATED),
    SpeculativeMutant(PenaltiesOfTheBeginning, OUTPUT),
    SpeculativeMutant(PenaltiesOfTheBeginning, REPEATED),
    SpeculativeMutant(PenaltiesOfTheBeginning, PROCESSOR),
    SpeculativeMutant(PenaltiesOfAllDrafts, OUTPUT),
    SpeculativeMutant(PenaltiesOfAllDrafts, REPEATED),
    SpeculativeMutant(PenaltiesOfAllDrafts, "test_drawn_tokens_follow_the_processor"),
    SpeculativeMutant(StateMovedByDrafts, PROCESSOR),
    SpeculativeMutant(FrequencyOfThePrompt, OUTPUT),
    SpeculativeMutant(StopsAtTheEndOfABlock, STOP),
    SpeculativeMutant(StopsBehindTheBlock, STOP),
    SpeculativeMutant(StopsBehindTheBlock, RUN),
    SpeculativeMutant(DraftsBeyondTheEnd, LENGTH),
    SpeculativeMutant(StopSequenceOfABlock, RUN),
    SpeculativeMutant(StopSequenceOfThePrompt, RUN),
    SpeculativeMutant(CountsTheLastToken, COUNTS),
    SpeculativeMutant(CountsBeyondAStop, COUNTS),
    SpeculativeMutant(CountsPassesAsDrafts, COUNTS),
    SpeculativeMutant(CountsRejectedDrafts, COUNTS),
    SpeculativeMutant(CountsDraftPasses, COUNTS),
    SpeculativeMutant(StopsDrafting, WASTED),
    SpeculativeMutant(DraftLacksTheLastToken, CACHES),
    SpeculativeMutant(DraftLacksTheLastToken, WASTED),
    SpeculativeMutant(KeepsOneTooFew, CACHES),
    SpeculativeMutant(TargetKeepsOneTooFew, CACHES),
    SpeculativeMutant(TargetKeepsOneTooFew, GREEDY),
    SpeculativeMutant(KeepsRejectedDrafts, CACHES),
    SpeculativeMutant(KeepsRejectedDrafts, GREEDY),
    SpeculativeMutant(DraftStaleWithoutDrafts, CACHES),
    SpeculativeMutant(KeepsAnEarlierPrompt, "test_one_output_leaves_no_trace_in_the_next"),
    SpeculativeMutant(OneGeneratorForAll, SEED),
    SpeculativeMutant(BatchWithOneSeed, SEED),
    SpeculativeMutant(BatchWithOneSeed, DRAWN),
    SpeculativeMutant(RowsOfTheFirst, ROWS),
    SpeculativeMutant(EndedRowsGoOn, ROWS),
    SpeculativeMutant(KeepsWhatAProcessorMade, ALIKE),
    SpeculativeMutant(KeepsBlocksByTheirOwnTokens, ALIKE),
    SpeculativeMutant(KeepsTheFirstTokens, ALIKE),
    SpeculativeMutant(ProcessorSeesWhatWasNotKept, ALIKE),
    SpeculativeMutant(ProcessorOfAnotherRow, ALIKE),
    SpeculativeMutant(HoldsRejectedDrafts, ALIKE),
    SpeculativeMutant(HoldsTheLastToken, ALIKE),
    SpeculativeMutant(RowsWriteToOneCache, ALIKE),
    SpeculativeMutant(SiblingsSeen, "test_candidates_change_no_token"),
    SpeculativeMutant(TakesTheLongestWay, "test_candidates_change_no_token"),
    SpeculativeMutant(
        AcceptsOfferedTokens, "test_drawn_tokens_are_the_targets_whatever_was_proposed"
    ),
]
