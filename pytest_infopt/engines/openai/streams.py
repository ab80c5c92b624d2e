"""Many streams of one server at once: events with the moments at which they came.

A load generator measures the server only while its own work is small. A token costs an HTTP
library's asynchronous client 117 µs (httpx2) or 36 µs (aiohttp) on two cores of a virtual machine;
this one takes bytes off the socket, stamps them, and reads them when the answer is whole. Sources:
RFC 9112 (HTTP/1.1) sections 4, 6 and 7; WHATWG HTML, "Server-sent events". PYTEST_DONT_REWRITE: it
times.
"""

from __future__ import annotations

import asyncio
import json
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any
from urllib.parse import urlsplit

import httpx2

from .client import ServerClient

__all__ = ["StreamConnections"]

Part = tuple[bytes, float]  # bytes, and when they came
_HEAD_END = b"\r\n\r\n"
_DATA = b"data: "
_LAST_CHUNK = b"\r\n0\r\n\r\n"
_PORTS = {"http": 80, "https": 443}


class StreamConnections:
    """Connections to a client's server, for one event loop. They are kept open, and directly to the
    server: no proxy is asked."""

    def __init__(self, client: ServerClient) -> None:
        self._client = client
        self._idle: list[_Connection] = []

    async def open(self, count: int) -> None:
        """Have so many connections ready, so that no request is charged with setting one up."""
        missing = count - len(self._idle)
        self._idle += [await self._connected() for _ in range(missing)]

    async def events(self, path: str, body: dict[str, Any]) -> list[tuple[dict[str, Any], float]]:
        """The events of one streamed answer, each with when its last byte came.

        Raises as `ServerClient.events`. It is asked for once.
        """
        client = self._client
        address = urlsplit(client.address(path))
        content = json.dumps({**client.source.body, **body, "stream": True}).encode()
        headers = {
            "Host": address.netloc,
            "Authorization": client.authorization,
            "Content-Type": "application/json",
            "Accept": "text/event-stream",
            "Content-Length": len(content),
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        target = address.path + (f"?{address.query}" if address.query else "")
        parts = await self._answered(f"POST {target} HTTP/1.1\r\n{head}\r\n".encode() + content)
        response, bodies = _read(parts)
        client.check_status(path, response)
        return list(client.whole_events(_events(bodies)))

    def close(self) -> None:
        """Close the connections."""
        for connection in self._idle:
            connection.transport.close()
        self._idle.clear()

    async def _answered(self, request: bytes) -> list[Part]:
        while self._idle:
            connection = self._idle.pop()
            if not connection.transport.is_closing():
                break
        else:
            connection = await self._connected()
        try:
            async with asyncio.timeout(self._client.source.timeout_seconds):
                try:
                    parts = await connection.ask(request)
                except ConnectionError:
                    if not connection.was_left:
                        raise
                    connection = await self._connected()
                    parts = await connection.ask(request)
        except TimeoutError as error:
            raise self._client.too_slow() from error
        except OSError as error:
            raise self._client.unavailable(repr(error)) from error
        self._idle.append(connection)
        return parts

    async def _connected(self) -> _Connection:
        address = urlsplit(self._client.address(""))
        host, port = address.hostname or "", address.port or _PORTS[address.scheme]
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                _Connection, host, port, ssl=address.scheme == "https" or None
            )
        except OSError as error:
            raise self._client.wrong(repr(error)) from error
        return connection


