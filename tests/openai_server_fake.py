"""A server on loopback that speaks OpenAI's API in a dialect: a tiny model, and known faults."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

from pytest_infopt.engines.transformers.engine import TransformersEngine

Fault = Callable[["_Handler", dict[str, Any]], bool]  # whether it has answered
# Of a prompt, and those before it: how many of its tokens are said to be cached, and the prompt as
# the model then sees it.
PrefixCache = Callable[[list[int], list[list[int]]], tuple[int, list[int]]]


@dataclass
class Behaviour:
    """``dialect`` is "vllm", "llama.cpp", "openai" (ids and echo), "text" (neither, and unknown
    fields are refused, as transformers' server does) or "chat" (chats only, with log-probabilities
    where ``scores``). ``faults`` meet one request each, ``always`` meets all. ``shift`` moves the
    rows of a text; ``counts`` is added to the tokens counted; ``end`` is an end token. Cached
    tokens are told where there is a ``cache``; ``warmth`` multiplies the logits behind them."""

    dialect: str
    faults: list[Fault] = field(default_factory=list)
    always: Fault | None = None
    shift: int = 0
    counts: int = 0
    name: str = "tiny"
    listed: bool = True
    cache: PrefixCache | None = None
    scores: bool = True
    end: int | None = None
    warmth: float = 1.0


class FakeServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, engine: TransformersEngine, behaviour: Behaviour, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.engine, self.behaviour = engine, behaviour
        self.lock = threading.Lock()
        self.bodies: list[dict[str, Any]] = []
        self.prompts: list[list[int]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def log_probabilities(self, ids: list[int]) -> torch.Tensor:
        with self.lock:
            return torch.log_softmax(self.engine.full_logits(ids).double(), -1)

    def greedy(self, ids: list[int], count: int) -> list[int]:
        with self.lock:
            return self.engine.generate([ids], [count])[0]


class _Handler(BaseHTTPRequestHandler):
    server: FakeServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        behaviour = self.server.behaviour
        if self.path == "/health":
            self.answer({})
        elif self.path == "/v1/models" and behaviour.listed:
            self.answer({"data": [{"id": behaviour.name, "max_model_len": 64}]})
        else:
            self.refuse(404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        behaviour = self.server.behaviour
        self.server.bodies.append(body)
        if behaviour.always is not None and behaviour.always(self, body):
            return
        if behaviour.faults and behaviour.faults.pop(0)(self, body):
            return
        native = behaviour.dialect == "llama.cpp"
        paths = {"llama.cpp": "/completion", "chat": "/v1/chat/completions"}
        if self.path == "/tokenize" and behaviour.dialect in ("vllm", "llama.cpp"):
            text = body.get("content" if native else "prompt")
            if text is None:
                self.refuse(400)
            else:
                self.answer({"tokens": self.server.engine.encode(text)})
        elif self.path == paths.get(behaviour.dialect, "/v1/completions"):
            self.complete(body)
        else:
            self.refuse(404)

    def complete(self, body: dict[str, Any]) -> None:
        behaviour, engine = self.server.behaviour, self.server.engine
        known = {"model", "prompt", "max_tokens", "temperature", "seed", "stream", "stream_options"}
        if behaviour.dialect == "text" and (
            body.keys() - known - {"logprobs", "echo"} or not isinstance(body["prompt"], str)
        ):
            self.refuse(422)
            return
        if behaviour.dialect == "chat":
            (message,) = body["messages"]
            ids = engine.encode(message["content"], "chat")
        else:
            prompt = body["prompt"]
            ids = engine.encode(prompt) if isinstance(prompt, str) else prompt
        cached, seen = behaviour.cache(ids, self.server.prompts) if behaviour.cache else (0, ids)
        self.server.prompts.append(ids)
        tokens = self.server.greedy(seen, int(body.get("max_tokens") or body["n_predict"]))
        if behaviour.end in tokens and not body.get("ignore_eos"):
            tokens = tokens[: tokens.index(behaviour.end)]
        warmth = behaviour.warmth if cached else 1.0
        rows = self.told_rows(seen, tokens, body, warmth)
        if body.get("stream"):
            self.stream(ids, tokens, cached, rows)
        elif behaviour.dialect == "chat":
            choice = {"index": 0, "message": self.said(tokens), "finish_reason": "length"}
            choice["logprobs"] = {"content": rows}
            self.answer(
                {"model": behaviour.name, "choices": [choice], "usage": self.usage(ids, tokens)}
            )
        elif behaviour.dialect == "llama.cpp":
            self.answer(self.native(ids, tokens, body))
        else:
            choice = {"index": 0, "text": engine.decode(tokens), "finish_reason": "length"}
            if behaviour.dialect == "vllm":
                choice |= self.of_vllm(ids, tokens, body)
            elif behaviour.dialect == "openai" and body.get("logprobs"):
                choice["logprobs"] = self.of_openai(ids, tokens, body)
            self.answer(
                {"model": behaviour.name, "choices": [choice], "usage": self.usage(ids, tokens)}
            )

    def said(self, tokens: list[int]) -> dict[str, Any]:
        return {"role": "assistant", "content": self.server.engine.decode(tokens)}

    def told_rows(
        self, seen: list[int], tokens: list[int], body: dict[str, Any], warmth: float
    ) -> list[dict[str, Any]]:
        """What is told of each token of an answer, in the form of chats, which others are made
        of."""
        top = body.get("top_logprobs") or body.get("n_probs") or body.get("logprobs")
        if not top or not self.server.behaviour.scores:
            return []
        rows = self.server.log_probabilities([*seen, *tokens])[len(seen) - 1 : -1]
        rows = (warmth * rows).log_softmax(-1)
        return [
            {
                **_named(token, row),
                "top_logprobs": [_named(i, row) for i in row.topk(min(top, 5)).indices.tolist()],
            }
            for token, row in zip(tokens, rows, strict=True)
        ]

    def usage(self, ids: list[int], tokens: list[int], cached: int = 0) -> dict[str, Any]:
        behaviour = self.server.behaviour
        told = {"prompt_tokens_details": {"cached_tokens": cached}} if behaviour.cache else {}
        counted = len(tokens) + behaviour.counts
        return {"prompt_tokens": len(ids), "completion_tokens": counted, **told}

    def rows(self, ids: list[int]) -> torch.Tensor:
        """Row t is of the token t + 1, unless they are shifted."""
        shift = self.server.behaviour.shift
        return self.server.log_probabilities(ids).roll(-shift, 0)

    def of_vllm(self, ids: list[int], tokens: list[int], body: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if body.get("return_token_ids"):
            found["token_ids"] = tokens
        if top := body.get("prompt_logprobs"):
            rows = self.rows(ids)
            told = [
                {str(i): {"logprob": float(row[i])} for i in {*row.topk(top).indices.tolist(), own}}
                for row, own in zip(rows, ids[1:], strict=False)
            ]
            found["prompt_logprobs"] = [None, *told]
        if top := body.get("logprobs"):
            row = self.server.log_probabilities(ids)[-1]
            best = row.topk(top).indices.tolist()
            found["logprobs"] = {
                "top_logprobs": [{f"token_id:{i}": float(row[i]) for i in best}],
            }
        return found

    def of_openai(self, ids: list[int], tokens: list[int], body: dict[str, Any]) -> dict[str, Any]:
        whole, top = [*ids, *tokens], min(body["logprobs"], 5)
        rows = self.rows(whole)
        first = 0 if body.get("echo") else len(ids)
        told = [
            {f"w{i}": float(row[i]) for i in row.topk(top).indices.tolist()}
            for row in rows[max(0, first - 1) : len(whole) - 1]
        ]
        own = [float(rows[t - 1, whole[t]]) for t in range(max(1, first), len(whole))]
        blank = [None] if first == 0 else []
        return {"top_logprobs": [*blank, *told], "token_logprobs": [*blank, *own]}

    def native(self, ids: list[int], tokens: list[int], body: dict[str, Any]) -> dict[str, Any]:
        found = {
            "content": self.server.engine.decode(tokens),
            "tokens": tokens,
            "tokens_predicted": len(tokens) + self.server.behaviour.counts,
            "tokens_evaluated": len(ids),
            "stop_type": "limit",
        }
        # As llama.cpp's, it tells none of a token that it holds back: here, one in three.
        held_back = tokens[0] % 3 == 0 and not body.get("logit_bias")
        if (top := body.get("n_probs")) and not held_back:
            row = self.server.log_probabilities(ids)[-1]
            best = row.topk(top).indices.tolist()
            told = [{"id": i, "token": f"w{i}", "logprob": float(row[i])} for i in best]
            found["completion_probabilities"] = [{"top_logprobs": told}]
        return found

    def stream(
        self, ids: list[int], tokens: list[int], cached: int, rows: list[dict[str, Any]]
    ) -> None:
        behaviour = self.server.behaviour
        self.begin_stream()
        for place, token in enumerate(tokens):
            text = f"{' ' if place else ''}w{token}"
            row = rows[place : place + 1]
            told: dict[str, Any] = {}
            if behaviour.dialect == "llama.cpp":
                told = {"completion_probabilities": row} if row else {}
                self.event({"content": text, "tokens": [token], "stop": False, **told})
                continue
            if behaviour.dialect == "chat":
                told = {"delta": {"content": text}, "logprobs": {"content": row}}
            else:
                told = {"text": text}
                told |= {"token_ids": [token]} if behaviour.dialect == "vllm" else {}
                tops = [{t["token"]: t["logprob"] for t in r["top_logprobs"]} for r in row]
                told |= {"logprobs": {"top_logprobs": tops}} if tops else {}
            self.event({"model": behaviour.name, "choices": [told]})
        counted = self.usage(ids, tokens, cached)
        if behaviour.dialect == "llama.cpp":
            predicted = counted["completion_tokens"]
            told = {"tokens_predicted": predicted, "timings": {"cache_n": cached}}
            self.event({"content": "", "tokens": [], "stop": True, **told})
        else:
            self.event({"choices": [{"text": "", "finish_reason": "length"}], "usage": counted})
        self.chunk(b"data: [DONE]\n\n")
        self.chunk(b"")

    def begin_stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def event(self, fields: dict[str, Any]) -> None:
        self.chunk(b"data: " + json.dumps(fields, ensure_ascii=False).encode() + b"\n\n")

    def chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def answer(self, fields: dict[str, Any]) -> None:
        self.respond(200, json.dumps(fields).encode())

    def refuse(self, status: int, **headers: str) -> None:
        self.respond(status, b'{"detail": "no"}', **headers)

    def respond(self, status: int, data: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing on stderr."""


