"""Gates on planted candidates, in this process: models are loaded once and changed in turn."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, chdir, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from in_process_run import Outcome, run_gates

from pytest_infopt.configuration import load_release
from pytest_infopt.engines.base import Engine, ModuleEngine, able
from pytest_infopt.engines.registry import load_engine
from pytest_infopt.process.model_pair import ModelPair
from pytest_infopt.release import ModelSource, Release

from .effect import Effects
from .models import write_release
from .rivals import Rivals

Planting = Callable[[Any], AbstractContextManager[Any]]  # of the candidate's transformers model


class Bench:
    """A model's release and its clean candidates, which are loaded when they are first asked for.

    What gates need of the reference alone is computed once for each format.
    """

    def __init__(self, name: str, folder: Path) -> None:
        write_release(folder, name)
        self.name, self.folder = name, folder
        self._release = load_release(folder)
        self._engines: dict[str, Engine] = {}
        self._rivals: dict[str, Rivals] = {}
        self._shared: dict[str, dict[str, Any]] = {}

    @classmethod
    @contextmanager
    def of(cls, name: str) -> Iterator[Bench]:
        """A bench in a folder of its own, which is removed at the end."""
        with tempfile.TemporaryDirectory() as folder:
            yield cls(name, Path(folder))

    def candidate(self, form: str) -> Any:
        """The clean candidate's transformers model."""
        (source,) = (c.source for c in self._release.candidates if c.name == form)
        return able(self._engine(source), ModuleEngine).module

    @cached_property
    def effects(self) -> Effects:
        """What faults change beside what formats do."""
        return Effects(self.reference)

    def rivals(self, form: str) -> Rivals:
        """Other tools, which know the clean candidate of that format."""
        if form not in self._rivals:
            self._rivals[form] = Rivals(self.reference, self.candidate(form))
        return self._rivals[form]

    @property
    def reference(self) -> Any:
        """The reference's transformers model."""
        return able(self._engine(self._release.reference), ModuleEngine).module

    def _engine(self, source: ModelSource) -> Engine:
        if source.name not in self._engines:
            with chdir(self.folder):
                self._engines[source.name] = load_engine(source)
        return self._engines[source.name]

    def run(
        self, form: str, gates: tuple[str, ...], planting: Planting | None = None
    ) -> dict[str, Outcome]:
        """Outcomes by gate of the candidate of that format, with what ``planting`` plants in it
        from before its first pass to the end."""
        with ExitStack() as planted:

            def make_pair(release: Release, source: ModelSource, root: Path, cache: Path) -> Any:
                pair = ModelPair(release, source, root, cache)
                shared = self._shared.setdefault(form, {"_prompt_sets": {}, "_length_effects": {}})
                vars(pair).update(shared)
                vars(pair)["reference"] = self._engine(release.reference)
                vars(pair)["candidate"] = self._engine(source)
                for name in ("documents_by_id", "document_lengths", "plain"):
                    shared.setdefault(name, getattr(pair, name))
                if planting is not None:
                    planted.enter_context(planting(self.candidate(form)))
                return pair

            found = run_gates(self.folder, (form,), gates, make_pair=make_pair)
        return {gate: outcome for (_, gate), outcome in found.items()}
