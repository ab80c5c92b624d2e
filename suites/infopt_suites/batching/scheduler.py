"""SchedulerSuite: does a continuous batcher's scheduler keep its budgets, and serve everybody?"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from hypothesis import strategies as st

from ..base import Suite, requires
from ..machines import run_machine
from ..properties import for_all, tried
from .scheduler_machine import SchedulerMachine
from .scheduler_protocol import MakeScheduler, NewRequest, Policy, SchedulerLimits
from .scheduler_trial import Trial

STOP = 7
CROWDED = {"num_blocks": 5, "size": 2, "tokens": 4}  # limits, of three requests at a time


@dataclass(frozen=True)
class Load:
    """Limits, and requests of (prompt, new) tokens that are all there at the start."""

    limits: SchedulerLimits
    requests: tuple[tuple[int, int], ...]


on_loads = tried("make_scheduler")  # a property of a `Trial` without requests, and a `Load`
on_limits = tried("make_scheduler", by="_hold_within")  # of a `Trial` without requests


class SchedulerSuite(Suite):
    """Properties of scheduling by iteration: who computes how many tokens in which step.

    Give a fixture ``make_scheduler``: a `scheduler_protocol.MakeScheduler`. Claim "fcfs", "skip" or
    both, as the scheduler offers. A waiting request has to begin within ``patience`` steps, however
    many others come. ``examples`` sequences of operations are tried, of ``steps`` each.
    """

    topic = "scheduler"
    fixture = "make_scheduler"
    fixture_returns = "a callable: SchedulerLimits -> scheduler"
    offers = {  # noqa: RUF012  # read only
        "chunked": "prompts are computed in parts, beside the tokens of those that decode",
        "preemption": "who loses its blocks is begun again before those that have not run",
        "fcfs": "nobody passes a request that waits for room",
        "skip": "what fits passes a request that waits for room",
        "stop": "ends a request with one of its stop tokens",
        "blocks": "block_table(request_id): the blocks of a running request",
        "pins": "num_pins: cached beginnings that are kept for requests",
    }
    patience: ClassVar[int] = 100
    examples: ClassVar[int] = 40
    steps: ClassVar[int] = 25

    @on_loads()
    def test_every_request_ends_with_all_its_tokens(self, trial: Trial, load: Load) -> None:
        """Under any load, in a bounded number of steps; each once, and all is free then.

        Usual causes: no step can be made as nobody gets a block, requests that preempt one another
        in turn, a preempted request that stays in the list of those that run, tokens counted as
        computed whose blocks are gone.
        """
        for prompt, new in load.requests:
            trial.add(prompt, new)
        trial.drain()
        for request_id, (_, new) in enumerate(load.requests):
            tokens = trial.ended[request_id] or []
            assert len(tokens) == new, f"request {request_id} got {len(tokens)} of {new} tokens"

    def test_what_fits_runs_together(self, make_scheduler: MakeScheduler) -> None:
        """Where there is room in every budget, all are begun in the first step, and each computes
        in every step; a scheduler of one request at a time is safe, and of no use.

        Usual causes: one admission a step, a budget that counts what a request may come to need
        beyond its length, whole sequences counted against the tokens of a step.
        """
        for policy in self._policies:
            for count in range(1, 5):
                limits = self._limits(
                    policy, num_blocks=6 * count, num_seqs=count, tokens=6 * count
                )
                trial = self._trial(make_scheduler, limits)
                requests = [trial.add(3, 3) for _ in range(count)]
                for index in range(3):
                    step = trial.step()
                    assert sorted(step.num_tokens) == requests, (
                        f"step {index} of {count} requests, with room for all, computes "
                        f"{dict(step.num_tokens)}"
                    )
                trial.check_idle()

    def test_requests_that_outgrow_the_memory_end(self, make_scheduler: MakeScheduler) -> None:
        """Two that fit with their prompts, and not with what they generate.

        Usual causes: admission that looks at the prompt alone where nobody is ever preempted, the
        only one that runs is preempted for itself, a victim that keeps its blocks.
        """
        for policy in self._policies:
            for size in (1, 2, 3):
                for count in (2, 3):
                    limits = self._limits(policy, 4, size, num_seqs=count, tokens=4 * size)
                    trial = self._trial(make_scheduler, limits)
                    for _ in range(count):
                        trial.add(size, 3 * size)
                    trial.drain()

    def test_what_could_never_run_is_refused(self, make_scheduler: MakeScheduler) -> None:
        """At once, with an error, and what just fits is not. The last token of all is sampled and
        not computed: whether a block is counted for it is the scheduler's choice.

        Usual causes: no check, so that it waits for ever and everybody behind it; a check of the
        prompt alone; a block kept in reserve that nobody ever gets.
        """
        for policy in self._policies:
            for size in (1, 3):
                limits = self._limits(policy, 4, size, num_seqs=2, tokens=5 * size)
                trial = self._trial(make_scheduler, limits)
                most = limits.num_tokens
                for prompt in (1, size, most - 1):
                    trial.add(prompt, most - prompt)
                for prompt, new in ((most + 1, 1), (most, 2), (1, most + 1), (3 * most, most)):
                    request = NewRequest(900, tuple(range(prompt)), new)
                    trial.must_refuse(request, f"{prompt} + {new} tokens")
                trial.step()
                trial.must_refuse(NewRequest(0, (1,), 1), "while its id is in use")
                trial.drain()

    @on_limits(**CROWDED, each={"before": range(9), "in_flight": (False, True), "victim": range(4)})
    def test_an_abort_frees_at_once_and_harms_nobody(
        self, trial: Trial, before: int, in_flight: bool, victim: int
    ) -> None:
        """Whether the request waits, computes its prompt, decodes or was preempted, between steps
        or in one; aborting an unknown or an ended one changes nothing.

        Usual causes: blocks, places or pins that are given back by those alone that end by
        themselves, a victim that is left in one of the lists.
        """
        self._crowd(trial, before)
        if in_flight:
            trial.step(aborted={victim} & trial.live.keys())
        else:
            self._abort(trial, victim)
        self._abort(trial, 99)
        trial.drain()
        self._abort(trial, victim)

    @on_limits(**CROWDED, each={"before": range(6)})
    def test_an_abort_of_all_leaves_nothing(self, trial: Trial, before: int) -> None:
        """And the scheduler serves the next ones as if nothing had been.

        Usual causes: a budget that is given back only when a request ends, a step in flight that
        is entered for requests that are gone.
        """
        self._crowd(trial, before)
        trial.step(aborted=sorted(trial.live))
        trial.check_idle()
        again = [trial.add(2, 2) for _ in range(3)]
        trial.drain()
        for request_id in again:
            tokens = trial.ended[request_id]
            assert tokens == [1, 1], f"request {request_id}, after an abort of all, got {tokens}"

    def test_any_interleaving_keeps_every_budget(self, make_scheduler: MakeScheduler) -> None:
        """Adding, computing and aborting in any order: each request is in exactly one state, no
        budget is exceeded, no block is lost or has two owners, and all end.

        Usual causes: all of the above, together.
        """
        for policy in self._policies:
            for size, tokens in ((1, 4), (3, 7)):
                limits = self._limits(policy, 5, size, num_seqs=3, tokens=tokens)
                members = {
                    "make_trial": staticmethod(partial(self._trial, make_scheduler, limits)),
                    "longest": min(limits.num_tokens, self._longest(limits)),
                }
                run_machine(SchedulerMachine, members, examples=self.examples, steps=self.steps)

    @on_limits(num_blocks=6, size=2, tokens=12, each={"large": ((1, 11), (6, 6), (11, 1))})
    def test_a_constant_stream_starves_nobody(self, trial: Trial, large: tuple[int, int]) -> None:
        """Small requests come without end; one that needs all memory, one that decodes and one
        that was preempted go on.

        Usual causes: what fits always passes what does not; new prompts before tokens of those
        that run; preempted requests put at the end of the queue.
        """
        stream(trial, steps=9)
        waiting = {*trial.live, trial.add(*large), trial.add(4, 6)}
        stream(trial, steps=self.patience)
        left = sorted(waiting & trial.live.keys())
        assert not left, (
            f"after {self.patience} steps with small requests, {left} have not ended, of "
            f"requests {min(waiting)} to {max(waiting)}, the last of {large} and (4, 6)"
        )

    @requires("fcfs")
    @on_loads(["fcfs"])
    def test_nobody_passes_who_waits_for_room(self, trial: Trial, load: Load) -> None:
        """Under "fcfs", requests are begun in the order in which they came, also those that were
        preempted, also in a step that has tokens or blocks left for a smaller one.

        Usual causes: going on behind the first that does not fit, a preempted request that is put
        behind those that came later.
        """
        for prompt, new in load.requests:
            trial.add(prompt, new)
            trial.step()
        trial.drain()

    @requires("skip")
    def test_what_fits_passes_what_does_not(self, make_scheduler: MakeScheduler) -> None:
        """Under "skip", a small request behind a large one is begun in the next step.

        Usual causes: a loop over those that wait that ends at the first without room.
        """
        limits = self._limits("skip", 6, 2, num_seqs=3, tokens=12)
        trial = self._trial(make_scheduler, limits)
        running = trial.add(4, 2)
        trial.step()
        large, small = trial.add(9, 3), trial.add(2, 1)
        step = trial.step()
        assert small in step.num_tokens, (
            f"blocks are free for request {small}, and large {large} does not fit beside "
            f"{running}: {dict(step.num_tokens)}"
        )
        trial.drain()

    @requires("preemption")
    def test_a_preempted_request_is_begun_before_new_ones(
        self, make_scheduler: MakeScheduler
    ) -> None:
        """Who has run, and had to make room, has waited already.

        Usual causes: put back at the end of the queue, or where its length would place it.
        """
        seen = 0
        for policy in self._policies:
            for new in range(2, 9):
                limits = self._limits(policy, 5, 2, num_seqs=3, tokens=10)
                trial = self._trial(make_scheduler, limits)
                for _ in range(3):
                    trial.add(2, new)
                for _ in range(5):
                    trial.add(2, 2)
                trial.drain()
                seen += sum(len(step.preempted) for step in trial.steps)
        assert seen, "three requests that outgrow the memory ran, and none was preempted"

    @requires("chunked")
    def test_a_long_prompt_stalls_nobody(self, make_scheduler: MakeScheduler) -> None:
        """It is computed in parts, with what the step has left; who decodes gets a token in every
        step meanwhile.

        Usual causes: parts that take the whole budget, a prompt that has to fit a step.
        """
        for policy in self._policies:
            for tokens in (3, 4, 7):
                limits = self._limits(policy, 99, 2, num_seqs=3, tokens=tokens)
                trial = self._trial(make_scheduler, limits)
                decoding = [trial.add(1, 60), trial.add(1, 60)]
                trial.step()
                long = trial.add(5 * tokens, 1)
                for _ in range(5 * tokens):
                    step = trial.step()
                    assert set(decoding) <= step.num_tokens.keys(), (
                        f"requests {decoding} decode, and a step of {tokens} tokens computes "
                        f"{dict(step.num_tokens)}"
                    )
                    if long not in trial.live:
                        break
                assert long not in trial.live, f"the prompt of {5 * tokens} tokens is not computed"

    @requires("stop")
    @on_limits(num_blocks=20, size=2, tokens=20, each={"count": range(4)})
    def test_a_stop_token_ends_its_request(self, trial: Trial, count: int) -> None:
        """With the token, wherever it comes, and no other request; its blocks are free then.

        Usual causes: a rule of another request, of the prompt's tokens, or of the last step.
        """
        first = trial.add(3, 6)
        stopped = trial.add(STOP + 1, 6, stop=[STOP])  # its prompt has that token
        other = trial.add(3, 6)
        for _ in range(count):
            trial.step()
        assert {first, stopped, other} == trial.live.keys(), (
            f"requests {sorted(trial.ended)} ended before any stop token"
        )
        trial.step(token=STOP)
        assert trial.ended == {stopped: [1] * count + [STOP]}, (
            f"a stop token of request {stopped} ended {trial.ended}"
        )
        trial.drain()

    # How properties are tried

    @property
    def _policies(self) -> Sequence[Policy]:
        named: tuple[Policy, ...] = ("fcfs", "skip")
        return [x for x in named if x in self.capabilities] or ["fcfs"]

    def _limits(
        self, policy: Policy, num_blocks: int, size: int = 1, *, num_seqs: int, tokens: int
    ) -> SchedulerLimits:
        chunked = "chunked" in self.capabilities
        if not chunked:  # a request that was preempted is computed in one step, at its longest
            tokens = max(tokens, num_blocks * size)
        return SchedulerLimits(num_blocks, size, num_seqs, tokens, chunked, policy)

    @staticmethod
    def _longest(limits: SchedulerLimits) -> int:
        """Tokens of the longest request that can run alone."""
        if limits.chunked_prefill:
            return limits.num_tokens
        return min(limits.num_tokens, limits.max_num_batched_tokens)

    def _trial(self, make_scheduler: MakeScheduler, limits: SchedulerLimits) -> Trial:
        return Trial(make_scheduler(limits), limits, self.capabilities)

    @staticmethod
    def _crowd(trial: Trial, steps: int) -> None:
        """Some steps of four requests that fit with their prompts, and outgrow the memory."""
        for prompt, new in ((3, 5), (2, 6), (1, 4), (5, 4)):
            trial.add(prompt, new)
        for _ in range(steps):
            trial.step()

    @staticmethod
    def _abort(trial: Trial, request_id: int) -> None:
        """Abort a request that may have ended: an error is allowed then."""
        if request_id in trial.live:
            trial.abort(request_id)
            return
        with contextlib.suppress(Exception):  # it may say that there is no such request
            trial.scheduler.abort(request_id)
        trial.check()

    def _hold_within(
        self, make_scheduler: MakeScheduler, holds: Callable[[Trial], None], **limits: int
    ) -> None:
        """Try the property under every policy, with three requests at a time."""
        __tracebackhide__ = True
        for policy in self._policies:
            holds(self._trial(make_scheduler, self._limits(policy, num_seqs=3, **limits)))

    def _hold(
        self,
        make_scheduler: MakeScheduler,
        holds: Callable[[Trial, Load], None],
        policies: Sequence[Policy] = (),
    ) -> None:
        __tracebackhide__ = True

        def tried_on(load: Load) -> None:
            holds(self._trial(make_scheduler, load.limits), load)

        kinds = policies or self._policies, "chunked" in self.capabilities
        for_all(tried_on, loads(*kinds), traps=load_traps(*kinds), examples=self.examples)


def stream(trial: Trial, steps: int) -> None:
    """Steps while some small requests always wait; of different lengths, never to end together."""
    for _ in range(steps):
        while len(trial.live) < 6:
            trial.add(2, 2 + (len(trial.live) + len(trial.ended)) % 3)
        trial.step()


@st.composite
def loads(draw: st.DrawFn, policies: Sequence[Policy], chunked: bool) -> Load:
    """Up to eight requests, each of which could run alone, on little memory."""
    blocks, size, seqs = (draw(st.integers(*least)) for least in ((2, 6), (1, 4), (1, 4)))
    held = blocks * size
    tokens = draw(st.integers(seqs, seqs + 6)) if chunked else held + draw(st.integers(0, 6))
    limits = SchedulerLimits(blocks, size, seqs, tokens, chunked, draw(st.sampled_from(policies)))
    requests = []
    for _ in range(draw(st.integers(1, 8))):
        prompt = draw(st.integers(1, held - 1))
        requests.append((prompt, draw(st.integers(1, held - prompt))))
    return Load(limits, tuple(requests))


def load_traps(policies: Sequence[Policy], chunked: bool) -> Iterator[tuple[str, Load]]:
    """Named loads on which schedulers have failed."""
    for policy in policies:

        def limits(
            blocks: int, size: int, seqs: int, tokens: int, policy: Policy = policy
        ) -> SchedulerLimits:
            step = tokens if chunked else max(tokens, blocks * size)
            return SchedulerLimits(blocks, size, seqs, step, chunked, policy)

        yield "prompts of whole blocks", Load(limits(4, 2, 2, 8), ((4, 4), (4, 4)))
        yield "more requests than run", Load(limits(8, 2, 2, 16), ((2, 2),) * 7)
        yield "a large one between small ones", Load(limits(4, 2, 3, 8), ((2, 4), (6, 2), (2, 2)))
        yield "all outgrow the memory", Load(limits(5, 2, 4, 6), ((2, 8), (2, 8), (2, 8), (1, 9)))
        yield "all blocks held, none of them full", Load(limits(2, 2, 2, 2), ((1, 2), (1, 2)))
        yield "one token a step", Load(limits(4, 2, 1, 1), ((3, 2), (2, 3)))
        yield "fewer tokens than requests", Load(limits(9, 2, 4, 2), ((2, 4),) * 4)
