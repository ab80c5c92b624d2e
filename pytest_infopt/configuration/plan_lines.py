"""A release before it is measured: what would be gated, what that takes, what is missing. Imports
no torch and loads no model."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from ..corpus import load_corpus
from ..engines.weight_precision import precision_of
from ..errors import ConfigurationError
from ..gates import registry
from ..gates.base import GateSpec
from ..gates.limits import not_applicable_lines
from ..judge.planning import fewest_to_pass, spared
from ..judge.rules import make_test
from ..metrics.budget import Budget
from ..metrics.metric import Rule
from ..release import Candidate, ModelSource, Release
from .source_faults import source_faults, target_fault


def plan_lines(release: Release, root: Path | None = None) -> list[str]:
    """What ``--collect-only`` prints: models, gates with their budgets and the fewest samples that
    can PASS them, and everything that is known to be missing."""
    own = [line for spec in _gates(per_release=True) for line in _release_lines(spec, release)]
    if not release.candidates:
        faults = missing(release, root) if own else []
        return own + [f"missing: {what}" for what in faults]
    corpus_line, corpus = _corpus(release, root or Path())
    lines = [f"reference: {_describe(release.reference)}", corpus_line]
    for candidate in release.candidates:
        held_to = precision_of(candidate.source, release.reference).summary
        lines.append(f"candidate {candidate.name}: {_describe(candidate.source)}; {held_to}")
        if candidate.draft:
            count = candidate.draft.num_speculative_tokens
            lines.append(f"  drafts: {candidate.draft.name}, {count} tokens a pass")
        lines += [
            f"  {spec.name}: {_limits(spec, release, candidate, corpus)}"
            for spec in _gates(per_release=False)
            if candidate in spec.judged(release)
        ]
    lines += not_applicable_lines(release)
    lines += own
    lines += [
        f"{spec.name}: {s}" for spec in _gates(per_release=False) for s in spec.announced(release)
    ]
    lines += [f"left out: {reason}" for reason in release.not_run]
    return lines + [f"missing: {what}" for what in _missing(release, root or Path(), corpus)]


def _gates(*, per_release: bool) -> list[GateSpec]:
    return [spec for spec in registry.gates().values() if spec.per_release is per_release]


def _release_lines(spec: GateSpec, release: Release) -> Iterator[str]:
    """A gate that judges no candidate: whom it judges, by which settings and limits."""
    for subject in spec.judged(release):
        settings = [
            f"{field.name} {getattr(release.plan(plan), field.name)}"
            for plan in spec.plans
            for field in fields(plan)
            if getattr(release.plan(plan), field.name) != field.default
        ]
        yield f"{spec.name} of {subject.name}: {', '.join(settings) or 'default settings'}"
        yield f"  {spec.name}: {_limits(spec, release, subject, _NO_CORPUS)}"


def _describe(source: ModelSource) -> str:
    details = {
        "quantization": source.quantization if source.quantization != "none" else None,
        "GGUF file": source.gguf_file,
        "KV cache": source.kv_cache,
        "dtype": source.dtype,
        "device": source.device,
        "revision": source.revision,
    }
    return f"{source.model} ({', '.join(f'{k} {v}' for k, v in details.items() if v)})"


@dataclass(frozen=True)
class _CorpusSize:
    """How many documents can be used, and about how many tokens one has; None if unknown."""

    documents: int | None = None
    tokens: int | None = None


_NO_CORPUS = _CorpusSize()
_TOKEN_BYTES = 4  # of UTF-8: what tokenizers make of prose; a document of code has more tokens


def _corpus(release: Release, root: Path) -> tuple[str, _CorpusSize]:
    """A line on the corpus, and its size."""
    source = release.corpus
    try:
        documents = load_corpus(source, root)
    except ConfigurationError as error:
        return f"corpus: unusable: {error}", _NO_CORPUS
    used = min(len(documents), source.max_documents)
    kind = "files" if source.files else "embedded"
    length = statistics.median(len(document.text.encode()) for document in documents)
    tokens = min(source.max_tokens, max(source.min_tokens, round(length / _TOKEN_BYTES)))
    return (
        f"corpus: {kind}, {len(documents)} documents of about {tokens} tokens, at most {used} used",
        _CorpusSize(used, tokens),
    )


def _limits(spec: GateSpec, release: Release, candidate: Candidate, corpus: _CorpusSize) -> str:
    problem = spec.lacks(candidate, release.reference) or spec.too_few(release, corpus.documents)
    if problem:
        return f"NOT RUN: {problem}"
    parts = [
        f"{name} {budget.describe()} ({_terms(spec, budget, release, corpus)}"
        f"{_estimated_only(spec, budget, release, corpus)})"
        for name, budget in spec.limits_among(candidate.budgets).items()
    ]
    return "; ".join(parts) or "measured, no budget"


def _terms(spec: GateSpec, budget: Budget, release: Release, corpus: _CorpusSize) -> str:
    """Where a limit comes from, and the fewest samples; the candidate's line names its defaults."""
    origin = "default" if budget.origin.startswith("default") else budget.origin
    if budget.metric.rule in (Rule.WORST, Rule.EXACT):
        return origin  # everything planned is measured, however it goes
    if spec.population(release):
        return f"{origin}, all {spec.samples} of the corpus"
    promise = make_test(budget.metric, budget.limit, planned=1).promise()
    fewest = f"at least {_fewest(spec, budget, release, corpus)} {spec.samples}"
    return ", ".join(filter(None, (origin, promise, fewest)))


