"""The transformers engine against the model's own plain forward, on tiny models."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import CONFIGS, SAMPLE_IDS, VOCABULARY, make_model, make_tokenizer

from pytest_infopt.engines.base import Capability, Engine
from pytest_infopt.engines.transformers.engine import TransformersEngine
from pytest_infopt.engines.transformers.footprint import storage_bytes
from pytest_infopt.engines.transformers.model import check_finite
from pytest_infopt.engines.transformers.precision import Float64Arithmetic
from pytest_infopt.engines.transformers.scoring import TransformersScores
from pytest_infopt.errors import InfoptError, ModelLoadError, NonFiniteLogitsError

ARCHITECTURES = sorted(CONFIGS)


def make_engine(architecture: str, dtype: torch.dtype = torch.float32) -> TransformersEngine:
    module = make_model(architecture).to(dtype)
    return TransformersEngine(architecture, module, make_tokenizer(), dtype=dtype)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def engine(request: pytest.FixtureRequest) -> TransformersEngine:
    return make_engine(request.param)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def oracle(request: pytest.FixtureRequest) -> TransformersEngine:
    return make_engine(request.param, torch.float64)


@pytest.fixture(scope="module")
def llama() -> TransformersEngine:
    return make_engine("llama")


def rounding(logits: torch.Tensor, steps: int) -> float:
    """What ``steps`` roundings of the largest value can add up to, each of them unlucky."""
    return steps * torch.finfo(logits.dtype).eps * float(logits.abs().max())


# A logit comes from about 2 layers of 4 products and sums over at most 128 terms each.
STEPS = 2 * 4 * 128


def plain_logits(engine: TransformersEngine, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = engine.module(input_ids=torch.tensor([ids])).logits[0]
    return logits


def test_an_engine_is_an_engine_and_can_everything(engine: TransformersEngine) -> None:
    known: Engine = engine  # the type checker's part of this test
    assert known.capabilities == frozenset(Capability) - {Capability.COUNTS, Capability.RECORDED}
    assert (known.dtype, known.device) == ("float32", "cpu")
    assert (known.vocabulary, known.context_window) == (VOCABULARY, 96)


def test_one_chunk_of_scores_has_the_bits_of_the_plain_forward(engine: TransformersEngine) -> None:
    scores = engine.score(SAMPLE_IDS)
    assert isinstance(scores, TransformersScores)
    assert scores.hidden_states is not None
    assert (scores.positions, scores.vocabulary) == (len(SAMPLE_IDS), VOCABULARY)
    expected = plain_logits(engine, SAMPLE_IDS)
    assert torch.equal(scores.logits(0, scores.positions), expected)
    assert torch.equal(engine.full_logits(SAMPLE_IDS), expected)


def test_any_chunks_of_scores_are_the_plain_forward(engine: TransformersEngine) -> None:
    expected = plain_logits(engine, SAMPLE_IDS)
    scores = engine.score(SAMPLE_IDS)
    for size in (1, 2, 7):
        starts = range(0, len(SAMPLE_IDS), size)
        chunks = [scores.logits(s, min(s + size, scores.positions)) for s in starts]
        difference = float((torch.cat(chunks) - expected).abs().max())
        assert difference <= rounding(expected, 64)  # the head alone: sums over 64 terms


def test_soft_capping_is_part_of_the_scores() -> None:
    gemma = make_engine("gemma2")
    capped = gemma.score(SAMPLE_IDS).logits(0, len(SAMPLE_IDS))
    assert float(capped.abs().max()) <= 2.0
    gemma.module.config.final_logit_softcapping = None
    raw = gemma.score(SAMPLE_IDS).logits(0, len(SAMPLE_IDS))
    assert float(raw.abs().max()) > 2.0  # else the cap would be no test


def test_stored_hidden_states_give_the_same_scores(engine: TransformersEngine) -> None:
    first = engine.score(SAMPLE_IDS)
    assert isinstance(first, TransformersScores)
    assert first.hidden_states is not None
    again = engine.scores_from_hidden(first.hidden_states.clone())
    assert torch.equal(again.logits(3, 9), first.logits(3, 9))
    with pytest.raises(ValueError, match=r"\[T, 64\] in float32"):
        engine.scores_from_hidden(first.hidden_states[:, :-1])
    with pytest.raises(ValueError, match="bfloat16"):
        engine.scores_from_hidden(first.hidden_states.bfloat16())


def test_the_body_is_itself_again_after_scoring(llama: TransformersEngine) -> None:
    llama.score(SAMPLE_IDS).logits(0, 2)
    assert "forward" not in vars(llama.module.base_model)  # the class's own again
    calls: list[int] = []
    original = llama.module.base_model.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return original(*args, **kwargs)

    llama.module.base_model.forward = counted  # as accelerate's hooks do
    try:
        llama.score(SAMPLE_IDS).logits(0, 2)
        assert llama.module.base_model.forward is counted
        assert calls == [1]  # the body ran once, and not for the chunk
    finally:
        del llama.module.base_model.forward


def test_a_head_that_needs_more_than_hidden_states_falls_back_to_whole_logits() -> None:
    module = make_model("llama")
    original = module.forward

    def with_input_bias(input_ids: Any = None, **kwargs: Any) -> Any:
        output = original(input_ids=input_ids, **kwargs)
        output.logits = output.logits + input_ids[..., None].to(output.logits.dtype)
        return output

    module.forward = with_input_bias
    odd = TransformersEngine("odd", module, dtype=torch.float32)
    assert Capability.HIDDEN_STATES not in odd.capabilities
    scores = odd.score(SAMPLE_IDS)
    assert isinstance(scores, TransformersScores)
    assert scores.hidden_states is None
    assert (scores.positions, scores.vocabulary) == (len(SAMPLE_IDS), VOCABULARY)
    assert torch.equal(scores.logits(2, 5), plain_logits(odd, SAMPLE_IDS)[2:5])
    with pytest.raises(ValueError, match="hidden states"):
        odd.scores_from_hidden(torch.zeros(1, 64))


def test_cached_logits_equal_uncached_in_float64(oracle: TransformersEngine) -> None:
    full = oracle.full_logits(SAMPLE_IDS)
    assert full.dtype is torch.float64
    for prefill in (1, len(SAMPLE_IDS) - 3, len(SAMPLE_IDS)):
        cached = oracle.cached_logits(SAMPLE_IDS, prefill)
        assert cached.shape == full.shape
        assert float((cached - full).abs().max()) <= rounding(full, STEPS)


def test_batch_rows_equal_single_prompts_in_float64(oracle: TransformersEngine) -> None:
    prompts = [SAMPLE_IDS, SAMPLE_IDS[:1], SAMPLE_IDS[4:15], [0, 0, 5]]
    for prompt, batched in zip(prompts, oracle.batch_logits(prompts), strict=True):
        single = oracle.full_logits(prompt)
        assert batched.shape == single.shape
        assert float((batched - single).abs().max()) <= rounding(single, STEPS)


@settings(max_examples=5, deadline=None)
@given(
    st.lists(
        st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=9), min_size=1, max_size=4
    )
)
def test_any_batch_and_any_split_equal_the_plain_forward(prompts: list[list[int]]) -> None:
    oracle = _shared_oracle()
    for prompt, batched in zip(prompts, oracle.batch_logits(prompts), strict=True):
        single = oracle.full_logits(prompt)
        cached = oracle.cached_logits(prompt, 1 + len(prompt) // 2 if len(prompt) > 1 else 1)
        assert float((batched - single).abs().max()) <= rounding(single, STEPS)
        assert float((cached - single).abs().max()) <= rounding(single, STEPS)


_ORACLES: list[TransformersEngine] = []


def _shared_oracle() -> TransformersEngine:
    if not _ORACLES:
        _ORACLES.append(make_engine("qwen2", torch.float64))
    return _ORACLES[0]


def test_the_float64_oracle_computes_in_float64_throughout() -> None:
    # RMSNorm casts to float32: its plain output misses the exact one by float32 rounding.
    oracle = make_engine("llama", torch.float64)
    norm = oracle.module.base_model.norm
    x = torch.randn(4, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    exact = x / (x.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon).sqrt() * norm.weight
    with torch.no_grad():
        plain = norm(x)
        with Float64Arithmetic():
            widened = norm(x)
    assert float((widened - exact).abs().max()) <= rounding(exact, 64)
    assert float((plain - exact).abs().max()) > rounding(exact, 64)


def test_float64_arithmetic_widens_every_way_to_ask_for_float32() -> None:
    x = torch.ones(3, dtype=torch.float64)
    with Float64Arithmetic():
        asked = [
            x.float(),
            x.to(torch.float32),
            x.to(dtype=torch.float32),
            x.type(torch.float32),
            torch.softmax(x, dim=-1, dtype=torch.float32),
            torch.arange(3, dtype=torch.float32),
            torch.arange(3).float(),
            torch.full((), torch.finfo(torch.float64).min),  # XGLM's mask
            torch.zeros(3),
            torch.tensor([0.5]),
        ]
        assert torch.tensor([1]).dtype == torch.int64
    assert {tensor.dtype for tensor in asked} == {torch.float64}
    assert torch.zeros(3).dtype == torch.float32
    assert x.float().dtype is torch.float32  # and outside nothing has changed


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_stream_gives_the_greedy_tokens_with_rising_stamps(architecture: str) -> None:
    # In float64 no near-tie can turn on rounding: a stepwise uncached argmax is the oracle.
    oracle = make_engine(architecture, torch.float64)
    events = list(oracle.stream(SAMPLE_IDS[:5], 8))
    ids = list(SAMPLE_IDS[:5])
    for _ in range(8):
        ids.append(int(oracle.full_logits(ids)[-1].argmax()))
    assert [event.token_id for event in events] == ids[5:]
    stamps = [event.arrived for event in events]
    assert all(later > earlier for earlier, later in pairwise(stamps))


def test_stream_goes_on_after_the_end_token(llama: TransformersEngine) -> None:
    first = next(iter(llama.stream([1, 2], 1))).token_id
    llama.module.generation_config.eos_token_id = first
    llama.module.config.eos_token_id = first
    assert len(list(llama.stream([1, 2], 6))) == 6


def test_bad_ids_are_refused_with_the_numbers(engine: TransformersEngine) -> None:
    with pytest.raises(ValueError, match="no token ids"):
        engine.score([])
    with pytest.raises(ValueError, match=r"token id 128 is outside 0…127"):
        engine.score([1, 128])
    with pytest.raises(ValueError, match="token id -1 "):
        engine.full_logits([-1])
    with pytest.raises(ValueError, match=r"97 tokens .* 96"):
        engine.score([1] * 97)
    with pytest.raises(ValueError, match=r"passes of \[0\] tokens; they take at least 1 each"):
        engine.cached_logits([1, 2], 0)
    with pytest.raises(ValueError, match="at least one prompt"):
        engine.batch_logits([])
    with pytest.raises(ValueError, match=r"rows 3…24 are outside .* 0…23"):
        engine.score(SAMPLE_IDS).logits(3, 24)
    with pytest.raises(ValueError, match="98, beyond the context window of 96"):
        engine.stream([1] * 90, 8)  # raised here, not at the first token
    with pytest.raises(ValueError, match="at least 1"):
        engine.stream([1], 0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_damaged_weights_are_named_as_such(value: float) -> None:
    module = make_model("qwen2")
    with torch.no_grad():
        module.model.layers[1].mlp.down_proj.weight[0, 0] = value
    damaged = TransformersEngine("damaged", module, dtype=torch.float32)
    with pytest.raises(NonFiniteLogitsError, match=r"'damaged' returned .* at position 0"):
        damaged.score(SAMPLE_IDS)
    with pytest.raises(NonFiniteLogitsError, match="damaged"):
        damaged.batch_logits([SAMPLE_IDS])


def test_a_damaged_head_is_found_at_the_rows_that_it_touches() -> None:
    module = make_model("qwen2")
    with torch.no_grad():
        module.lm_head.weight[3] = float("nan")
    damaged = TransformersEngine("damaged", module, dtype=torch.float32)
    scores = damaged.score(SAMPLE_IDS)  # hidden states are fine
    with pytest.raises(NonFiniteLogitsError, match="NaN at position 4; 2 of 2"):
        scores.logits(4, 6)


def test_check_finite_names_the_first_bad_position() -> None:
    rows = torch.zeros(5, 8)
    check_finite(rows, "m", 0)
    rows[3, 2] = float("-inf")
    rows[4, 0] = float("nan")
    with pytest.raises(NonFiniteLogitsError, match="infinity at position 13; 2 of 5"):
        check_finite(rows, "m", 10)


def test_a_model_that_cannot_run_is_a_load_error() -> None:
    module = make_model("llama")
    module.model.layers[0].mlp.up_proj = torch.nn.Linear(3, 5)
    with pytest.raises(ModelLoadError, match="'bad' was loaded, but a forward pass"):
        TransformersEngine("bad", module, dtype=torch.float32)


def test_text_goes_to_ids_and_back(llama: TransformersEngine) -> None:
    assert llama.encode("w3 w9 w127") == [3, 9, 127]
    assert llama.decode([3, 9]) == "w3 w9"


def test_without_a_tokenizer_scoring_works_and_text_says_what_to_do() -> None:
    mute = TransformersEngine("mute", make_model("llama"), dtype=torch.float32)
    assert mute.tokenizer_fingerprint == "none"
    assert mute.score([1, 2]).positions == 2
    with pytest.raises(ModelLoadError, match=r"'mute' has no tokenizer.*save_pretrained"):
        mute.encode("w1")


def test_weights_are_counted_by_hand_and_ties_once(llama: TransformersEngine) -> None:
    shape = CONFIGS["llama"]()
    attention = 64 * (64 + 32 + 32 + 64)  # q, k, v, o with 4 heads and 2 key-value heads
    layer = attention + 3 * 64 * 128 + 2 * 64
    parameters = VOCABULARY * 64 + 2 * layer + 64  # embedding tied to the head, layers, last norm
    assert shape.tie_word_embeddings
    footprint = llama.memory()
    assert footprint.weight_bytes == 4 * parameters
    assert footprint.buffer_bytes == storage_bytes(llama.module.buffers())
    assert footprint.peak_allocated_bytes is None
    assert footprint.peak_reserved_bytes is None
    llama.reset_peaks()  # nothing to reset on the CPU, and no error


def test_an_untied_head_counts() -> None:
    untied = make_engine("qwen2")
    parameters = sum(p.numel() for p in untied.module.parameters())
    assert untied.memory().weight_bytes == 4 * parameters
    assert make_engine("qwen2", torch.bfloat16).memory().weight_bytes == 2 * parameters


def test_what_a_pass_leaves_in_a_layer_is_no_weight_and_a_table_made_once_is_one() -> None:
    module = make_model("llama")
    weights = make_engine("llama").memory().weight_bytes
    layer = module.model.layers[0].mlp

    def keep(mlp: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        mlp.last_inputs = inputs[0].sum(-1)
        if not hasattr(mlp, "table"):
            mlp.table = torch.zeros(10)

    layer.register_forward_pre_hook(keep)
    engine = TransformersEngine("stateful", module, make_tokenizer(), dtype=torch.float32)
    for tokens in (3, 17):
        engine.full_logits(SAMPLE_IDS[:tokens])
        assert layer.last_inputs.numel() == tokens
        assert engine.memory().weight_bytes == weights + 4 * 10


@pytest.mark.parametrize("tokens", [1, 2, 7, 8, 9, 30])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_kv_cache_weighs_what_the_formula_says(
    engine: TransformersEngine, tokens: int, batch: int
) -> None:
    # Gemma 2's first layer has a window of 8 tokens: the lengths straddle it.
    assert engine.kv_cache_bytes(tokens, batch) == engine.predicted_kv_bytes(tokens, batch)


def test_kv_cache_of_nothing_or_too_much_is_refused(llama: TransformersEngine) -> None:
    with pytest.raises(ValueError, match=r"lengths \[0\] and batch 1: lengths rise"):
        llama.kv_cache_bytes(0)
    with pytest.raises(ValueError, match="context window of 96"):
        llama.kv_cache_bytes(97)


def test_a_missing_context_window_comes_from_the_tokenizer() -> None:
    module = make_model("llama")
    module.config.get_text_config = lambda decoder: (
        SimpleNamespace()
    )  # as Bloom's, with no such key
    tokenizer = make_tokenizer()
    tokenizer.model_max_length = 33
    bounded = TransformersEngine("bounded", module, tokenizer, dtype=torch.float32)
    assert bounded.context_window == 33
    unbounded = TransformersEngine("unbounded", module, dtype=torch.float32)
    assert unbounded.context_window > 10**9


def test_a_table_of_biases_is_a_context_window() -> None:
    """MPT has no max_position_embeddings, and ALiBi biases for max_seq_len positions."""
    module = make_model("llama")
    module.config.get_text_config = lambda decoder: SimpleNamespace(max_seq_len=48)
    assert TransformersEngine("mpt", module, dtype=torch.float32).context_window == 48


def test_closing_gives_the_memory_back() -> None:
    engine = make_engine("llama")
    scores = engine.score(SAMPLE_IDS)
    list(engine.stream(SAMPLE_IDS, 2))
    module = weakref.ref(engine.module)
    weight = weakref.ref(engine.module.model.embed_tokens.weight)
    gc.disable()  # close() itself has to collect
    try:
        engine.close()
        assert module() is None
        assert weight() is None
    finally:
        gc.enable()
    engine.close()
    calls = [
        lambda: engine.score([1]),
        lambda: scores.logits(0, 1),
        lambda: engine.stream([1], 1),
        lambda: engine.memory(),
        lambda: engine.encode("w1"),
        lambda: engine.reset_peaks(),
        lambda: engine.kv_cache_bytes(1),
        lambda: engine.module,
    ]
    for call in calls:
        with pytest.raises(InfoptError, match="'llama' is closed; load it again"):
            call()


def test_a_stream_that_is_left_half_way_holds_nothing() -> None:
    engine = make_engine("llama")
    events: Iterator[Any] = iter(engine.stream(SAMPLE_IDS, 50))
    next(events)
    module = weakref.ref(engine.module)
    engine.close()
    assert module() is None
    with pytest.raises(InfoptError, match="closed"):
        next(events)


@pytest.mark.parametrize("architecture", ["mixtral", "granite", "cohere", "opt", "bloom", "mamba"])
def test_further_architectures_score_as_their_plain_forward(architecture: str) -> None:
    # Mixture outputs, logit scaling, a projection behind the decoder, ALiBi, no attention at all.
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = SimpleNamespace(
        mixtral={"num_local_experts": 2, "num_key_value_heads": 2},
        granite={"logits_scaling": 3.0, "num_key_value_heads": 2},
        cohere={"logit_scale": 0.25, "num_key_value_heads": 2},
        opt={"ffn_dim": 64, "word_embed_proj_dim": 32, "do_layer_norm_before": True},
        bloom={"n_layer": 2, "n_head": 4},
        mamba={"state_size": 4},
    )
    common = {"vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 2}
    if architecture not in ("bloom", "mamba"):
        common |= {"num_attention_heads": 4}
    if architecture in ("mixtral", "granite", "cohere"):
        common |= {"intermediate_size": 96}
    torch.manual_seed(1)
    config = AutoConfig.for_model(architecture, **common, **getattr(sizes, architecture))
    config.bos_token_id = config.eos_token_id = config.pad_token_id = 0
    module = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    engine = TransformersEngine(architecture, module, dtype=torch.float32)
    assert Capability.HIDDEN_STATES in engine.capabilities
    scores = engine.score(SAMPLE_IDS)
    assert torch.equal(scores.logits(0, len(SAMPLE_IDS)), plain_logits(engine, SAMPLE_IDS))


def test_checkpoints_load_as_they_were_saved(checkpoints: dict[str, Path]) -> None:
    from transformers import AutoModelForCausalLM

    for architecture, path in checkpoints.items():
        saved = AutoModelForCausalLM.from_pretrained(path, use_safetensors=True)
        fresh = make_model(architecture)
        for name, tensor in fresh.state_dict().items():
            assert torch.equal(tensor, saved.state_dict()[name])
