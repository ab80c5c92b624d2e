"""A prompt with a draft and without: sound decoders of every architecture, and what is wrong."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
import torch
from infopt_suites.gates.speculative.acceptance import acceptance_of
from infopt_suites.gates.speculative.drafted_prompts import measure_drafted_prompt
from measure_fakes import seeded_ids
from tiny_models import CONFIGS, VOCABULARY, make_model, make_tokenizer
from transformers import AutoModelForCausalLM, MambaConfig

from pytest_infopt.engines.base import Drafting, Generated
from pytest_infopt.engines.transformers.engine import TransformersEngine
from pytest_infopt.errors import InvalidComparisonError, NotSupportedError
from pytest_infopt.measure import SelfComparison
from pytest_infopt.results.sample import Sample

COUNT = 20
MISMATCHES, ACCEPTANCE = "speculative_greedy_mismatches", "draft_acceptance"


@cache
def engine_of(
    architecture: str, dtype: torch.dtype = torch.float32, noise: float = 0.0
) -> TransformersEngine:
    module = copy.deepcopy(make_model(architecture))
    weight = module.get_input_embeddings().weight
    torch.manual_seed(3)
    weight.data += noise * torch.randn_like(weight)
    return TransformersEngine(architecture, module.to(dtype), make_tokenizer(), dtype=dtype)


def measured(
    engine: Any, drafting: Drafting, prompt: Sequence[int], plain: Any = None, first: bool = True
) -> Sample:
    exact = engine_of(engine.name, torch.float64)
    known = seeded_ids("known", 16, VOCABULARY)
    dtype = getattr(torch, engine.dtype)
    oracle = exact.full_logits(known)
    logits = engine_of(engine.name, dtype).full_logits(known)
    found = SelfComparison(engine, oracle, logits, "prompt", 1)
    return measure_drafted_prompt(
        engine, drafting, prompt, COUNT, found, lambda: plain or engine, first, "prompt"
    )


def prompt_of(seed: int, count: int = 12) -> list[int]:
    return seeded_ids(f"drafted-{seed}", count, VOCABULARY)


@pytest.mark.parametrize(
    ("architecture", "dtype"),
    [*((name, torch.float32) for name in CONFIGS), ("llama", torch.bfloat16)],
)
def test_drafts_of_any_quality_change_nothing(architecture: str, dtype: torch.dtype) -> None:
    engine = engine_of(architecture, dtype)
    for seed, noise in enumerate((0.0, 0.1, 3.0)):
        draft = engine_of(architecture, noise=noise)
        sample = measured(engine, Drafting(draft, 4), prompt_of(seed), first=bool(seed % 2))
        assert sample.values[MISMATCHES] == 0.0
        assert sample.details["tokens"] == COUNT


def test_an_equal_draft_is_accepted_and_a_bad_one_is_not() -> None:
    engine = engine_of("llama")
    twin = engine_of.__wrapped__("llama")
    equal = measured(engine, Drafting(twin, 4), prompt_of(0))
    bad = measured(engine, Drafting(engine_of("llama", noise=3.0), 4), prompt_of(0))
    assert bad.values[ACCEPTANCE] < 0.2
    assert equal.values[ACCEPTANCE] == 1.0
    for sample in (equal, bad):  # each pass emits what it accepted, and one token more
        assert sample.details["passes"] + sample.details["accepted"] == COUNT
        assert sample.weight == sample.details["drafted"] >= sample.details["accepted"]


def test_prompt_lookup_drafts_what_followed_before() -> None:
    engine = engine_of("llama")
    prompt = prompt_of(0)
    again = [*prompt, *engine.generated(prompt, COUNT).token_ids]
    sample = measured(engine, Drafting(None, 4), [*again, *prompt])
    assert sample.details["drafted"] > 0
    assert sample.values[MISMATCHES] == 0.0


def test_the_words_of_another_vocabulary_are_translated() -> None:
    """ "Universal" assisted generation of transformers."""
    engine = engine_of("llama")
    config = CONFIGS["llama"]()
    config.vocab_size = 100
    module = AutoModelForCausalLM.from_config(config)
    draft = TransformersEngine("small", module, make_tokenizer(100), dtype=torch.float32)
    sample = measured(engine, Drafting(draft, 4), [word % 100 for word in prompt_of(0)])
    assert sample.values[MISMATCHES] == 0.0
    assert sample.details["drafted"] > 0


def test_what_is_computed_anew_in_each_pass_was_not_drafted() -> None:
    engine = engine_of.__wrapped__("llama")  # one of its own, which is changed
    sound = engine.module.generate
    engine.module.generate = lambda ids, assistant_model, **options: sound(
        ids, use_cache=False, **options
    )
    generated = engine.generated(prompt_of(0), COUNT, Drafting(engine_of("llama"), 4))
    assert (generated.passes, generated.drafted, generated.accepted) == (COUNT, 0, 0)


def test_a_draft_is_left_as_it_was() -> None:
    """A draft may be a candidate of its own, or draft for another."""
    engine, draft = engine_of("llama"), engine_of("llama", noise=0.1)
    own = draft.module.generation_config
    before = own.to_dict()
    engine.generated(prompt_of(0), COUNT, Drafting(draft, 7))
    assert draft.module.generation_config is own
    assert own.to_dict() == before

    def break_down(*_: object) -> None:
        raise RuntimeError("out of memory")

    hook = draft.module.register_forward_pre_hook(break_down)
    with pytest.raises(RuntimeError, match="out of memory"):
        engine.generated(prompt_of(0), COUNT, Drafting(draft, 7))
    hook.remove()
    assert draft.module.generation_config is own


def test_what_the_length_or_an_end_cuts_is_counted_once() -> None:
    """Every length and every end, so that passes are cut everywhere: an equal draft, and a prompt
    that says its own continuation."""
    engine, twin = engine_of("llama"), engine_of.__wrapped__("llama")
    prompt = prompt_of(0)
    own = engine.generated(prompt, COUNT).token_ids
    for drafting, text in (
        (Drafting(twin, 4), prompt),
        (Drafting(None, 4), [*prompt, *own, *prompt]),
    ):
        cut = [engine.generated(text, count, drafting) for count in range(1, COUNT)]
        cut += [engine.generated(text, COUNT, drafting, [end]) for end in own]
        for each in cut:
            share = acceptance_of(each.drafted, each.accepted, "it")
            assert (share is None) == (each.drafted == 0)
            if drafting.engine is not None:  # all were right, and one at most was not looked at
                assert each.drafted - each.accepted <= 1


@pytest.mark.parametrize(("drafted", "accepted"), [(3, 4), (0, 1), (5, -1), (-2, 0)])
def test_counts_that_contradict_each_other_are_named(drafted: int, accepted: int) -> None:
    told = f"candidate 'x' counts {accepted} accepted tokens of {drafted} drafted"
    with pytest.raises(InvalidComparisonError, match=told):
        acceptance_of(drafted, accepted, "candidate 'x'")


@pytest.mark.parametrize(("passes", "drafted"), [(COUNT // 4, 8), (COUNT + 1, 8), (COUNT // 2, 0)])
def test_wrong_counts_of_right_tokens_are_no_acceptance(passes: int, drafted: int) -> None:
    engine = engine_of("llama")
    sound = engine.generated

    class Miscounting(Faulty):
        def generated(self, ids, count, drafting=None, ends=()):
            tokens = sound(ids, count, drafting, ends).token_ids
            return Generated(tokens, *((passes, drafted) if drafting else (count, 0)))

    drafting = Drafting(engine_of("llama", noise=0.1), 4)
    with pytest.raises(InvalidComparisonError, match=f"of {drafted} drafted"):
        measured(Miscounting(engine, None), drafting, prompt_of(1), plain=engine)


def test_a_model_whose_state_cannot_be_rolled_back_is_not_supported() -> None:
    config = MambaConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, state_size=4, pad_token_id=0
    )
    module = AutoModelForCausalLM.from_config(config)
    engine = TransformersEngine("mamba", module, make_tokenizer(), dtype=torch.float32)
    assert len(engine.generated(prompt_of(0), 4).token_ids) == 4
    with pytest.raises(NotSupportedError, match="generation with a draft"):
        engine.generated(prompt_of(0), 4, Drafting(None, 4))


class Faulty:
    """An engine whose drafted generation goes through ``damage``; all else is the sound one's."""

    def __init__(self, engine: TransformersEngine, damage: Any) -> None:
        self._engine, self._damage = engine, damage

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def generated(
        self,
        token_ids: Sequence[int],
        count: int,
        drafting: Drafting | None = None,
        ends: Sequence[int] = (),
    ) -> Generated:
        sound = self._engine.generated(token_ids, count, drafting, ends)
        if drafting is None:
            return sound
        tokens = tuple(self._damage(self._engine, list(token_ids), list(sound.token_ids), ends))
        return Generated(tokens, sound.passes, sound.drafted)


