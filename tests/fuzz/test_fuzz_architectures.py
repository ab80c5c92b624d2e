"""Random configurations of architectures: each gets a prediction or none, a refusal or none."""

from __future__ import annotations

from typing import Any

from cases import cases, refusal
from documents import JSON
from hypothesis import assume, example, given
from hypothesis import strategies as st
from transformers import AutoConfig

from pytest_infopt.engines.transformers.causal import check_config
from pytest_infopt.engines.transformers.kv_caches import predicted_kv_bytes
from pytest_infopt.errors import ModelLoadError

KINDS = ["llama", "falcon", "mistral", "gemma3_text", "deepseek_v3", "jamba", "mamba", "bert", "t5"]
KEYS = [
    "num_attention_heads",
    "num_key_value_heads",
    "num_hidden_layers",
    "hidden_size",
    "head_dim",
    "kv_lora_rank",
    "qk_rope_head_dim",
    "sliding_window",
    "layer_types",
    "num_kv_shared_layers",
    "multi_query",
    "attn_layer_period",
    "attn_layer_offset",
    "is_decoder",
]
SOME = st.integers(-1, 8) | st.none() | st.booleans() | st.lists(st.integers(0, 2), max_size=2)
TYPES = st.lists(
    st.sampled_from(["full_attention", "sliding_attention", "linear_attention", "?"]), max_size=4
)
CHANGES = st.dictionaries(st.sampled_from(KEYS), SOME | TYPES, max_size=3)


@cases(smoke=30, fuzz=2000)
@example("llama", {"num_attention_heads": 0}, False)
@example("falcon", {"num_attention_heads": 0}, False)
@example("llama", {"head_dim": -1}, False)
@example("mistral", {"sliding_window": -1}, False)
@given(st.sampled_from(KINDS), CHANGES, st.booleans())
def test_any_configuration_has_bytes_or_none(
    kind: str, changes: dict[str, Any], latents: bool
) -> None:
    config = AutoConfig.for_model(kind)
    text = config.get_text_config(decoder=True)
    try:
        for name, value in changes.items():
            setattr(text, name, value)
    except Exception:  # the library's own validation, which is no concern of ours
        assume(False)
    predicted = predicted_kv_bytes(config, 5, 2, 2, latents=latents)
    assert predicted is None or (type(predicted) is int and predicted >= 0)


@cases(smoke=30, fuzz=2000)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "model_type": st.sampled_from(KINDS) | JSON,
            "is_encoder_decoder": JSON,
            "is_decoder": JSON,
        },
    )
)
def test_any_configuration_is_causal_or_refused(config: dict[str, Any]) -> None:
    message = refusal(ModelLoadError, lambda: check_config(config, "the model"))
    assert message is None or "'the model'" in message
