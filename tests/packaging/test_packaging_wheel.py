"""The wheel, in an environment of its own: names, entry point, ``--pyargs``, type information."""

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(folder), str(ROOT))
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty environment holding the wheel; its dependencies are lent by this environment."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    run(str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel))
    (site,) = folder.glob("lib/python*/site-packages")
    # A path line: its own .pth files, the editable install among them, are not followed.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return python


def run(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_wheel_holds_three_typed_packages_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"pytest_infopt", "infopt_reference", "infopt_suites"}
    assert {f"{top}/py.typed" for top in tops} <= set(names)
    data = {
        "report/schema/result.schema.json",
        "embedded/infopt.toml",
        "corpus/documents.jsonl",
    }
    assert {f"pytest_infopt/{name}" for name in data} <= set(names)
    assert "infopt_suites/gates/semantic_cache/semantic_pairs.jsonl" in names


def test_packages_come_from_the_wheel(python: Path, tmp_path: Path) -> None:
    program = (
        "import pytest_infopt, infopt_reference, infopt_suites as s; "
        "print(*(m.__file__ for m in (pytest_infopt, infopt_reference, s)))"
    )
    for file in run(str(python), "-c", program, cwd=tmp_path).split():
        assert Path(file).is_relative_to(python.parents[1])


def test_plugin_loads_by_entry_point(python: Path, tmp_path: Path) -> None:
    assert "--infopt-candidate" in run(str(python), "-m", "pytest", "--help", cwd=tmp_path)


def test_the_command_is_installed(python: Path, tmp_path: Path) -> None:
    assert "candidate int8" in run(str(python.with_name("infopt")), "plan", cwd=tmp_path)


def test_gates_are_found_with_and_without_pyargs(python: Path, tmp_path: Path) -> None:
    words = ["--infopt", "--collect-only", "-q"]
    plain = run(str(python), "-m", "pytest", *words, cwd=tmp_path)
    by_name = run(
        str(python), "-m", "pytest", *words, "--pyargs", "infopt_suites.gates", cwd=tmp_path
    )
    for output in (plain, by_name):
        assert "test_quality[int8]" in output


def test_type_checkers_see_the_types(python: Path, tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text(
        "from infopt_reference.quantization import quantize\n"
        "from infopt_suites.gates.quality import test_gate_quality\n"
        "from pytest_infopt.results.verdict import Verdict, combine\n"
        "verdict: Verdict = combine([Verdict.PASS])\n"
        "wrong: int = combine([Verdict.PASS])\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--python-executable", str(python), "user.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert 'has type "Verdict", variable has type "int"' in done.stdout, done.stdout
    assert "Found 1 error" in done.stdout, done.stdout
