"""What a baselines file holds, and its changes by hand: a run blessed, limits that expire."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

from ..errors import ConfigurationError
from ..gates.registry import metrics
from ..metrics.budget import Budget
from ..report.table import Row, table_lines
from ..report.text import visible, wrapped
from ..report.wording import ABSENT
from ..results.run_result import RunResult
from ..run.baseline_policy import BaselinePolicy
from ..store.baselines import Baselines, Entry, is_tighter

_COLUMNS = ("metric", "limit", "run", "date", "loosened")
_CHANGES = ("metric", "before", "after", "what", "run")


def baseline_lines(path: Path, width: int) -> list[str]:
    """The limits by device and candidate, oldest first. Raises ConfigurationError where there is no
    such file, BaselineError for a damaged one."""
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in loaded(path).entries:
        groups.setdefault((entry.provenance.device, entry.candidate), []).append(entry)
    lines: list[str] = []
    for (device, candidate), entries in groups.items():
        rows = [_row(each) for each in sorted(entries, key=lambda each: each.provenance.date)]
        lines += [visible(f"{candidate} on {device}")]
        lines += [*table_lines([Row(_COLUMNS), *rows], width), ""]
    return lines[:-1] or ["no limits"]


def loaded(path: Path) -> Baselines:
    """The file's limits. Raises ConfigurationError where there is no such file."""
    if not path.exists():
        raise ConfigurationError(
            f"{path} does not exist; begin it with pytest --infopt --infopt-baseline={path} "
            "--infopt-baseline-update, or with infopt bless"
        )
    return Baselines.load(path)


def changed_lines(before: Baselines, after: Baselines, width: int) -> list[str]:
    """The limits that differ, by candidate and device."""
    rows, told = list[Row](), ("", "")
    for device, candidate, metric in sorted({e.key for e in [*before.entries, *after.entries]}):
        old = before.entry_for(device, candidate, metric)
        new = after.entry_for(device, candidate, metric)
        if old == new:
            continue
        if (device, candidate) != told:
            told = device, candidate
            rows.append(Row((visible(f"{candidate} on {device}"),)))
        limits = (ABSENT if each is None else _limit(each) for each in (old, new))
        kept = new or old
        assert kept is not None
        source = visible(kept.provenance.run_id)
        rows.append(Row((metric, *limits, _change(old, new), source), indent=1))
    return table_lines([Row(_CHANGES), *rows], width) if rows else ["no limit is otherwise"]


def blessed(run: RunResult, before: Baselines, reason: str | None) -> tuple[Baselines, list[str]]:
    """The limits as the run moves them, and sentences on those that it cannot be compared with.

    Metrics that passed tighten their limit; with a reason, limits are loosened or set anew, too.
    Raises ConfigurationError for a run that does not tell what its numbers come from.
    """
    if not (run.corpus and "device" in run.environment):
        raise ConfigurationError(
            f"run {run.run_id} does not tell its device and corpus: it measured nothing, or is of "
            "an earlier version of pytest-infopt; run it again"
        )
    after = Baselines(before.path, before.entries)
    policy = BaselinePolicy(after, tighten=True, loosen=reason)
    for candidate in run.candidates:
        if "fingerprint" in candidate and "fingerprint" in run.reference:
            described = {
                "environment": run.environment,
                "reference": run.reference,
                "candidate": candidate,
                "corpus": run.corpus,
            }
            policy.describe(candidate["name"], described, run.run_id, run.started[:10])
    policy.apply(run.gates)
    return after, list(_not_comparable(after, policy))


def _not_comparable(baselines: Baselines, policy: BaselinePolicy) -> Iterator[str]:
    for entry in baselines.entries:
        here = policy.provenance.get(entry.candidate)
        if here is not None and entry.provenance.device == here.device:
            differing = Baselines.mismatch(entry, here)
            if differing:
                yield visible(
                    f"left as it is: {entry.metric} of {entry.candidate} is from another "
                    f"{', '.join(differing)} (run {entry.provenance.run_id}); set it anew with "
                    "--loosen REASON"
                )


def expired(
    baselines: Baselines,
    today: date,
    *,
    days: int | None,
    device: str | None,
    candidate: str | None,
) -> list[Entry]:
    """Take out the limits that are at least so many days old and of that device and candidate;
    returns them. Raises ConfigurationError where nothing says which."""
    if days is None and device is None and candidate is None:
        raise ConfigurationError(
            "say which limits: --older-than DAYS, --device NAME, --candidate NAME, or several"
        )
    latest = None if days is None else today - timedelta(days=days)

    def gone(entry: Entry) -> bool:
        return (
            device in (None, entry.provenance.device)
            and candidate in (None, entry.candidate)
            and (latest is None or date.fromisoformat(entry.provenance.date) <= latest)
        )

    return baselines.expire(gone)


def sentences(told: list[str], width: int) -> list[str]:
    return [line for each in told for line in wrapped(each, width, "  ")]


def _limit(entry: Entry) -> str:
    return Budget(metrics()[entry.metric], entry.limit).describe()


def _change(old: Entry | None, new: Entry | None) -> str:
    if old is None or new is None:
        return "new" if old is None else "gone"
    if old.limit == new.limit:
        return "from another run"
    return "tighter" if is_tighter(new.metric, new.limit, old.limit) else "looser"


def _row(entry: Entry) -> Row:
    steps = [visible(f"{step.date}: {step.reason}") for step in entry.history]
    told = visible(entry.provenance.run_id), visible(entry.provenance.date)
    return Row((entry.metric, _limit(entry), *told, "; ".join(steps) or "–"))
