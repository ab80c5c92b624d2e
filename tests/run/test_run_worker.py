"""A worker process: its answers, and every way in which it can die."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_infopt.errors import ModelLoadError, WorkerError
from pytest_infopt.process.worker import Worker

Start = type[Worker]


@pytest.fixture
def module_worker(tmp_path: Path) -> Iterator[object]:
    """Starts a worker whose object is a module of the standard library."""
    started: list[Worker] = []

    def start(module: str, timeout_seconds: float = 60.0) -> Worker:
        worker = Worker(
            "importlib:import_module",
            module,
            log=tmp_path / "logs" / "worker.log",
            timeout_seconds=timeout_seconds,
        )
        started.append(worker)
        return worker

    yield start
    for worker in started:
        worker.kill()


def test_calls_run_in_another_process(module_worker) -> None:
    worker = module_worker("os")
    assert worker.call("getpid") not in (os.getpid(), os.getppid())
    assert worker.call("getcwd") == os.getcwd()
    worker.close()
    assert not worker.alive


def test_an_error_comes_home_with_its_name_and_the_worker_lives_on(module_worker) -> None:
    worker = module_worker("os")
    with pytest.raises(WorkerError, match="FileNotFoundError"):
        worker.call("stat", "/no/such/file")
    assert worker.alive
    assert worker.call("getpid") > 0


def test_an_error_of_this_package_keeps_its_type(tmp_path: Path) -> None:
    worker = Worker(
        "pytest_infopt.engines.checkpoints:check_checkpoint",
        tmp_path / "nothing-here",
        log=tmp_path / "worker.log",
        timeout_seconds=60,
    )
    with pytest.raises(ModelLoadError, match="nothing-here"):
        worker.call("anything")
    worker.kill()


def test_a_killed_process_is_named_with_its_signal(module_worker) -> None:
    worker = module_worker("os")
    with pytest.raises(WorkerError, match=r"SIGKILL \(out of memory\?"):
        worker.call("kill", worker.call("getpid"), signal.SIGKILL)
    assert not worker.alive


def test_an_exit_quotes_the_last_words(module_worker) -> None:
    worker = module_worker("os")
    worker.call("write", 2, b"the last words\n")
    with pytest.raises(WorkerError, match=r"status 3; its last words:\nthe last words"):
        worker.call("_exit", 3)


def test_a_hang_is_cut_off(module_worker) -> None:
    worker = module_worker("time", timeout_seconds=0.5)
    with pytest.raises(WorkerError, match=r"did not answer within 0\.5 s"):
        worker.call("sleep", 3600)
    assert not worker.alive


def test_calls_after_death_say_so_again(module_worker) -> None:
    worker = module_worker("os")
    with pytest.raises(WorkerError):
        worker.call("abort")
    with pytest.raises(WorkerError):
        worker.call("getpid")
