"""Properties of a model behind an exact and a semantic cache."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar

import pytest

from .computing_properties import ComputingProperties
from .flight_properties import FlightProperties
from .joints import MARKS
from .key_properties import KeyProperties
from .layer_properties import LayerProperties
from .protocol import Answer, Chunk, Compute, LayeredSpec, MakeLayeredCache, Request
from .response import OFFERS
from .sharing_properties import SharingProperties
from .store_properties import StoreProperties
from .time_properties import TimeProperties
from .trial import Caches
from .value_properties import ValueProperties
from .vectors import DIMENSION, KnownVectors
from .way_properties import WayProperties

_OF_CACHES_ALONE = ("capacity", "sync", "sync set", "ttl per call")


class LayeredCacheSuite(
    LayerProperties,
    KeyProperties,
    ValueProperties,
    WayProperties,
    TimeProperties,
    ComputingProperties,
    FlightProperties,
    SharingProperties,
    StoreProperties,
):
    """Give a fixture ``make_layered_cache``: a `LayeredSpec` to a service with ``complete``.

    The suite brings model and embedder. The properties of caches are tried on it as well: a cache
    keeps what the model says. One that claims "redis" is tried on the server of ``redis_server``.

    Class attributes say how a service differs:

    | attribute | default | meaning |
    |---|---|---|
    | ``ttl``, in seconds | 8.0 | the time to live that the suite asks for |
    | ``real_time`` | False | True: entries end by a clock that the suite cannot set; it waits |
    | ``fields`` | all | fields of a request that the cache knows |
    | ``irrelevant`` | all | fields that must not keep an answer from being found |
    | ``normal_form`` | dict | a request to what it is taken for; equal ones may share an answer |
    | ``joints`` | `joints.MARKS` | texts between joined fields that are tried |
    | ``staleness_seconds`` | 0.0 | how long others may serve what was replaced or cleared |
    | ``recovers_within`` | 0.0 | seconds for which a store that failed may be done without |
    | ``bypass_keeps`` | False | True: what the model says to a bypass replaces what is kept |
    """

    topic = "layered_cache"
    fixture = "make_layered_cache"
    fixture_returns = "a service for a LayeredSpec"
    offers: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            **{name: OFFERS[name] for name in OFFERS if name not in _OF_CACHES_ALONE},
            "counters": "answers of each layer are counted",
            "compute": "what the model raises is raised; always to be claimed",
            "single flight": "equal requests at the same time ask the model once",
            "stream": "answers can be streamed",
            "ttl per layer": "spec.exact_ttl and spec.semantic_ttl are times to live of one layer",
        }
    )

    joints = MARKS  # its layers' own suites try the others

    @pytest.fixture
    def services(self, make_layered_cache: MakeLayeredCache, redis_url: str | None) -> Caches:
        return layered_services(make_layered_cache, redis_url, real_time=self.real_time)

    @pytest.fixture
    def caches(self, make_layered_cache: MakeLayeredCache, redis_url: str | None) -> Caches:
        adapted = AsCaches(make_layered_cache)
        return layered_services(adapted, redis_url, real_time=self.real_time)


def layered_services(make: Any, redis_url: str | None, *, real_time: bool = False) -> Caches:
    """Services with an embedder of the suite."""
    options = {"embed": KnownVectors(), "dimension": DIMENSION}
    return Caches(make, redis_url, LayeredSpec, options, real_time)


@dataclass(frozen=True)
class AsCaches:
    """Makes caches with ``get`` and ``set`` of layered ones, with a model that repeats its input.

    It can be pickled if ``make`` can.
    """

    make: MakeLayeredCache

    async def __call__(self, spec: LayeredSpec) -> AsCache:
        made = self.make(replace(spec, model=_ToldModel()))
        return AsCache(await made if inspect.isawaitable(made) else made)


class AsCache:
    """A layered cache as a cache: a request that reaches the model was not kept."""

    def __init__(self, service: Any) -> None:
        self.service = service

    async def get(self, request: Request) -> Answer | None:
        try:
            return await self.get_or_compute(request, _missing)
        except _MissingError:
            return None

    async def set(self, request: Request, answer: Answer) -> None:
        async def compute() -> Answer:
            return answer

        await self.get_or_compute(request, compute)

    async def get_or_compute(self, request: Request, compute: Compute) -> Answer:
        token = _told.set(compute)
        try:
            answer: Answer = await self.service.complete(request)
            return answer
        finally:
            _told.reset(token)

    async def clear(self) -> None:
        await self.service.clear()

    async def close(self) -> None:
        close = getattr(self.service, "close", None)
        if close is not None:
            await close()


class _MissingError(Exception):
    """The model was asked."""


async def _missing() -> Answer:
    raise _MissingError


# Of the task that asks; tasks which it starts have it too.
_told: ContextVar[Compute] = ContextVar("told", default=_missing)


class _ToldModel:
    async def complete(self, request: Request, /) -> Answer:
        return await _told.get()()

    async def stream(self, request: Request, /) -> AsyncIterator[Chunk]:
        answer = await _told.get()()
        yield {"content": answer["content"]}
        yield {"content": "", "finish_reason": answer["finish_reason"], "usage": answer["usage"]}
