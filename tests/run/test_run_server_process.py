"""Servers that a release starts: ready before they are asked, and gone however the run ends."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pytest_infopt.errors import ModelLoadError
from pytest_infopt.process.server_process import ServerProcess, ServerProcesses
from pytest_infopt.release import ServerSource

URL = "http://127.0.0.1:{port}/v1"
# Its own process and that of a child, which real servers have, too; then it serves.
SERVER = """
import http.server, os, subprocess, sys
child = subprocess.Popen(["sleep", "600"])
open("pids", "w").write(f"{os.getpid()} {child.pid}")
print("hello from the server", flush=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def declared(script: str, seconds: float = 60, *arguments: str) -> ServerSource:
    command = (sys.executable, "-c", script, *arguments)
    return ServerSource(URL, command=command, ready_seconds=seconds)


def pids(folder: Path) -> list[int]:
    return [int(word) for word in (folder / "pids").read_text().split()]


def gone(pid: int) -> bool:
    """Whether a process has ended; the kernel takes a moment to bury it."""
    for _ in range(500):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def test_it_is_ready_its_log_is_kept_and_its_children_go_with_it(tmp_path: Path) -> None:
    log = tmp_path / "run" / "server-x.log"
    server = ServerProcess(declared(SERVER, 60, "{port}"), log, tmp_path)
    assert "{port}" not in server.source.url
    assert not server.source.command
    assert server.alive
    server.close()
    assert not server.alive
    assert all(gone(pid) for pid in pids(tmp_path))
    assert "hello from the server" in log.read_text()


def test_a_server_that_ends_is_quoted(tmp_path: Path) -> None:
    script = "print('no room on this card'); raise SystemExit(3)"
    with pytest.raises(ModelLoadError, match=r"(?s)ended with status 3.*no room on this card"):
        ServerProcess(declared(script), tmp_path / "log", tmp_path)


def test_a_command_that_is_not_there_is_named(tmp_path: Path) -> None:
    source = ServerSource(URL, command=("no-such-server", "{port}"), ready_seconds=60)
    with pytest.raises(
        ModelLoadError, match=r"(?s)'no-such-server \{port\}' ended with status 127"
    ):
        ServerProcess(source, tmp_path / "log", tmp_path)


def test_a_server_that_never_answers_is_not_waited_for(tmp_path: Path) -> None:
    script = "import os, time; open('pids', 'w').write(str(os.getpid())); time.sleep(600)"
    with pytest.raises(ModelLoadError, match=r"did not answer at .* within 2 s"):
        ServerProcess(declared(script, 2), tmp_path / "log", tmp_path)
    assert all(gone(pid) for pid in pids(tmp_path))


def test_it_is_gone_with_a_killed_pytest(tmp_path: Path) -> None:
    code = f"""
import sys, time
from pathlib import Path
from pytest_infopt.process.server_process import ServerProcess
from pytest_infopt.release import ServerSource
source = ServerSource({URL!r}, command=({sys.executable!r}, "-c", {SERVER!r}, "{{port}}"))
server = ServerProcess(source, Path("log"), Path("."))
print("ready", flush=True)
time.sleep(600)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        running = pids(tmp_path)
        process.send_signal(signal.SIGKILL)
    assert all(gone(pid) for pid in running)


def test_models_that_declare_the_same_server_share_it(tmp_path: Path) -> None:
    servers = ServerProcesses(tmp_path, lambda name: tmp_path / f"server-{name}.log")
    plain = ServerSource("http://localhost:8000/v1")
    source = declared(SERVER, 60, "{port}")
    try:
        first = servers.of(source, "reference")
        assert servers.of(source, "reference (itself)") == first
        assert servers.of(plain, "other") is plain
        assert servers.of(None, "none") is None
        servers.keep(source)
        assert not any(gone_at_once(pid) for pid in pids(tmp_path))
    finally:
        servers.keep()
    assert all(gone(pid) for pid in pids(tmp_path))


def gone_at_once(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_a_closed_server_has_given_its_device_back(tmp_path: Path) -> None:
    """A process that was killed holds its locks until it is gone: none is held behind close."""
    script = (
        "import fcntl, mmap; lock = open('device', 'w'); fcntl.flock(lock, fcntl.LOCK_EX)\n"
        "held = mmap.mmap(-1, 1 << 28); held.write(b'x' * (1 << 28))\n" + SERVER
    )
    for _ in range(3):
        server = ServerProcess(declared(script, 60, "{port}"), tmp_path / "log", tmp_path)
        server.close()
        with (tmp_path / "device").open() as device:
            fcntl.flock(device, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises where somebody holds it
