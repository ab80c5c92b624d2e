"""Runs of ``pytest --infopt`` on a small engine, ended at random, and what each has to keep to.

The release compares byte models of `second_engine`: a gate takes milliseconds, a run as long as
pytest and torch take to start.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import second_engine

from pytest_infopt.configuration import load_release
from pytest_infopt.gates.registry import gates

STATUSES = {0, 1, 2, 4, 5, 10, 11}
OF_VERDICT = {"PASS": {0}, "FAIL": {1, 2}, "INCONCLUSIVE": {2, 10}, "ERROR": {2, 11}}
_HEADLINE = re.compile(r"^(?:\W+ )?infopt: ([A-Z]+)(?: of a part)? \(", re.MULTILINE)
_MARK = "INFOPT_FUZZ_RUN"  # an environment variable that each process of a run inherits


@dataclass(frozen=True)
class Ended:
    """A run that has ended: its exit status, what it printed, and what lies in its folder."""

    status: int
    output: str
    folder: Path
    left_behind: list[str]

    @property
    def run_folder(self) -> Path | None:
        return max((self.folder / ".infopt" / "runs").glob("*"), default=None)

    @property
    def document(self) -> dict[str, Any] | None:
        """Its result.json."""
        path = self.run_folder and self.run_folder / "result.json"
        return json.loads(path.read_text()) if path and path.exists() else None


def write_engine(site: Path) -> None:
    """The package of the engine, as installed in a folder of packages."""
    package, metadata = site / "infopt_bigram", site / "infopt_bigram-1.dist-info"
    package.mkdir(parents=True)
    metadata.mkdir()
    shutil.copy(second_engine.__file__, package / "engine.py")
    (package / "__init__.py").touch()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: infopt-bigram\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(
        "[infopt.engines]\nbigram = infopt_bigram.engine:ENGINE\n"
    )


def write_release(folder: Path, text: str) -> None:
    """A folder with infopt.toml and the text of its models."""
    (folder / "model").mkdir(parents=True)
    shutil.copy(second_engine.__file__, folder / "model" / "text.txt")
    (folder / "infopt.toml").write_text(text)


@dataclass(frozen=True)
class End:
    """A signal, to pytest's process or to its whole group (as a terminal's Ctrl-C goes), once the
    journal holds so many lines and so many seconds have passed since."""

    signal: signal.Signals
    lines: int
    seconds: float
    group: bool

    def send(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        _wait_for_lines(process, folder, self.lines)
        with suppress(subprocess.TimeoutExpired):
            process.wait(self.seconds)
        with suppress(ProcessLookupError):
            (os.killpg if self.group else os.kill)(process.pid, self.signal)


def run(folder: Path, words: Sequence[str], end: End | None = None) -> Ended:
    """pytest with these words, which may be ended."""
    mark = uuid.uuid4().hex
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), _MARK: mark}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *words]
    output = folder / "output.txt"
    with output.open("wb") as stream:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        if end is not None:
            end.send(process, folder)
        status = process.wait(timeout=300)
    return Ended(status, output.read_text(errors="replace"), folder, _left_behind(mark))


def check(ended: Ended, gate: str | None = None) -> None:
    """What holds of each run that was not killed, of all gates or of this one."""
    assert ended.status in STATUSES, ended.output
    assert "INTERNALERROR" not in ended.output, ended.output
    assert "Traceback (most recent call last)" not in ended.output, ended.output
    assert ended.left_behind == []
    document = ended.document
    if document is None:
        assert ended.status in (2, 4, 5), ended.output
        return
    verdict = document["verdict"]
    assert ended.run_folder is not None
    summary = (ended.run_folder / "summary.md").read_text().partition("\n")[0]
    for text in (summary, ended.output):
        assert set(_HEADLINE.findall(text)) == {verdict}, text
    assert (" of a part (" in summary) <= (gate is not None)
    lenient = verdict == "INCONCLUSIVE" and "warn" in (ended.folder / "infopt.toml").read_text()
    assert ended.status in OF_VERDICT[verdict] | ({0} if lenient else set()), ended.output
    items = {(item["gate"], item["candidate"]): item["verdict"] for item in document["items"]}
    if verdict == "PASS" or ended.status == 0:
        asked = {item for item in planned(ended.folder) if gate in (None, item[0])}
        assert set(items) == asked, f"{verdict}, and gates of the plan are missing"
    _check_junit(ended, items)


def planned(folder: Path) -> set[tuple[str, str]]:
    """Gate and candidate of each item that the release asks for."""
    release = load_release(folder)
    return {(spec.name, c.name) for spec in gates().values() for c in spec.judged(release)}


def outcome(ended: Ended) -> list[Any]:
    """What two runs of one release have to agree on: all but times."""
    document = ended.document
    assert document is not None, ended.output
    rows = [
        {key: value for key, value in row.items() if key not in ("seconds", "item")}
        for row in document["gates"]
    ]
    return [document["verdict"], rows]


def _check_junit(ended: Ended, items: dict[tuple[str, str], str]) -> None:
    path = ended.folder / "junit.xml"
    if not path.exists():
        return
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        for entry in case.iter("property"):
            if entry.get("name") == "infopt":
                gate = json.loads(entry.get("value", ""))
                key = (gate["gate"], gate["candidate"])
                assert items[key] == gate["verdict"]
                assert (case.find("failure") is not None) or gate["verdict"] != "FAIL"
                assert (case.find("failure") is None) or gate["verdict"] != "PASS"
    path.unlink()


def _wait_for_lines(process: subprocess.Popen[bytes], folder: Path, lines: int) -> None:
    while process.poll() is None:
        journals = (folder / ".infopt" / "runs").glob("*/journal*.jsonl")
        if sum(path.read_bytes().count(b"\n") for path in journals) >= lines:
            return
        time.sleep(0.01)


def _left_behind(mark: str) -> list[str]:
    """Command lines of processes of a run that are still there half a minute after it has ended."""
    for _ in range(300):
        found = [line for pid in Path("/proc").glob("[0-9]*") if (line := _of_run(pid, mark))]
        if not found:
            return []
        time.sleep(0.1)
    return found


def _of_run(process: Path, mark: str) -> str:
    try:
        if f"{_MARK}={mark}".encode() in (process / "environ").read_bytes():
            return (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:  # it has ended, or is another user's
        pass
    return ""


SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGKILL]
