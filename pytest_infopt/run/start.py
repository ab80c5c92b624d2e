"""The beginning of a run: configuration read, run folder and session opened, hooks registered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ..configuration import fingerprint, load_release
from ..conformance.hooks import collect_implementations
from ..conformance.implementations import load_suites
from ..errors import ConfigurationError
from ..options import resolve, settings
from ..release import Release
from ..store.journal import (
    Journal,
    RunRecords,
    journal_path,
    latest_run,
    new_run_id,
    run_directory,
)
from ..version import __version__
from .baseline_policy import BaselinePolicy
from .collection import CollectionHooks, add_gates, moved_arguments
from .hooks import InfoptHooks
from .item_reports import ItemReports
from .session import SESSION_KEY, InfoptSession
from .unmeasured import UnmeasuredGates
from .xdist import XdistHooks


def start(config: pytest.Config) -> None:
    """Read the configuration, open the run's folder, and register the hooks of a run.

    Raises pytest.UsageError on a configuration that cannot be used.
    """
    try:
        release = load_release(config.rootpath, settings(config))
        suites = load_suites(config, release.implementations)
        session = _open_session(config, release)
        moved_arguments(config)
        add_gates(config)
    except ConfigurationError as error:
        raise pytest.UsageError(str(error)) from error
    config.stash[SESSION_KEY] = session
    implementations = collect_implementations(
        config, suites, Path(release.origin), session.source_arguments
    )
    for name, hooks in {
        "conformance": implementations,
        "collection": CollectionHooks(session),
        "hooks": InfoptHooks(config, session),
        "item-reports": ItemReports(session),
        "unmeasured": UnmeasuredGates(session),
    }.items():
        config.pluginmanager.register(hooks, f"infopt-{name}")
    if config.pluginmanager.hasplugin("xdist"):
        config.pluginmanager.register(XdistHooks(session), "infopt-xdist")


def _open_session(config: pytest.Config, release: Release) -> InfoptSession:
    """The state of the run that ``config`` starts or resumes.

    Raises ConfigurationError when the run to resume is not there or gated another release.
    """
    worker = getattr(config, "workerinput", {})
    directory = _run_directory(config, release, worker)
    worker_id = worker.get("workerid", "main")
    earlier = RunRecords.read(directory)
    gated = fingerprint(release, config.rootpath)
    _check_same_release(earlier, gated, directory)
    baselines = BaselinePolicy.of(config, release)  # may refuse, so before anything is opened
    journal = Journal(journal_path(directory, worker_id))
    journal.write_run(gated, release.statistics.seed, __version__)
    return InfoptSession(
        release=release,
        root=config.rootpath,
        directory=directory,
        source_arguments=_source_arguments(config),
        earlier=earlier,
        journal=journal,
        baselines=baselines,
        worker_id=worker_id,
    )


def _run_directory(config: pytest.Config, release: Release, worker: dict[str, Any]) -> Path:
    if "infopt_directory" in worker:  # an xdist worker writes where the controller does
        return Path(worker["infopt_directory"])
    base = release.report_dir or config.rootpath / ".infopt"
    resumed = resolve(config, "resume")
    if resumed is None:
        return run_directory(base, new_run_id())
    found = latest_run(base) if resumed == "latest" else run_directory(base, resumed)
    if found is None or not found.is_dir():
        raise ConfigurationError(f"--infopt-resume={resumed}: no such run below {base / 'runs'}")
    return found


def _check_same_release(earlier: RunRecords, gated: str, directory: Path) -> None:
    before = earlier.run
    if before is not None and before["fingerprint"] != gated:
        raise ConfigurationError(
            f"--infopt-resume: {directory.name} gated another release (models, corpus, budgets, "
            f"seed or statistics have changed since); start a new run"
        )


def _source_arguments(config: pytest.Config) -> list[str]:
    """The command line's own words on what is gated, as they were given."""
    words = [str(word) for word in config.invocation_params.args]
    kept: list[str] = []
    for index, word in enumerate(words):
        name, equals, _ = word.partition("=")
        if name in ("--infopt-config", "--infopt-reference", "--infopt-candidate"):
            kept += [word] if equals else words[index : index + 2]
    return kept
