"""Which architectures are refused since they do not predict a next token from what precedes it.

A checkpoint's config.json says so before any weight is read, for the architectures that
transformers knows.
"""

from __future__ import annotations

from typing import Any

from ...errors import ModelLoadError

_REMEDY = "the gates compare causal language models; give one"


def check_config(config: dict[str, Any], name: str) -> None:
    """Refuse what a config.json says is no causal language model.

    Raises ModelLoadError for an encoder-decoder model, and for one of an architecture that predicts
    masked tokens, unless it is configured as a decoder.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    kind = str(config.get("model_type"))
    default = (
        getattr(CONFIG_MAPPING[kind], "is_encoder_decoder", False)
        if kind in CONFIG_MAPPING
        else False
    )
    if config.get("is_encoder_decoder", default):
        raise ModelLoadError(f"model {name!r} is an encoder-decoder model ({kind}); {_REMEDY}")
    is_decoder = config.get("is_decoder", False) or config.get("causal", False)
    if kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not is_decoder:
        raise ModelLoadError(
            f"model {name!r} ({kind}) predicts masked tokens from both sides; {_REMEDY}, or set "
            "is_decoder in its config.json"
        )
