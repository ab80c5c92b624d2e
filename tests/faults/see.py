"""Plants faults and sound variants into candidates, has the gates judge them, prints the matrix.

python tests/faults/see.py [--draws N] [--minutes M] [--models …] [--formats …] [--kinds …]

What docs/generate/faults.json holds is not measured again, unless --anew. Comma-separated lists;
of kinds also faults, listed and sound.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
import textwrap
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

_TESTS = Path(__file__).parents[1]
_ROOT = _TESTS.parent
sys.path[:0] = [str(_TESTS), str(_ROOT / "docs" / "generate")]
sys.path.append(str(_ROOT / ".venv" / "rivals"))  # where `make see` installs them

import torch  # noqa: E402
from fault_matrix import Matrix, plain  # noqa: E402
from transformers.utils import logging as transformers_logging  # noqa: E402

from faults import kinds, matrix, rivals  # noqa: E402
from faults.models import FORMATS, MODELS, SMOLLM2  # noqa: E402
from faults.planted_run import Bench  # noqa: E402

TOTALS = re.compile(r"So far .* had it named first\..*? confidence\.")


def arguments() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    every = [*kinds.faults(), *kinds.sound_variants()]
    groups = {"faults": kinds.faults(), "listed": kinds.faults(listed=True)}
    groups |= {"sound": kinds.sound_variants()}
    parser.add_argument("--draws", type=int, default=1, help="members of each kind")
    parser.add_argument("--first", type=int, default=0, help="seed of the first")
    parser.add_argument("--minutes", type=float, default=0, help="for measuring; 0: print only")
    for name, known in (("models", MODELS), ("formats", FORMATS), ("kinds", every)):
        parser.add_argument(f"--{name}", default=",".join(known))
    parser.add_argument("--rivals", action="store_true", help="ask other tools in place of gates")
    parser.add_argument("--anew", action="store_true", help="measure again what the file has")
    given = parser.parse_args()
    given.kinds = groups.get(given.kinds, given.kinds.split(","))
    return given


def wanted(given: argparse.Namespace) -> Iterator[tuple[str, str, list[tuple[str, int]]]]:
    """Model, format, and the kinds and seeds that are not measured yet."""
    known = {} if given.anew else matrix.load(matrix.RIVALS if given.rivals else matrix.DATA)
    for model in given.models.split(","):
        for form in given.formats.split(","):
            yield (
                model,
                form,
                [
                    (kind, seed)
                    for seed in range(given.first, given.first + given.draws)
                    for kind in given.kinds
                    if matrix.key_of(model, form, kind, seed) not in known
                ],
            )


def measure(given: argparse.Namespace) -> None:
    """Add cells to the file until all are there, or time is over."""
    ends = time.monotonic() + 60 * given.minutes
    for model, form, cells in wanted(given):
        if not cells:
            continue
        with Bench.of(model) as bench:
            for kind, seed in cells:
                if time.monotonic() > ends:
                    return
                print(f"{model} {form} {kind} {seed}:", end=" ", flush=True)
                ask(bench, given, form, kind, seed)


def ask(bench: Bench, given: argparse.Namespace, form: str, kind: str, seed: int) -> None:
    """Add one cell."""
    key = matrix.key_of(bench.name, form, kind, seed)
    if given.rivals:
        found = matrix.judged_by_rivals(bench, form, kind, seed)
        matrix.add_to(matrix.RIVALS, {key: found})
        print(", ".join(name for name, said in found.items() if said["caught"]), flush=True)
        return
    brief = bench.name == SMOLLM2 or seed > 0
    cell = matrix.measured(bench, form, kind, seed, brief=brief)
    matrix.add({key: cell})
    said = cell.not_applicable or ", ".join(cell.failed) or "passed"
    print(f"{said} {cell.seconds}", flush=True)


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(1)
    given = arguments()
    if given.rivals and (missing := rivals.missing()):
        sys.exit(f"{' and '.join(missing)} cannot be imported; run {rivals.INSTALL}")
    if given.minutes:
        measure(given)
    text = json.dumps(matrix.described_kinds(), indent=1, ensure_ascii=False)
    matrix.KINDS.write_text(text + "\n", encoding="utf-8")
    found = Matrix(matrix.load(), matrix.described_kinds(), matrix.load(matrix.RIVALS))
    show(found)
    write_totals(_ROOT / "README.md", found)


def write_totals(readme: Path, found: Matrix) -> None:
    """Put the totals into the paragraph that has them."""
    text = readme.read_text(encoding="utf-8")
    (paragraph,) = (part for part in text.split("\n\n") if TOTALS.search(part.replace("\n", " ")))
    now = TOTALS.sub(found.in_words(), paragraph.replace("\n", " "))
    readme.write_text(text.replace(paragraph, textwrap.fill(now, 120)), encoding="utf-8")


def show(found: Matrix) -> None:
    """The tables, as plain text."""
    for model in found.models:
        for sound, header in ((False, "fault"), (True, "sound variant")):
            if rows := found.table(model, sound=sound):
                print("", model, *plain([header, *FORMATS], rows), sep="\n")
    for title, rows in (
        ("beyond the noise, and caught by no gate", found.missed()),
        ("caught, and another module named first, or none", found.unnamed()),
        ("sound, and accused", found.accused()),
    ):
        print("", f"{title}: {len(rows)}", *("  ".join(row) for row in rows), sep="\n")
    print("", *plain(found.SUMMARY, found.summary()), sep="\n")
    print("", *plain(found.RIVALS, found.rivals()), sep="\n")


if __name__ == "__main__":
    main()
