"""Servers that take turns on one device: each is started to be asked, after the other ended."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ..engines.base import Engine
from ..engines.openai.engine import OpenAIEngine
from ..engines.registry import load_engine
from ..release import ModelSource, ServerSource
from .server_process import ServerProcess


class Turns:
    """The servers of one pair of models, of which at most one is up."""

    def __init__(self) -> None:
        self._declared: ServerSource | None = None
        self._running: ServerProcess | None = None

    def loaded(self, source: ModelSource) -> Engine:
        """The source's engine; a server that takes turns is started, now and when it is asked.

        Raises as `load_engine`, and ModelLoadError where the server does not start.
        """
        server = source.server
        if server is None or not server.in_turns:
            return load_engine(source)
        self._take(server)
        engine = load_engine(source)
        assert isinstance(engine, OpenAIEngine)  # no other engine has a server
        engine.dialect.client.take_turn = partial(self._take, server)
        return engine

    def close(self) -> None:
        """End the server that is up."""
        if self._running is not None:
            self._running.close()
        self._running = None

    def _take(self, server: ServerSource) -> None:
        if self._running is not None and self._declared == server and self._running.alive:
            return
        self.close()
        self._declared = server
        self._running = ServerProcess(server, Path(server.log), Path(server.folder))
