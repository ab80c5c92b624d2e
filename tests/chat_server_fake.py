"""A chat server on loopback whose answers and drafts are known."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[str], str]  # of the prompt


class FakeChatServer(ThreadingHTTPServer):
    """Streams ``answer`` word by word. ``drafts`` are the tokens drafted and accepted for each
    answer, told ``drafts_by`` its timings, as llama.cpp's server does, or a page of metrics, as
    vLLM does."""

    daemon_threads = True

    def __init__(
        self,
        answer: Answer,
        *,
        drafts: tuple[int, int] = (0, 0),
        drafts_by: str = "",
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.drafts, self.drafts_by = drafts, drafts_by
        self.bodies: list[dict[str, Any]] = []

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
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self._event(choices=[_choice({"role": "assistant", "content": ""})])
        for piece in self.server.answer(prompt).split():
            self._event(choices=[_choice({"content": piece + " "})])
        drafted, accepted = self.server.drafts
        told = {"timings": {"draft_n": drafted, "draft_n_accepted": accepted}}
        timings = told if self.server.drafts_by == "timings" else {}
        self._event(choices=[_choice({}, "stop")], **timings)
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
