"""Loading an ONNX file into ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...errors import ConfigurationError, InfoptError, ModelLoadError
from ...release import ModelSource
from ..files.sources import LocalFiles, locate_tokenizer
from ..formats import ORACLE_DTYPE, format_of, needs
from ..loaders import LoadRequest
from ..transformers.kv_caches import declared_boundaries
from ..transformers.model import context_window

if TYPE_CHECKING:
    from .engine import OnnxEngine

_OPTIONS = {"file", "tokenizer", "threads", "providers"}
_USUAL = ("model.onnx", "onnx/model.onnx")
_CPU = "CPUExecutionProvider"


def load_onnx(source: ModelSource) -> OnnxEngine:
    """The source's ONNX file in ONNX Runtime, with the tokenizer beside it or of
    ``options.tokenizer``; ``options.threads`` are torch's by default, ``options.providers`` the
    CPU's.

    Raises ConfigurationError for options, formats and devices that it does not know, ModelLoadError
    for a missing library, file or tokenizer and for what is no decoder.
    """
    options = _options_of(source)
    path = _locate(source, options.file)
    try:
        from .engine import OnnxEngine
        from .graph import read_graph
        from .session import OnnxModel
    except ImportError as error:
        title = f"model {source.name!r} with engine {source.engine!r}"
        why = f"which cannot be imported ({error})"
        raise ModelLoadError(needs(title, "onnxruntime", why)) from error
    tokenizer, config = _texts_of(source, path, options)
    graph = read_graph(path)
    try:
        model = OnnxModel(path, graph.nbytes, options.threads, options.providers)
    except InfoptError as error:
        raise ModelLoadError(f"model {source.name!r} ({path}): {error}") from error
    except Exception as error:  # ONNX Runtime's errors have no class in common
        raise ModelLoadError(
            f"model {source.name!r}: ONNX Runtime cannot compute {path}: {error}"
        ) from error
    return OnnxEngine(
        source.name,
        model,
        graph,
        tokenizer,
        {} if config is None else declared_boundaries(config),
        fingerprint=graph.fingerprint({"engine": source.engine, "options": source.options}),
        context_window=context_window(config, tokenizer),
    )


@dataclass(frozen=True)
class _Options:
    file: str | None
    tokenizer: str | None
    threads: int
    providers: Sequence[str]


def _options_of(source: ModelSource) -> _Options:
    def refused(why: str) -> ConfigurationError:
        return ConfigurationError(f"model {source.name!r}: {why}")

    given = source.options
    if unknown := given.keys() - _OPTIONS:
        raise refused(
            f"engine {source.engine!r} has no options {', '.join(sorted(unknown))}; known: "
            f"{', '.join(sorted(_OPTIONS))}"
        )
    if format_of(source.quantization).name != "none" or source.device not in ("auto", "cpu"):
        raise refused(
            f"engine {source.engine!r} takes an ONNX file as it is, and gives and takes tensors on "
            f"the CPU; quantization {source.quantization!r} and device {source.device!r} are not "
            "for it: options.providers say what computes"
        )
    if source.dtype == ORACLE_DTYPE:
        raise ModelLoadError(f"model {source.name!r}: an ONNX file computes in its own dtype alone")
    threads, providers = given.get("threads", torch.get_num_threads()), given.get("providers")
    if not isinstance(threads, int) or threads < 1:
        raise refused(f"threads is {threads!r}; it takes an integer of at least 1")
    if providers is not None and not (isinstance(providers, list) and providers):
        raise refused(f'providers is {providers!r}; it takes a list of names such as ["{_CPU}"]')
    for name in ("file", "tokenizer"):
        if not isinstance(given.get(name, ""), str):
            raise refused(f"{name} is {given[name]!r}; it takes a string")
    return _Options(given.get("file"), given.get("tokenizer"), threads, providers or [_CPU])


def _locate(source: ModelSource, file: str | None) -> Path:
    path = Path(source.model).expanduser()
    if path.is_file():
        return path
    names = _USUAL if file is None else (file,)
    found = next((path / name for name in names if (path / name).is_file()), None)
    if found is None:
        there = sorted(str(each.relative_to(path)) for each in path.glob("**/*.onnx"))
        remedy = f"name one of {', '.join(there)} as options.file" if there else "export one first"
        raise ModelLoadError(
            f"model {source.name!r}: there is no {' and no '.join(names)} in {path}; {remedy}"
        )
    return found


def _texts_of(source: ModelSource, path: Path, options: _Options) -> tuple[Any, Any]:
    """The tokenizer, and the configuration or None, that lie beside the file or above its folder,
    or where the options say."""
    folders = [LocalFiles(path.parent), LocalFiles(path.parent.parent)]
    if options.tokenizer is not None:
        folders = [locate_tokenizer(replace(source, model=options.tokenizer, options={}))]
    for files in folders:
        request = LoadRequest(source, files, torch.float32, torch.device("cpu"))
        if (tokenizer := request.tokenizer()) is not None:
            return tokenizer, _config(files)
    raise ModelLoadError(
        f"model {source.name!r}: there is no tokenizer beside {path}; save it there, or name its "
        "checkpoint as options.tokenizer"
    )


def _config(files: LocalFiles) -> Any:
    from transformers import AutoConfig

    directory = files.as_floats.directory
    if not (directory / "config.json").is_file():
        return None
    try:
        return AutoConfig.from_pretrained(directory, local_files_only=True)
    except Exception as error:  # transformers raises what it pleases
        raise ModelLoadError(f"{directory / 'config.json'} cannot be read: {error}") from error
