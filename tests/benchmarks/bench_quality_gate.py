"""What the quality gate costs beyond the forward passes it needs, and how often it is wrong.

Run as a script, on the embedded SmolLM2 release. Cost: measuring a document (scoring both models,
keeping the reference's states on disk, comparing) against one plain forward of each model on the
same tokens, both timed on every document in an order drawn by a coin. Verdicts: the documents are
measured once; every session then draws as many as the gate plans, with replacement, from what was
measured, and the gate's own judge reads them until it has decided. Both candidates are sound: any
FAIL makes the exit status 1.

PYTEST_DONT_REWRITE: this module times.
"""

from __future__ import annotations

import math
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from default_limits import default_budgets
from infopt_suites.gates.quality.measure import QualityMeasure

from pytest_infopt.configuration import load_release
from pytest_infopt.corpus import load_corpus, tokenise
from pytest_infopt.engines.base import WholeLogitsEngine, able
from pytest_infopt.gates.registry import gate_named
from pytest_infopt.judge.gate_judge import GateJudge
from pytest_infopt.metrics.budget import Budget
from pytest_infopt.process.model_pair import ModelPair
from pytest_infopt.release import Candidate, ModelSource, Release, Statistics
from pytest_infopt.results.sample import Sample
from pytest_infopt.results.verdict import Judgement, Verdict, combine
from pytest_infopt.run.judging import take

TIMED_DOCUMENTS, TIMED_TOKENS = 14, 200
MEASURED_DOCUMENTS = 60  # of the release's own length, 64 tokens
SESSIONS = 100
SEED = 20261122


# Cost.


def seconds(step: Callable[[str], object], name: str) -> float:
    started = time.perf_counter()
    step(name)
    return time.perf_counter() - started


def overhead(release: Release, source: ModelSource, root: Path) -> str:
    """One row. The cache is new, so that the reference is scored for every document."""
    corpus = replace(release.corpus, max_tokens=TIMED_TOKENS)
    pair = ModelPair(replace(release, corpus=corpus), source, root, root / f"timed-{source.name}")
    quality = QualityMeasure(pair)
    engines = [able(engine, WholeLogitsEngine) for engine in (pair.reference, pair.candidate)]
    tokenised = tokenise(load_corpus(corpus, root), pair.reference.encode, corpus)
    ids = {document.id: document.token_ids for document in tokenised.documents}

    def forward_passes(name: str) -> None:
        for engine in engines:
            engine.full_logits(ids[name])

    measured: list[float] = []
    bare: list[float] = []
    coin = random.Random(SEED)
    long = [name for name in quality.documents() if len(ids[name]) == TIMED_TOKENS]
    # One document more than is counted: the first calls of everything are slow.
    for name in long[: TIMED_DOCUMENTS + 1]:
        steps = [(measured, quality.document), (bare, forward_passes)]
        for times, step in steps if coin.random() < 0.5 else steps[::-1]:
            times.append(seconds(step, name))
    del measured[0], bare[0]
    ratios = [m / b for m, b in zip(measured, bare, strict=True)]
    return (
        f"  {source.name:5} {sum(measured):6.1f} s {sum(bare):6.1f} s"
        f"   {statistics.median(ratios):5.3f} {sum(measured) / sum(bare):5.3f}"
        f"   {min(ratios):.2f}…{max(ratios):.2f}"
    )


# Verdicts.


@dataclass(frozen=True)
class Limits:
    """What a candidate is held to in the quality gate, and that gate's part of all its limits."""

    name: str
    budgets: Mapping[str, Budget]
    share: float

    @classmethod
    def of(cls, name: str, candidate: Candidate) -> Limits:
        budgets = gate_named("quality").limits_among(candidate.budgets)
        return cls(name, budgets, len(budgets) / len(candidate.budgets))


