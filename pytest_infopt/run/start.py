"""The beginning of a run: configuration read, run folder and session opened, hooks registered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ..configuration import fingerprint, load_release
from ..conformance.hooks import ConformanceHooks, moved_implementations
from ..conformance.implementations import load_suites
from ..errors import ConfigurationError, InfoptError
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
from ..store.noise_floor import FILE as NOISE_FLOOR
from ..store.noise_floor import NoiseFloors
from .baseline_policy import BaselinePolicy
from .collection import CollectionHooks, add_release, named_by_keyword
from .hooks import InfoptHooks
from .ini_keys import IniKeys
from .item_reports import ItemReports
from .noise_policy import NoisePolicy
from .scope import Scope
from .session import SESSION_KEY, InfoptSession
from .termination import Termination
from .unmeasured import UnmeasuredGates
from .xdist import XdistHooks


def start(config: pytest.Config) -> None:
    """Read the configuration, open the run's folder, and register the hooks of a run.

    Raises pytest.UsageError on a configuration that cannot be used.
    """
    _check_neighbours(config)
    try:
        release = load_release(config.rootpath, settings(config), config.invocation_params.dir)
        suites = load_suites(config, release.implementations)
        components = config.invocation_params.dir / release.origin
        moved_implementations(config, components)
        whole = add_release(config, components if suites else None)
        scope = Scope(release, whole, named_by_keyword(config.option.keyword))
        session = _open_session(config, release, scope)
    except InfoptError as error:
        raise pytest.UsageError(str(error)) from error
    config.stash[SESSION_KEY] = session
    for name, hooks in {
        "conformance": ConformanceHooks(suites, components, session.source_arguments),
        "scope": scope,
        "collection": CollectionHooks(session),
        "hooks": InfoptHooks(config, session),
        "item-reports": ItemReports(session),
        "unmeasured": UnmeasuredGates(session),
        "termination": Termination(),
        "ini-keys": IniKeys(),
    }.items():
        _register(config, hooks, f"infopt-{name}")
    if config.pluginmanager.hasplugin("xdist"):
        _register(config, XdistHooks(session), "infopt-xdist")


def _register(config: pytest.Config, hooks: object, name: str) -> None:
    """Every part of a run decides with the others, so none of them may be switched off."""
    if config.pluginmanager.register(hooks, name) is None:
        raise pytest.UsageError(
            f"-p no:{name} leaves out a part of --infopt; use -p no:infopt to leave out all of it"
        )


def _check_neighbours(config: pytest.Config) -> None:
    """Refuse a setting of another plugin's under which a run could end without a verdict."""
    if not config.pluginmanager.hasplugin("timeout"):
        return
    method, seconds = (
        config.getoption(name, default=None) or config.getini(name)
        for name in ("timeout_method", "timeout")
    )
    if method == "thread" and seconds:
        raise pytest.UsageError(
            "pytest-timeout's method thread ends the process, with status 1 and no reports; use "
            "--timeout-method=signal, or --infopt-timeout for models that hang"
        )


def _open_session(config: pytest.Config, release: Release, scope: Scope) -> InfoptSession:
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
    noise = NoisePolicy(NoiseFloors.load(directory.parent.parent / NOISE_FLOOR), baselines)
    return InfoptSession(
        release=release,
        root=config.rootpath,
        directory=directory,
        source_arguments=_source_arguments(config),
        earlier=earlier,
        journal=Journal(journal_path(directory, worker_id)),
        fingerprint=gated,
        baselines=baselines,
        noise=noise,
        scope=scope,
        worker_id=worker_id,
    )


def _run_directory(config: pytest.Config, release: Release, worker: dict[str, Any]) -> Path:
    if "infopt_directory" in worker:  # an xdist worker writes where the controller does
        return Path(worker["infopt_directory"])
    base = release.report_dir or config.rootpath / ".infopt"
    resumed = resolve(config, "resume")
    if resumed is None:
        return run_directory(base, new_run_id())
    try:
        found = latest_run(base) if resumed == "latest" else run_directory(base, resumed)
    except ValueError as error:
        raise ConfigurationError(f"--infopt-resume: {error}") from error
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
        elif name == "--infopt-compare-techniques":
            kept.append(word)
    return kept
