"""A chat server on loopback whose prefix cache, answers and faults are known."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[str, bool], str]  # the prompt, and whether it was asked before


class FakeChatServer(ThreadingHTTPServer):
    """Streams ``answer`` word by word; a prompt asked before has all but 4 of its words cached."""

    def __init__(self, answer: Answer, *, reports_cache: bool = True) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.reports_cache = reports_cache
        self.bodies: list[dict[str, Any]] = []
        self.seen: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: FakeChatServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        prompt = " ".join(message["content"] for message in body["messages"])
        warm = prompt in self.server.seen
        self.server.seen.add(prompt)
        words = len(prompt.split())
        usage: dict[str, Any] = {"prompt_tokens": words, "completion_tokens": 1, "total_tokens": 1}
        if self.server.reports_cache:
            cached = max(0, words - 4) if warm else 0
            usage["prompt_tokens_details"] = {"cached_tokens": cached}
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self._event(choices=[_choice({"role": "assistant", "content": ""})])
        for piece in self.server.answer(prompt, warm).split(" "):
            self._event(choices=[_choice({"content": piece + " "})])
        self._event(choices=[_choice({}, "stop")])
        self._event(choices=[], usage=usage)
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, **fields: Any) -> None:
        event = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", **fields}
        self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing on stderr."""


def _choice(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": reason}


@contextmanager
def chat_server(answer: Answer, **options: Any) -> Iterator[FakeChatServer]:
    with FakeChatServer(answer, **options) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
