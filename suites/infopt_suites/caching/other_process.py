"""What the other process runs. It imports neither pytest nor Hypothesis, which would take longer
than all that it does."""

from __future__ import annotations

import asyncio
import json
import pickle
import sys


def answer_pipe() -> None:
    """Keep an answer to each request, or tell what is found for it, as standard input asks."""
    make, spec, asked, answer = pickle.load(sys.stdin.buffer)

    async def serve() -> None:
        cache = make(spec)
        cache = await cache if hasattr(cache, "__await__") else cache
        if answer is not None:
            print("ready", flush=True)
            sys.stdin.buffer.readline()
            for request in asked:
                await cache.set(request, answer)
        else:
            print(json.dumps([await cache.get(request) for request in asked]), flush=True)
        if hasattr(cache, "close"):
            await cache.close()

    asyncio.run(serve())
