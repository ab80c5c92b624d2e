"""LatencyMeterSuite: is what a latency meter tells the time that something took?"""

from __future__ import annotations

from .load_properties import LoadProperties


class LatencyMeterSuite(LoadProperties):
    """Properties of latency meters, on a machine whose times are known.

    Give a fixture ``make_latency_meter``: a `protocol.MakeLatencyMeter`. The machine's device works
    while the host goes on; ``machine.synchronize`` waits for it, as `torch.cuda.synchronize` does,
    and ``machine.event`` is a CUDA event. While the meter runs, Python's clocks show the machine's,
    also where modules have imported them by name: a meter that calls `time.perf_counter` is tried
    as it is. One that keeps a clock, such as a default argument, is given ``machine.clock``.
    Samples have to be the true times, to the clock's resolution. Class attributes say how:

    | attribute | default | meaning |
    |---|---|---|
    | ``resolution`` | `time.perf_counter`'s | seconds that a reading of the meter's clock may err by |
    | ``in_a_row`` | True | whether the samples are of calls in a row, or calls between them are not timed |
    | ``itl_of`` | "tokens" | whose gaps ITL are: "tokens", or "chunks" with a token |
    | ``quantile_method`` | "linear" | the method of `numpy.quantile` that quantiles follow |
    """  # noqa: E501  # a table

    topic = "latency_meter"
    offers = {  # noqa: RUF012  # read only
        "streams": "work of every stream is waited for",
        "async": "time_async(call, samples, warmup) times coroutines",
        "several": "compare(calls, samples, warmup) times several calls",
        "interleaved": "several calls take turns",
        "checked": "compare_results(calls, samples, warmup) refuses calls whose results differ",
        "requests": "time_request(send) times a streamed request",
        "quantiles": "quantile(samples, level)",
        "pooled": "pooled_quantile(workers, level)",
        "load": "run_load(send, due, concurrency) sends requests when they are due",
    }
    methods = {  # noqa: RUF012  # read only
        "": ("time",),
        "async": ("time_async",),
        "several": ("compare",),
        "checked": ("compare_results",),
        "requests": ("time_request",),
        "quantiles": ("quantile",),
        "pooled": ("pooled_quantile",),
        "load": ("run_load",),
    }

    def made_from(self, implementation: object) -> object:
        return self._trial(implementation).meter  # type: ignore[arg-type]  # prechecked
