"""What the latency gate measures in the process of the models."""

from ..timing_measure import TimingMeasure


class LatencyMeasure(TimingMeasure):
    """Pairs of requests to reference and candidate."""
