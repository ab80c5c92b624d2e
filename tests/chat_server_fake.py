"""A chat server on loopback whose prefix cache, answers and faults are known."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import takewhile
from typing import Any

Answer = Callable[[str, bool], str]  # the prompt, and whether it was asked before


class FakeChatServer(ThreadingHTTPServer):
    """Streams ``answer`` word by word. Of a prompt, all words but 4 at most are cached, as far as
    it begins like one asked before; with ``claims_all`` it says so of every prompt. ``drafts`` are
    the tokens drafted and accepted for each answer, told ``drafts_by`` its timings, as llama.cpp's
    server does, or a page of metrics, as vLLM does."""

    daemon_threads = True

    def __init__(
        self,
        answer: Answer,
        *,
        reports_cache: bool = True,
        claims_all: bool = False,
        drafts: tuple[int, int] = (0, 0),
        drafts_by: str = "",
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.reports_cache = reports_cache
        self.claims_all = claims_all
        self.drafts, self.drafts_by = drafts, drafts_by
        self.bodies: list[dict[str, Any]] = []
        self.seen: set[str] = set()
        self.connections = 0
        self.lock = threading.Lock()

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections += 1
        super().process_request(request, client_address)

    def cached_words(self, prompt: str) -> int:
        words = prompt.split()
        shared = [
            sum(takewhile(bool, (a == b for a, b in zip(words, other.split(), strict=False))))
            for other in ([prompt] if self.claims_all else self.seen)
        ]
        return max(0, min(max(shared, default=0), len(words) - 4))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: FakeChatServer
    protocol_version = "HTTP/1.1"  # connections stay open, as servers of models keep them

    def do_GET(self) -> None:
        if self.path != "/metrics" or self.server.drafts_by != "metrics":
            self.send_error(404)
            return
        counted = zip(("draft", "accepted"), self.server.drafts, strict=True)
        # Other requests went before; engines of a server count apart, and bytes are another metric.
        page = "".join(
            f"# TYPE vllm:spec_decode_num_{name}_tokens_total counter\n"
            f'vllm:spec_decode_num_{name}_tokens_total{{engine="0",model_name="m"}} 1000.0\n'
            f'vllm:spec_decode_num_{name}_tokens_total{{engine="1",model_name="m"}} '
            f"{float(count * len(self.server.bodies))}\n"
            f"vllm:spec_decode_num_{name}_tokens_created 1.7e9\n"
            for name, count in counted
        ).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        prompt = " ".join(message["content"] for message in body["messages"])
        with self.server.lock:
            warm, cached = prompt in self.server.seen, self.server.cached_words(prompt)
            self.server.seen.add(prompt)
        words = len(prompt.split())
        usage: dict[str, Any] = {"prompt_tokens": words, "completion_tokens": 1, "total_tokens": 1}
        if self.server.reports_cache:
            usage["prompt_tokens_details"] = {"cached_tokens": cached}
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self._event(choices=[_choice({"role": "assistant", "content": ""})])
        for piece in self.server.answer(prompt, warm).split():
            self._event(choices=[_choice({"content": piece + " "})])
        drafted, accepted = self.server.drafts
        told = {"timings": {"draft_n": drafted, "draft_n_accepted": accepted}}
        timings = told if self.server.drafts_by == "timings" else {}
        self._event(choices=[_choice({}, "stop")], **timings)
        self._event(choices=[], usage=usage)
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")

    def _event(self, **fields: Any) -> None:
        event = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", **fields}
        self._chunk(b"data: " + json.dumps(event).encode() + b"\n\n")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

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
