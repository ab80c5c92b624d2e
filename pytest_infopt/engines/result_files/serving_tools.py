"""Result files of load generators, by the fields that these tools write.

Every figure that is taken has the meaning of ours: a tool's name may stand for something else. The
``time_per_output_token_ms`` of GuideLLM counts the first token's wait, and its
``inter_token_latency_ms`` is what others call TPOT, as is AIPerf's ``inter_token_latency``.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from .recording import Recording

MILLI = 1e-3
_UNITS = {"ms": MILLI, "s": 1.0, "sec": 1.0, "us": 1e-6, "ns": 1e-9}


def is_vllm(document: Mapping[str, Any]) -> bool:
    return {"model_id", "num_prompts", "output_throughput"} <= document.keys()


def vllm(document: Mapping[str, Any], file: str) -> Iterator[Recording]:
    """``vllm bench serve --save-result`` (vllm/benchmarks/serve.py, 2026). Medians are over
    requests that succeeded; ``--save-detailed`` adds what end-to-end times are made of."""
    asked, completed = document["num_prompts"], document["completed"]
    failed = document.get("failed", asked - completed)
    settings = ("num_prompts", "request_rate", "burstiness", "max_concurrency")
    seconds = _medians(document, {"e2e": "median_e2el_ms"})
    if "e2e" not in seconds and (whole := _whole_times(document)):
        seconds["e2e"] = statistics.median(whole)
    yield Recording(
        tool="vllm",
        file=file,
        model=str(document["model_id"]),
        finished=str(document.get("date", "")),
        settings={name: document.get(name) for name in (*settings, *_TOKENS)},
        faults=_failed(failed, asked),
        seconds=seconds,
        tokens_per_second=number(document["output_throughput"]),
    )


def is_sglang(document: Mapping[str, Any]) -> bool:
    return {"backend", "median_e2e_latency_ms", "output_throughput"} <= document.keys()


def sglang(document: Mapping[str, Any], file: str) -> Iterator[Recording]:
    """A line of ``sglang.benchmark.serving`` (0.5.23). Failed requests are told by
    ``--output-details`` alone; without it, sessions have to have completed equally many."""
    settings = (
        *("dataset_name", "request_rate", "max_concurrency", "sharegpt_output_len"),
        *("random_input_len", "random_output_len", "random_range_ratio", "completed"),
    )
    errors = [error for error in document.get("errors", ()) if error]
    server = document.get("server_info") or {}
    yield Recording(
        tool="sglang",
        file=file,
        model=str(server.get("model_path", document["backend"])),
        settings={name: document.get(name) for name in (*settings, *_TOKENS)},
        faults=_failed(len(errors), len(document.get("errors", ()))),
        seconds=_medians(document, {"e2e": "median_e2e_latency_ms"}),
        tokens_per_second=number(document["output_throughput"]),
    )


_TOKENS = ("total_input_tokens", "total_output_tokens")


def _medians(document: Mapping[str, Any], more: Mapping[str, str]) -> dict[str, float]:
    names = {stem: f"median_{stem}_ms" for stem in ("ttft", "tpot", "itl")} | dict(more)
    found = {stem: document.get(name) for stem, name in names.items()}
    return {stem: MILLI * number(value) for stem, value in found.items() if value is not None}


def _whole_times(document: Mapping[str, Any]) -> list[float]:
    """From sent to the last token, of each request that succeeded: the others have zeros."""
    rows = zip(*(document.get(name, ()) for name in ("errors", "ttfts", "itls")), strict=True)
    return [first + sum(gaps) for error, first, gaps in rows if not error and first]


def is_guidellm(document: Mapping[str, Any]) -> bool:
    return isinstance(document.get("benchmarks"), list) and "metadata" in document


def guidellm(document: Mapping[str, Any], file: str) -> Iterator[Recording]:
    """A report of ``guidellm benchmark`` (0.8, schema 2): a session for each of its benchmarks."""
    stems = {
        "ttft": ("time_to_first_token_ms", MILLI),
        "tpot": ("inter_token_latency_ms", MILLI),
        "e2e": ("request_latency", 1.0),
    }
    several = len(document["benchmarks"]) > 1
    for place, benchmark in enumerate(document["benchmarks"]):
        metrics, config = benchmark["metrics"], benchmark["config"]
        totals = metrics["request_totals"]
        tokens = ("prompt_token_count", "output_token_count")
        yield Recording(
            tool="guidellm",
            file=f"{file}#{place}" if several else file,
            model=str((config.get("requests") or {}).get("model", "")),
            finished=f"{number(benchmark['scheduler_metrics']['end_time']):020.6f}",
            settings={"strategy": config["strategy"], "requests": totals["successful"]}
            | {name: metrics[name]["successful"]["total_sum"] for name in tokens},
            faults=_failed(totals["errored"] + totals["incomplete"], totals["total"]),
            seconds={
                stem: factor * number(metrics[name]["successful"]["median"])
                for stem, (name, factor) in stems.items()
            },
            tokens_per_second=number(metrics["output_tokens_per_second"]["successful"]["mean"]),
        )


def is_aiperf(document: Mapping[str, Any]) -> bool:
    return {"request_latency", "output_token_throughput", "input_config"} <= document.keys()


def aiperf(document: Mapping[str, Any], file: str) -> Iterator[Recording]:
    """``profile_export_aiperf.json`` (AIPerf 0.13, schema 1.4), and GenAI-Perf's, which it follows.
    Its own ``inter_chunk_latency`` is not taken: a chunk may hold several tokens."""
    stems = {
        "ttft": "time_to_first_token",
        "tpot": "inter_token_latency",
        "e2e": "request_latency",
    }
    config = document["input_config"]
    load = config.get("phases") or (config.get("perf_analyzer") or {}).get("stimulus")
    counts = ("request_count", "input_sequence_length", "output_sequence_length")
    failed = (document.get("error_request_count") or {"avg": 0})["avg"]
    asked = (document.get("request_count") or {"avg": math.nan})["avg"] + failed
    whole = not document.get("was_cancelled") and document.get("is_complete") is not False
    why = document.get("incomplete_reason") or "it was cancelled"
    yield Recording(
        tool="aiperf" if "aiperf_version" in document else "genai-perf",
        file=file,
        model=", ".join(_model_names(config)),
        finished=str(document.get("end_time", "")),
        settings={"load": load} | {n: document[n]["avg"] for n in counts if n in document},
        faults=_failed(failed, asked) + (() if whole else (f"the run did not end: {why}",)),
        seconds={stem: _p50(document[name]) for stem, name in stems.items() if name in document},
        tokens_per_second=number(document["output_token_throughput"]["avg"]),
    )


def _model_names(config: Mapping[str, Any]) -> list[str]:
    models = config.get("models") or config.get("model_names") or config.get("model") or []
    if isinstance(models, Mapping):
        models = models.get("items", [])
    models = [models] if isinstance(models, str) else models
    return [str(each.get("name") if isinstance(each, Mapping) else each) for each in models]


def _p50(metric: Mapping[str, Any]) -> float:
    return _UNITS[metric["unit"]] * number(metric["p50"])


def _failed(failed: float, asked: float) -> tuple[str, ...]:
    return (f"{failed:g} of {asked:g} requests failed or did not end",) if failed else ()


def number(value: Any) -> float:
    """A positive number; ValueError for anything else: no time and no rate is 0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is no number")
    if not 0 < value < math.inf:
        raise ValueError(f"{value!r} is not above 0 and finite")
    return float(value)
