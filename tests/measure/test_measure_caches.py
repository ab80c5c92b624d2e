"""The cache gates' measuring on tiny transformers models, sound and with planted faults."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from infopt_suites.gates.kv_cache.growth import fitted_exponent
from infopt_suites.gates.kv_cache.long_prompt import long_prompt_of, measure_long_prompt
from infopt_suites.gates.kv_cache.ways import (
    BLOCK_SIZE,
    measure_kv_growth,
    measure_kv_prompt,
    paged_table,
    size_table,
    step_cost_table,
)
from infopt_suites.gates.kv_formula import FormulaCheck
from infopt_suites.gates.long_context.texts import measure_long_text, sweep_table, tail_logits
from infopt_suites.gates.prefix_cache.prefix_server import PrefixServer
from infopt_suites.gates.prefix_cache.prompts import measure_prefix_prompt, shared_prompt_table
from measure_fakes import seeded_ids
from tiny_models import CONFIGS, VOCABULARY, cache_in, make_model, make_tokenizer

from pytest_infopt.engines.kv_cache_formats import kv_cache_format
from pytest_infopt.engines.transformers import kv_cache_makers
from pytest_infopt.engines.transformers.engine import TransformersEngine
from pytest_infopt.engines.transformers.kv_cached import KVCachedEngine
from pytest_infopt.errors import InvalidComparisonError
from pytest_infopt.measure import OUTPUT_FACTOR, Difference
from pytest_infopt.results.sample import Sample

IDS = seeded_ids("caches", 24, VOCABULARY)
FOUND = 10 * OUTPUT_FACTOR  # what a planted fault has to exceed
Inputs = dict[str, Any]


def engine_of(module: Any, dtype: torch.dtype = torch.float32) -> TransformersEngine:
    own = copy.deepcopy(module).to(dtype)
    return TransformersEngine("tiny", own, make_tokenizer(), dtype=dtype)


def broken(
    architecture: str, fault: Callable[[Inputs], None], dtype: torch.dtype = torch.float32
) -> TransformersEngine:
    """A model whose forward passes are tampered with."""
    engine = engine_of(make_model(architecture), dtype)
    plain = engine.module.forward

    def forward(**inputs: Any) -> Any:
        fault(inputs)
        return plain(**inputs)

    engine.module.forward = forward
    return engine


def kv_sample(candidate: TransformersEngine, architecture: str) -> Sample:
    module = make_model(architecture)
    oracle = engine_of(module, torch.float64).full_logits(IDS)
    return measure_kv_prompt(candidate, oracle, engine_of(module).full_logits(IDS), IDS, "p")


def prefix_sample(candidate: TransformersEngine, architecture: str) -> Sample:
    module = make_model(architecture)
    oracle = engine_of(module, torch.float64).full_logits(IDS)
    return measure_prefix_prompt(
        candidate,
        lambda blocks, size: PrefixServer(candidate, blocks, size),
        oracle,
        engine_of(module).full_logits(IDS),
        IDS,
        "p",
    )


@pytest.mark.parametrize("architecture", CONFIGS)
def test_a_sound_models_caches_keep_to_the_dtypes_own_error(architecture: str) -> None:
    engine = engine_of(make_model(architecture))
    for sample in (kv_sample(engine, architecture), prefix_sample(engine, architecture)):
        values = dict(sample.values)
        assert values.pop("prefix_saved_share", 1.0) == 1.0
        assert all(value <= OUTPUT_FACTOR for value in values.values())
        assert sum(value for name, value in values.items() if "mismatches" in name) == 0


def test_a_cache_that_cannot_be_cropped_is_left_out_of_that_way_alone() -> None:
    def crop(tokens: int) -> None:
        raise RuntimeError("no way back")

    def refuses(inputs: Inputs) -> None:
        if held(inputs):
            cache_in(inputs).crop = crop

    sample = kv_sample(broken("llama", refuses), "llama")
    assert set(sample.details["left_out"]) == {"tokens taken back"}
    assert len(sample.details["errors"]) == 5
    assert sample.details["notes"] == [
        "not tried: tokens taken back: this cache cannot be cropped: no way back"
    ]


def test_a_window_that_has_moved_on_takes_tokens_back() -> None:
    sample = kv_sample(engine_of(make_model("gemma2")), "gemma2")  # a window of 8
    assert not sample.details["left_out"]
    assert sample.details["errors"]["tokens taken back"] <= OUTPUT_FACTOR


def held(inputs: Inputs) -> int:
    cache = cache_in(inputs)
    return 0 if cache is None else int(cache.get_seq_length())


def positions_start_anew(inputs: Inputs) -> None:
    """Positions ignore what is in the cache."""
    if held(inputs):
        inputs["position_ids"] = torch.arange(inputs["input_ids"].shape[1])[None]


def positions_count_padding(inputs: Inputs) -> None:
    if inputs.get("attention_mask") is not None:
        rows, columns = inputs["input_ids"].shape
        start = inputs["attention_mask"].shape[1] - columns
        inputs["position_ids"] = torch.arange(start, start + columns).expand(rows, -1)


def newest_entry_is_stale(inputs: Inputs) -> None:
    if held(inputs) > 1:
        for layer in cache_in(inputs).layers:
            layer.keys[:, :, -1] = layer.keys[:, :, -2]


def chunks_are_not_masked(inputs: Inputs) -> None:
    """A later chunk's tokens all see the whole chunk: the mask's corner."""
    columns = inputs["input_ids"].shape[1]
    if held(inputs) and columns > 1 and inputs.get("attention_mask") is None:
        inputs["attention_mask"] = torch.zeros(1, 1, columns, held(inputs) + columns)


def crop_takes_one_too_few(inputs: Inputs) -> None:
    cache = cache_in(inputs)
    if cache is not None and not hasattr(cache, "whole_crop"):
        cache.whole_crop = cache.crop
        cache.crop = lambda tokens: cache.whole_crop(tokens + 1)


@pytest.mark.parametrize(
    ("architecture", "fault", "way"),
    [
        ("llama", positions_start_anew, "token by token"),
        ("gpt2", positions_count_padding, "ragged batch"),
        ("llama", newest_entry_is_stale, "token by token"),
        ("llama", chunks_are_not_masked, "chunked prefill"),
        ("llama", crop_takes_one_too_few, "tokens taken back"),
    ],
)
def test_a_fault_of_the_kv_cache_shows_in_its_way(
    architecture: str, fault: Callable[[Inputs], None], way: str
) -> None:
    sample = kv_sample(broken(architecture, fault), architecture)
    assert sample.details["errors"][way] > FOUND
    assert sample.values["kv_error_ratio"] >= sample.details["errors"][way]
    alone = {positions_count_padding: {way, "ragged batch, short row"}}.get(fault)
    if fault in (crop_takes_one_too_few, chunks_are_not_masked) or alone:
        sound = sample.details["errors"].keys() - (alone or {way, "tokens taken back"})
        assert all(sample.details["errors"][name] <= OUTPUT_FACTOR for name in sound)


def controlled(
    candidate: TransformersEngine,
    control: TransformersEngine,
    lengths: Callable[[], Difference] = Difference,
) -> Sample:
    module = make_model("llama")
    oracle = engine_of(module, torch.float64).full_logits(IDS)
    plain = engine_of(module).full_logits(IDS)
    return measure_kv_prompt(candidate, oracle, plain, IDS, "p", lambda: control, lengths)


@pytest.mark.parametrize(
    ("fault", "way"),
    [(newest_entry_is_stale, "token by token"), (chunks_are_not_masked, "chunked prefill")],
)
def test_a_fault_that_the_reference_shows_too_is_said_to_be_its_own(
    fault: Callable[[Inputs], None], way: str
) -> None:
    sample = controlled(broken("llama", fault), broken("llama", fault))
    assert sample.values["kv_error_ratio"] <= OUTPUT_FACTOR
    assert sample.values["kv_greedy_mismatches"] == 0
    assert any(note.startswith(f"{way}: the reference's own") for note in sample.details["notes"])


def test_a_fault_beside_a_sound_reference_is_the_candidates() -> None:
    sample = controlled(broken("llama", newest_entry_is_stale), engine_of(make_model("llama")))
    assert sample.values["kv_error_ratio"] > FOUND
    assert not sample.details["notes"]


def slightly_stale(inputs: Inputs) -> None:
    if held(inputs) > 1:
        for layer in cache_in(inputs).layers:
            layer.keys[:, :, -1] += 1e-4 * layer.keys[:, :, -2]


def test_a_fault_larger_than_the_references_own_is_still_found() -> None:
    sample = controlled(broken("llama", newest_entry_is_stale), broken("llama", slightly_stale))
    assert sample.values["kv_error_ratio"] > FOUND


def test_a_candidate_is_held_to_what_lengths_change_in_the_reference() -> None:
    control, candidate = engine_of(make_model("llama")), broken("llama", slightly_stale)
    ratio = controlled(candidate, control).values["kv_error_ratio"]
    assert ratio > OUTPUT_FACTOR
    charged = controlled(candidate, control, lambda: Difference(ratio, 1.0, (1.0,) * 20))
    assert charged.values["kv_error_ratio"] <= 1
    assert any("plain passes of other lengths" in note for note in charged.details["notes"])
    worse = broken("llama", newest_entry_is_stale)
    found = controlled(worse, control, lambda: Difference(ratio, 0.0))
    assert found.values["kv_error_ratio"] > FOUND
    assert found.values["kv_greedy_mismatches"] > 0


def test_rounding_by_lengths_excuses_nothing() -> None:
    control, candidate = engine_of(make_model("llama")), broken("llama", slightly_stale)
    charged = controlled(candidate, control, lambda: Difference(OUTPUT_FACTOR, 1e3, (0.0,)))
    assert charged.values == controlled(candidate, control).values


def test_a_sound_candidate_asks_for_no_passes_of_other_lengths() -> None:
    def never() -> Difference:
        raise AssertionError("asked for")

    engine = engine_of(make_model("llama"))
    assert controlled(engine, engine, never).values["kv_error_ratio"] <= OUTPUT_FACTOR


def test_a_way_that_the_reference_cannot_go_either_is_left_out() -> None:
    def refuses_chunks(inputs: Inputs) -> None:
        if held(inputs) and inputs["input_ids"].shape[1] > 1:
            raise NotImplementedError("one token at a time")

    sample = controlled(broken("llama", refuses_chunks), broken("llama", refuses_chunks))
    assert set(sample.details["left_out"]) == {"chunked prefill", "tokens taken back"}
    reason = sample.details["left_out"]["chunked prefill"]
    assert reason == "the reference's own model refuses: one token at a time"
    with pytest.raises(NotImplementedError, match="one token at a time"):
        controlled(broken("llama", refuses_chunks), engine_of(make_model("llama")))


def test_an_error_of_the_computation_is_no_refusal_to_crop() -> None:
    def refuses_later_pairs(inputs: Inputs) -> None:
        if held(inputs) and inputs["input_ids"].shape[1] == 2:  # the wrong tokens
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        kv_sample(broken("llama", refuses_later_pairs), "llama")


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_prompt_as_long_as_the_context_window_goes_every_way(architecture: str) -> None:
    module = make_model(architecture)
    engine = engine_of(module)
    ids = seeded_ids("window", engine.context_window, VOCABULARY)
    oracle = engine_of(module, torch.float64).full_logits(ids)
    sample = measure_kv_prompt(engine, oracle, engine.full_logits(ids), ids, "p")
    assert not sample.details["left_out"]
    assert sample.values["kv_error_ratio"] <= OUTPUT_FACTOR


def later_tokens_leak(engine: TransformersEngine) -> TransformersEngine:
    """Every token's embedding carries the mean of its pass: not causal, and none the wiser for a
    model that is only ever given whole prompts."""
    embedding = engine.module.get_input_embeddings()
    embedding.register_forward_hook(
        lambda module, inputs, output: output + output.mean(dim=1, keepdim=True)
    )
    return engine


def test_a_model_whose_prefix_depends_on_what_follows_is_not_transparent() -> None:
    sample = prefix_sample(later_tokens_leak(engine_of(make_model("llama"))), "llama")
    errors = sample.details["errors"]
    assert errors["cold"] <= OUTPUT_FACTOR  # nothing shows as long as nothing is cached
    assert min(errors["warm"], errors["partly warm"]) > FOUND
    assert sample.values["prefix_error_ratio"] > FOUND


class Stale(PrefixServer):
    """Blocks that others had used keep a trace of what was in them."""

    def _compute(self, *arguments: Any, **options: Any) -> torch.Tensor:
        logits = super()._compute(*arguments, **options)
        self.used = getattr(self, "used", 0) + 1
        return logits * (1 + 2.0**-20 * (self.used > 4))


class Restless(PrefixServer):
    """What comes of a cached prefix changes each time by a bit."""

    def _compute(self, *arguments: Any, **options: Any) -> torch.Tensor:
        logits = super()._compute(*arguments, **options)
        self.used = getattr(self, "used", 0) + 1
        return logits * (1 + 2.0**-22 * self.used)


@pytest.mark.parametrize(
    ("kind", "routes"),
    [
        (PrefixServer, set()),
        (Stale, {"the prompt after eviction, for cold"}),
        (
            Restless,
            {"the prompt warm again, for warm", "the prompt after eviction, for cold"},
        ),
    ],
)
def test_a_prompt_that_was_served_has_the_same_bits_again(
    kind: type[PrefixServer], routes: set[str]
) -> None:
    engine = engine_of(make_model("llama"))
    oracle = engine_of(make_model("llama"), torch.float64).full_logits(IDS)
    sample = measure_prefix_prompt(
        engine, lambda n, p: kind(engine, n, p), oracle, engine.full_logits(IDS), IDS, "p"
    )
    found = sample.details["same_shape"]
    assert {route for route, count in found.items() if count} == routes
    assert len(found) == 2
    assert sample.values["prefix_error_ratio"] <= OUTPUT_FACTOR  # no unit of rounding shows it


class Forgetful(PrefixServer):
    """Serves rightly and finds nothing: safe, and useless."""

    def serve(self, prompt: Any, salt: Any = None, **options: Any) -> Any:
        self.asked = getattr(self, "asked", 0) + 1
        return super().serve(prompt, {"request": str(self.asked)}, **options)


def test_a_cache_that_never_hits_saves_nothing() -> None:
    module = make_model("llama")
    engine = engine_of(module)
    oracle = engine_of(module, torch.float64).full_logits(IDS)
    sample = measure_prefix_prompt(
        engine, lambda n, p: Forgetful(engine, n, p), oracle, engine.full_logits(IDS), IDS, "p"
    )
    assert sample.values["prefix_saved_share"] == 0
    assert sample.values["prefix_error_ratio"] <= OUTPUT_FACTOR


def test_without_a_finer_oracle_nothing_is_said() -> None:
    engine = engine_of(make_model("llama"))
    logits = engine.full_logits(IDS)
    with pytest.raises(InvalidComparisonError, match="oracle does not show"):
        measure_kv_prompt(engine, logits, logits, IDS, "p")
    with pytest.raises(InvalidComparisonError, match="oracle does not show"):
        measure_prefix_prompt(
            engine, lambda n, p: PrefixServer(engine, n, p), logits, logits, IDS, "p"
        )


@pytest.mark.parametrize("architecture", CONFIGS)
def test_the_cache_is_weighed_at_every_length_and_batch(architecture: str) -> None:
    engine = engine_of(make_model(architecture))
    growth = measure_kv_growth(engine, [1, 7, 8, 30], [2, 3])
    assert growth.values == {"kv_size_error": 0.0}
    sizes, steps = size_table(growth), step_cost_table(growth)
    assert [row[:2] for row in sizes.rows] == [(n, b) for b in (2, 3) for n in (1, 7, 8, 30)]
    assert [row[0] for row in steps.rows] == [1, 7, 8, 30]
    assert all(seconds > 0 for row in steps.rows for seconds in row[1:])
    assert len(steps.notes) == 2


def predicting_less(architecture: str) -> TransformersEngine:
    """A formula that is a byte short at 8 tokens."""
    engine = engine_of(make_model(architecture))
    predicted = engine.predicted_kv_bytes
    engine.predicted_kv_bytes = lambda tokens, batch=1: predicted(tokens, batch) - (tokens == 8)
    return engine


def test_a_cache_larger_than_its_formula_is_found() -> None:
    engine, sound = predicting_less("llama"), engine_of(make_model("llama"))
    assert measure_kv_growth(engine, [7, 8, 9], [1]).values == {"kv_size_error": 1.0}
    assert measure_kv_growth(engine, [7, 8, 9], [1], sound).values == {"kv_size_error": 1.0}


class _Windowed:
    """The formula of a layer that keeps all tokens, 3 bytes each, and one with a window of 8, 5."""

    def predicted_kv_bytes(self, tokens: int, batch: int = 1) -> int:
        return (3 * tokens + 5 * min(tokens, 8)) * batch


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize(("tokens", "kept"), [(7, 7), (8, 7), (8, 8), (9, 7), (30, 7), (30, 8)])
def test_a_full_window_may_have_dropped_its_oldest_token(
    tokens: int, kept: int, batch: int
) -> None:
    held = (3 * tokens + 5 * kept) * batch
    for off in (0, 1, -1):
        check = FormulaCheck(_Windowed())  # type: ignore[arg-type]
        check.add(tokens, batch, held + off)
        assert check.worst == abs(off)


@pytest.mark.parametrize(("tokens", "kept"), [(7, 6), (8, 6), (30, 6), (30, 9)])
def test_a_window_holds_no_fewer_and_no_more(tokens: int, kept: int) -> None:
    check = FormulaCheck(_Windowed())  # type: ignore[arg-type]
    check.add(tokens, 1, 3 * tokens + 5 * kept)
    assert check.worst == 5


def test_a_formula_that_the_reference_breaks_is_none() -> None:
    growth = measure_kv_growth(predicting_less("llama"), [7, 8, 9], [1], predicting_less("llama"))
    assert growth.values == {}
    assert growth.details["predicted"] == [None] * 3
    assert "formula unknown" in growth.details["not_judged"]["kv_size_error"]
    assert [row[3:] for row in size_table(growth).rows] == [(None, None)] * 3


@given(lengths=st.lists(st.integers(1, 100), min_size=1, max_size=20), spare=st.integers(0, 40))
def test_pages_waste_less_than_a_block_a_sequence(lengths: list[int], spare: int) -> None:
    capacity = max(lengths) + spare
    alone, pages, contiguous = paged_table(2**20, lengths, capacity).rows
    assert alone[1] == sum(lengths)
    assert contiguous[1] == capacity * len(lengths)
    assert 0 <= pages[1] - alone[1] < BLOCK_SIZE * len(lengths)
    assert pages[2] == pages[1]  # MiB, at a MiB a token


@given(
    exponent=st.integers(-3, 3),
    scale=st.integers(1, 1000),
    sizes=st.lists(st.integers(1, 10**6), min_size=2, max_size=6, unique=True),
)
def test_the_fitted_exponent_of_a_power_is_its_exponent(
    exponent: int, scale: int, sizes: list[int]
) -> None:
    found = fitted_exponent(sizes, [scale * float(size) ** exponent for size in sizes])
    assert found == pytest.approx(exponent, abs=1e-6)


def test_one_size_has_no_exponent() -> None:
    assert fitted_exponent([8], [1.0]) is None
    assert fitted_exponent([], []) is None


def test_a_shared_system_prompt_is_computed_once() -> None:
    engine = engine_of(make_model("llama"))
    system, questions = IDS[:16], [IDS[i : i + 5] for i in range(4)]
    table = shared_prompt_table(lambda n, p: PrefixServer(engine, n, p), system, questions, 8)
    computed = {row[0]: row[1:3] for row in table.rows}
    assert computed == {
        "no cache": (4, 4 * 21),
        "prefix cache": (4, 21 + 3 * 5),
        "prefix cache, after the first": (3, 21 + 3 * 5),
    }
    assert "57.1 % of 84" in table.notes[0]


def long_sample(
    candidate: TransformersEngine, length: int, name: str = "long", **options: Any
) -> Sample:
    module = make_model("llama")
    ids = seeded_ids(name, length, VOCABULARY)
    reference, oracle = engine_of(module), engine_of(module, torch.float64)
    tails = [tail_logits(each.score(ids), 8) for each in (reference, oracle, reference)]
    unit = f"text of {length}"
    return measure_long_text(candidate, candidate.score(ids), *tails, ids, unit, **options)


def test_long_texts_of_the_reference_itself_lose_nothing() -> None:
    samples = [long_sample(engine_of(make_model("llama")), length) for length in (64, 32)]
    for sample in samples:
        assert sample.identical
        assert sample.values["long_context_kl"] == 0
        assert sample.values["long_context_error_ratio"] <= OUTPUT_FACTOR
    assert [row[0] for row in sweep_table(samples, 8).rows] == [32, 64]


def test_a_long_context_fault_shows_at_long_lengths_only() -> None:
    """All positions from 40 on are the fortieth, as of a table that is too short."""
    candidate = engine_of(make_model("llama"))
    body = candidate.module.model
    plain = body.forward

    def forward(**inputs: Any) -> Any:
        start, columns = held(inputs), inputs["input_ids"].shape[1]
        inputs["position_ids"] = torch.arange(start, start + columns).clamp(max=40)[None]
        return plain(**inputs)

    body.forward = forward
    assert long_sample(candidate, 36).values["long_context_kl"] == 0
    assert long_sample(candidate, 64).values["long_context_kl"] > 0.01


def int4_cached(bend: Callable[[Any], None] = lambda cache: None) -> KVCachedEngine:
    """The tiny model with keys and values in int4, in caches with something done to them."""

    def make(config: Any) -> Any:
        cache = kv_cache_makers.int4(config)
        bend(cache)
        return cache

    form = kv_cache_format("int4")
    details: dict[str, Any] = {"dtype": torch.float32}
    return KVCachedEngine("int4", make_model("llama"), make_tokenizer(), form, make, **details)


def old_keys_in_decoding(cache: Any) -> None:
    """A token that comes alone is given the keys a slot further on."""
    plain = cache.update

    def update(keys: torch.Tensor, values: torch.Tensor, *others: Any, **named: Any) -> Any:
        found, *rest = plain(keys, values, *others, **named)
        return found.roll(1, dims=-2) if keys.shape[-2] == 1 else found, *rest

    cache.update = update


def test_a_cache_of_few_bits_is_held_to_what_its_codes_do_to_rounding() -> None:
    flipped = [
        long_sample(int4_cached(), 90, name="long 18", rounds_cache=r) for r in (False, True)
    ]
    without, granted = (sample.values["long_context_error_ratio"] for sample in flipped)
    assert granted <= OUTPUT_FACTOR < without
    bent = long_sample(int4_cached(old_keys_in_decoding), 90, rounds_cache=True)
    assert bent.values["long_context_error_ratio"] > OUTPUT_FACTOR


# A long prompt

LONG = seeded_ids("long prompt", 90, VOCABULARY)


def long_prompt(candidate: TransformersEngine, architecture: str = "llama") -> Sample:
    module = make_model(architecture)
    oracle = engine_of(module, torch.float64).full_logits(IDS)
    plain = engine_of(module, getattr(torch, candidate.dtype)).full_logits(IDS)
    return measure_long_prompt(
        candidate, oracle, plain, LONG, "long", lambda: engine_of(module, candidate._dtype)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", CONFIGS)
def test_the_end_of_a_long_prompt_is_sound(architecture: str, dtype: torch.dtype) -> None:
    sample = long_prompt(engine_of(make_model(architecture), dtype), architecture)
    assert sample.values["kv_long_error_ratio"] <= OUTPUT_FACTOR
    assert sample.values["kv_long_greedy_mismatches"] == 0
    assert sample.values["kv_coarse_tensors"] == 0


def overwritten(beyond: int) -> Callable[[Inputs], None]:
    """Entries beyond so many tokens take the place of the first ones."""

    def fault(inputs: Inputs) -> None:
        for layer in cache_in(inputs).layers if held(inputs) > beyond else ():
            layer.keys[:, :, : held(inputs) - beyond] = layer.keys[:, :, beyond:]

    return fault


def oldest_is_forgotten(inputs: Inputs) -> None:
    """A window of 64 where none is declared."""
    for layer in cache_in(inputs).layers if held(inputs) > 64 else ():
        layer.keys[:, :, : held(inputs) - 64] = -1e4
        layer.values[:, :, : held(inputs) - 64] = 0


def a_block_is_stale(inputs: Inputs) -> None:
    """The fourth block of 16 holds what the third does."""
    for layer in cache_in(inputs).layers if held(inputs) > 64 else ():
        layer.values[:, :, 48:64] = layer.values[:, :, 32:48]


BEYOND = [overwritten(48), overwritten(60), overwritten(80), oldest_is_forgotten, a_block_is_stale]


@pytest.mark.parametrize("fault", BEYOND)
def test_a_cache_that_breaks_beyond_a_boundary_is_found(fault: Callable[[Inputs], None]) -> None:
    assert kv_sample(broken("llama", fault), "llama").values["kv_error_ratio"] <= OUTPUT_FACTOR
    assert long_prompt(broken("llama", fault)).values["kv_long_error_ratio"] > FOUND


def in_eight_bits(axis: int) -> Callable[[Inputs], None]:
    def fault(inputs: Inputs) -> None:
        for layer in cache_in(inputs).layers if held(inputs) else ():
            for tensor in (layer.keys, layer.values):
                scale = tensor.abs().amax(axis, keepdim=True) / 127
                tensor.copy_((tensor / scale).round() * scale)

    return fault


def decoded_as_read(inputs: Inputs) -> None:
    """Stored as it should be, and read through 8-bit floats."""
    cache = cache_in(inputs)
    if cache is not None and not hasattr(cache, "whole_update"):
        cache.whole_update = cache.update

        def update(*args: Any, **options: Any) -> Any:
            found = cache.whole_update(*args, **options)
            return tuple(t.to(torch.float8_e4m3fn).to(t.dtype) for t in found)

        cache.update = update


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fault", [in_eight_bits(-1), in_eight_bits(-2), decoded_as_read])
def test_a_cache_in_fewer_bits_is_found(
    fault: Callable[[Inputs], None], dtype: torch.dtype
) -> None:
    sample = long_prompt(broken("llama", fault, dtype))
    assert sample.values["kv_coarse_tensors"] >= 2  # of two layers' keys and values
    assert any("coarser than" in note for note in sample.details["notes"])


def test_a_reference_that_keeps_fewer_bits_is_said_to() -> None:
    module = make_model("llama")
    oracle = engine_of(module, torch.float64).full_logits(IDS)
    engines = [broken("llama", in_eight_bits(-1)) for _ in range(2)]
    plain = engine_of(module).full_logits(IDS)
    sample = measure_long_prompt(engines[0], oracle, plain, LONG, "long", lambda: engines[1])
    assert sample.values["kv_coarse_tensors"] == 0


def test_the_long_prompt_passes_the_boundaries_within_reach() -> None:
    stream = list(range(50))
    ids, notes = long_prompt_of(stream, 64, 500, {"sliding_window": 100, "chunk": 10}, 256)
    assert ids == [*stream, *stream, *stream[:5]]
    assert not notes
    ids, notes = long_prompt_of(stream, 64, 500, {"sliding_window": 300}, 256)
    assert len(ids) == 64
    assert "not compared beyond sliding_window = 300" in notes[0]
    ids, _ = long_prompt_of(stream, 64, 40, {}, 256)
    assert len(ids) == 40
