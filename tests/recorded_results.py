"""Result files as other tools write them, from figures that are known: the fields, and their units,
of the versions that are named. What a reader must not take is there, too, with wrong values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WRONG = 12345.0


@dataclass(frozen=True)
class Session:
    """Requests of equal length: seconds to the first token, between tokens; when the last ended."""

    ttft: float = 0.25
    gap: float = 0.03125
    requests: int = 4
    tokens: int = 9
    finished: int = 0  # minutes
    failed: int = 0

    @property
    def e2e(self) -> float:
        return self.ttft + (self.tokens - 1) * self.gap

    @property
    def rate(self) -> float:
        return self.tokens / self.e2e

    @property
    def total(self) -> int:
        return self.requests * self.tokens


def vllm(session: Session, *, detailed: bool = False) -> dict[str, Any]:
    """``vllm bench serve --save-result`` (vllm/benchmarks/serve.py of 2026)."""
    whole, failed = session.requests, session.failed
    details = {
        "input_lens": [16] * (whole + failed),
        "output_lens": [session.tokens] * whole + [0] * failed,
        "ttfts": [session.ttft] * whole + [0.0] * failed,  # as it writes failed ones
        "itls": [[session.gap] * (session.tokens - 1)] * whole + [[]] * failed,
        "errors": [""] * whole + ["Service Unavailable"] * failed,
    }
    return {
        "date": f"20261129-{session.finished // 60:02d}{session.finished % 60:02d}00",
        "backend": "openai",
        "model_id": "my-model",
        "tokenizer_id": "my-model",
        "num_prompts": whole + failed,
        "request_rate": "inf",
        "burstiness": 1.0,
        "max_concurrency": 1,
        "duration": whole * session.e2e,
        "completed": whole,
        "failed": failed,
        "total_input_tokens": 16 * whole,
        "total_output_tokens": session.total,
        "request_throughput": 1 / session.e2e,
        "request_goodput": None,
        "output_throughput": session.rate,
        "total_token_throughput": WRONG,
        **_medians(session),
        **(details if detailed else {}),
    }


def _medians(session: Session) -> dict[str, float]:
    known = {"ttft": session.ttft, "tpot": session.gap, "itl": session.gap}
    return {f"median_{k}_ms": 1000 * v for k, v in known.items()} | {
        f"mean_{stem}_ms": WRONG for stem in known
    }


def sglang(session: Session, *, detailed: bool = True) -> dict[str, Any]:
    """A line of ``python -m sglang.benchmark.serving --output-details`` (0.5.23)."""
    document = {
        "tag": None,
        "backend": "sglang",
        "dataset_name": "random",
        "request_rate": float("inf"),
        "max_concurrency": 1,
        "sharegpt_output_len": None,
        "random_input_len": 16,
        "random_output_len": session.tokens,
        "random_range_ratio": 1.0,
        "server_info": {"model_path": "my-model"},
        "duration": session.requests * session.e2e,
        "completed": session.requests,
        "total_input_tokens": 16 * session.requests,
        "total_output_tokens": session.total,
        "request_throughput": 1 / session.e2e,
        "input_throughput": WRONG,
        "output_throughput": session.rate,
        "total_throughput": WRONG,
        "mean_e2e_latency_ms": WRONG,
        "median_e2e_latency_ms": 1000 * session.e2e,
        **_medians(session),
        "concurrency": 1.0,
    }
    errors = [""] * session.requests + ["timeout"] * session.failed
    return document | ({"errors": errors} if detailed else {})


def guidellm(*sessions: Session) -> dict[str, Any]:
    """``benchmarks.json`` of GuideLLM 0.8.1 (report schema 2)."""
    return {
        "metadata": {"version": 2, "guidellm_version": "0.8.1"},
        "config": {},
        "benchmarks": [_guidellm_benchmark(each) for each in sessions],
    }


def _guidellm_benchmark(session: Session) -> dict[str, Any]:
    def of(value: float) -> dict[str, Any]:
        summary = {"mean": value, "median": value, "total_sum": value * session.requests}
        wrong = dict.fromkeys(summary, WRONG)
        return {"successful": summary, "incomplete": wrong, "errored": wrong, "total": wrong}

    return {
        "type_": "generative_benchmark",
        "config": {
            "strategy": {"type_": "concurrent", "streams": 1},
            "requests": {"model": "my-model"},
        },
        "scheduler_metrics": {"end_time": 1.7e9 + 60.0 * session.finished},
        "metrics": {
            "request_totals": {
                "successful": session.requests,
                "incomplete": 0,
                "errored": session.failed,
                "total": session.requests + session.failed,
            },
            "prompt_token_count": of(16),
            "output_token_count": of(session.tokens),
            "time_to_first_token_ms": of(1000 * session.ttft),
            "time_per_output_token_ms": of(1000 * session.e2e / session.tokens),
            "inter_token_latency_ms": of(1000 * session.gap),
            "request_latency": of(session.e2e),
            "output_tokens_per_second": of(session.rate),
        },
    }


def aiperf(session: Session) -> dict[str, Any]:
    """``profile_export_aiperf.json`` of AIPerf 0.13.0 (schema 1.4)."""

    def of(unit: str, value: float) -> dict[str, Any]:
        return {"unit": unit, "avg": WRONG, "p50": value, "p99": WRONG}

    failed = {"error_request_count": {"unit": "requests", "avg": float(session.failed)}}
    return {
        "schema_version": "1.4",
        "aiperf_version": "0.13.0",
        "request_latency": of("ms", 1000 * session.e2e),
        "request_count": {"unit": "requests", "avg": float(session.requests)},
        "time_to_first_token": of("ms", 1000 * session.ttft),
        "inter_token_latency": of("ms", 1000 * session.gap),
        "inter_chunk_latency": of("ms", WRONG),
        "output_token_throughput": {"unit": "tokens/sec", "avg": session.rate},
        "output_sequence_length": {"unit": "tokens", "avg": float(session.tokens)},
        "input_sequence_length": {"unit": "tokens", "avg": 16.0},
        **(failed if session.failed else {}),
        "input_config": {
            "models": {"items": [{"name": "my-model"}]},
            "phases": [{"type": "concurrency", "concurrency": 1}],
        },
        "was_cancelled": False,
        "is_complete": True,
        "end_time": f"2026-11-29T{session.finished // 60:02d}:{session.finished % 60:02d}:00",
    }


def lm_eval_samples(
    right: Sequence[bool], *, prompt: str = "p", strict: Sequence[bool] | None = None
) -> list[dict[str, Any]]:
    """Lines of ``samples_TASK_DATE.jsonl`` (``lm_eval --log_samples``, 0.4.13)."""
    filters = {"flexible-extract": right} | ({"strict-match": strict} if strict else {})
    return [
        {
            "doc_id": item,
            "doc": {"question": f"question {item}"},
            "target": "42",
            "filter": name,
            "metrics": ["exact_match"],
            "doc_hash": f"doc {item}",
            "prompt_hash": f"{prompt} {item}",
            "target_hash": "42",
            "exact_match": float(answer),
        }
        for name, answers in filters.items()
        for item, answer in enumerate(answers)
    ]


def lm_eval(shots: int = 5, task: str = "gsm8k", items: int = 4) -> dict[str, Any]:
    """``results_DATE.json`` of lm-eval 0.4.13."""
    return {
        "results": {task: {"exact_match,flexible-extract": 0.5}},
        "configs": {task: {"task": task}},
        "versions": {task: 3},
        "n-shot": {task: shots},
        "n-samples": {task: {"original": items, "effective": items}},
        "model_name": "my-model",
    }


def inspect(grades: Mapping[str, Sequence[str]], status: str = "success") -> dict[str, Any]:
    """A log of Inspect AI 0.3.285 in JSON (version 2), from the grades of each sample by epoch."""
    return {
        "version": 2,
        "status": status,
        "eval": {
            "created": "2026-11-29T00:00:00+00:00",
            "task": "arithmetic",
            "task_version": 1,
            "model": "openai/my-model",
        },
        "stats": {"completed_at": "2026-11-29T00:10:00+00:00"},
        "samples": [
            {
                "id": name,
                "epoch": epoch,
                "input": [{"id": f"random {epoch}", "role": "user", "content": f"what is {name}"}],
                "target": "42",
                "scores": {"match": {"value": grade}},
            }
            for name, epochs in grades.items()
            for epoch, grade in enumerate(epochs, 1)
        ],
    }


def write(path: Path, *documents: Mapping[str, Any]) -> Path:
    """A file: JSON, or a line for each document where its name ends in .jsonl."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(each) + "\n" for each in documents), encoding="utf-8")
    return path