def session(
    samples: Sequence[Sample], limits: Limits, rules: Statistics, planned: int, draw: random.Random
) -> list[Judgement]:
    """What the gate makes of ``planned`` documents drawn with replacement, as `GateRun.collect`."""
    judge = GateJudge(
        gate_named("quality").metrics,
        limits.budgets,
        alpha_pass=rules.alpha_pass,
        alpha_fail=rules.alpha_fail * limits.share,
        planned=planned,
        identical_outputs_pass=gate_named("quality").identical_outputs_pass,
    )
    for sample in draw.choices(samples, k=planned):
        take(judge, sample)
        if judge.decided:
            break
    found = judge.judgements(exhausted=not judge.decided)
    return [judgement for judgement in found if judgement.verdict is not None]


def verdicts(
    samples: Sequence[Sample], limits: Limits, rules: Statistics, planned: int
) -> tuple[str, bool]:
    """One row and, for every verdict but PASS, what it rested on; and whether any was FAIL."""
    draw = random.Random(SEED)
    sessions = [session(samples, limits, rules, planned, draw) for _ in range(SESSIONS)]
    counts = Counter(combine([j.verdict for j in found if j.verdict]) for found in sessions)
    identical = sum(all(j.reason == "identical outputs" for j in found) for found in sessions)
    documents = statistics.median(max(j.units for j in found) for found in sessions)
    undecided = Counter(
        f"{j.metric} {j.verdict}"
        for found in sessions
        for j in found
        if j.verdict is not Verdict.PASS
    )
    row = (
        f"  {limits.name:20} {counts[Verdict.PASS]:4} {counts[Verdict.INCONCLUSIVE]:12}"
        f" {counts[Verdict.FAIL]:4} {identical:10} {documents:10.0f}"
    )
    details = [f"{'':22} {what}: {count} sessions" for what, count in undecided.most_common()]
    return "\n".join([row, *details]), counts[Verdict.FAIL] > 0


def measured_samples(release: Release, source: ModelSource, root: Path) -> tuple[list[Sample], int]:
    """Samples of random documents, and how many documents the gate would plan."""
    quality = QualityMeasure(ModelPair(release, source, root, root / "measured"))
    names = quality.documents()  # in random order
    return [quality.document(name) for name in names[:MEASURED_DOCUMENTS]], len(names)


def means(name: str, samples: Sequence[Sample]) -> str:
    """The truth that the sessions draw from: means over documents."""
    kl, top1, log_ratio = (
        statistics.fmean(sample.values[metric] for sample in samples)
        for metric in ("kl_mean", "top1_agreement", "perplexity_ratio")
    )
    return (
        f"  {name:5} KL {kl:.5f} nats, top-1 {100 * top1:.2f} %,"
        f" perplexity ratio {math.exp(log_ratio):.4f}"
    )


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        release = load_release(root)
        own = next(c for c in release.candidates if c.name == "bf16")
        same, bf16 = (
            Candidate(source, default_budgets(source, release.reference))
            for source in (replace(release.reference, name="A-A"), own.source)
        )
        print(f"cost on {TIMED_DOCUMENTS} documents of {TIMED_TOKENS} tokens (target: 1.10)")
        print("        measured  forwards   ratio: median, of sums, range", flush=True)
        for candidate in (same, bf16):
            print(overhead(release, candidate.source, root), flush=True)

        same_samples, planned = measured_samples(release, same.source, root)
        bf16_samples, _ = measured_samples(release, bf16.source, root)
    print(f"{MEASURED_DOCUMENTS} measured documents of {release.corpus.max_tokens} tokens, means")
    print(means("A-A", same_samples), means("bf16", bf16_samples), sep="\n")
    print(f"verdicts of {SESSIONS} sessions of at most {planned} documents")
    print(f"  {'':20} PASS INCONCLUSIVE FAIL  identical  documents (median)")
    failed = False
    for samples, limits in (
        (same_samples, Limits.of("A-A, default limits", same)),
        (bf16_samples, Limits.of("bf16, default limits", bf16)),
        (bf16_samples, Limits.of("bf16, release's own", own)),
    ):
        row, any_fail = verdicts(samples, limits, release.statistics, planned)
        print(row)
        failed |= any_fail
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
