"""transformers 5.23.0, continuous batching: how one request ends the service for all.

- A token id outside the vocabulary raises in the forward pass: every request in flight fails, the
  thread ends, and later requests are dropped with a warning.
- So does a request that the cache cannot hold, by its prompt or by what it generates: "No requests
  can be scheduled and no requests can be offloaded".
- An empty prompt is no error: its first token is sampled from the logits of another request.
- A request that is preempted blocks new ones until another one finishes. Where all others are
  cancelled and none finishes, they stay blocked for ever, and so does the preempted one.
- Whoever fits passes one that does not, however often: under a stream of small requests a larger
  one, or one that was preempted, is never served.

`add_request` checks nothing of this. Found with ContinuousBatchingSuite and SchedulerSuite.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import (
    ContinuousBatchingConfig,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
)

VOCABULARY = 40
BLOCKS, PAGE = 9, 4
GOOD = [2, 27, 1, 35]
RESULT = 60.0  # seconds after which there is none


@pytest.fixture
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        initializer_range=0.5,
        eos_token_id=None,
        attn_implementation="sdpa",
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def manager(model: LlamaForCausalLM) -> Iterator[Any]:
    manager: Any = model.init_continuous_batching(
        GenerationConfig(do_sample=False, eos_token_id=-1),
        ContinuousBatchingConfig(
            page_size=PAGE,
            num_blocks=BLOCKS,
            max_batch_tokens=64,
            max_memory_percent=0.9,
            max_blocks_per_request=0,
            auto_switch_to_flash=False,
        ),
    )
    yield manager
    manager.stop(hard_stop=True)
    manager.destroy()


def results(manager: Any, requests: dict[str, list[int]], new: int = 4) -> dict[str, Any]:
    """What each prompt's request gives, all of them added before the thread begins."""
    for name, prompt in requests.items():
        manager.add_request(prompt, request_id=name, max_new_tokens=new)
    manager.start()
    found = [manager.get_result(timeout=RESULT) for _ in requests]
    return {output.request_id: output for output in found}


@pytest.mark.parametrize("bad", [VOCABULARY, -1])
def test_an_unknown_token_fails_all_requests_and_all_later_ones(manager: Any, bad: int) -> None:
    found = results(manager, {"good": GOOD, "bad": [1, bad]})
    assert "out of range" in found["bad"].error
    assert "out of range" in found["good"].error, "transformers keeps them apart: delete this"
    manager.join(0.0, timeout=RESULT)
    assert manager.add_request(GOOD, max_new_tokens=4) is None


@pytest.mark.parametrize(("prompt", "new"), [(BLOCKS * PAGE + 1, 1), (2, BLOCKS * PAGE + 1)])
def test_a_request_that_the_cache_cannot_hold_ends_the_service(
    manager: Any, prompt: int, new: int
) -> None:
    found = results(manager, {"long": list(range(prompt))}, new)
    assert "No requests can be scheduled" in found["long"].error
    manager.join(0.0, timeout=RESULT)
    assert manager.add_request(GOOD, max_new_tokens=4) is None


def test_an_empty_prompt_gets_the_token_of_another_request(manager: Any) -> None:
    found = results(manager, {"good": GOOD, "empty": []})
    assert found["empty"].error is None
    assert found["empty"].generated_tokens[0] == found["good"].generated_tokens[0]


def test_after_a_preemption_nobody_is_served_when_the_others_are_cancelled(
    model: LlamaForCausalLM, manager: Any
) -> None:
    processor = manager._create_batch_processor()  # driven here, as its thread would
    scheduler = processor.scheduler
    for name in ("first", "second"):
        manager.add_request(GOOD, request_id=name, max_new_tokens=BLOCKS * PAGE - len(GOOD))
    while not scheduler.block_new_requests:
        assert processor.prepare_next_batch()
        processor._generation_step(model)
        processor.update_batch()
    for name in list(scheduler.active_requests):
        manager.cancel_request(name)
    manager.add_request(GOOD, request_id="later", max_new_tokens=1)
    for _ in range(9):
        assert not processor.prepare_next_batch(), "somebody is served again: delete this"
    assert "later" in scheduler.waiting_requests
    assert len(scheduler.waiting_requests) == 2, "and the one that was preempted"
    assert not scheduler.active_requests


def test_small_requests_pass_a_larger_one_without_end(
    model: LlamaForCausalLM, manager: Any
) -> None:
    processor = manager._create_batch_processor()
    scheduler = processor.scheduler
    passed = 200

    def step() -> None:
        assert processor.prepare_next_batch()
        processor._generation_step(model)
        processor.update_batch()

    def small(index: int) -> None:
        manager.add_request(GOOD, request_id=str(index), max_new_tokens=2 + index % 3)

    for index in range(6):
        small(index)
        step()
    manager.add_request(list(range(BLOCKS * PAGE - 4)), request_id="large", max_new_tokens=2)
    for index in range(6, passed):
        small(index)
        step()
    assert "large" in scheduler.waiting_requests, "it was served: delete this"
    assert passed - len(scheduler.waiting_requests) - len(scheduler.active_requests) > passed // 2
