"""Finding the server of a source, and what it offers."""

from __future__ import annotations

import hashlib
import json
import sys
from typing import Any

from ...errors import ConfigurationError, InvalidComparisonError, ModelLoadError, ServerRefusedError
from ...release import ModelSource, ServerSource
from ..files.checkpoints import checkpoint_config
from ..files.sources import LocalFiles, locate_tokenizer
from ..formats import DTYPES
from .client import ServerClient
from .engine import OpenAIEngine
from .probe import observed

_OPTIONS = {"chats", "log_probs"}
_USUAL_DTYPE = "bfloat16"  # of servers, where neither release nor checkpoint says


def load_openai(source: ModelSource) -> OpenAIEngine:
    """The engine of the server that the source names; ``source.model`` is the checkpoint that is
    served, or a directory with its tokenizer.

    Raises ConfigurationError for a source without a server, ModelLoadError without a tokenizer,
    InvalidComparisonError for a server that does not answer, has no such model, reads texts
    otherwise than the tokenizer, or tells misaligned log-probabilities.
    """
    server = _server_of(source)
    files = locate_tokenizer(source)
    tokenizer, config = _tokenizer(source, files), checkpoint_config(str(files.directory))
    client = ServerClient(server)
    try:
        return _connected(source, server, client, tokenizer, config)
    except BaseException:
        client.close()
        raise


def _connected(
    source: ModelSource,
    server: ServerSource,
    client: ServerClient,
    tokenizer: Any,
    config: dict[str, Any],
) -> OpenAIEngine:
    served = model_there(client, server)
    dtype = source.dtype if source.dtype in DTYPES else str(config.get("dtype") or _USUAL_DTYPE)
    where = sorted(server.addresses)  # whichever of them this process asks
    identity = {"server": where, "model": served, "body": server.body, "dtype": dtype}
    engine = OpenAIEngine(
        source.name,
        tokenizer,
        vocabulary=int(config.get("vocab_size") or len(tokenizer)),
        context_window=_context_window(served, config, tokenizer),
        dtype=dtype if dtype in DTYPES else _USUAL_DTYPE,
        fingerprint=hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest(),
    )
    name = str(served["id"])
    _check_tokenizer(client, name, engine)
    log_probs = bool(source.options.get("log_probs", True))
    chats = bool(source.options.get("chats", False))
    engine.connect(observed(client, name, engine, log_probs=log_probs, chats=chats))
    return engine


def _server_of(source: ModelSource) -> ServerSource:
    if source.server is None:
        raise ConfigurationError(
            f"model {source.name!r}: engine {source.engine!r} asks a server; name its url in a "
            "table server"
        )
    if unknown := source.options.keys() - _OPTIONS:
        raise ConfigurationError(
            f"model {source.name!r}: engine {source.engine!r} has no options "
            f"{', '.join(sorted(unknown))}; known: {', '.join(sorted(_OPTIONS))}"
        )
    return source.server


def _tokenizer(source: ModelSource, files: LocalFiles) -> Any:
    import torch  # a loader is given a dtype and a device

    from ..loaders import LoadRequest

    tokenizer = LoadRequest(source, files, torch.float32, torch.device("cpu")).tokenizer()
    if tokenizer is None:
        raise ModelLoadError(
            f"model {source.name!r}: {files.directory} has no tokenizer; give the checkpoint that "
            "is served, or a directory with its tokenizer"
        )
    return tokenizer


def model_there(client: ServerClient, server: ServerSource) -> dict[str, Any]:
    """What the server's list says of the model: of the named one, or of the only one."""
    # Asked for once: transformers' server has none where its cache of downloads is not there yet.
    listed = json.loads(client.page("models") or "{}").get("data") or []
    there = {str(each.get("id")): each for each in listed if isinstance(each, dict)}
    if server.model:
        return there.get(server.model, {"id": server.model})
    if len(there) != 1:
        raise InvalidComparisonError(
            f"server {server.url} has {len(there)} models ({', '.join(there) or 'it lists none'}); "
            "name one as model in the table server"
        )
    return next(iter(there.values()))


def _context_window(served: dict[str, Any], config: dict[str, Any], tokenizer: Any) -> int:
    """The shortest that server, checkpoint and tokenizer name."""
    meta = served.get("meta") or {}
    named = (
        served.get("max_model_len"),  # vLLM, SGLang
        meta.get("n_ctx"),  # llama.cpp
        config.get("max_position_embeddings"),
        getattr(tokenizer, "model_max_length", None),
    )
    return min((int(each) for each in named if each), default=sys.maxsize)


def _check_tokenizer(client: ServerClient, model: str, engine: OpenAIEngine) -> None:
    """Where the server tells how it reads texts: that it reads them as the tokenizer here."""
    text = "naïve  façade\n\tx = 3.14; 東京 w1 w2"
    for body in ({"model": model, "prompt": text}, {"content": text}):  # vLLM, llama.cpp
        try:
            told = client.ask("/tokenize", {**body, "add_special_tokens": False}).get("tokens")
        except ServerRefusedError:
            continue
        if told and list(told) != engine.encode(text):
            raise InvalidComparisonError(
                f"tokenizer: server {client.source.url} reads {text!r} as {list(told)}, the "
                f"tokenizer of model {engine.name!r} as {engine.encode(text)}; name the checkpoint "
                "that is served as the candidate's model"
            )
        if told:
            return
