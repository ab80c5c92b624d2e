"""What the load generator costs, and how far its times are from a server's own record.

A server in a process of its own sends each token at a known time, and records when it did, on the
clock that both processes share. Requests arrive by chance until a thousand are under way on one
core. Printed: the CPU time of a token here, that of a connection, which is made beforehand, the
error of TTFT and of the end-to-end time against the record, and how late requests were sent.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from typing import Any

from infopt_reference.measurement import LoadResult, LoadSummary, open_load, poisson, quantile

from pytest_infopt.engines.openai.client import ServerClient
from pytest_infopt.engines.openai.dialects import VllmCompletions
from pytest_infopt.engines.openai.streams import StreamConnections
from pytest_infopt.measure import run_load
from pytest_infopt.release import ServerSource

STREAMS, TOKENS, GAP = 1000, 50, 0.2  # 5,000 tokens a second while all are under way
MORE = 500  # requests beyond those
ERROR_LIMIT, COST_LIMIT = 0.005, 20e-6  # seconds at p99; seconds of CPU a token


def event(**choice: Any) -> bytes:
    fields = {"id": "cmpl-1", "object": "text_completion", "model": "tiny"}
    data = b"data: " + json.dumps({**fields, "choices": [{"index": 0, **choice}]}).encode()
    return b"%x\r\n%s\n\n\r\n" % (len(data) + 2, data)


async def serve() -> None:
    """Requests name themselves by the first id of their prompt."""
    record: dict[int, list[float]] = {}

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                writer.close()
                return
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            name = json.loads(await reader.readexactly(length))["prompt"][0]
            if name < 0:
                found = json.dumps(record).encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(found) + found)
                continue
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            began = loop.time()
            for place in range(TOKENS):
                await asyncio.sleep(max(0.0, began + GAP * (place + 1) - loop.time()))
                if place in (0, TOKENS - 1):
                    record.setdefault(name, []).append(time.perf_counter())
                writer.write(event(text=" word", token_ids=[place], finish_reason=None))
            writer.write(event(text="", token_ids=[], finish_reason="length") + b"0\r\n\r\n")

    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def record_of(client: ServerClient) -> dict[int, list[float]]:
    found = client.ask("completions", {"prompt": [-1]})
    return {int(name): moments for name, moments in found.items()}


async def load(
    client: ServerClient, count: int, rate: float
) -> tuple[list[LoadResult], float, float]:
    """The results, the moment at which the load began, and the CPU seconds that it took."""
    dialect: Any = VllmCompletions(client, "tiny", None)  # type: ignore[arg-type]  # reads no text
    connections = StreamConnections(client)
    await connections.open(count)

    async def send(index: int) -> list[tuple[int, float]]:
        body = dialect.stream_body([index, *range(31)], TOKENS)
        events = await connections.events(dialect.path, body)
        return [
            (token, moment)
            for piece, moment in dialect.pieces_of(events)
            for token in piece.token_ids
        ]

    cpu, began = time.process_time(), time.perf_counter()
    results = await open_load(send, poisson(rate, count, seed=0))
    cpu = time.process_time() - cpu
    connections.close()
    return results, began, cpu


def main() -> int:
    server = subprocess.Popen([sys.executable, __file__, "serve"], stdout=subprocess.PIPE)
    assert server.stdout is not None
    try:
        port = int(server.stdout.readline())
        with ServerClient(ServerSource(f"http://127.0.0.1:{port}/v1")) as client:
            count, whole = STREAMS + MORE, time.process_time()
            results, began, cpu = run_load(load(client, count, STREAMS / (GAP * TOKENS)))
            beforehand = (time.process_time() - whole - cpu) / count
            record = record_of(client)
    finally:
        server.kill()
    print(f"CPU of a connection, beforehand      {1e6 * beforehand:10.0f} us")
    return report(results, began, cpu, record)


def report(
    results: list[LoadResult], began: float, cpu: float, record: dict[int, list[float]]
) -> int:
    summary = LoadSummary.of(results)
    first, last = list[float](), list[float]()
    for index, result in enumerate(results):
        if result.timing is not None:
            due = began + result.due
            first.append(abs(due + result.timing.ttft - record[index][0]))
            last.append(abs(due + result.timing.e2e - record[index][-1]))
    moments = [(r.sent, 1) for r in results] + [(r.ended, -1) for r in results]
    under_way, most = 0, 0
    for _, change in sorted(moments):
        under_way += change
        most = max(most, under_way)
    late = [result.sent - result.due for result in results]
    cost = cpu / summary.tokens
    print(f"load: {summary.requests} requests, {most} at most under way, {summary.failed} failed")
    print(f"  tokens a second                    {summary.tokens_per_second:10.0f}")
    print(f"  CPU a token, requests included     {1e6 * cost:10.1f} us   (target: 20 us)")
    for name, errors in (("TTFT", first), ("end to end", last), ("sent late", late)):
        p50, p99 = (1e3 * quantile(errors, level) for level in (0.5, 0.99))
        print(f"  {name:<12} error p50, p99         {p50:10.2f}, {p99:.2f} ms   (target: 5 ms)")
    missed = quantile(first, 0.99) > ERROR_LIMIT or cost > COST_LIMIT or summary.failed
    print("  " + ("missed" if missed else "met"))
    return 0


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        asyncio.run(serve())
    else:
        sys.exit(main())
