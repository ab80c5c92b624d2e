"""infopt.toml, or ``[tool.infopt]`` of pyproject.toml, or the command line alone → `Release`.

`schema` describes the keys. A file that is wrong is refused whole, with every wrong key's line.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from ..engines.files.size import parameters_of
from ..engines.formats import format_of
from ..engines.weight_precision import precision_of
from ..errors import ConfigurationError
from ..gates import registry
from ..gates.limits import candidate_limits
from ..gates.plan import Plan
from ..options import Settings
from ..release import (
    Candidate,
    CorpusSource,
    Diagnosis,
    Draft,
    Implementation,
    ModelSource,
    Release,
    Statistics,
)
from .budget_resolver import BudgetResolver
from .model_sources import candidate_source, command_line_candidate, draft_of, reference_source
from .model_words import check_candidate_word, check_model_word
from .techniques import EMBEDDED, techniques_source
from .toml_source import Key, TomlSource, place_in, read_toml

if TYPE_CHECKING:
    from .schema import DraftTable, ReleaseFile

Made = TypeVar("Made")
FILE_NAME = "infopt.toml"
_PYPROJECT = "pyproject.toml"
_EMBEDDED_MODEL = "embedded:smollm2"
_NOT_GIVEN = Settings()


def load_release(
    rootdir: Path, settings: Settings = _NOT_GIVEN, started: Path | None = None
) -> Release:
    """What this run gates.

    The file is ``settings.config``, else the nearest infopt.toml, or pyproject.toml with a table
    [tool.infopt], from the folder that pytest was ``started`` in (by default ``rootdir``) upwards,
    to the top of the repository. Without a file, the command line's reference and candidates are
    compared; without a reference either, the release embedded in this package is the file.
    ``settings`` win over the file; `Settings.candidate` selects from its candidates or adds others,
    and `Settings.compare_techniques` puts others in the place of its candidates and limits.

    Raises ConfigurationError naming file, line and key, or the option.
    """
    source = _find(rootdir, settings, started or rootdir)
    embedded = source is None and settings.reference is None
    if embedded:
        source = read_toml(EMBEDDED / FILE_NAME)
    # Not at the top: pydantic takes 0.1 s to import, and other helpers need only the plain data.
    from .schema import release_file_model
    from .validation import validate

    schema = release_file_model()
    file = schema() if source is None else validate(source, schema)
    directory = Path() if source is None else source.path.parent
    if settings.compare_techniques:
        source = techniques_source(None if embedded else source, embedded)
        file = validate(source, schema)
    return _Assembly(file, source, settings, embedded, directory).release()


def _find(rootdir: Path, settings: Settings, started: Path) -> TomlSource | None:
    if settings.config is not None:
        prefix = ("tool", "infopt") if settings.config.name == _PYPROJECT else ()
        source = read_toml(settings.config, prefix)
        if source is None:
            raise ConfigurationError(f"{settings.config}: has no table [tool.infopt]")
        return source
    here = _nearest(started)
    if started.is_relative_to(rootdir):
        return here
    there = _nearest(rootdir)
    if here is not None and there is not None and here.path != there.path:
        raise ConfigurationError(
            f"{here.path} lies where pytest was started and {there.path} in its root directory; "
            "name one of them with --infopt-config"
        )
    return there or here


def _nearest(folder: Path) -> TomlSource | None:
    """The configuration of the folder, or of the nearest one above it that has one."""
    for each in (folder, *folder.parents):
        if each != folder and each.stat().st_mode & stat.S_ISVTX:
            return None  # such as /tmp: whoever may write there must not say what is imported here
        if (source := _configuration_in(each)) is not None:
            return source
        if (each / ".git").exists():
            return None
    return None


def _configuration_in(folder: Path) -> TomlSource | None:
    file, pyproject = folder / FILE_NAME, folder / _PYPROJECT
    table = None
    if pyproject.is_file() and b"infopt" in pyproject.read_bytes():
        table = read_toml(pyproject, ("tool", "infopt"))
    if not file.exists():
        return table
    if table is not None:
        raise ConfigurationError(
            f"{file} and {table.place()}, [tool.infopt], both say what is gated; keep one of them"
        )
    return read_toml(file)


@dataclass(eq=False)
class _Assembly:
    """Puts a release together from the checked file and the settings that win over it. Paths of the
    file are relative to ``directory``."""

    file: ReleaseFile
    source: TomlSource | None
    settings: Settings
    embedded: bool
    directory: Path

    def release(self) -> Release:
        reference = self._reference()
        sources = self._candidate_sources(reference)
        not_run: tuple[str, ...] = ()
        ours = self.embedded or self.settings.compare_techniques
        if ours and self.settings.candidate is None:
            missing = {source.name: format_of(source.quantization).missing() for source in sources}
            not_run = tuple(f"{name}: {why}" for name, why in missing.items() if why)
            sources = [source for source in sources if not missing[source.name]]
        return Release(
            reference=reference,
            candidates=tuple(self._candidate(source, reference) for source in sources),
            corpus=self._made(CorpusSource, "corpus"),
            plans=self._plans,
            budgets=self._budgets.of_release(),
            statistics=self._statistics(),
            diagnosis=self._made(Diagnosis, "diagnose"),
            implementations=tuple(self._implementations()),
            origin=self._origin(),
            directory=self.directory,
            not_run=not_run,
            report_dir=self._path(self.settings.report_dir, self.file.report.directory),
            baseline=self._path(self.settings.baseline, self.file.baseline.file),
        )

    def _place(self, key: Key) -> str:
        return place_in(self.source, key)

    def _origin(self) -> str:
        if self.settings.compare_techniques:
            return "comparison of techniques"
        if self.embedded:
            return Release.origin
        return "command line" if self.source is None else str(self.source.path)

    def _reference(self) -> ModelSource:
        reference = reference_source(self.file.reference, self.directory, self.settings)
        if reference is None and self._implementations_alone:
            return ModelSource("reference", _EMBEDDED_MODEL, dtype="float32")
        if reference is None:
            raise ConfigurationError(
                f"{self._place(('reference',))}: names no model; "
                "set model in [reference] or give --infopt-reference MODEL"
            )
        check_model_word(reference.model, self._place(("reference", "model")))
        self._check_gguf(reference, ("reference",))
        return reference

    @property
    def _implementations_alone(self) -> bool:
        """Whether the release compares no models, only components: nobody named a candidate, or a
        reference."""
        file, settings = self.file, self.settings
        named = (file.reference.model, file.candidates, settings.reference, settings.candidate)
        return bool(file.implementations or self._budgets.of_release()) and not any(named)

    def _implementations(self) -> Iterator[Implementation]:
        for topic, targets in self.file.implementations.items():
            for name, target in targets.items():
                place = self._place(("implementations", topic, name))
                if name:
                    self._check_name(name, place)
                yield Implementation(topic, name or target, target, place, self.directory)

    def _candidate_sources(self, reference: ModelSource) -> list[ModelSource]:
        names = self.settings.candidate
        if names is None:
            sources = [self._of_file(name, reference) for name in self.file.candidates]
        else:
            sources = [self._of_command_line(text, reference) for text in names]
        if not sources and not self._implementations_alone:
            raise ConfigurationError(
                f"{self._place(('candidates',))}: no candidates; add a table [candidates.NAME] or "
                "give --infopt-candidate (a number format such as int8, or a model)"
            )
        used = [source.name for source in sources]
        if twice := [name for name in used if used.count(name) > 1]:
            raise ConfigurationError(f"--infopt-candidate: two candidates named {twice[0]!r}")
        return sources

    def _of_file(self, name: str, reference: ModelSource) -> ModelSource:
        key: Key = ("candidates", name)
        self._check_name(name, self._place(key))
        table = self.file.candidates[name]
        source = candidate_source(name, table, reference, self.directory, self.settings)
        check_model_word(source.model, self._place((*key, "model")))
        self._check_gguf(source, key)
        return source

    def _check_name(self, name: str, place: str) -> None:
        if re.fullmatch(r"[\w.+-]+", name) is None:
            raise ConfigurationError(
                f"{place}: the name {name!r} may hold letters, digits and _ . + - only; "
                "it becomes part of test ids and file names"
            )

    def _of_command_line(self, text: str, reference: ModelSource) -> ModelSource:
        if text in self.file.candidates:
            return self._of_file(text, reference)
        check_candidate_word(text, self.file.candidates)
        return command_line_candidate(text, reference, self.settings)

    def _check_gguf(self, source: ModelSource, key: Key) -> None:
        if source.quantization == "gguf" and source.gguf_file is None:
            raise ConfigurationError(
                f"{self._place((*key, 'quantization'))}: gguf needs gguf_file, the file's name"
            )

    def _candidate(self, source: ModelSource, reference: ModelSource) -> Candidate:
        own = self.file.candidates[source.name] if self._is_of_file(source.name) else None
        draft = self._draft(source, own.draft) if own and own.draft else None
        written = self._budgets.written(source, own.budgets if own else {})
        if self.settings.compare_techniques:  # what is compared is measured, and nothing else
            said = {name: budget for name, budget in written.items() if budget is not None}
            return Candidate(source, said, written, draft, has_defaults=False)
        limits = candidate_limits(
            self._plans,
            source,
            reference,
            precision_of(source, reference),
            written,
            served=source.server is not None,
            drafted=draft is not None,
            parameters=parameters_of(reference),
        )
        return Candidate(source, limits, written, draft)

    def _draft(self, source: ModelSource, table: DraftTable) -> Draft:
        draft = draft_of(source, table, self.directory, self.settings)
        if draft.model is not None:
            key: Key = ("candidates", source.name, "draft")
            check_model_word(draft.model.model, self._place((*key, "model")))
            self._check_gguf(draft.model, key)
        return draft

    @cached_property
    def _plans(self) -> tuple[Plan, ...]:
        return tuple(self._calibrating(self._made(kind, kind.table)) for kind in registry.plans())

    def _calibrating(self, plan: Plan) -> Plan:
        """The plan; --infopt-calibrate switches on what has such a setting."""
        asked = self.settings.calibrate and any(f.name == "calibrate" for f in fields(plan))
        return replace(plan, calibrate=True) if asked else plan  # type: ignore[call-arg]

    @cached_property
    def _budgets(self) -> BudgetResolver:
        return BudgetResolver(self.file, self.source, self._plans)

    def _made(self, kind: type[Made], table: str) -> Made:
        """A dataclass from its table; paths are relative to the file."""
        values = self.file.values_of(table)
        hints = get_type_hints(kind)
        return kind(**{k: _placed(self.directory, hints[k], value) for k, value in values.items()})

    def _is_of_file(self, name: str) -> bool:
        """A model from the command line, such as ./int8, may share a name with the file's."""
        selected = self.settings.candidate
        return name in self.file.candidates and (selected is None or name in selected)

    def _statistics(self) -> Statistics:
        overrides: dict[str, Any] = {
            "seed": self.settings.seed,
            "budget_seconds": self.settings.budget_seconds,
            "policy": self.settings.policy,
            "timeout_seconds": self.settings.timeout,
        }
        said = {key: value for key, value in overrides.items() if value is not None}
        return replace(self._made(Statistics, "statistics"), **said)

    def _path(self, setting: Path | None, text: str | None) -> Path | None:
        return setting if setting is not None or text is None else self.directory / text


def _placed(directory: Path, hint: Any, value: Any) -> Any:
    """A setting's value; paths begin in the directory."""
    if value and hint == Path | None:
        return directory / value
    if hint == tuple[Path, ...]:
        return tuple(directory / each for each in value)
    return value
