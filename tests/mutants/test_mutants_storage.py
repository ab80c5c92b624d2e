"""PackingSuite and CodebookSuite kill faulty storage by the property named for each fault."""

from __future__ import annotations

from typing import Any

import pytest
from infopt_suites.quantization import CodebookSuite, PackingSuite
from properties import claimed_tests, run_property
from storage import (
    CODEBOOK,
    CODEBOOK_MUTANTS,
    PACKING,
    PACKING_MUTANTS,
    SOUND_BOOKS,
    SOUND_PACKINGS,
    CodebookMutant,
    PackingMutant,
    claims,
)

KILLED = (AssertionError, pytest.fail.Exception)


@pytest.mark.parametrize("mutant", PACKING_MUTANTS, ids=lambda m: f"{m.fault.__name__}-{m.broken}")
def test_a_faulty_packing_is_killed(mutant: PackingMutant, counted: Any) -> None:
    counted("mutant", PACKING)
    with pytest.raises(KILLED):
        run_property(PackingSuite, mutant.broken, mutant.attributes, packing=mutant.fault())


@pytest.mark.parametrize(
    ("sound", "name"),
    [
        (sound, name)
        for sound, (_, attributes) in SOUND_PACKINGS.items()
        for name in claimed_tests(PackingSuite, attributes.get("capabilities", ()))
        if not ("those_of_the_format" in name and "bit_order" not in attributes)
        if not ("spares" in name and sound == "unchecked")
    ],
)
def test_a_sound_packing_is_spared(sound: str, name: str, counted: Any) -> None:
    counted("sound", PACKING)
    packing, attributes = SOUND_PACKINGS[sound]
    run_property(PackingSuite, name, attributes, packing=packing)


@pytest.mark.parametrize("mutant", CODEBOOK_MUTANTS, ids=lambda m: f"{m.fault.__name__}-{m.broken}")
def test_a_faulty_code_book_is_killed(mutant: CodebookMutant, counted: Any) -> None:
    counted("mutant", CODEBOOK)
    with pytest.raises(KILLED):
        run_property(CodebookSuite, mutant.broken, claims(mutant.sound), codebook=mutant.fault())


@pytest.mark.parametrize(
    ("book", "name"),
    [
        (book, name)
        for book in SOUND_BOOKS
        for name in claimed_tests(CodebookSuite, claims(book)["capabilities"])
    ],
)
def test_a_sound_code_book_is_spared(name: str, book: str, counted: Any) -> None:
    if name == "test_zero_encodes_to_zero" and 0 not in claims(book)["levels"]:
        return
    counted("sound", CODEBOOK)
    run_property(CodebookSuite, name, claims(book), codebook=SOUND_BOOKS[book])
