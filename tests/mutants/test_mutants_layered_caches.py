"""LayeredCacheSuite kills faulty services by the property named for each, and spares sound ones."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from infopt_suites.base import suite_tests
from infopt_suites.caching import LayeredCacheSuite
from infopt_suites.caching.layered import AsCaches, layered_services
from layered_caches import AREA, MUTANTS, SOUND, LayeredMutant
from properties import declared, needs, run_property


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.fault.__name__}-{m.broken}")
def test_a_faulty_service_is_killed(mutant: LayeredMutant, redis_server: Any, counted: Any) -> None:
    counted("mutant", AREA)
    with pytest.raises(mutant.by):
        try_on(mutant.fault, mutant.broken, redis_server.url)


@pytest.mark.parametrize(
    ("service", "name"),
    [
        (service, name)
        for service in SOUND
        for name in suite_tests(LayeredCacheSuite)
        if needs(LayeredCacheSuite, name) <= service.capabilities
    ],
)
def test_a_sound_service_is_spared(
    service: Any, name: str, redis_server: Any, counted: Any
) -> None:
    counted("sound", AREA)
    try_on(service, name, redis_server.url)


def try_on(service: Any, name: str, url: str) -> None:
    """Run a property with the fixture that it takes: services, or the same as caches."""
    claimed = service.capabilities
    takes = inspect.signature(getattr(LayeredCacheSuite, name)).parameters
    url_or_none = url if "redis" in claimed else None
    if "services" in takes:
        fixtures = {"services": layered_services(service, url_or_none)}
    else:
        fixtures = {"caches": layered_services(AsCaches(service), url_or_none)}
    run_property(LayeredCacheSuite, name, declared(LayeredCacheSuite, service), **fixtures)
