"""The second part of `ContinuousBatchingSuite`: prompts whose blocks are equal, or begin alike."""

from __future__ import annotations

from collections.abc import Iterable

from ..base import requires
from .continuous_oracle import VOCABULARY, Oracle
from .continuous_protocol import GenerationParameters
from .continuous_serving import Serving, together
from .continuous_tokens import ContinuousTokenSuite, on_batcher

BEGINNINGS = 30  # so many that a hash of 8 bits gives two of them one value
SHORT = GenerationParameters(4)


class ContinuousPrefixSuite(ContinuousTokenSuite):
    """What `ContinuousBatchingSuite` asks of engines that share blocks, and of all others too."""

    topic = "continuous_batcher"

    @on_batcher()
    async def test_equal_blocks_behind_others_share_nothing(self, serving: Serving) -> None:
        """Keys and values of a token depend on all before it: prompts whose second blocks are equal
        and whose first ones differ get what each gets alone; one after the other, again, at once,
        and where the second block was generated.

        Usual causes: a key of the block's own tokens, or of these and their position; a hash of the
        last tokens alone, or of their sum; a parent's hash of few bits; a block that stays below
        the parent of the first request that computed it.
        """
        size, oracle = serving.limits.block_size, serving.oracle
        first, second, third, tail = (oracle.prompt(size, seed) for seed in range(90, 94))
        beginnings = _beginnings(oracle, size)
        prompts = [[*x, *second, tail[0]] for x in beginnings]
        for prompt in (*prompts, *prompts[:8]):
            await serving.check_prompt(prompt, SHORT)
        places = [[*second, *x, *second, tail[0]] for x in beginnings[:3]]
        for prompt in (*places, [*second, tail[0]], [*second, *second, tail[0]], *places):
            await serving.check_prompt(prompt, SHORT, "with one block in two places")
        for block in (third, first):
            at_once = [[*x, *block, *tail] for x in beginnings[:6]]
            for _ in range(2):
                await together(serving.check_prompt(x, SHORT, "beside others") for x in at_once)
        generated, _ = oracle.tokens([*first, tail[0]], 2 * size)
        for beginning in (first, *beginnings[:3], first):
            await serving.check_prompt([*beginning, tail[0]], GenerationParameters(2 * size))
            prompt = [*beginning, tail[0], *generated]
            await serving.check_prompt(prompt, SHORT, "that holds another one's output")

    @requires("prefixes", "passes")
    @on_batcher()
    async def test_a_known_beginning_is_not_computed_again(self, serving: Serving) -> None:
        """Of a prompt that was served before, and of one that begins like it, only what comes
        behind the last common block is computed. The last token always is: its logits are needed.

        Usual causes: keys that differ at each call, blocks that are forgotten with their request,
        all or nothing.
        """
        size, oracle = serving.limits.block_size, serving.oracle
        for seed, blocks in enumerate((1, 2, 3)):
            known, other = oracle.prompt(blocks * size, 80 + seed), oracle.prompt(size, 70)
            other[0] = _other(1)  # begins neither as that which was served, nor as the next
            await serving.check_prompt([*known, 1], SHORT)
            for rest in ([1], [3], [*other, 1]):
                with oracle.watched(lambda: None) as passes:
                    await serving.check_prompt([*known, *rest], GenerationParameters(1))
                assert 0 < sum(passes) <= len(rest), (
                    f"{sum(passes)} tokens were computed of a prompt of {len(known) + len(rest)} "
                    f"whose first {len(known)} fill known blocks of {size}"
                )


def _beginnings(oracle: Oracle, size: int) -> list[list[int]]:
    """First blocks of which each has something in common with another one, without equal ones."""
    plain = oracle.prompt(size, 90)
    changed = [[_other(plain[0]), *plain[1:]], [*plain[:-1], _other(plain[-1])], plain[::-1]]
    joined = [[1, 12, *plain][:size], [11, 2, *plain][:size]]  # "112" as text
    drawn = (oracle.prompt(size, seed) for seed in range(100, 100 + BEGINNINGS))
    return _different([plain, *changed, *joined, *drawn])


def _other(token: int) -> int:
    return (token + 1) % VOCABULARY


def _different(blocks: Iterable[list[int]]) -> list[list[int]]:
    return [list(block) for block in dict.fromkeys(map(tuple, blocks))]
