"""How often latency verdicts are wrong, and how long they take: `python bench_verdicts.py`.

A small decoding step in torch on this machine is timed against itself, and against 10 % and 20 %
of real extra work on top of the same weights: weights elsewhere in memory were measured to be up to
7 % faster or slower. Each session has weights of its own. Beside the judge of gate `latency` stand
other tools' rules, on all calls of the one before all calls of the other, as their users take them.
`make error-rates` does the same on recorded noise, where the truth is known exactly.

PYTEST_DONT_REWRITE: this module times.
"""

from __future__ import annotations

import argparse
import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from error_rates.cells import CALLS, LIMIT
from error_rates.record import DecodeStep, calibrated_blocks, timed
from error_rates.recorded import SECONDS, WITHIN
from error_rates.rivals import TIMING
from error_rates.sessions import ALPHA
from scipy import stats

from pytest_infopt.gates.registry import gate_named, metrics
from pytest_infopt.judge.e_process import SignProcess
from pytest_infopt.judge.gate_judge import GateJudge
from pytest_infopt.metrics.budget import Budget
from pytest_infopt.results.verdict import Judgement, Verdict

Pair = tuple[float, float]  # seconds of reference and candidate
JUDGED = ("tpot_ratio",)


@dataclass
class Tally:
    """What one truth came to under every rule."""

    truth: str
    right: Verdict
    verdicts: list[Verdict] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)  # medians of what was measured
    failed: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TIMING, 0))

    def row(self) -> str:
        n = len(self.verdicts)
        if not n:
            return f"{self.truth:>10}  no session fitted into the time"
        wrong = sum(v not in (self.right, Verdict.INCONCLUSIVE) for v in self.verdicts)
        most = 100 * stats.beta.isf(0.05, wrong + 1, n - wrong) if wrong < n else 100
        sessions = list(zip(self.verdicts, self.seconds, strict=True))
        shares = (sum(v is self.right and s <= most for v, s in sessions) / n for most in WITHIN)
        shown = [f"{name} {100 * failed / n:.0f} %" for name, failed in self.failed.items()]
        return (
            f"{self.truth:>10} {n:4d} {wrong:3d} (<{most:5.2f} %)"
            f" {statistics.median(self.seconds):6.2f} {statistics.fmean(self.seconds):6.2f}  "
            f"{' '.join(f'{share:5.3f}' for share in shares)}"
            f"  {min(self.ratios):.2f} {statistics.median(self.ratios):.3f} {max(self.ratios):.2f}"
            f"  FAIL: {', '.join(shown)}"
        )


HEADER = (
    f"{'truth':>10} {'n':>4} wrong (95 % bound) median   mean  right within "
    f"{'/'.join(map(str, WITHIN))} s  measured ratio: least, median, most  other rules"
)


def latency_judge(names: Sequence[str] = JUDGED) -> GateJudge:
    budgets = {name: Budget(metrics()[name], LIMIT) for name in names}
    judged = [metrics()[name] for name in names]
    return GateJudge(judged, budgets, alpha_pass=ALPHA, alpha_fail=ALPHA, planned=3000)


def judged(pairs: Iterator[Pair], tally: Tally) -> None:
    """Feed pairs until the judge has decided or the time is up."""
    judge, seconds, taken = latency_judge(), 0.0, list[float]()
    while not judge.decided and seconds < SECONDS:
        reference, candidate = next(pairs)
        taken.append(candidate / reference)
        judge.update(dict.fromkeys(JUDGED, math.log(candidate / reference)))
        seconds += reference + candidate
    verdicts = {judgement.verdict for judgement in judge.judgements(exhausted=True)}
    unlike = next((v for v in (Verdict.FAIL, Verdict.INCONCLUSIVE) if v in verdicts), Verdict.PASS)
    tally.verdicts.append(unlike)
    tally.seconds.append(seconds)
    tally.ratios.append(statistics.median(taken))


def real_pairs(
    reference: Callable[[], object], candidate: Callable[[], object], coin: random.Random
) -> Iterator[Pair]:
    while True:
        if coin.random() < 0.5:
            first = timed(reference)
            yield first, timed(candidate)
        else:
            second = timed(candidate)
            yield timed(reference), second