def _estimated_only(spec: GateSpec, budget: Budget, release: Release, corpus: _CorpusSize) -> str:
    available = spec.most_samples(release, corpus.documents)
    alpha = spec.alpha or release.statistics.alpha_pass
    counts = available is None or spec.population(release)
    if counts or not spared(budget, alpha, available or 0):
        return ""
    return f"; only estimated, there are {available}"


def _fewest(spec: GateSpec, budget: Budget, release: Release, corpus: _CorpusSize) -> int:
    """The fewest samples that can PASS, of as many tokens as they are going to have."""
    alpha = spec.alpha or release.statistics.alpha_pass
    tokens = spec.sample_tokens(release, corpus.tokens)
    return fewest_to_pass(budget, alpha, *([] if tokens is None else [tokens]))


def missing(release: Release, root: Path | None = None) -> list[str]:
    """What is known to be missing before anything is loaded, a sentence each."""
    return list(_missing(release, root or Path(), _corpus(release, root or Path())[1]))


def _missing(release: Release, root: Path, corpus: _CorpusSize) -> Iterator[str]:
    folders = (root, release.directory.absolute())
    told: set[str] = set()
    for source in (release.reference, *(c.source for c in release.candidates)):
        # A candidate made from the reference's model misses what the reference misses.
        who = "reference" if source is release.reference else f"candidate {source.name}"
        for fault in source_faults(source, root, folders):
            if fault not in told:
                yield f"{who}: {fault}"
            told.add(fault)
    for candidate in release.candidates:
        if candidate.draft and candidate.draft.model and candidate.server is None:
            for fault in source_faults(candidate.draft.model, root, folders):
                yield f"draft of {candidate.name}: {fault}"
    for spec in registry.gates().values():
        for target in spec.imports(release):
            if fault := target_fault(target, folders):
                yield f"{spec.name}: {fault}"
    for candidate in release.candidates:
        for spec in registry.gates().values():
            yield from _too_few(spec, release, candidate, corpus)


def _too_few(
    spec: GateSpec, release: Release, candidate: Candidate, corpus: _CorpusSize
) -> Iterator[str]:
    """The limits that as many samples cannot PASS."""
    unless = ", unless its outputs are identical" if spec.identical_outputs_pass else ""
    available = spec.most_samples(release, corpus.documents)
    if spec.population(release):
        return
    for name, budget in spec.limits_among(candidate.budgets).items():
        needed = _fewest(spec, budget, release, corpus)
        alpha = spec.alpha or release.statistics.alpha_pass
        if available is not None and available < needed and not spared(budget, alpha, available):
            yield (
                f"candidate {candidate.name}: {name} {budget.describe()} cannot PASS with "
                f"{available} {spec.samples}; it takes at least {needed}{unless}"
            )
