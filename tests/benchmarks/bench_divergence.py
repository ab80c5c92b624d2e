"""Cost of the divergence kernel: time against whole matrices, and memory at a large vocabulary.

Run as a script; prints ratios of one run on one thread. The plain version computes the same
quantities (both divergences, likelihoods, the five best) from two whole log-softmax matrices.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from pytest_infopt.measure.divergence import compare_scores

VOCABULARY, POSITIONS = 49_152, 4_096
LARGE_VOCABULARY, WIDTH = 151_936, 64
MEBIBYTE = 2**20


@dataclass
class Matrix:
    matrix: torch.Tensor

    @property
    def positions(self) -> int:
        return self.matrix.shape[0]

    @property
    def vocabulary(self) -> int:
        return self.matrix.shape[1]

    def logits(self, start: int, stop: int) -> torch.Tensor:
        return self.matrix[start:stop]


@dataclass
class Hidden:
    """Scores made of hidden states a few rows at a time, as an engine's are."""

    states: torch.Tensor  # [T, D]
    head: torch.Tensor  # [D, V]

    @property
    def positions(self) -> int:
        return self.states.shape[0]

    @property
    def vocabulary(self) -> int:
        return self.head.shape[1]

    def logits(self, start: int, stop: int) -> torch.Tensor:
        return self.states[start:stop] @ self.head


def plain(reference: torch.Tensor, candidate: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    log_p, log_q = torch.log_softmax(reference, -1), torch.log_softmax(candidate, -1)
    p, q = log_p.exp(), log_q.exp()
    difference = log_p - log_q
    kl = (p * difference).sum(-1)
    (q * difference).sum(-1)
    for log_probabilities in (log_p, log_q):
        log_probabilities.gather(1, ids[:, None])
        log_probabilities.topk(5, -1)
    return kl


def plain_kl_alone(
    reference: torch.Tensor, candidate: torch.Tensor, ids: torch.Tensor
) -> torch.Tensor:
    log_p, log_q = torch.log_softmax(reference, -1), torch.log_softmax(candidate, -1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def seconds(function: Callable[[], torch.Tensor], rounds: int = 3) -> tuple[float, torch.Tensor]:
    """The fastest round, and its result."""
    times = []
    for _ in range(rounds):
        gc.collect()
        started = time.perf_counter()
        result = function()
        times.append(time.perf_counter() - started)
    return min(times), result


def compare_times(positions: int) -> None:
    generator = torch.Generator().manual_seed(0)
    reference = 3 * torch.randn(positions + 1, VOCABULARY, generator=generator)
    candidate = reference + 0.05 * torch.randn(positions + 1, VOCABULARY, generator=generator)
    ids = torch.randint(VOCABULARY, (positions + 1,), generator=generator)
    chunked_time, chunked = seconds(
        lambda: compare_scores(Matrix(reference), Matrix(candidate), ids.tolist()).kl
    )
    rows = (reference[:-1], candidate[:-1], ids[1:])
    whole_time, whole = seconds(lambda: plain(*rows))
    kl_time, _ = seconds(lambda: plain_kl_alone(*rows))
    error = float((chunked - whole).abs().max())
    print(f"{positions} x {VOCABULARY}, 1 thread; largest difference of KL {error:.1e} nats")
    print(f"  chunked, all quantities       {chunked_time:7.2f} s")
    print(f"  plain, the same quantities    {whole_time:7.2f} s  {whole_time / chunked_time:5.2f}x")
    print(f"  plain, KL(p||q) and no more   {kl_time:7.2f} s  {kl_time / chunked_time:5.2f}x")


def peak_memory() -> None:
    """In a process of its own: how far the comparison alone lifts the resident peak."""
    from infopt_suites.gates.memory.footprint import peak_resident_bytes

    generator = torch.Generator().manual_seed(0)
    states = torch.randn(POSITIONS, WIDTH, generator=generator)
    head = torch.randn(WIDTH, LARGE_VOCABULARY, generator=generator) / WIDTH**0.5
    noise = 0.01 * torch.randn(POSITIONS, WIDTH, generator=generator)
    ids = torch.randint(LARGE_VOCABULARY, (POSITIONS,), generator=generator).tolist()
    states[:8] @ head[:, :64]  # the matrix library's own buffers
    before = peak_resident_bytes()
    compare_scores(Hidden(states, head), Hidden(states + noise, head), ids)
    print((peak_resident_bytes() - before) / MEBIBYTE)


def main() -> None:
    torch.set_num_threads(1)
    if sys.argv[1:] == ["--peak-memory"]:
        peak_memory()
        return
    free = next(
        int(line.split()[1]) * 1024
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemAvailable")
    )
    # Two matrices of logits, and up to six more of the plain version.
    positions = min(POSITIONS, free // (8 * 4 * VOCABULARY) // 2)
    compare_times(positions)
    child = [sys.executable, __file__, "--peak-memory"]
    output = subprocess.run(child, check=True, capture_output=True, text=True).stdout
    whole = 2 * 4 * POSITIONS * LARGE_VOCABULARY / MEBIBYTE
    print(f"peak extra memory at {POSITIONS} x {LARGE_VOCABULARY}: {float(output):.0f} MiB")
    print(f"  (two whole matrices of logits: {whole:.0f} MiB)")


if __name__ == "__main__":
    main()
