"""What is known to be wrong with a model's source before anything is loaded or imported."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from ..corpus.documents import load_corpus
from ..engines.formats import FORMATS, format_of
from ..engines.kv_cache_formats import KV_CACHES
from ..engines.registry import engine_named
from ..errors import ConfigurationError
from ..release import CorpusSource, ModelSource


def source_faults(source: ModelSource, root: Path, folders: Sequence[Path]) -> Iterator[str]:
    """Sentences on the model's files, its format's library and options, its loader, its texts.

    Loaders of the user's own are looked for in ``folders`` beside ``sys.path``; relative globs of
    calibration texts are below ``root``.
    """
    yield from _files(source)
    form = format_of(source.quantization)
    yield from _kv_cache(source, folders)
    if engine_named(source.engine).served:
        if source.server is None:
            yield f"engine {source.engine!r} asks a server: name its url in a table server"
        return  # whose libraries, formats and loaders are its own
    if why := form.missing():
        yield why
    if source.quantization not in FORMATS and (why := target_fault(source.quantization, folders)):
        yield why
    try:
        if source.engine == ModelSource.engine:  # another engine has options of its own
            form.check_options(source.options)
        if form.calibrated and (patterns := _globs(source.options)):
            load_corpus(CorpusSource(files=patterns), root)
    except ConfigurationError as error:
        yield str(error)


def _kv_cache(source: ModelSource, folders: Sequence[Path]) -> Iterator[str]:
    if why := engine_named(source.engine).refuses(source):
        yield why
    elif (own := source.kv_cache) not in {None, *KV_CACHES}:
        yield from filter(None, [target_fault(str(own), folders)])


def _files(source: ModelSource) -> Iterator[str]:
    path = Path(source.model)
    if not path.is_absolute():
        # A file of the hub has an owner and a repository before it.
        if source.gguf_file is not None and source.model.count("/") != 1:
            yield f"{path / source.gguf_file} does not exist"
    elif not path.exists():
        yield f"{path} does not exist"
    elif not path.is_dir():
        if source.engine == ModelSource.engine:  # another engine may have files of its own
            yield f"{path} is a file; a model is a directory, or a .gguf file"
    elif source.gguf_file is not None:
        if not (path / source.gguf_file).is_file():
            yield f"{path / source.gguf_file} does not exist"
    elif source.engine == ModelSource.engine and not (path / "config.json").is_file():
        yield f"{path} holds no model: it has no config.json"


def _globs(options: dict[str, Any]) -> tuple[Path, ...]:
    patterns = options.get("calibration", [])
    patterns = [patterns] if isinstance(patterns, str) else patterns
    if not isinstance(patterns, list) or not all(isinstance(p, str) for p in patterns):
        raise ConfigurationError(
            f"option calibration is {patterns!r}; give a glob or a list of globs, as [corpus] files"
        )
    return tuple(Path(pattern).expanduser() for pattern in patterns)


def target_fault(target: str, folders: Sequence[Path]) -> str:
    """Why "module:name" cannot be imported; "" where nothing is known against it. The module is
    found and parsed; it is not imported, which may bring torch."""
    module, _, name = target.partition(":")
    spec: ModuleSpec | None = None
    where: Sequence[str] | None = [*map(str, folders), *(each or "." for each in sys.path)]
    for part in module.split("."):
        spec = PathFinder.find_spec(part, where)
        if spec is None:
            return f"{target}: there is no module {module}"
        where = spec.submodule_search_locations or []
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return ""
    try:
        defined = _defined(Path(spec.origin))
    except (OSError, SyntaxError, ValueError) as error:
        return f"{target}: {spec.origin} cannot be read: {error}"
    first = name.partition(".")[0]
    return "" if {first, "*", "__getattr__"} & defined else f"{target}: {module} has no {first!r}"


def _defined(path: Path) -> set[str]:
    """The names that the module's code binds anywhere; "*" where it takes another module's."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.alias):
            found.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found
