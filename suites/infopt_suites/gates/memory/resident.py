"""Resident memory of two processes as a pair. Imports no torch."""

from __future__ import annotations

import math

from pytest_infopt import Sample


def resident_pair(reference_bytes: int, candidate_bytes: int, unit: str) -> Sample:
    """Peaks of two fresh processes as a paired sample, the natural log of their ratio."""
    if min(reference_bytes, candidate_bytes) <= 0:
        raise ValueError(
            f"{unit}: peaks of {reference_bytes} and {candidate_bytes} bytes; both must be above 0"
        )
    return Sample(
        unit=unit,
        weight=1,
        values={"host_peak_rss_ratio": math.log(candidate_bytes / reference_bytes)},
        details={"reference_bytes": reference_bytes, "candidate_bytes": candidate_bytes},
    )
