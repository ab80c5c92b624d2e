"""The command ``infopt``: its subcommands and their exit statuses.

0: done, and nothing is wrong. 1: a verdict does not follow from what was measured, or, of
``plan``, something is missing. 2: the question cannot be answered.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

from ..configuration import load_release, missing, plan_lines
from ..errors import ConfigurationError, InfoptError
from ..naming import nearest
from ..options import Settings
from ..report.registry import reports
from ..report.text import defused
from ..store.baselines import Baselines
from ..version import __version__
from .baselines import baseline_lines, blessed, changed_lines, expired, loaded, sentences
from .comment import comment
from .comparison import comparison_lines
from .history import history_lines
from .runs import found_run
from .verification import verify

_UNANSWERED = 2
Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns the exit status."""
    given = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = given.command
    try:
        return command(given)
    except InfoptError as error:
        print(f"infopt: {error}", file=sys.stderr)
        return _UNANSWERED


def _plan(given: argparse.Namespace) -> int:
    here = Path.cwd()
    release = load_release(here, Settings(config=given.config and given.config.absolute()), here)
    print("\n".join(plan_lines(release, here)))
    return 1 if missing(release, here) else 0


def _verify(given: argparse.Namespace) -> int:
    verification = verify(found_run(given.run))
    print("\n".join(verification.lines()))
    return 0 if verification.holds else 1


def _compare(given: argparse.Namespace) -> int:
    before, after = (found_run(run) for run in (given.before, given.after))
    width = shutil.get_terminal_size().columns
    print("\n".join(comparison_lines(before.result, after.result, width)))
    return 0


def _comment(given: argparse.Namespace) -> int:
    against = given.against and found_run(given.against).result
    text = comment(found_run(given.run).result, against)
    print("\n".join(map(defused, text.split("\n"))))  # a CI runner may read it
    return 0


def _history(given: argparse.Namespace) -> int:
    width = shutil.get_terminal_size().columns
    print("\n".join(history_lines(given.folder, given.metric, width)))
    return 0


def _baselines(given: argparse.Namespace) -> int:
    width = shutil.get_terminal_size().columns
    if given.diff is None:
        print("\n".join(baseline_lines(given.file, width)))
    else:
        print("\n".join(changed_lines(loaded(given.diff), loaded(given.file), width)))
    return 0


def _bless(given: argparse.Namespace) -> int:
    width, before = shutil.get_terminal_size().columns, Baselines.load(given.file)
    after, left = blessed(found_run(given.run).result, before, given.loosen)
    print("\n".join([*changed_lines(before, after, width), *sentences(left, width)]))
    if not given.diff:
        after.save()
    return 0


def _expire(given: argparse.Namespace) -> int:
    width, after = shutil.get_terminal_size().columns, loaded(given.file)
    before, today = Baselines(given.file, after.entries), datetime.now(UTC).date()
    which = {"device": given.device, "candidate": given.candidate}
    expired(after, today, days=given.older_than, **which)
    print("\n".join(changed_lines(before, after, width)))
    after.save()
    return 0


def _scores(given: argparse.Namespace) -> int:
    from .scores import write_release_scores  # brings torch

    here = Path.cwd()
    release = load_release(here, Settings(config=given.config and given.config.absolute()), here)
    print("\n".join(write_release_scores(release, here, given.folder, exact=given.exact)))
    return 0


def _report(given: argparse.Namespace) -> int:
    run = found_run(given.run)
    spec = reports().get(given.name)
    if spec is None or spec.write is None:
        writers = [name for name, each in reports().items() if each.write is not None]
        raise ConfigurationError(
            f"no report {given.name!r} writes files{nearest(given.name, writers)}"
        )
    directory = given.into or run.directory
    directory.mkdir(parents=True, exist_ok=True)
    spec.write(run.result, directory)
    print(f"{spec.summary}: {directory}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="infopt", description=__doc__)
    parser.add_argument("--version", action="version", version=f"infopt {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    a_run = "run folder, its result.json, a run's id, or latest"

    plan = commands.add_parser("plan", help="what a release gates, and what that takes")
    plan.add_argument("--config", type=Path, help="infopt.toml; by default the nearest")
    plan.set_defaults(command=_plan)

    verifying = commands.add_parser("verify", help="judge a run's stored samples once more")
    verifying.add_argument("run", help=a_run)
    verifying.set_defaults(command=_verify)

    commenting = commands.add_parser("comment", help="a run as Markdown for a pull request")
    commenting.add_argument("run", help=a_run)
    commenting.add_argument("--against", help="the run before: what is otherwise is told")
    commenting.set_defaults(command=_comment)

    report = commands.add_parser("report", help="write a run's HTML page, or another report, anew")
    report.add_argument("run", help=a_run)
    report.add_argument("--name", default="html", help="which report; by default %(default)s")
    report.add_argument("--into", type=Path, help="a folder; by default the run's own")
    report.set_defaults(command=_report)

    compare = commands.add_parser("compare", help="what is otherwise in one run than in another")
    compare.add_argument("before", help=a_run)
    compare.add_argument("after", help=a_run)
    compare.set_defaults(command=_compare)

    history = commands.add_parser("history", help="the runs, or how a metric went over them")
    history.add_argument("metric", nargs="?", help="such as kl_mean")
    history.add_argument("--folder", type=Path, default=Path(".infopt"), help="of the reports")
    history.set_defaults(command=_history)

    _add_baselines(commands, a_run)

    scores = commands.add_parser("scores", help="keep the reference's scores, to gate without it")
    scores.add_argument("folder", type=Path, nargs="?", help="by default the one that it names")
    scores.add_argument("--exact", action="store_true", help="whole rows, for what compact lacks")
    scores.add_argument("--config", type=Path, help="infopt.toml; by default the nearest")
    scores.set_defaults(command=_scores)
    return parser


def _add_baselines(commands: Subparsers, a_run: str) -> None:
    a_file = "such as baselines.json"
    baselines = commands.add_parser("baselines", help="limits of a file, and where they come from")
    baselines.add_argument("file", type=Path, help=a_file)
    baselines.add_argument("--diff", type=Path, metavar="EARLIER", help="what differs from a file")
    baselines.set_defaults(command=_baselines)

    bless = commands.add_parser("bless", help="make a run's results the limits of its device")
    bless.add_argument("run", help=a_run)
    bless.add_argument("file", type=Path, help=f"{a_file}; begun where it is not there")
    bless.add_argument("--loosen", metavar="REASON", help="looser limits, too; the file keeps why")
    bless.add_argument("--diff", action="store_true", help="show the change, write nothing")
    bless.set_defaults(command=_bless)

    expire = commands.add_parser("expire", help="take limits out of a file that are of no use")
    expire.add_argument("file", type=Path, help=a_file)
    expire.add_argument("--older-than", type=int, metavar="DAYS", help="by the date of their run")
    expire.add_argument("--device", help="of a machine that is gone")
    expire.add_argument("--candidate", help="of a candidate that is gone")
    expire.set_defaults(command=_expire)
