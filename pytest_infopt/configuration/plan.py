"""A release before it is measured: what would be gated, what that takes, what is missing; and the
fingerprint by which a resumed run knows that it still gates the same. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .. import __version__
from ..corpus import corpus_fingerprint, load_corpus
from ..engines.formats import format_of
from ..engines.weight_precision import precision_of
from ..errors import ConfigurationError
from ..judge.planning import fewest_to_pass
from ..metrics.budget import Budget
from ..metrics.metric import SAMPLES, Gate, Rule
from ..release import SEMANTIC_ALPHA, Candidate, ModelSource, Release, SemanticCachePlan

_OF_OTHERS = (Gate.SELF_CHECK, Gate.SEMANTIC_CACHE)  # the reference's and an embedder's
_OPTIONAL = (Gate.LONG_CONTEXT, Gate.BATCHING)
_GATES = tuple(gate for gate in Gate if gate not in _OF_OTHERS)


def plan_lines(release: Release, root: Path | None = None) -> list[str]:
    """What ``--collect-only`` prints: models, gates with their budgets and the fewest samples that
    can PASS them, and everything that is known to be missing. Loads no model."""
    embedder = _embedder_lines(release)
    if not release.candidates:
        return embedder + [f"not run: {reason}" for reason in release.not_run]
    corpus_line, documents = _corpus(release, root or Path())
    lines = [f"reference: {_describe(release.reference)}", corpus_line]
    for candidate in release.candidates:
        held_to = precision_of(candidate.source, release.reference).summary
        lines.append(f"candidate {candidate.name}: {_describe(candidate.source)}; {held_to}")
        lines += [
            f"  {gate}: {_gate_line(release, candidate, gate)}"
            for gate in _GATES
            if gate not in _OPTIONAL or candidate.budgets_of(gate)
        ]
    lines += embedder
    lines += [f"not run: {reason}" for reason in release.not_run]
    return lines + [f"missing: {what}" for what in _missing(release, documents)]


def _embedder_lines(release: Release) -> list[str]:
    plan, alpha = release.semantic_cache, SEMANTIC_ALPHA
    if not plan.embedder:
        return []
    limits = [f"{name} {b.describe()} ({_terms(b, alpha)})" for name, b in plan.budgets.items()]
    pairs = "shipped pairs" if plan.pairs is None else str(plan.pairs)
    return [
        f"embedder {plan.embedder}: {pairs}, threshold {plan.threshold:g}",
        f"  {Gate.SEMANTIC_CACHE}: {'; '.join(limits) or 'measured, no budget'}",
    ]


def _describe(source: ModelSource) -> str:
    details = {
        "quantization": source.quantization if source.quantization != "none" else None,
        "GGUF file": source.gguf_file,
        "dtype": source.dtype,
        "device": source.device,
        "revision": source.revision,
    }
    return f"{source.model} ({', '.join(f'{k} {v}' for k, v in details.items() if v)})"


def _corpus(release: Release, root: Path) -> tuple[str, int | None]:
    """A line on the corpus, and how many documents can be used; None if it cannot be read."""
    try:
        documents = len(load_corpus(release.corpus, root))
    except ConfigurationError as error:
        return f"corpus: unusable: {error}", None
    used = min(documents, release.corpus.max_documents)
    kind = "files" if release.corpus.files else "embedded"
    return f"corpus: {kind}, {documents} documents, at most {used} used", used


def _gate_line(release: Release, candidate: Candidate, gate: Gate) -> str:
    budgets = candidate.budgets_of(gate)
    alpha = release.statistics.alpha_pass
    parts = [f"{name} {b.describe()} ({_terms(b, alpha)})" for name, b in budgets.items()]
    return "; ".join(parts) or "measured, no budget"


def _terms(budget: Budget, alpha: float) -> str:
    """Where a limit comes from, and the fewest samples; the candidate's line names its defaults."""
    origin = "default" if budget.origin.startswith("default") else budget.origin
    if budget.metric.rule in (Rule.WORST, Rule.EXACT):
        return origin  # everything planned is measured, however it goes
    return f"{origin}, at least {fewest_to_pass(budget, alpha)} {SAMPLES[budget.metric.gate]}"


def _missing(release: Release, documents: int | None) -> Iterator[str]:
    candidates = [c.source for c in release.candidates]
    # A candidate made from the reference's model misses what the reference misses.
    for model, name in {
        s.model: s.name for s in [*reversed(candidates), release.reference]
    }.items():
        if Path(model).is_absolute() and not Path(model).exists():
            yield f"model of {name}: {model} does not exist"
    for source in candidates:
        why = format_of(source.quantization).missing()
        if why is not None:
            yield f"candidate {source.name}: {why}"
    limits = {Gate.QUALITY: documents, Gate.LATENCY: release.latency.max_pairs}
    for candidate in release.candidates:
        for name, budget in candidate.budgets.items():
            available = limits.get(budget.metric.gate)
            needed = fewest_to_pass(budget, release.statistics.alpha_pass)
            if available is not None and available < needed:
                unit = SAMPLES[budget.metric.gate]
                yield (
                    f"candidate {candidate.name}: {name} {budget.describe()} cannot PASS with "
                    f"{available} {unit}; it takes at least {needed}"
                )


def fingerprint(release: Release, root: Path | None = None) -> str:
    """SHA-256 of everything that results depend on, so that a resumed run cannot mix two releases.

    In it: models, options, the names and sizes of a local model's files, the corpus's text, the
    plans, seed, error rates, limits, and this package's version. Not in it: where limits were
    written, where reports go, what INCONCLUSIVE does, and time limits: an undecided run may be
    resumed with more time. Raises ConfigurationError where the corpus cannot be read.
    """
    corpus, statistics = release.corpus, release.statistics
    content: dict[str, Any] = {
        "version": __version__,
        "reference": _identity(release.reference),
        "candidates": [
            [_identity(candidate.source), _limits(candidate)] for candidate in release.candidates
        ],
        "corpus": corpus_fingerprint(load_corpus(corpus, root or Path())),
        "cut": [corpus.max_documents, corpus.max_tokens, corpus.min_tokens],
        "latency": asdict(release.latency),
        "equivalence": asdict(release.equivalence),
        "caches": asdict(release.caches),
        "long_context": asdict(release.long_context),
        "batching": asdict(release.batching),
        "semantic_cache": _semantic_identity(release.semantic_cache),
        "statistics": [statistics.alpha_pass, statistics.alpha_fail, statistics.seed],
        "implementations": [[i.topic, i.name, i.target] for i in release.implementations],
    }
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _semantic_identity(plan: SemanticCachePlan) -> dict[str, Any]:
    pairs = hashlib.sha256(plan.pairs.read_bytes()).hexdigest() if plan.pairs else None
    limits = {name: budget.limit for name, budget in sorted(plan.budgets.items())}
    return {**asdict(plan), "budgets": limits, "directory": None, "pairs": pairs}


def _identity(source: ModelSource) -> dict[str, Any]:
    return {**asdict(source), "files": _listing(Path(source.model))}


def _limits(candidate: Candidate) -> dict[str, Any]:
    return {name: [b.limit, b.relative] for name, b in sorted(candidate.budgets.items())}


def _listing(directory: Path) -> list[tuple[str, int]]:
    """Names and sizes of a local model's files; reading gigabytes of weights is the loader's task,
    whose own fingerprint covers their content."""
    if not directory.is_dir():
        return []
    return sorted(
        (path.name, path.stat().st_size) for path in directory.iterdir() if path.is_file()
    )
