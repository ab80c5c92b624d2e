"""Small schedulers: sound ones, and one for each fault that SchedulerSuite must find."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from infopt_suites.batching import NewRequest, PlannedStep, SchedulerLimits

AREA = "3 schedulers"
PASSES = 16  # how many may pass the same one under "skip"


@dataclass(eq=False)
class Job:
    """A request that has not ended."""

    request: NewRequest
    output_ids: list[int] = field(default_factory=list)
    computed: int = 0
    table: list[int] = field(default_factory=list)
    passes: int = 0
    preempted: bool = False

    @property
    def name(self) -> int:
        return self.request.request_id

    @property
    def num_tokens(self) -> int:
        return len(self.request.prompt_ids) + len(self.output_ids)


class SmallScheduler:
    """Blocks are taken for what a step computes; who was begun last makes room for the others."""

    capabilities = frozenset({"chunked", "preemption", "fcfs", "skip", "stop", "blocks", "pins"})

    def __init__(self, limits: SchedulerLimits) -> None:
        self.limits = limits
        self.free = list(range(limits.num_blocks))
        self.queue: list[Job] = []
        self.begun: list[Job] = []  # the first begun first
        self.planned: dict[int, int] = {}
        self.pinned: set[int] = set()

    @property
    def waiting(self) -> Sequence[int]:
        return [job.name for job in self.queue]

    @property
    def running(self) -> Sequence[int]:
        return [job.name for job in self.begun]

    @property
    def num_free_blocks(self) -> int:
        return len(self.free)

    @property
    def num_pins(self) -> int:
        return len(self.pinned)

    def block_table(self, request_id: int) -> Sequence[int]:
        return next(job.table for job in self.begun if job.name == request_id)

    # What callers do

    def add(self, request: NewRequest) -> None:
        if request.request_id in (*self.waiting, *self.running):
            raise ValueError("the id is in use")
        if not self.could_run(request):
            raise ValueError("too long")
        self.enqueue(Job(request))

    def step(self) -> PlannedStep:
        tokens: dict[int, int] = {}
        preempted: list[int] = []
        budget = self.limits.max_num_batched_tokens
        budget = self.go_on(tokens, preempted, budget)
        if not preempted:
            self.admit(tokens, budget)
        self.planned = tokens
        jobs = {job.name: job for job in (*self.queue, *self.begun)}
        samples = [i for i, n in tokens.items() if jobs[i].computed + n == jobs[i].num_tokens]
        return PlannedStep(dict(tokens), samples, list(preempted))

    def update(self, new_tokens: Mapping[int, int]) -> Collection[int]:
        finished = []
        for job in list(self.begun):
            job.computed += self.planned.get(job.name, 0)
            if job.name in new_tokens:
                job.output_ids.append(new_tokens[job.name])
                if self.ends(job):
                    self.finish(job)
                    finished.append(job.name)
        self.planned = {}
        return finished

    def abort(self, request_id: int) -> None:
        for jobs in (self.queue, self.begun):
            for job in list(jobs):
                if job.name == request_id:
                    jobs.remove(job)
                    self.let_go(job)
                    self.unpin_aborted(job)

    # What faults change

    def could_run(self, request: NewRequest) -> bool:
        needed = len(request.prompt_ids) + request.max_new_tokens - 1
        fits = needed <= self.limits.num_tokens
        return fits and (
            self.limits.chunked_prefill or needed <= self.limits.max_num_batched_tokens
        )

    def enqueue(self, job: Job) -> None:
        self.queue.append(job)

    def enqueue_preempted(self, job: Job) -> None:
        self.queue.insert(0, job)

    def go_on(self, tokens: dict[int, int], preempted: list[int], budget: int) -> int:
        for job in list(self.begun):
            count = self.part(job, budget)
            if job not in self.begun or not count or not self.make_room(job, count, preempted):
                continue
            tokens[job.name] = count
            budget = self.spent(budget, count)
        return budget

    def part(self, job: Job, budget: int) -> int:
        missing = job.num_tokens - job.computed
        if not self.limits.chunked_prefill:
            return missing if missing <= budget else 0
        return min(missing, budget)

    def spent(self, budget: int, count: int) -> int:
        return budget - count

    def blocks_for(self, tokens: int) -> int:
        return -(-tokens // self.limits.block_size)

    def reach(self, job: Job, count: int) -> int:
        """Tokens for which a job gets blocks when it computes so many."""
        return job.computed + count

    def make_room(self, job: Job, count: int, preempted: list[int]) -> bool:
        while self.missing(job, count) > len(self.free):
            victim = self.victim(job)
            self.preempt(victim)
            preempted.append(victim.name)
            if victim is job:
                return False
        self.take(job, count)
        return True

    def missing(self, job: Job, count: int) -> int:
        return self.blocks_for(self.reach(job, count)) - len(job.table)

    def take(self, job: Job, count: int) -> None:
        for _ in range(self.missing(job, count)):
            job.table.append(self.free.pop())

    def victim(self, job: Job) -> Job:
        return self.begun[-1]

    def preempt(self, job: Job) -> None:
        self.begun.remove(job)
        self.let_go(job)
        self.reset(job)
        self.enqueue_preempted(job)

    def reset(self, job: Job) -> None:
        job.computed, job.preempted = 0, True

    def let_go(self, job: Job) -> None:
        self.free.extend(job.table)
        job.table = []

    def admit(self, tokens: dict[int, int], budget: int) -> None:
        passed: list[Job] = []
        for job in list(self.queue):
            if self.is_full() or not budget:
                break
            self.pinned.add(job.name)  # until it is begun, so that what was found is there then
            count = self.part(job, budget)
            if not count or self.missing(job, count) > len(self.free):
                if not self.may_be_passed(job):
                    break
                passed.append(job)
                continue
            self.pinned.discard(job.name)
            self.queue.remove(job)
            self.begun.append(job)
            self.take(job, count)
            tokens[job.name] = count
            budget = self.spent(budget, count)
            for before in passed:
                before.passes += 1
            if not all(self.may_be_passed(before) for before in passed):
                break

    def is_full(self) -> bool:
        return len(self.begun) >= self.limits.max_num_seqs

    def may_be_passed(self, job: Job) -> bool:
        return self.limits.policy == "skip" and not job.preempted and job.passes < PASSES

    def ends(self, job: Job) -> bool:
        return self.is_long_enough(job) or self.stops(job)

    def is_long_enough(self, job: Job) -> bool:
        return len(job.output_ids) >= job.request.max_new_tokens

    def stops(self, job: Job) -> bool:
        return job.output_ids[-1] in job.request.stop_token_ids

    def finish(self, job: Job) -> None:
        self.begun.remove(job)
        self.let_go(job)

    def unpin_aborted(self, job: Job) -> None:
        self.pinned.discard(job.name)


class WholePromptTaken(SmallScheduler):
    """Sound in another way: blocks for all tokens of a request when it is begun."""

    def reach(self, job: Job, count: int) -> int:
        return job.num_tokens


class WholeLengthTaken(SmallScheduler):
    """Sound in another way: blocks for all that it may come to need, so nobody is preempted."""

    capabilities = SmallScheduler.capabilities - {"preemption"}

    def reach(self, job: Job, count: int) -> int:
        return len(job.request.prompt_ids) + job.request.max_new_tokens - 1


class WithoutChunks(SmallScheduler):
    """Sound in another way: whole prompts."""

    capabilities = SmallScheduler.capabilities - {"chunked"}


class PrefixesCached(SmallScheduler):
    """Sound in another way: full blocks of a preempted request are found again when it returns."""

    def __init__(self, limits: SchedulerLimits) -> None:
        super().__init__(limits)
        self.kept: dict[int, int] = {}  # tokens in full blocks
        self.cached: dict[int, int] = {}

    def reset(self, job: Job) -> None:
        size = self.limits.block_size
        self.kept[job.name] = min(job.computed, job.num_tokens - 1) // size * size
        super().reset(job)

    def step(self) -> PlannedStep:
        self.cached = {}
        return replace(super().step(), cached=self.cached)

    def admit(self, tokens: dict[int, int], budget: int) -> None:
        before = set(self.running)
        for job in self.queue:
            job.computed = self.kept.get(job.name, 0)
        super().admit(tokens, budget)
        for job in self.queue:
            job.computed = 0
        begun = (job for job in self.begun if job.name not in before)
        self.cached = {job.name: job.computed for job in begun if job.computed}


class GrowthNotPaidFor(SmallScheduler):
    """B19: the prompt's blocks are looked at, and nobody is preempted
    (huggingface/text-generation-inference#210)."""

    def make_room(self, job: Job, count: int, preempted: list[int]) -> bool:
        if self.missing(job, count) > len(self.free):
            return False
        self.take(job, count)
        return True


class VictimStaysInTheRunningList(SmallScheduler):
    """B20: in both lists (HabanaAI/vllm-fork#2247)."""

    def preempt(self, job: Job) -> None:
        super().preempt(job)
        self.begun.insert(0, job)


class VictimStaysInTheStep(SmallScheduler):
    """B20: scheduled, and then preempted in the same step (vllm-project/vllm#23347)."""

    def victim(self, job: Job) -> Job:
        return self.begun[0]


class PreemptedToTheEnd(SmallScheduler):
    """B22: it loses its place (vllm-project/vllm#41951)."""

    def enqueue_preempted(self, job: Job) -> None:
        self.queue.append(job)


class PassedUnderFcfs(SmallScheduler):
    """B23: goes on behind the first that does not fit, where nobody may pass
    (vllm-project/vllm#35852)."""

    def may_be_passed(self, job: Job) -> bool:
        return not job.preempted and job.passes < PASSES


class StopsAtTheFirst(SmallScheduler):
    """B23: head-of-line blocking where what fits may pass."""

    def may_be_passed(self, job: Job) -> bool:
        return False


class PinnedForEver(SmallScheduler):
    """B27: what an aborted request had found stays pinned (vllm-project/vllm#44100)."""

    def unpin_aborted(self, job: Job) -> None:
        pass


class PassedForEver(WholePromptTaken):
    """Not listed: small requests always pass a large one."""

    def may_be_passed(self, job: Job) -> bool:
        return self.limits.policy == "skip" and not job.preempted


class NothingRefused(SmallScheduler):
    """Not listed: what could never run waits for ever."""

    def could_run(self, request: NewRequest) -> bool:
        return True


class PromptAloneMeasured(SmallScheduler):
    """Not listed: a request is refused for its prompt, not for what it generates."""

    def could_run(self, request: NewRequest) -> bool:
        return len(request.prompt_ids) <= self.limits.num_tokens


class BlockInReserve(SmallScheduler):
    """Not listed: one block is never given out."""

    def could_run(self, request: NewRequest) -> bool:
        needed = len(request.prompt_ids) + request.max_new_tokens - 1
        return super().could_run(request) and self.blocks_for(needed) < self.limits.num_blocks


class BudgetForEachRequest(SmallScheduler):
    """Not listed: every request may compute as many tokens as a step has."""

    def spent(self, budget: int, count: int) -> int:
        return budget


class OneMoreRuns(SmallScheduler):
    """Not listed: > for ≥."""

    def is_full(self) -> bool:
        return len(self.begun) > self.limits.max_num_seqs


class AbortedKeepsItsBlocks(SmallScheduler):
    """Not listed: blocks come back from those alone that end by themselves."""

    def abort(self, request_id: int) -> None:
        self.queue = [job for job in self.queue if job.name != request_id]
        self.begun = [job for job in self.begun if job.name != request_id]
        self.pinned.discard(request_id)


class AbortedFromTheRunningListAlone(SmallScheduler):
    """Not listed: a request that waits, or was preempted, cannot be aborted."""

    def abort(self, request_id: int) -> None:
        if request_id in self.running:
            super().abort(request_id)


class FreedTwice(SmallScheduler):
    """Not listed: aborted in a step, it is freed, and freed again with the step's update."""

    def update(self, new_tokens: Mapping[int, int]) -> Collection[int]:
        gone = [i for i in self.planned if i not in self.running]
        self.free.extend(0 for _ in gone)
        return super().update(new_tokens)


class StillComputed(SmallScheduler):
    """Not listed: the tokens of a preempted request are counted as computed, its blocks gone."""

    def reset(self, job: Job) -> None:
        job.preempted = True


class CachedTokensComputed(PrefixesCached):
    """Not listed: what the prefix cache has is counted and computed all the same."""

    def part(self, job: Job, budget: int) -> int:
        return min(job.num_tokens - (0 if job in self.queue else job.computed), budget)


class PreemptsWithoutNeed(SmallScheduler):
    """Not listed: a free block is asked for, whether or not the last one is full."""

    def make_room(self, job: Job, count: int, preempted: list[int]) -> bool:
        while not self.free and len(self.begun) > 1:
            victim = self.victim(job)
            self.preempt(victim)
            preempted.append(victim.name)
            if victim is job:
                return False
        return super().make_room(job, count, preempted)


class OutputForgotten(SmallScheduler):
    """Not listed: a preempted request begins anew."""

    def reset(self, job: Job) -> None:
        super().reset(job)
        job.output_ids = []


class TableKept(SmallScheduler):
    """Not listed: the blocks of a preempted request are free, and still in its table."""

    def preempt(self, job: Job) -> None:
        table = list(job.table)
        super().preempt(job)
        job.table = table


class OneAtATime(SmallScheduler):
    """Not listed, safe and useless: the next is begun when the last has ended."""

    def is_full(self) -> bool:
        return bool(self.begun)


class OneAdmissionAStep(SmallScheduler):
    """Not listed: `if` for `while`."""

    def admit(self, tokens: dict[int, int], budget: int) -> None:
        waiting, self.queue = self.queue[1:], self.queue[:1]
        super().admit(tokens, budget)
        self.queue.extend(waiting)


class PromptsFirst(SmallScheduler):
    """Not listed: a prompt takes what the step has, and those that decode get the rest."""

    def go_on(self, tokens: dict[int, int], preempted: list[int], budget: int) -> int:
        lacking = sorted(self.begun, key=lambda job: job.computed - job.num_tokens)
        order, self.begun = self.begun, lacking
        budget = super().go_on(tokens, preempted, budget)
        self.begun = [job for job in order if job in self.begun]
        return budget


class PromptHasToFit(SmallScheduler):
    """Not listed: a prompt that is longer than a step is never begun."""

    def part(self, job: Job, budget: int) -> int:
        missing = job.num_tokens - job.computed
        return missing if missing <= budget else 0


class NewestFirst(SmallScheduler):
    """Not listed: a stack for a queue."""

    def enqueue(self, job: Job) -> None:
        self.queue.insert(0, job)


class OneTokenMore(SmallScheduler):
    """Not listed: > for ≥."""

    def is_long_enough(self, job: Job) -> bool:
        return len(job.output_ids) > job.request.max_new_tokens


class StopIgnored(SmallScheduler):
    """Not listed."""

    def stops(self, job: Job) -> bool:
        return False


class StopOfAnyRequest(SmallScheduler):
    """Not listed: the rule of one request holds for the whole batch."""

    def stops(self, job: Job) -> bool:
        return any(job.output_ids[-1] in x.request.stop_token_ids for x in self.begun)


class StopInThePrompt(SmallScheduler):
    """Not listed: a stop token anywhere in the sequence."""

    def stops(self, job: Job) -> bool:
        tokens = {*job.request.prompt_ids, *job.output_ids}
        return bool(tokens & job.request.stop_token_ids)


class BlockTooFew(SmallScheduler):
    """Not listed: rounded down, and one more, but where the length is a multiple."""

    def blocks_for(self, tokens: int) -> int:
        return max(-(-(tokens - 1) // self.limits.block_size), 1)


class BlockInAdvance(SmallScheduler):
    """Not listed: a block more than the tokens take."""

    def could_run(self, request: NewRequest) -> bool:
        return SmallScheduler(self.limits).could_run(request)

    def blocks_for(self, tokens: int) -> int:
        return super().blocks_for(tokens) + 1


class FinishedKeepsABlock(SmallScheduler):
    """Not listed: the last block is not given back where it is full."""

    def finish(self, job: Job) -> None:
        if job.computed == len(job.table) * self.limits.block_size:
            job.table.pop()
        super().finish(job)


@dataclass(frozen=True)
class SchedulerMutant:
    fault: type[SmallScheduler]
    broken: str


EVERY = "test_every_request_ends_with_all_its_tokens"
TOGETHER = "test_what_fits_runs_together"
OUTGROW = "test_requests_that_outgrow_the_memory_end"
REFUSED = "test_what_could_never_run_is_refused"
ABORT = "test_an_abort_frees_at_once_and_harms_nobody"
ABORT_ALL = "test_an_abort_of_all_leaves_nothing"
ANY = "test_any_interleaving_keeps_every_budget"
STREAM = "test_a_constant_stream_starves_nobody"
ORDER = "test_nobody_passes_who_waits_for_room"
SKIP = "test_what_fits_passes_what_does_not"
FIRST = "test_a_preempted_request_is_begun_before_new_ones"
LONG = "test_a_long_prompt_stalls_nobody"
STOP = "test_a_stop_token_ends_its_request"
MUTANTS = [
    SchedulerMutant(GrowthNotPaidFor, OUTGROW),
    SchedulerMutant(GrowthNotPaidFor, EVERY),
    SchedulerMutant(VictimStaysInTheRunningList, OUTGROW),
    SchedulerMutant(VictimStaysInTheRunningList, ANY),
    SchedulerMutant(VictimStaysInTheStep, EVERY),
    SchedulerMutant(PreemptedToTheEnd, FIRST),
    SchedulerMutant(PassedUnderFcfs, ORDER),
    SchedulerMutant(StopsAtTheFirst, SKIP),
    SchedulerMutant(PinnedForEver, ABORT),
    SchedulerMutant(PassedForEver, STREAM),
    SchedulerMutant(NothingRefused, REFUSED),
    SchedulerMutant(PromptAloneMeasured, REFUSED),
    SchedulerMutant(BlockInReserve, REFUSED),
    SchedulerMutant(BudgetForEachRequest, EVERY),
    SchedulerMutant(OneMoreRuns, EVERY),
    SchedulerMutant(AbortedKeepsItsBlocks, ABORT),
    SchedulerMutant(AbortedKeepsItsBlocks, ANY),
    SchedulerMutant(AbortedFromTheRunningListAlone, ABORT),
    SchedulerMutant(FreedTwice, ABORT_ALL),
    SchedulerMutant(FreedTwice, ANY),
    SchedulerMutant(StillComputed, OUTGROW),
    SchedulerMutant(CachedTokensComputed, OUTGROW),
    SchedulerMutant(PreemptsWithoutNeed, EVERY),
    SchedulerMutant(OutputForgotten, OUTGROW),
    SchedulerMutant(TableKept, OUTGROW),
    SchedulerMutant(OneAtATime, TOGETHER),
    SchedulerMutant(OneAdmissionAStep, TOGETHER),
    SchedulerMutant(PromptsFirst, LONG),
    SchedulerMutant(PromptHasToFit, LONG),
    SchedulerMutant(NewestFirst, ORDER),
    SchedulerMutant(OneTokenMore, EVERY),
    SchedulerMutant(StopIgnored, STOP),
    SchedulerMutant(StopOfAnyRequest, STOP),
    SchedulerMutant(StopInThePrompt, STOP),
    SchedulerMutant(BlockTooFew, EVERY),
    SchedulerMutant(BlockInAdvance, EVERY),
    SchedulerMutant(FinishedKeepsABlock, EVERY),
]
SOUND = [SmallScheduler, WholePromptTaken, WholeLengthTaken, WithoutChunks, PrefixesCached]