class _Connection(asyncio.Protocol):
    """Answers one request after the other with bytes and their moments."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self._parts: list[Part] = []
        self._whole: asyncio.Future[None] | None = None
        self._head: bytes | None = b""  # as far as it is there; None once it was read
        self._length: int | None = None  # of the answer, where its head announces that
        self._taken = 0
        self._tail = b""
        self._answers = 0

    @property
    def was_left(self) -> bool:
        """Whether the server closed it behind an answer, as it may at any time, while the next
        request was on its way (RFC 9112, section 9.5): nothing of an answer to that has come."""
        return self._answers > 0 and not self._parts

    async def ask(self, request: bytes) -> list[Part]:
        """Send a request; what comes until its answer is whole, or the server closes."""
        self._parts, self._head, self._length, self._taken, self._tail = [], b"", None, 0, b""
        self._whole = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        try:
            await self._whole
        except BaseException:
            self.transport.abort()  # what still comes is of no request
            raise
        return self._parts

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # of a stream of bytes

    def data_received(self, data: bytes) -> None:
        self._parts.append((data, time.perf_counter()))
        self._taken += len(data)
        short = len(data) < len(_LAST_CHUNK)
        self._tail = (self._tail + data if short else data)[-len(_LAST_CHUNK) :]
        if self._head is not None:
            self._read_head(self._head + data)
        is_last = self._tail == _LAST_CHUNK and self._length is None
        if is_last or (self._length is not None and self._taken >= self._length):
            self._end()

    def _read_head(self, data: bytes) -> None:
        head, found, _ = data.partition(_HEAD_END)
        self._head = None if found else data
        length = _headers(head).get("content-length") if found else None
        self._length = None if length is None else len(head) + len(_HEAD_END) + int(length)

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is None and self._parts:
            self._end()
        elif self._whole is not None and not self._whole.done():
            self._whole.set_exception(exc or ConnectionResetError("the server closed its stream"))

    def _end(self) -> None:
        if self._whole is not None and not self._whole.done():
            self._answers += 1
            self._whole.set_result(None)


def _headers(head: bytes) -> httpx2.Headers:
    fields = [line.partition(":") for line in head.decode("latin-1").split("\r\n")[1:]]
    return httpx2.Headers([(name, value.strip()) for name, _, value in fields])


def _read(parts: Sequence[Part]) -> tuple[httpx2.Response, list[Part]]:
    """An answer without its framing: status, headers and body; and the body in parts."""
    raw = b"".join(data for data, _ in parts)
    ends = list(accumulate(len(data) for data, _ in parts))
    head, _, _ = raw.partition(_HEAD_END)
    status, headers = int(head.split(b" ", 2)[1]), _headers(head)
    start = len(head) + len(_HEAD_END)
    if "chunked" in headers.get("transfer-encoding", ""):
        spans = list(_chunks(raw, start))
    else:
        spans = [(max(begin, start), end) for begin, end in pairwise([start, *ends])]
    bodies = [
        (raw[begin:end], parts[bisect_right(ends, end - 1)][1])
        for begin, end in spans
        if end > begin
    ]
    kept = {name: value for name, value in headers.items() if name != "transfer-encoding"}
    return httpx2.Response(status, headers=kept, content=b"".join(d for d, _ in bodies)), bodies


def _chunks(raw: bytes, place: int) -> Iterator[tuple[int, int]]:
    """Where the chunks of a body begin and end; what was cut is left out."""
    while (line_end := raw.find(b"\r\n", place)) >= 0:
        size = int(raw[place:line_end].split(b";")[0] or b"0", 16)
        begin = line_end + 2
        if size == 0 or begin + size > len(raw):
            return
        yield begin, begin + size
        place = begin + size + 2


def _events(bodies: Sequence[Part]) -> Iterator[tuple[str, float]]:
    """The data of each event, and when its last byte came."""
    rest, data = b"", list[str]()
    for part, moment in bodies:
        is_event = part.find(b"\n") == len(part) - 2 and part.endswith(b"\n\n")  # as is usual
        if is_event and part.startswith(_DATA) and not rest and not data:
            yield part[len(_DATA) : -2].rstrip(b"\r").decode(), moment
            continue
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            text = line.rstrip(b"\r").decode()
            if text.startswith("data:"):
                data.append(text[5:].removeprefix(" "))
            elif not text and data:
                yield "\n".join(data), moment
                data = []
