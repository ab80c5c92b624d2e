"""KVTransferSuite kills faulty connectors by the property named for each, and spares sound ones."""

from __future__ import annotations

from typing import Any

import pytest
from infopt_suites.attention import KVTransferSuite
from kv_transfers import AREA, MUTANTS, SOUND, SmallConnector, TransferMutant
from properties import claimed_tests, declared, run_property


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.fault.__name__}-{m.broken}")
def test_a_faulty_connector_is_killed(mutant: TransferMutant, counted: Any) -> None:
    counted("mutant", AREA)
    attributes = declared(KVTransferSuite, mutant.fault)
    with pytest.raises((AssertionError, ValueError)):
        run_property(
            KVTransferSuite, mutant.broken, attributes, make_kv_connectors=mutant.fault.make
        )


@pytest.mark.parametrize(
    ("connector", "name"),
    [
        (connector, name)
        for connector in SOUND
        for name in claimed_tests(KVTransferSuite, connector.capabilities)
    ],
)
def test_a_sound_connector_is_spared(
    connector: type[SmallConnector], name: str, counted: Any
) -> None:
    counted("sound", AREA)
    attributes = declared(KVTransferSuite, connector)
    run_property(KVTransferSuite, name, attributes, make_kv_connectors=connector.make)