def _named(token: int, row: torch.Tensor) -> dict[str, Any]:
    return {"token": f"w{token}", "id": token, "logprob": float(row[token])}


def status(code: int, **headers: str) -> Fault:
    """A refusal."""

    def refuse(handler: _Handler, body: dict[str, Any]) -> bool:
        handler.refuse(code, **headers)
        return True

    return refuse


def cut(handler: _Handler, body: dict[str, Any]) -> bool:
    """A stream that ends in its midst."""
    handler.begin_stream()
    handler.event({"choices": [{"text": "w1"}]})
    handler.close_connection = True
    return True


def broken_json(handler: _Handler, body: dict[str, Any]) -> bool:
    handler.respond(200, b'{"choices": [')
    return True


def trickling(handler: _Handler, body: dict[str, Any]) -> bool:
    """A stream that goes on and on."""
    handler.begin_stream()
    with suppress(OSError):  # the client has hung up
        while True:
            handler.event({"choices": [{"text": "w1"}]})
            time.sleep(0.02)
    return True


def renamed(name: str) -> Fault:
    """Another model behind the name."""

    def rename(handler: _Handler, body: dict[str, Any]) -> bool:
        handler.server.behaviour.name = name
        return False

    return rename


@contextmanager
def openai_server(engine: TransformersEngine, behaviour: Behaviour) -> Iterator[FakeServer]:
    with FakeServer(engine, behaviour) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
