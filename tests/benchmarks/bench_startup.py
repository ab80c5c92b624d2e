"""What the installed plugin costs a pytest run that does not use it.

Pairs of ``pytest`` processes on an empty test file, with and without the plugin, in an order drawn
by a coin; the difference of paired CPU times is what the plugin adds.
"""

from __future__ import annotations

import random
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

PAIRS = 40
HEAVY = ("torch", "transformers", "scipy", "numpy", "pydantic", "rich")


def cpu_seconds(directory: Path, *arguments: str) -> float:
    """User and system seconds of one pytest process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    subprocess.run(command, cwd=directory, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)


def added_seconds(directory: Path, pairs: int) -> list[float]:
    """Paired differences, plugin on minus plugin off."""
    coin = random.Random(0)
    differences = []
    for _ in range(pairs):
        sides: dict[str, float] = {}
        order = [("on", ()), ("off", ("-p", "no:infopt"))]
        for name, arguments in order if coin.random() < 0.5 else order[::-1]:
            sides[name] = cpu_seconds(directory, *arguments)
        differences.append(sides["on"] - sides["off"])
    return differences


def import_milliseconds(repeats: int = 15) -> float:
    """Median time to import the plugin into a process that has imported pytest."""
    program = (
        "import time, pytest; start = time.perf_counter(); import pytest_infopt.plugin; "
        "print(time.perf_counter() - start)"
    )
    times = [
        float(
            subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout
        )
        for _ in range(repeats)
    ]
    return 1e3 * statistics.median(times)


def heavy_modules() -> list[str]:
    """Heavy modules that importing the plugin pulls in."""
    program = f"import sys, pytest_infopt.plugin; print(*[m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, text=True
    )
    return done.stdout.split()


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "test_nothing.py").write_text("def test_nothing():\n    pass\n")
        cpu_seconds(directory)  # byte code is written once
        differences = added_seconds(directory, PAIRS)
    error = statistics.stdev(differences) / PAIRS**0.5
    print("start-up without --infopt")
    print(f"  import of the plugin, median       {import_milliseconds():8.2f} ms   (target: 5 ms)")
    print(
        f"  whole run, CPU time added          {1e3 * statistics.median(differences):8.2f} ms"
        f"   (median of {PAIRS} pairs; standard error {1e3 * error:.2f})"
    )
    print(f"  heavy modules imported             {heavy_modules() or 'none'}")


if __name__ == "__main__":
    main()
