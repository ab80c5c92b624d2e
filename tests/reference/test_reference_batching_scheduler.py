"""The scheduler's budgets, states and order: a state machine, and the cases that it must decide."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from infopt_reference.attention import BlockAllocator
from infopt_reference.batching.request import Request, RequestState
from infopt_reference.batching.scheduler import Scheduler, SchedulerConfig
from infopt_reference.decoding.stopping import FinishReason

CONFIGS = st.builds(
    SchedulerConfig,
    num_blocks=st.integers(1, 8),
    block_size=st.integers(1, 4),
    max_num_seqs=st.integers(1, 5),
    max_num_batched_tokens=st.integers(1, 24),
    chunked_prefill=st.booleans(),
    policy=st.sampled_from(["fcfs", "skip"]),
    max_passes=st.integers(0, 4),
    prefix_caching=st.booleans(),
)


def next_token(prompt, output):
    """A model: any change of the tokens before changes the next one."""
    return hashlib.sha256(repr((list(prompt), list(output))).encode()).digest()[0] % 8


def alone(request):
    """What a request generates without a scheduler."""
    output, reason = [], None
    while reason is None:
        output.append(next_token(request.prompt_ids, output))
        stopped = output[-1] in request.stop_token_ids or any(
            output[len(output) - len(s) :] == list(s) for s in request.stop_sequences
        )
        if stopped:
            reason = FinishReason.STOP
        elif len(output) == request.max_new_tokens:
            reason = FinishReason.LENGTH
    return output, reason


def tokens_for(step):
    return {
        x.request.request_id: next_token(x.request.prompt_ids, x.request.output_ids)
        for x in step.scheduled
        if x.samples
    }


def fits_at_all(config, request):
    tokens = len(request.prompt_ids) + request.max_new_tokens - 1
    in_blocks = -(-tokens // config.block_size) <= config.num_blocks
    return in_blocks and (config.chunked_prefill or tokens <= config.max_num_batched_tokens)


def run_to_the_end(scheduler, limit=10_000):
    """Steps until nothing is left: what was admitted and preempted, in order."""
    events = []
    for _ in range(limit):
        if not scheduler.has_unfinished:
            return events
        step = scheduler.step()
        assert step.scheduled
        events += [("preempted", x) for x in step.preempted]
        events += [("admitted", x) for x in step.admitted]
        scheduler.update(step, tokens_for(step))
    raise AssertionError(f"requests are left after {limit} steps")


class SchedulerMachine(RuleBasedStateMachine):
    """Requests come, go on and are aborted in any order, also while a step is in flight."""

    @initialize(config=CONFIGS)
    def start(self, config):
        self.scheduler = Scheduler(config)
        self.requests = {}  # all that were ever accepted
        self.in_flight = None
        self.passes = {}

    @rule(
        prompt=st.lists(st.integers(0, 7), min_size=1, max_size=8),
        new=st.integers(1, 8),
        stops=st.sets(st.integers(0, 7), max_size=2),
        sequences=st.lists(st.lists(st.integers(0, 7), min_size=1, max_size=2), max_size=2),
    )
    def add(self, prompt, new, stops, sequences):
        request = Request(len(self.requests), prompt, new, stops, sequences)
        if fits_at_all(self.scheduler.config, request):
            self.scheduler.add(request)
            self.requests[request.request_id] = request
            self.passes[request.request_id] = 0
        else:
            with pytest.raises(ValueError, match=r"blocks of|at once"):
                self.scheduler.add(request)

    @precondition(lambda self: self.in_flight is None)
    @rule()
    def step(self):
        scheduler, config = self.scheduler, self.scheduler.config
        waiting, running = scheduler.waiting, scheduler.running
        step = self.in_flight = scheduler.step()
        assert bool(step.scheduled) == bool(waiting or running), "every step makes progress"
        assert step.total_num_scheduled_tokens <= config.max_num_batched_tokens
        assert all(count >= 1 for count in step.num_scheduled_tokens.values())
        for x in step.scheduled:
            assert x.request.state is RequestState.RUNNING
            assert x.start == x.request.num_computed_tokens
            assert x.samples == (x.start + x.num_tokens == x.request.num_tokens)
            assert scheduler.blocks.num_tokens(x.request.request_id) == x.request.num_tokens
        assert step.samples == tuple(x.request.request_id for x in step.scheduled if x.samples)
        self.check_order(step, [r.request_id for r in waiting], running)
        if not step.scheduled:
            self.in_flight = None

    def check_order(self, step, waiting, running):
        scheduler, config = self.scheduler, self.scheduler.config
        ran = [r.request_id for r in running]
        # The last admitted ones went, the last of all first, and stand in front of the queue.
        assert list(step.preempted) == ran[::-1][: len(step.preempted)]
        assert len(step.preempted) < max(1, len(ran))
        if step.preempted:
            assert not step.admitted
            assert [r.request_id for r in scheduler.waiting] == [*step.preempted[::-1], *waiting]
            return
        if running:
            assert step.scheduled[0].request is running[0], "the first admitted always goes on"
        left = [r.request_id for r in scheduler.waiting]
        assert left == [x for x in waiting if x not in step.admitted]
        assert list(step.admitted) == [x for x in waiting if x in step.admitted]
        if config.policy == "fcfs":
            assert list(step.admitted) == waiting[: len(step.admitted)]
        for passed in left:
            self.passes[passed] += sum(
                waiting.index(x) > waiting.index(passed) for x in step.admitted
            )
            assert self.passes[passed] <= config.max_passes
        for x in step.admitted:
            preempted = [i for i in left if self.requests[i].num_preemptions]
            assert all(waiting.index(x) < waiting.index(i) for i in preempted)
        self.check_nothing_is_left_out(step)

    def check_nothing_is_left_out(self, step):
        """The next in the queue waits for a seat, for blocks or for tokens."""
        scheduler, config = self.scheduler, self.scheduler.config
        if not scheduler.num_waiting or scheduler.num_running == config.max_num_seqs:
            return
        head = scheduler.waiting[0]
        budget = config.max_num_batched_tokens - step.total_num_scheduled_tokens
        enough_tokens = budget >= (1 if config.chunked_prefill else head.num_tokens)
        assert not (enough_tokens and scheduler.blocks.can_allocate(head.num_tokens))

    @precondition(lambda self: self.in_flight is not None)
    @rule()
    def update(self):
        scheduled = [
            x for x in self.in_flight.scheduled if x.request.state is not RequestState.FINISHED
        ]
        before = {x.request.request_id: list(x.request.output_ids) for x in scheduled}
        finished = self.scheduler.update(self.in_flight, tokens_for(self.in_flight))
        for x in scheduled:
            assert x.request.num_computed_tokens == x.start + x.num_tokens
            grown = len(x.request.output_ids) - len(before[x.request.request_id])
            assert grown == int(x.samples)
        assert all(r.state is RequestState.FINISHED for r in finished)
        self.in_flight = None

    @precondition(lambda self: self.in_flight is None and self.scheduler.has_unfinished)
    @rule(count=st.integers(2, 6))
    def go_on(self, count):
        for _ in range(count):
            self.step()
            if self.in_flight is None:
                return
            self.update()
            self.blocks_belong_to_running_requests()

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def abort(self, data):
        request = self.requests[data.draw(st.sampled_from(sorted(self.requests)))]
        lives = request.state is not RequestState.FINISHED
        assert self.scheduler.abort(request.request_id) == lives
        if lives:
            assert request.finish_reason is FinishReason.ABORT

    @invariant()
    def every_request_is_in_one_state(self):
        scheduler = self.scheduler
        states = {r.request_id: r.state for r in self.requests.values()}
        waiting = [r.request_id for r in scheduler.waiting]
        running = [r.request_id for r in scheduler.running]
        assert len({*waiting, *running}) == len(waiting) + len(running)
        assert set(waiting) == {i for i, state in states.items() if state == "waiting"}
        assert set(running) == {i for i, state in states.items() if state == "running"}
        assert scheduler.num_running <= scheduler.config.max_num_seqs
        assert (scheduler.num_waiting, scheduler.num_running) == (len(waiting), len(running))
        for request in self.requests.values():
            assert (request.finish_reason is not None) == (request.state == "finished")
            assert (request.request_id in scheduler) == (request.state != "finished")

    @invariant()
    def blocks_belong_to_running_requests(self):
        blocks = self.scheduler.blocks
        prefixes = self.scheduler.prefixes
        blocks.check_conservation(() if prefixes is None else prefixes.blocks)
        assert set(blocks.sequences) == {r.request_id for r in self.scheduler.running}
        for request in self.scheduler.waiting:
            assert request.num_computed_tokens == 0

    @invariant()
    def finished_requests_have_the_tokens_that_they_get_alone(self):
        for request in self.requests.values():
            output, reason = alone(request)
            assert request.output_ids == output[: len(request.output_ids)]
            if request.state == "finished" and request.finish_reason is not FinishReason.ABORT:
                assert (request.output_ids, request.finish_reason) == (output, reason)

    def teardown(self):
        if not hasattr(self, "scheduler"):
            return
        if self.in_flight is not None:
            self.update()
        run_to_the_end(self.scheduler)
        assert self.scheduler.num_free_blocks == self.scheduler.config.num_blocks
        statistics = self.scheduler.statistics
        assert statistics.num_finished + statistics.num_aborted == len(self.requests)
        assert statistics.num_preemptions == sum(r.num_preemptions for r in self.requests.values())


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(max_examples=150, stateful_step_count=40)


def make(num_blocks=4, block_size=4, **rest):
    return Scheduler(SchedulerConfig(num_blocks, block_size, **rest))


def test_two_that_fit_as_prompts_and_not_with_their_output_both_finish():
    scheduler = make(num_blocks=4, block_size=4)
    requests = [Request(name, [1] * 7, 9) for name in "ab"]  # 2 blocks each, 4 in the end
    for request in requests:
        scheduler.add(request)
    events = run_to_the_end(scheduler)
    assert events == [("admitted", "a"), ("admitted", "b"), ("preempted", "b"), ("admitted", "b")]
    assert all(len(request.output_ids) == 9 for request in requests)
    assert requests[1].num_preemptions == 1
    # b had computed its prompt and one token when both needed a third block.
    assert scheduler.statistics.num_recomputed_tokens == 8


def test_the_last_one_goes_itself_when_there_is_no_block_for_it():
    scheduler = make(num_blocks=3, block_size=4)
    requests = [Request("a", [1] * 6, 6), Request("b", [1] * 4, 6)]
    for request in requests:
        scheduler.add(request)
    step = scheduler.step()
    scheduler.update(step, tokens_for(step))
    step = scheduler.step()
    assert step.preempted == ("b",)
    assert step.num_scheduled_tokens == {"a": 1}
    scheduler.update(step, tokens_for(step))
    run_to_the_end(scheduler)
    assert all(len(request.output_ids) == 6 for request in requests)


def test_a_preempted_request_comes_before_all_that_arrive_later():
    scheduler = make(num_blocks=4, block_size=4)
    for name in "ab":
        scheduler.add(Request(name, [1] * 7, 9))
    for _ in range(2):
        step = scheduler.step()
        scheduler.update(step, tokens_for(step))
    scheduler.add(Request("c", [1], 1))
    step = scheduler.step()
    assert step.preempted == ("b",)
    assert [request.request_id for request in scheduler.waiting] == ["b", "c"]


def test_a_preempted_request_finishes_while_requests_keep_coming():
    scheduler = make(num_blocks=8, block_size=2, max_num_seqs=3)
    victims = [Request(f"victim {i}", [1] * 4, 12) for i in range(3)]
    for victim in victims:
        scheduler.add(victim)
    for i in range(100):
        scheduler.add(Request(i, [2] * 3, 5))
        step = scheduler.step()
        scheduler.update(step, tokens_for(step))
        if all(victim.state == "finished" for victim in victims):
            break
    # Alone one after the other they would take 3 · 12 steps.
    assert i < 36
    assert sum(victim.num_preemptions for victim in victims) > 0


def test_chunks_of_a_long_prompt_leave_room_for_decoding_first():
    scheduler = make(num_blocks=16, block_size=4, max_num_batched_tokens=4)
    scheduler.add(Request("short", [1], 10))
    step = scheduler.step()
    scheduler.update(step, tokens_for(step))
    scheduler.add(Request("long", [1] * 8, 2))
    counts = []
    for _ in range(4):
        step = scheduler.step()
        scheduler.update(step, tokens_for(step))
        counts.append(step.num_scheduled_tokens)
    assert counts == [{"short": 1, "long": n} for n in (3, 3, 2, 1)]


def test_without_chunks_a_prompt_waits_for_a_step_with_room_for_it():
    scheduler = make(16, 4, max_num_batched_tokens=8, chunked_prefill=False)
    scheduler.add(Request("a", [1] * 5, 3))
    scheduler.add(Request("b", [1] * 6, 2))
    counts = []
    while scheduler.has_unfinished:
        step = scheduler.step()
        scheduler.update(step, tokens_for(step))
        counts.append(step.num_scheduled_tokens)
    assert counts == [{"a": 5}, {"a": 1, "b": 6}, {"a": 1, "b": 1}]


@pytest.mark.parametrize("policy", ["fcfs", "skip"])
def test_who_passes_the_first_that_does_not_fit_is_the_declared_policy(policy):
    scheduler = make(num_blocks=4, block_size=4, policy=policy)
    scheduler.add(Request("runs", [1] * 8, 4))
    step = scheduler.step()
    scheduler.update(step, tokens_for(step))
    scheduler.add(Request("large", [1] * 12, 1))
    scheduler.add(Request("small", [1], 1))
    assert scheduler.step().admitted == (("small",) if policy == "skip" else ())


@pytest.mark.parametrize("max_passes", [0, 1, 5])
def test_a_large_request_is_passed_as_often_as_declared_and_then_served(max_passes):
    scheduler = make(
        num_blocks=4, block_size=4, max_num_seqs=4, policy="skip", max_passes=max_passes
    )
    small = iter(range(1000))
    for _ in range(2):
        scheduler.add(Request(next(small), [1] * 3, 2))
    step = scheduler.step()
    scheduler.update(step, tokens_for(step))
    large = Request("large", [1] * 16, 1)
    scheduler.add(large)
    passes = 0
    while large.state == "waiting":
        scheduler.add(Request(next(small), [1] * 3, 2))
        step = scheduler.step()
        scheduler.update(step, tokens_for(step))
        passes += sum(x != "large" for x in step.admitted)
    assert passes == large.num_passes == max_passes


@pytest.mark.parametrize("max_passes", [0, 1, 2, 5])
def test_several_that_pass_in_one_step_count_each(max_passes):
    scheduler = make(num_blocks=8, block_size=4, policy="skip", max_passes=max_passes)
    scheduler.add(Request("runs", [1] * 8, 2))
    step = scheduler.step()
    scheduler.update(step, tokens_for(step))
    scheduler.add(Request("large", [1] * 32, 1))
    for i in range(4):
        scheduler.add(Request(i, [1] * 3, 2))
    assert scheduler.step().admitted == tuple(range(min(4, max_passes)))


def test_nobody_passes_one_that_was_preempted():
    scheduler = make(num_blocks=4, block_size=4, policy="skip")
    for name in "ab":
        scheduler.add(Request(name, [1] * 7, 9))
    for _ in range(2):
        step = scheduler.step()
        scheduler.update(step, tokens_for(step))
    scheduler.add(Request("small", [1], 1))
    assert scheduler.step().preempted == ("b",)
    scheduler.update(scheduler._in_flight, {"a": 0})
    assert scheduler.blocks.can_allocate(1)
    assert scheduler.step().admitted == ()


@pytest.mark.parametrize("policy", ["fcfs", "skip"])
def test_a_step_looks_at_no_more_waiting_requests_than_may_run(policy):
    asked = []

    class CountingAllocator(BlockAllocator):
        def can_allocate(self, num_tokens):
            asked.append(num_tokens)
            return super().can_allocate(num_tokens)

    config = SchedulerConfig(4, 4, max_num_seqs=8, policy=policy)
    scheduler = Scheduler(config, CountingAllocator(4, 4))
    scheduler.add(Request("runs", [1] * 8, 8))
    scheduler.step()
    scheduler.update(scheduler._in_flight, {"runs": 0})
    for i in range(5_000):
        scheduler.add(Request(i, [1] * 16, 1))
    asked.clear()
    scheduler.step()
    assert 1 <= len(asked) <= 8


@given(CONFIGS, st.integers(1, 20), st.integers(1, 12))
def test_what_fits_an_empty_pool_is_accepted_and_served_and_nothing_else(config, prompt, new):
    scheduler = Scheduler(config)
    request = Request("only", [3] * prompt, new)
    if not fits_at_all(config, request):
        with pytest.raises(ValueError, match="'only'"):
            scheduler.add(request)
        assert not scheduler.has_unfinished
        return
    scheduler.add(request)
    run_to_the_end(scheduler)
    assert len(request.output_ids) == new
    assert request.num_preemptions == 0


def test_stop_rules_end_with_the_token_that_completes_them():
    request = Request("a", [1, 2], 9, stop_token_ids=[7], stop_sequences=[[5, 6], [2, 3]])
    # The prompt's 2 is no part of a stop sequence.
    assert [request.append(token) for token in (3, 5, 5, 6)] == [None, None, None, "stop"]
    request = Request("a", [1], 2, stop_token_ids=[7])
    assert [request.append(token) for token in (1, 7)] == [None, "stop"]
    request = Request("a", [1], 2)
    assert [request.append(token) for token in (1, 7)] == [None, "length"]


def test_tokens_are_those_of_prompt_and_output_together():
    request = Request("a", [10, 11, 12], 9)
    request.output_ids += [13, 14, 15]
    for start in range(7):
        for end in range(start, 7):
            assert request.token_ids(start, end) == list(range(10, 16))[start:end]


def test_an_id_is_free_again_when_its_request_has_ended():
    scheduler = make()
    scheduler.add(Request("a", [1], 1))
    with pytest.raises(ValueError, match="another id"):
        scheduler.add(Request("a", [1], 1))
    step = scheduler.step()
    scheduler.abort("a")
    again = Request("a", [1], 2)
    scheduler.add(again)
    # The token of the first "a" is not the second one's.
    assert scheduler.update(step, {"a": 5}) == []
    assert again.output_ids == []
    assert again.state == "waiting"


def test_a_request_that_was_used_is_refused():
    scheduler = make()
    request = Request("a", [1], 1)
    scheduler.add(request)
    scheduler.abort("a")
    with pytest.raises(ValueError, match="not new"):
        scheduler.add(request)


def test_steps_are_updated_once_and_in_order():
    scheduler = make()
    scheduler.add(Request("a", [1], 3))
    first = scheduler.step()
    with pytest.raises(RuntimeError, match="in flight"):
        scheduler.step()
    for tokens in ({}, {"a": 1, "b": 1}):
        with pytest.raises(ValueError, match="give one for each"):
            scheduler.update(first, tokens)
    scheduler.update(first, {"a": 1})
    with pytest.raises(ValueError, match="each step once"):
        scheduler.update(first, {"a": 1})
    second = scheduler.step()
    with pytest.raises(ValueError, match="each step once"):
        scheduler.update(first, {"a": 1})
    assert scheduler.update(second, {"a": 1}) == []


def test_an_empty_step_needs_no_update():
    scheduler = make()
    assert scheduler.step().scheduled == ()
    assert scheduler.update(scheduler.step(), {}) == []
    assert not scheduler.abort("nobody")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_blocks": 0}, "num_blocks is 0"),
        ({"block_size": 0}, "block_size is 0"),
        ({"max_num_seqs": 0}, "max_num_seqs is 0"),
        ({"max_num_batched_tokens": 0}, "max_num_batched_tokens is 0"),
        ({"max_passes": -1}, "max_passes is -1"),
        ({"policy": "lifo"}, "the policy is 'lifo'"),
    ],
)
def test_a_configuration_out_of_range_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        SchedulerConfig(**{"num_blocks": 4, **change})


def test_requests_and_allocators_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="no prompt"):
        Request("a", [], 1)
    with pytest.raises(ValueError, match="max_new_tokens is 0"):
        Request("a", [1], 0)
    with pytest.raises(ValueError, match="stop sequence is empty"):
        Request("a", [1], 1, stop_sequences=[[]])
    with pytest.raises(ValueError, match="5 blocks of 4"):
        Scheduler(SchedulerConfig(4, 4), BlockAllocator(5, 4))
