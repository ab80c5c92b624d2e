"""The HTTP client of servers that speak OpenAI's API: answers, streams of events, repetitions.

What fails for the moment (429, 5xx, a cut stream, no connection) is asked again for as long as a
request may take, after the wait that the server names. What fails for good raises an error that
names it. A plain HTTP client, which no offline mode of a model hub forbids to call a server, and
which hides no field of an answer. Sources: OpenAI API reference; RFC 9110 section 10.2.3
(Retry-After). PYTEST_DONT_REWRITE: it times.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from email.utils import parsedate_to_datetime
from time import sleep
from typing import Any, Self, TypeVar

import httpx2

from ...errors import InvalidComparisonError, ServerRefusedError, ServerUnavailableError
from ...release import ServerSource

__all__ = ["ServerClient"]

Answer = TypeVar("Answer")
Moment = TypeVar("Moment")
_END = "[DONE]"
_JSON = json.JSONDecoder()
_EXCERPT = 200  # characters of a refusal
_FOR_THE_MOMENT = frozenset({408, 425, 429, 500, 502, 503, 504})
_MOST_REPETITIONS = 6
_FIRST_WAIT = 0.25  # seconds, where the server names none; it doubles with each repetition


class ServerClient:
    """A client of the server at ``source.url``; its connections are kept, so that setting one up is
    charged to none but the first request. Threads may share it."""

    def __init__(self, source: ServerSource) -> None:
        self.source = source
        self._url = source.url.rstrip("/")
        key = os.environ.get(source.api_key_env, "none") if source.api_key_env else "none"
        self.authorization = f"Bearer {key}"
        self._client = httpx2.Client(
            headers={"Authorization": self.authorization}, timeout=source.timeout_seconds
        )
        self._answers_as = ""
        self.take_turn: Callable[[], object] = tuple  # of a server that is not always up

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def ask(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The JSON object that a GET of ``path``, or a POST of ``body``, returns.

        ``path`` is below the API's address; with a slash before it, below the server's root.
        Raises ServerRefusedError for a status that no repetition changes, ServerUnavailableError
        for one that repetitions did not change in time.
        """
        return self.retried(lambda: self._asked(path, body))

    def page(self, path: str) -> str | None:
        """The text of a page; None where there is none."""
        try:
            response = self._client.get(self.address(path))
        except httpx2.HTTPError as error:
            raise self.unavailable(repr(error)) from error
        return None if response.is_error else response.text

    def events(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The events of a streamed answer, asked for once.

        Raises as `ask`, and ServerUnavailableError where the stream ends before its answer does.
        """
        self.take_turn()
        deadline = time.monotonic() + self.source.timeout_seconds

        def arriving() -> Iterator[tuple[str, float]]:
            with self._sent(path, {**body, "stream": True}) as response:
                for event in httpx2.EventSource(response):
                    if (now := time.monotonic()) > deadline:
                        raise self.too_slow()
                    yield event.data, now

        for event, _ in self.whole_events(arriving()):
            yield event

    def whole_events(
        self, arriving: Iterable[tuple[str, Moment]]
    ) -> Iterator[tuple[dict[str, Any], Moment]]:
        """The objects of a streamed answer's events, each with what came with it.

        Raises ServerUnavailableError where they end before the answer does.
        """
        ended = False
        for data, moment in arriving:
            if data == _END:  # read on, so that the connection can be used again
                ended = True
                continue
            try:
                found = self._object(_decoded(data))
            except ValueError as error:
                raise self.unavailable(f"its stream was cut: {error}") from error
            ended = ended or _is_last(found)
            yield found, moment
        if not ended:
            raise self.unavailable("its stream was cut before the answer's end")

    def retried(self, call: Callable[[], Answer]) -> Answer:
        """What ``call`` returns, once it does not find the server unavailable."""
        deadline = time.monotonic() + self.source.timeout_seconds
        for repetition in range(_MOST_REPETITIONS):
            try:
                return call()
            except ServerUnavailableError as error:
                wait = error.wait_seconds
                wait = _FIRST_WAIT * 2**repetition if wait is None else wait
                if time.monotonic() + wait > deadline:
                    raise
                sleep(wait)
        return call()

    def wrong(self, why: str) -> InvalidComparisonError:
        """An error about what the server does."""
        return InvalidComparisonError(f"server {self.source.url}: {why}")

    def _asked(self, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        self.take_turn()
        deadline = time.monotonic() + self.source.timeout_seconds
        with self._sent(path, body) as response:
            parts = []
            for part in response.iter_bytes():
                parts.append(part)
                if time.monotonic() > deadline:
                    raise self.too_slow()
        try:
            return self._object(httpx2.Response(200, content=b"".join(parts)).json())
        except ValueError as error:
            raise self.wrong(f"answers {path} with what is no JSON: {error}") from error

    @contextlib.contextmanager
    def _sent(self, path: str, body: dict[str, Any] | None) -> Iterator[httpx2.Response]:
        method = "GET" if body is None else "POST"
        content = None if body is None else {**self.source.body, **body}
        try:
            with self._client.stream(method, self.address(path), json=content) as response:
                self.check_status(path, response)
                yield response
        except httpx2.ConnectError as error:  # nobody listens there
            raise self.wrong(repr(error)) from error
        except httpx2.HTTPError as error:  # the network's
            raise self.unavailable(repr(error)) from error

    def check_status(self, path: str, response: httpx2.Response) -> None:
        """Raise what a status that is an error means."""
        if not response.is_error:
            return
        excerpt = response.read().decode(errors="replace")[:_EXCERPT]
        why = f"refuses {path} with status {response.status_code}: {excerpt}"
        if response.status_code not in _FOR_THE_MOMENT:
            raise ServerRefusedError(f"server {self.source.url}: {why}", response.status_code)
        raise self.unavailable(why, _wait_named(response.headers.get("Retry-After", "")))

    def _object(self, found: object) -> dict[str, Any]:
        """An answer or event; the model's name in it may not change."""
        if not isinstance(found, dict):
            raise self.wrong(f"answers with no JSON object but {str(found)[:_EXCERPT]!r}")
        if found.get("error"):
            raise self.unavailable(f"reports an error: {str(found['error'])[:_EXCERPT]}")
        name = found.get("model")
        if isinstance(name, str) and name:
            self._answers_as = self._answers_as or name
            if name != self._answers_as:
                raise self.wrong(
                    f"answers as model {name!r} where it answered as {self._answers_as!r} before; "
                    "one model has to stand behind the name"
                )
        return found

    def address(self, path: str) -> str:
        """The URL of a path, as `ask` takes it."""
        if path.startswith("/"):
            return self._url.removesuffix("/v1") + path
        return f"{self._url}/{path}"

    def unavailable(self, why: str, wait: float | None = None) -> ServerUnavailableError:
        """An error about what the server does for the moment."""
        return ServerUnavailableError(f"server {self.source.url}: {why}", wait)

    def too_slow(self) -> InvalidComparisonError:
        """An error about an answer that does not end in time."""
        return self.wrong(
            f"did not end its answer within {self.source.timeout_seconds:g} s; raise "
            "server.timeout_seconds if it is slow rather than hanging"
        )


def _decoded(data: str) -> Any:
    """The value of a JSON text; raises ValueError where it is none. Asked for every token of a
    load, of which most are an object without white space around it."""
    if data.startswith("{"):
        found, end = _JSON.raw_decode(data)
        if end == len(data):
            return found
    return _JSON.decode(data)


def _is_last(event: dict[str, Any]) -> bool:
    """Whether an event says that the answer has ended. Asked for every token, hence the loop."""
    if event.get("stop"):
        return True
    for choice in event.get("choices") or ():  # noqa: SIM110
        if choice.get("finish_reason"):
            return True
    return False


def _wait_named(text: str) -> float | None:
    """Seconds that a Retry-After header names, as a number or as a date; None for neither."""
    with contextlib.suppress(ValueError):
        return max(0.0, float(text))
    with contextlib.suppress(ValueError):
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    return None
