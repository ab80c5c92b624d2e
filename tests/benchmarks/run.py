"""Runs the benchmarks one after the other: `python run.py`, or `python run.py startup verdicts`.

Each is a process of its own with this interpreter, so that none inherits another's threads, caches
or memory. A failure does not keep the later ones from running; the exit status tells of it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

BENCHMARKS = (
    "startup",
    "divergence",
    "quality_gate",
    "verdicts",
    "quantizers",
    "granularity",
    "suites",
    "gptq",
    "kv_cache",
    "paged",
    "caching",
    "batching",
    "continuous",
    "speculative",
    "load",
    "replicas",
    "same_model",
)


def succeeds(name: str) -> bool:
    """Run one benchmark; its output goes straight to ours."""
    script = Path(__file__).with_name(f"bench_{name}.py")
    # Threads that spin while they wait take the core that another process's thread needs.
    environment = {
        "OMP_WAIT_POLICY": "PASSIVE",
        "GOMP_SPINCOUNT": "1000",
        "PYTHONUNBUFFERED": "1",
        **os.environ,
    }
    environment["PYTHONPATH"] = str(script.parents[1])  # tests/, whose helpers some share
    print(f"== {name}", flush=True)
    started = time.perf_counter()
    status = subprocess.run([sys.executable, str(script)], env=environment).returncode
    outcome = "done" if status == 0 else f"FAILED with exit status {status}"
    print(f"== {name} {outcome} after {time.perf_counter() - started:.0f} s\n", flush=True)
    return status == 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the benchmarks, each in its own process.")
    parser.add_argument(
        "names", nargs="*", metavar="name", help=f"of {', '.join(BENCHMARKS)}; default: all"
    )
    names = parser.parse_args().names or list(BENCHMARKS)
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    failed = [name for name in names if not succeeds(name)]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
