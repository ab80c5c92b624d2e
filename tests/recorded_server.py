"""Real servers' answers: recorded through a proxy, replayed in their place.

A recording is a list of exchanges as they went over the wire, and what the same model found in
process. To record one, start the server with SmolLM2-135M-Instruct in float32, or from its GGUF
file, under the name "smollm2", and run

    python tests/recorded_server.py NAME http://127.0.0.1:8000

which writes tests/engines/recorded/NAME.json. One that completes chats only is a proxy of it that
answers completions with status 404. Record anew where the engine asks something else:
what was not recorded is answered with status 501, and the test says what it was.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2

from pytest_infopt.engines.base import Capability, TopScoresEngine, able
from pytest_infopt.engines.openai.engine import OpenAIEngine
from pytest_infopt.engines.registry import load_engine
from pytest_infopt.release import ModelSource, ServerSource

FOLDER = Path(__file__).parent / "engines" / "recorded"
MODEL = "embedded:smollm2"
NAME = "smollm2"
CHATS = "chat"  # how prompts begin that are chats
A_CHAT = "\n\nIs water wet?\n"  # begins and ends within tokens of its template
PROMPTS = ("The capital of France is", "山脚下有一座旧桥，桥面是青石铺成的，两边")
COUNT = 6  # tokens of an answer
PLACES = {"tokenizer": (-2, -1), CHATS: (-1,)}  # of a prompt, whose rows are asked for


class WireServer(ThreadingHTTPServer):
    """Passes requests on to ``origin`` and keeps the exchanges; without one, replays them."""

    daemon_threads = True

    def __init__(self, exchanges: list[dict[str, Any]], origin: str = "") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.exchanges, self.origin = exchanges, origin
        self.unknown: list[dict[str, Any]] = []  # what was asked and had not been recorded

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def exchange(self, request: dict[str, Any]) -> dict[str, Any]:
        if self.origin:
            answer = httpx2.request(
                request["method"], self.origin + request["path"], json=request["body"], timeout=300
            )
            kind = answer.headers.get("Content-Type", "")
            found = {**request, "status": answer.status_code, "type": kind, "text": answer.text}
            if request not in [{name: e[name] for name in request} for e in self.exchanges]:
                self.exchanges.append(found)
            return found
        for each in self.exchanges:
            if all(each[name] == request[name] for name in request):
                return each
        self.unknown.append(request)
        return {"status": 501, "type": "text/plain", "text": f"not recorded: {request}"}


class _Handler(BaseHTTPRequestHandler):
    server: WireServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _answer(self, body: dict[str, Any] | None) -> None:
        found = self.server.exchange({"method": self.command, "path": self.path, "body": body})
        data = found["text"].encode()
        self.send_response(found["status"])
        self.send_header("Content-Type", found["type"])
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing on stderr."""


@contextmanager
def wire(exchanges: list[dict[str, Any]], origin: str = "") -> Iterator[WireServer]:
    with WireServer(exchanges, origin) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def recorded(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return found


@contextmanager
def served(server: WireServer) -> Iterator[OpenAIEngine]:
    source = ModelSource(
        "served",
        MODEL,
        dtype="float32",
        engine="openai",
        server=ServerSource(server.url, model=NAME),
    )
    engine = load_engine(source)
    assert isinstance(engine, OpenAIEngine)
    try:
        yield engine
    finally:
        engine.close()


def told(engine: OpenAIEngine) -> dict[str, Any]:
    """All that a server tells of the prompts."""
    found: dict[str, Any] = {
        "dialect": engine.dialect.name,
        "capabilities": sorted(engine.capabilities),
        "context_window": engine.context_window,
    }
    begins_with = engine.prompts_begin_with
    for prompt in prompts_of(begins_with):
        ids = engine.encode(prompt, begins_with)
        found[prompt] = {
            "tokens": engine.greedy_tokens(ids, COUNT),
            "stream": [event.token_id for event in engine.stream(ids, COUNT)],
        }
        if Capability.TOP_SCORES in engine.capabilities:
            asked = [len(ids) + place for place in PLACES[begins_with]]
            rows = able(engine, TopScoresEngine).top_scores(ids, asked)
            found[prompt]["rows"] = [{str(i): v for i, v in sorted(row.items())} for row in rows]
    return found


def prompts_of(begins_with: str) -> tuple[str, ...]:
    return (*PROMPTS, A_CHAT) if begins_with == CHATS else PROMPTS


def in_process(begins_with: str) -> dict[str, Any]:
    """What the model finds of the prompts in process: greedy tokens, and log-probabilities."""
    engine = load_engine(ModelSource("reference", MODEL, dtype="float32"))
    found: dict[str, Any] = {}
    for prompt in prompts_of(begins_with):
        ids = engine.encode(prompt, begins_with)
        rows = engine.full_logits(ids)[PLACES[begins_with][0] :].double().log_softmax(-1)
        found[prompt] = {
            "tokens": engine.greedy_tokens(ids, COUNT),
            "rows": [
                {str(int(i)): float(row[i]) for i in row.topk(50).indices.sort().values}
                for row in rows
            ],
        }
    return found


def record(name: str, origin: str) -> None:
    exchanges: list[dict[str, Any]] = []
    with wire(exchanges, origin) as server, served(server) as engine:
        found, begins_with = told(engine), engine.prompts_begin_with
    document = {"exchanges": exchanges, "told": found, "in_process": in_process(begins_with)}
    FOLDER.mkdir(exist_ok=True)
    text = json.dumps(document, ensure_ascii=False, indent=1)
    (FOLDER / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    record(*sys.argv[1:])
