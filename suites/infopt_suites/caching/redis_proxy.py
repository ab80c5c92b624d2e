"""A proxy in front of a Redis server, which counts commands and stands for a server that fails.

It speaks RESP, so that it refuses single commands as a full server or a replica does, and cuts a
reply in the middle. It runs in a thread with an event loop of its own: clients may block theirs.
A reply is passed on before the next command is read, as RESP allows; it knows no publishing.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import urlsplit, urlunsplit

Fault = Literal["down", "hung", "dropped", "full", "read-only", "loading", "cut"]
FAULTS: tuple[Fault, ...] = ("down", "hung", "dropped", "full", "read-only", "loading", "cut")

# Commands that tell the server who is there; neither counted nor refused.
_HANDSHAKE = frozenset({"HELLO", "CLIENT", "AUTH", "SELECT", "PING", "QUIT", "RESET"})
_READS = {
    *("GET", "MGET", "STRLEN", "GETRANGE", "EXISTS", "TTL", "PTTL", "TYPE", "OBJECT", "SCAN"),
    *("KEYS", "DBSIZE", "HGET", "HMGET", "HGETALL", "HKEYS", "HVALS", "HLEN", "HEXISTS", "HSCAN"),
    *("SMEMBERS", "SISMEMBER", "SMISMEMBER", "SCARD", "SSCAN", "ZRANGE", "ZRANGEBYSCORE"),
    *("ZREVRANGE", "ZSCORE", "ZMSCORE", "ZCARD", "ZCOUNT", "ZSCAN", "LRANGE", "LLEN", "LINDEX"),
    *("XRANGE", "XLEN", "JSON.GET", "JSON.MGET", "FT.SEARCH", "FT.AGGREGATE", "FT.INFO"),
    *("FT._LIST", "VSIM", "VCARD", "VDIM", "VINFO", "VEMB", "VGETATTR", "INFO", "TIME", "ECHO"),
    *("COMMAND", "MODULE", "MEMORY", "WATCH", "UNWATCH", "MULTI", "EXEC", "DISCARD", "WAIT"),
}
_FREEING = {
    *("DEL", "UNLINK", "EXPIRE", "PEXPIRE", "PERSIST", "FLUSHDB", "HDEL", "SREM", "ZREM", "VREM"),
}
_ERRORS = {
    "full": b"-OOM command not allowed when used memory > 'maxmemory'.\r\n",
    "read-only": b"-READONLY You can't write against a read only replica.\r\n",
    "loading": b"-LOADING Redis is loading the dataset in memory\r\n",
}


class RedisProxy:
    """Between a client and a server, until it is closed; ``url`` is its own address.

    ``commands`` has the name of each command since `reset`. ``fault`` is how it fails now (None: it
    does not), and ``delay`` the seconds by which each reply comes later.
    """

    def __init__(self, server_url: str) -> None:
        parts = urlsplit(server_url)
        if parts.scheme != "redis" or parts.hostname is None:
            raise ValueError(f"a server is redis://HOST:PORT/DB, not {server_url!r}")
        self._server = (parts.hostname, parts.port or 6379)
        self.commands: list[str] = []
        self.delay = 0.0
        self.holding = False
        self._hold: tuple[int, bool] | None = None  # commands until then, and before it or after
        self._released = asyncio.Event()
        self._fault: Fault | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._port = 0
        self._do(self._listen())
        user, at, _ = parts.netloc.rpartition("@")
        self.url = urlunsplit(parts._replace(netloc=f"{user}{at}127.0.0.1:{self._port}"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def fault(self) -> Fault | None:
        return self._fault

    @fault.setter
    def fault(self, fault: Fault | None) -> None:
        """Fail in this way from now on; None: work again."""
        self._do(self._set_fault(fault))

    def hold(self, number: int, *, before: bool = False) -> None:
        """Hold up the ``number``-th command from now on until `release`: before it gets to the
        server, or its reply. ``holding`` says when it has come. Other connections go on."""
        self._do(self._set_hold((number, before)))

    def release(self) -> None:
        """Let the command go on that is held up, if there is one, and hold up none."""
        self._do(self._set_hold(None))

    def recover(self) -> None:
        """Fail no more, and hold up nothing."""
        self.release()
        if self.fault is not None:
            self.fault = None

    def reset(self) -> None:
        """Forget the commands so far."""
        self.commands.clear()

    def close(self) -> None:
        self._do(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _listen(self) -> None:
        # The same port each time: the clients know no other.
        self._listener = await asyncio.start_server(
            self._serve, "127.0.0.1", self._port, family=socket.AF_INET
        )
        self._port = self._listener.sockets[0].getsockname()[1]

    async def _set_fault(self, fault: Fault | None) -> None:
        self._fault = fault
        if fault == "down":
            await self._stop()
        elif self._listener is None:
            await self._listen()
        if fault == "dropped":  # once, as when a server was started anew
            await self._hang_up()

    async def _set_hold(self, hold: tuple[int, bool] | None) -> None:
        self._hold, self.holding = hold, False
        self._released.set()
        self._released = asyncio.Event()

    async def _stop(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        await self._hang_up()

    async def _hang_up(self) -> None:
        connections = [*self._connections]
        for each in connections:
            each.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _serve(self, client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            server, to_server = await asyncio.open_connection(*self._server)
        except OSError:
            back.close()
            self._connections.discard(task)
            return
        try:
            await self._relay(client, back, server, to_server)
        except (OSError, EOFError, asyncio.CancelledError):
            pass  # one of the two went away, or the suite hung up
        finally:
            self._connections.discard(task)
            for each in (back, to_server):
                each.transport.abort()

    async def _relay(
        self,
        client: asyncio.StreamReader,
        back: asyncio.StreamWriter,
        server: asyncio.StreamReader,
        to_server: asyncio.StreamWriter,
    ) -> None:
        refused = False  # a command of the transaction that is open
        while True:
            command = await _command(client)
            name = command.name
            if name not in _HANDSHAKE:
                self.commands.append(name)
            held_up = self._is_held_up(name)
            if held_up == "before":
                await self._wait_for_release()
            error = self._refusal(name)
            refused = refused or error is not None
            if name == "EXEC" and refused:
                await _exchange(_DISCARD, server, to_server)
                reply = b"-EXECABORT Transaction discarded because of previous errors.\r\n"
            elif error is not None:
                reply = error
            else:
                reply = await _exchange(command, server, to_server)
            if name in ("MULTI", "EXEC", "DISCARD"):
                refused = False
            if held_up == "after":
                await self._wait_for_release()
            await self._answer(back, reply, name)

    def _is_held_up(self, name: str) -> Literal["before", "after"] | None:
        if self._hold is None or name in _HANDSHAKE:
            return None
        number, before = self._hold
        self._hold = (number - 1, before) if number > 1 else None
        return ("before" if before else "after") if number == 1 else None

    async def _wait_for_release(self) -> None:
        self.holding = True
        await self._released.wait()

    async def _answer(self, back: asyncio.StreamWriter, reply: bytes, name: str) -> None:
        if self.delay:
            await asyncio.sleep(self.delay)
        if self._fault == "hung":
            await asyncio.Event().wait()
        if self._fault == "cut" and name not in _HANDSHAKE:
            back.write(reply[: len(reply) // 2])
            await back.drain()
            raise EOFError
        back.write(reply)
        await back.drain()

    def _refusal(self, name: str) -> bytes | None:
        if name in _HANDSHAKE or self._fault is None:
            return None
        refused = {
            "full": name not in _READS | _FREEING,
            "read-only": name not in _READS,
            "loading": True,
        }
        return _ERRORS[self._fault] if refused.get(self._fault, False) else None


@dataclass(frozen=True)
class _Command:
    """A command: its name in capitals, and the bytes that it came as."""

    name: str
    raw: bytes


_DISCARD = _Command("DISCARD", b"*1\r\n$7\r\nDISCARD\r\n")


async def _exchange(
    command: _Command, server: asyncio.StreamReader, to_server: asyncio.StreamWriter
) -> bytes:
    to_server.write(command.raw)
    await to_server.drain()
    return await _value(server)


async def _command(reader: asyncio.StreamReader) -> _Command:
    head = await reader.readuntil(b"\r\n")
    parts, name = [head], ""
    for index in range(int(head[1:])):
        part = await _value(reader)
        parts.append(part)
        if index == 0:
            name = part.split(b"\r\n")[1].decode().upper()
    return _Command(name, b"".join(parts))


async def _value(reader: asyncio.StreamReader) -> bytes:
    """One value of RESP 2 or 3, with all that is in it."""
    head = await reader.readuntil(b"\r\n")
    kind = head[:1]
    if kind in b"$=!":
        length = int(head[1:])
        return head if length < 0 else head + await reader.readexactly(length + 2)
    if kind in b"*~>%|":
        count = max(int(head[1:]), 0) * (2 if kind in b"%|" else 1)
        inside = [await _value(reader) for _ in range(count + (kind == b"|"))]
        return head + b"".join(inside)
    return head
