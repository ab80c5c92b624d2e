"""What the suites cost: each on its reference, and all mutants together.

CPU seconds, which other jobs on the machine stretch less than wall time; one thread. Each set of
tests is a pytest process of its own, whose start-up (torch's import) is taken off.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SUITE_SECONDS, KILL_SECONDS = 20.0, 180.0  # the targets


def cpu_seconds(*arguments: str) -> float:
    """User and system seconds of one pytest process, whose tests have to pass."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)


def main() -> None:
    print("suites on their references, CPU seconds")
    for path in sorted((ROOT / "tests" / "suites").glob("test_suites_*.py")):
        name = path.stem.removeprefix("test_suites_")
        if name == "frame":
            continue  # tests of what all suites share
        start_up = cpu_seconds("--collect-only", str(path))
        seconds = cpu_seconds(str(path)) - start_up
        print(f"  {name:28} {seconds:7.1f} s   (target: {SUITE_SECONDS:g} s an implementation)")
    folder = str(ROOT / "tests" / "mutants")
    seconds = cpu_seconds(folder)
    print(
        f"  {'all mutants, start-up included':28} {seconds:7.1f} s   (target: {KILL_SECONDS:g} s)"
    )


if __name__ == "__main__":
    main()
