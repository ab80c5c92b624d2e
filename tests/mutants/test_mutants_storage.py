"""PackingSuite and CodebookSuite kill faulty storage by the property named for each fault."""

from __future__ import annotations

from typing import Any

import pytest
from infopt_suites.base import suite_tests
from infopt_suites.quantization import CodebookSuite, PackingSuite
from properties import needs, run_property
from storage import (
    CODEBOOK,
    CODEBOOK_MUTANTS,
    PACKING,
    PACKING_MUTANTS,
    SOUND_BOOKS,
    CodebookMutant,
    PackingMutant,
    Saturating,
    SmallPacking,
    claims,
)

KILLED = (AssertionError, pytest.fail.Exception)


@pytest.mark.parametrize("mutant", PACKING_MUTANTS, ids=lambda m: m.fault.__name__)
def test_a_faulty_packing_is_killed(mutant: PackingMutant, counted: Any) -> None:
    counted("mutant", PACKING)
    attributes = {"capabilities": {mutant.capability}}
    with pytest.raises(KILLED):
        run_property(PackingSuite, mutant.broken, attributes, packing=mutant.fault())


SOUND_PACKINGS = {"refuses-overflow": SmallPacking(), "saturates": Saturating()}


@pytest.mark.parametrize(
    ("capability", "name"),
    [
        (capability, name)
        for capability in SOUND_PACKINGS
        for name in suite_tests(PackingSuite)
        if needs(PackingSuite, name) <= {capability}
    ],
)
def test_a_sound_packing_is_spared(capability: str, name: str, counted: Any) -> None:
    counted("sound", PACKING)
    packing = SOUND_PACKINGS[capability]
    run_property(PackingSuite, name, {"capabilities": {capability}}, packing=packing)


@pytest.mark.parametrize("mutant", CODEBOOK_MUTANTS, ids=lambda m: f"{m.fault.__name__}-{m.broken}")
def test_a_faulty_code_book_is_killed(mutant: CodebookMutant, counted: Any) -> None:
    counted("mutant", CODEBOOK)
    with pytest.raises(KILLED):
        run_property(CodebookSuite, mutant.broken, claims(mutant.sound), codebook=mutant.fault())


@pytest.mark.parametrize("book", SOUND_BOOKS)
@pytest.mark.parametrize("name", [n for n in suite_tests(CodebookSuite) if "nan" not in n])
def test_a_sound_code_book_is_spared(name: str, book: str, counted: Any) -> None:
    counted("sound", CODEBOOK)
    run_property(CodebookSuite, name, claims(book), codebook=SOUND_BOOKS[book])
