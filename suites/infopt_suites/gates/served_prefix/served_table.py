"""What a server's prefix cache spared it, as a table."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from pytest_infopt import MeasuredTable, Sample


def served_table(samples: Sequence[Sample]) -> MeasuredTable:
    """Tokens computed and times to the first token, by the way a prompt came.

    Samples have ``served`` among their details: way, prompt tokens, cached ones, seconds.
    """
    served: dict[str, list[tuple[int, int | None, float]]] = {}
    for sample in samples:
        for name, prompt, cached, seconds in sample.details["served"]:
            served.setdefault(name, []).append((prompt, cached, seconds))
    rows = []
    for name, requests in served.items():
        known = [cached for _, cached, _ in requests if cached is not None]
        computed = sum(prompt for prompt, *_ in requests) - sum(known) if known else None
        median = 1000 * statistics.median(seconds for *_, seconds in requests)
        rows.append((name, len(requests), computed, median))
    times = {name: median for name, *_, median in rows}
    return MeasuredTable(
        "the server's prefix cache",
        ("prompts", "requests", "tokens computed", "median time to first token, ms"),
        tuple(rows),
        (
            f"a warm prompt's first token comes after {times['warm'] / times['cold']:.2f} of a "
            "cold one's time",
        ),
    )
