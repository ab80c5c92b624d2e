"""Properties of caches that give a request the answer that it got before."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

import pytest

from .batch_properties import BatchProperties
from .computing_properties import ComputingProperties
from .counting_properties import CountingProperties
from .flight_properties import FlightProperties
from .key_properties import KeyProperties
from .protocol import MakeResponseCache
from .replacing_properties import ReplacingProperties
from .room_properties import RoomProperties
from .sharing_properties import SharingProperties
from .store_properties import StoreProperties
from .time_properties import TimeProperties
from .trial import Caches
from .value_properties import ValueProperties
from .way_properties import WayProperties

OFFERS: Mapping[str, str] = MappingProxyType(
    {
        "shared": "instances of one namespace, at once or one after another, share their entries",
        "processes": "processes share them too; the factory can be pickled by its name",
        "ttl": "an entry ends spec.ttl seconds after it was kept",
        "ttl per call": "set takes a ttl of its own",
        "capacity": "exactly spec.capacity entries are kept, the last one among them",
        "redis": "all is kept in the Redis server at spec.redis_url, whose failures are misses",
        "warns": "a failing store is logged as a warning",
        "clear": "all of a namespace can be forgotten",
        "counters": "hits and misses are counted",
        "copies": "what callers do to their answers does not change the kept one",
        "sync": "lookup finds what get does, without an event loop",
        "sync set": "keep keeps as set does, without an event loop",
        "values": "an answer may have any value of Python in it",
        "compute": "get_or_compute computes what is not kept",
        "single flight": "equal requests at the same time are computed once",
        "shared flight": "so are those to several instances of one namespace",
        "policy": "kept are whole answers, and sampled ones only with spec.cache_sampled",
    }
)


class ResponseCacheSuite(
    KeyProperties,
    ValueProperties,
    WayProperties,
    ReplacingProperties,
    TimeProperties,
    RoomProperties,
    ComputingProperties,
    FlightProperties,
    SharingProperties,
    BatchProperties,
    CountingProperties,
    StoreProperties,
):
    """Give a fixture ``make_response_cache``: a `CacheSpec` to a cache with ``get`` and ``set``.

    A cache that claims "redis" is tried on the server of the fixture ``redis_server``.

    Class attributes say how a cache differs:

    | attribute | default | meaning |
    |---|---|---|
    | ``ttl``, in seconds | 8.0 | the time to live that the suite asks for |
    | ``real_time`` | False | True: entries end by a clock that the suite cannot set; it waits |
    | ``fields`` | all | fields of a request that the cache knows |
    | ``irrelevant`` | all | fields that must not keep an answer from being found |
    | ``normal_form`` | dict | a request to what it is taken for; equal ones may share an answer |
    | ``joints`` | `joints.JOINTS` | texts between joined fields that are tried |
    | ``staleness_seconds`` | 0.0 | how long others may serve what was replaced or cleared |
    | ``recovers_within`` | 0.0 | seconds for which a store that failed may be done without |
    """

    topic = "response_cache"
    fixture = "make_response_cache"
    fixture_returns = "a cache for a CacheSpec"
    offers: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            **OFFERS,
            "batch": "get_or_compute_batch computes what of a batch is not kept, in one call",
        }
    )

    @pytest.fixture
    def caches(self, make_response_cache: MakeResponseCache, redis_url: str | None) -> Caches:
        return Caches(make_response_cache, redis_url, real_time=self.real_time)
