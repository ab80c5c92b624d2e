"""Properties of caches that answer a question with the answer to a similar one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import pytest

from .computing_properties import ComputingProperties
from .counting_properties import CountingProperties
from .flight_properties import FlightProperties
from .key_properties import KeyProperties
from .protocol import MakeSemanticCache, Request, SemanticSpec
from .replacing_properties import ReplacingProperties
from .response import OFFERS
from .room_properties import RoomProperties
from .sharing_properties import SharingProperties
from .similarity_properties import SimilarityProperties
from .store_properties import StoreProperties
from .time_properties import TimeProperties
from .trial import Caches
from .value_properties import ValueProperties
from .vectors import DIMENSION, KnownVectors
from .way_properties import WayProperties


class SemanticCacheSuite(
    SimilarityProperties,
    KeyProperties,
    ValueProperties,
    WayProperties,
    ReplacingProperties,
    TimeProperties,
    RoomProperties,
    ComputingProperties,
    FlightProperties,
    SharingProperties,
    CountingProperties,
    StoreProperties,
):
    """Give a fixture ``make_semantic_cache``: a `SemanticSpec` to a cache with ``get``, ``set``.

    The suite brings the embedder, whose similarities it knows. A cache that claims "redis" is tried
    on the server of the fixture ``redis_server``. The suite leaves out what no threshold can tell:
    that "X" and "not X" are similar texts.

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
    | ``resolution`` | rounding of float32 | by how much a cosine may be off |
    | ``shared_fields`` | () | fields over which answers are shared on purpose |
    | ``thresholds`` | (0.0, 1.0) | the least and the largest that can be asked for |
    | ``embedder_errors`` | "missed" | "raised": the embedder's error is the caller's |
    """

    topic = "semantic_cache"
    fixture = "make_semantic_cache"
    fixture_returns = "a cache for a SemanticSpec"
    offers: ClassVar[Mapping[str, str]] = OFFERS

    @pytest.fixture
    def caches(self, make_semantic_cache: MakeSemanticCache, redis_url: str | None) -> Caches:
        return semantic_caches(make_semantic_cache, redis_url, real_time=self.real_time)

    def serves(self, request: Request) -> bool:
        """Only a last message of the user that is text can be compared."""
        last = request["messages"][-1]
        text = last["content"]
        return last["role"] == "user" and isinstance(text, str) and bool(text.strip())


def semantic_caches(
    make: MakeSemanticCache, redis_url: str | None, *, real_time: bool = False
) -> Caches:
    """Caches with an embedder of the suite."""
    options = {"embed": KnownVectors(), "dimension": DIMENSION}
    return Caches(make, redis_url, SemanticSpec, options, real_time)
