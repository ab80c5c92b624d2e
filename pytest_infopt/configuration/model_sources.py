"""From what a file or the command line says about a model to its `ModelSource`."""

from __future__ import annotations

import glob
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..engines.formats import DTYPE_ALIASES, DTYPES, FORMATS
from ..engines.registry import engine_named
from ..errors import ConfigurationError
from ..naming import nearest
from ..options import FORMAT_SEPARATOR, Settings, locate_model
from ..release import PROMPT_LOOKUP, Draft, ModelSource, ServerSource

if TYPE_CHECKING:
    from .schema import DraftTable, ModelTable

# A candidate is made from the reference's checkpoint where it names no model of its own, with all
# that belongs to the checkpoint. Quantization, KV cache and server are what candidates differ in,
# and are not inherited.
_OWN_KEYS = {"name", "quantization", "options", "server", "kv_cache"}
_CHECKPOINT_KEYS = {key.name for key in fields(ModelSource)} - _OWN_KEYS


def reference_source(table: ModelTable, directory: Path, settings: Settings) -> ModelSource | None:
    """The reference; None if neither the file nor the command line names one.

    A reference from the command line takes dtype and device from the file, and nothing that
    belongs to the file's checkpoint: revision, GGUF file, options, trust in its code.
    """
    keys = _keys(table)
    if settings.reference is not None:
        keys = {key: value for key, value in keys.items() if key in ("dtype", "device")}
        keys["model"] = settings.reference
    if keys.get("model") is None:
        return None
    return _source("reference", keys, directory, settings)


def candidate_source(
    name: str, table: ModelTable, reference: ModelSource, directory: Path, settings: Settings
) -> ModelSource:
    """A candidate of the file. Where it names no model, it is made from the reference's."""
    keys = _keys(table)
    inherited = {"device"} if keys.get("model") is not None else _CHECKPOINT_KEYS
    base = {key: getattr(reference, key) for key in inherited}
    served = reference.server is not None and "server" not in keys
    if served or engine_named(reference.engine).reference_only:
        base.pop("engine", None)  # what serves the reference serves nothing else
    if "model" in base:
        base["quantization"] = _stored_quantization(reference)
    source = _source(name, base | keys, directory, settings)
    _check_turns(source, reference)
    return source


def draft_of(
    candidate: ModelSource, table: DraftTable, directory: Path, settings: Settings
) -> Draft:
    """Who drafts a candidate's tokens, on the candidate's device where the file does not say."""
    if table.model == PROMPT_LOOKUP:
        return Draft(None, table.num_speculative_tokens)
    keys = {"device": candidate.device} | _keys(table)
    source = _source(f"{candidate.name}-draft", keys, directory, settings)
    return Draft(source, table.num_speculative_tokens)


def command_line_candidate(text: str, reference: ModelSource, settings: Settings) -> ModelSource:
    """A candidate that the file does not name: a number format, FORMAT@MODEL, or a model.

    Raises ConfigurationError for an unknown format.
    """
    applied = _applied(text, reference)
    if applied is not None:
        return applied
    head, _, model = text.rpartition(FORMAT_SEPARATOR)
    if head and "/" not in head:
        return _format_of_model(head, model, reference, settings)
    keys: dict[str, Any] = {"model": text, "device": reference.device}
    return _source(_name_of(text), keys, Path(), settings)


def _applied(text: str, reference: ModelSource) -> ModelSource | None:
    """The reference in another number format, if ``text`` names one."""
    if text in FORMATS and text != "gguf":
        quantization = _stored_quantization(reference) if text == "none" else text
        return replace(_plain(reference), name=text, quantization=quantization)
    dtype = DTYPE_ALIASES.get(text, text)
    if dtype in DTYPES:
        quantization = _stored_quantization(reference)
        return replace(_plain(reference), name=text, dtype=dtype, quantization=quantization)
    return None


def _plain(reference: ModelSource) -> ModelSource:
    """The reference's checkpoint, as a candidate is made from it."""
    reference = replace(reference, options={}, kv_cache=None)
    if engine_named(reference.engine).reference_only:
        return replace(reference, engine=ModelSource.engine)
    return reference


def _format_of_model(
    text: str, model: str, reference: ModelSource, settings: Settings
) -> ModelSource:
    keys: dict[str, Any] = {"model": model, "device": reference.device}
    plain = _source(f"{_name_of(model)}-{text}", keys, Path(), settings)
    applied = _applied(text, plain)
    if applied is None:
        hint = nearest(text, [*FORMATS, *DTYPES])
        raise ConfigurationError(
            f"candidate {text}{FORMAT_SEPARATOR}{model}: unknown format {text!r}{hint}"
        )
    return replace(applied, name=plain.name)


def _stored_quantization(reference: ModelSource) -> str:
    """How the reference's checkpoint is read when nothing is quantized on top."""
    return "gguf" if reference.quantization == "gguf" else "none"


def _keys(table: ModelTable) -> dict[str, Any]:
    """What the table says of the model."""
    said = table.model_fields_set & {key.name for key in fields(ModelSource)}
    return {key: getattr(table, key) for key in said}


def _source(name: str, keys: dict[str, Any], directory: Path, settings: Settings) -> ModelSource:
    keys = {**keys, "model": locate_model(keys["model"], directory)}
    if keys.get("server") is not None:
        server = keys["server"].model_dump()
        listed = {key: tuple(server[key]) for key in ("command", "replicas")}
        keys["server"] = ServerSource(**server | listed)
    for option in {"calibration", "files"} & keys.get("options", {}).keys():
        keys["options"] = _with_absolute_globs(option, keys["options"], directory)
    if isinstance(folder := keys.get("options", {}).get("scores"), str):
        keys["options"] = {**keys["options"], "scores": str(directory.absolute() / folder)}
    if isinstance(texts := keys.get("options", {}).get("tokenizer"), str):
        keys["options"] = {**keys["options"], "tokenizer": locate_model(texts, directory)}
    if settings.device is not None:
        keys["device"] = settings.device
    head, _, tail = keys["model"].rpartition("/")
    if tail.endswith(".gguf"):
        stored = {"quantization": "gguf", "gguf_file": tail}
        keys = {**stored, **keys, "model": head or "."}
    return ModelSource(name=name, **keys)


def _with_absolute_globs(option: str, options: dict[str, Any], directory: Path) -> dict[str, Any]:
    """Files in options are relative to the configuration's file, as those of the corpus."""
    patterns = options[option]
    patterns = [patterns] if isinstance(patterns, str) else patterns
    if not isinstance(patterns, list) or not all(isinstance(p, str) for p in patterns):
        return options  # the loader says what is wrong with them
    root = Path(glob.escape(str(directory.absolute())))
    absolute = [str(root / Path(pattern).expanduser()) for pattern in patterns]
    return {**options, option: absolute}


def _name_of(model: str) -> str:
    return re.sub(r"[^\w.+-]", "-", Path(model).name.removesuffix(".gguf"))


def _check_turns(candidate: ModelSource, reference: ModelSource) -> None:
    """Raises ConfigurationError where one takes turns with a server that takes none."""
    if candidate.in_turns != reference.in_turns:
        names = [f"candidates.{candidate.name}", "reference"]
        taking, other = names if candidate.in_turns else reversed(names)
        raise ConfigurationError(
            f"{taking}.server.in_turns: {other} takes no turns with it; start the servers of both "
            "by a command with in_turns = true"
        )