def real(blocks: int, extra: float, tally: Tally, sessions: int, seconds: float) -> None:
    """Sessions on weights made anew for each, until their number or the time is used up.

    The truth's name says how much work is added; what that costs depends on what else the machine
    does (10 % more work was measured to cost 4 % on a loaded one), hence the measured ratios.
    """
    coin, deadline = random.Random(extra), time.perf_counter() + seconds
    for session in range(sessions):
        if time.perf_counter() > deadline:
            break
        reference = DecodeStep(blocks, 2 * session)
        steps = [reference, reference.followed_by(DecodeStep(round(extra * blocks), session))]
        for _ in range(3):
            timed(steps[0]), timed(steps[1])
        gc.collect()
        gc.freeze()
        judged(real_pairs(steps[0], steps[1], coin), tally)
        sides = [np.array([[timed(step) for _ in range(CALLS)]]) for step in steps]
        for name, rule in TIMING.items():
            tally.failed[name] += bool(rule(sides[0], sides[1])[0])
        gc.unfreeze()


# The judge's own cost, and resuming.


def per_call(step: Callable[[], object], calls: int = 200) -> float:
    """Microseconds of CPU time per call, the best of fifty runs: other processes do not count."""
    best = math.inf
    for _ in range(50):
        start = time.process_time()
        for _ in range(calls):
            step()
        best = min(best, time.process_time() - start)
    return best / calls * 1e6


def overhead() -> dict[str, float]:
    """Python cost per pair in µs, at the limit, where nothing is ever decided."""
    signs = random.Random(0)
    xs = [math.log(LIMIT) + signs.choice((-0.1, 0.1)) for _ in range(10_000)]

    def gate(names: Sequence[str]) -> Callable[[], bool]:
        budgets = {name: Budget(metrics()[name], LIMIT) for name in names}
        judge = GateJudge(
            gate_named("latency").metrics, budgets, alpha_pass=ALPHA, alpha_fail=ALPHA, planned=1
        )
        stream = iter(xs)

        def step() -> bool:
            judge.update(dict.fromkeys(names, next(stream)))
            return judge.decided

        return step

    process = SignProcess()
    return {
        "one e-process": per_call(partial(process.observe, True)),
        "gate, 1 budget": per_call(gate(["ttft_ratio"])),
        "gate, 2 budgets (default)": per_call(gate(["ttft_ratio", "tpot_ratio"])),
    }


def resumes_bit_for_bit() -> bool:
    """A session cut at every tenth pair and replayed ends in the very same judgement."""
    xs = np.random.default_rng(1).normal(math.log(LIMIT), 0.5, 300).tolist()

    def judgement(parts: Sequence[Sequence[float]]) -> tuple[dict[str, list[float]], Judgement]:
        judge = latency_judge()
        for part in parts:
            for x in part:
                value = float(repr(x))  # as it would come from a journal
                judge.update(dict.fromkeys(JUDGED, value))
        return judge.state(), judge.judgements(exhausted=True)[0]

    whole = judgement([xs])
    return all(judgement([xs[:cut], xs[cut:]]) == whole for cut in range(0, len(xs), 10))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--sessions", type=int, default=40, help="most sessions per truth (default 40)"
    )
    parser.add_argument(
        "--seconds", type=float, default=50, help="most seconds per truth (default 50)"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    with torch.inference_mode():
        blocks = calibrated_blocks(0.004)
        print(f"limit {LIMIT}x, alpha {ALPHA} per side, at most {SECONDS:g} s a session")
        print(f"Decoding step of {blocks} blocks\n{HEADER}")
        for extra, truth, right in (
            (0.0, "unchanged", Verdict.PASS),
            (0.1, "+10 % work", Verdict.FAIL),
            (0.2, "+20 % work", Verdict.FAIL),
        ):
            tally = Tally(truth, right)
            real(blocks, extra, tally, options.sessions, options.seconds)
            print(tally.row(), flush=True)
    print("\nPython cost per pair")
    for name, microseconds in overhead().items():
        print(f"{name:>28}: {microseconds:5.1f} µs")
    print(f"resume reproduces the judgement bit for bit: {resumes_bit_for_bit()}")


if __name__ == "__main__":
    main()