def second_best(engine: TransformersEngine, prompt: list[int], tokens: list[int], ends) -> list:
    """One wrong token, and what follows it rightly."""
    row = engine.full_logits([*prompt, *tokens[:3]])[-1]
    wrong = int(row.topk(2).indices[1])
    rest = engine.generated([*prompt, *tokens[:3], wrong], len(tokens) - 4, None, ends).token_ids
    return [*tokens[:3], wrong, *rest]


FAULTS = {
    "one wrong token": second_best,
    "a token is lost": lambda engine, prompt, tokens, ends: tokens[:4] + tokens[5:],
    "a token comes twice": lambda engine, prompt, tokens, ends: tokens[:5] + tokens[4:],
    "it stops early": lambda engine, prompt, tokens, ends: tokens[:-1],
    "it goes on behind the end": lambda engine, prompt, tokens, ends: (
        engine.generated(prompt, COUNT).token_ids if ends else tokens
    ),
    "it stops before the end token": lambda engine, prompt, tokens, ends: (
        tokens[:-1] if ends else tokens
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_not_lossless_is_counted(fault: str) -> None:
    engine = engine_of("llama")
    drafting = Drafting(engine_of("llama", noise=0.1), 4)
    faulty = Faulty(engine, FAULTS[fault])
    sample = measured(faulty, drafting, prompt_of(1), plain=engine)
    assert sample.values[MISMATCHES] > 0
    assert measured(engine, drafting, prompt_of(1)).values[MISMATCHES] == 0.0


def test_a_finding_names_where_the_draft_parts_from_plain_decoding() -> None:
    engine = engine_of("llama")
    faulty = Faulty(engine, second_best)
    prompt = prompt_of(1)
    sample = measured(faulty, Drafting(engine_of("llama", noise=0.1), 4), prompt, plain=engine)
    finding = sample.findings[0]
    own = engine.generated(prompt, COUNT).token_ids
    assert finding.position == len(prompt) + 3
    assert finding.reference_top[0][0] == engine.decode([own[3]])
    assert finding.reference_top[0][1] > finding.candidate_top[0][1]
    assert finding.gap_ulps > 2


def test_two_equal_logits_may_be_chosen_either_way() -> None:
    """The head's rows of two words made equal: a draft may turn one into the other."""
    engine = engine_of("qwen2")  # its head is its own
    prompt = prompt_of(2)
    own = engine.generated(prompt, COUNT).token_ids
    other = next(word for word in range(VOCABULARY) if word not in own and word not in prompt)
    tied = copy.deepcopy(engine.module)
    tied.lm_head.weight.data[other] = tied.lm_head.weight.data[own[3]]
    tied.get_input_embeddings().weight.data[other] = tied.get_input_embeddings().weight.data[own[3]]
    twin = TransformersEngine("qwen2", tied, engine.tokenizer, dtype=torch.float32)
    swapped = Faulty(
        twin, lambda _, __, tokens, ends: [other if t == own[3] else t for t in tokens]
    )
    sample = measured(swapped, Drafting(engine, 4), prompt, plain=twin)
    assert sample.values[MISMATCHES] == 0.0
