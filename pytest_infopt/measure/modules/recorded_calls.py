"""The calls of a pass: with what each module was called, and what it returned."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..module_calls import copied


@dataclass(frozen=True)
class Call:
    """A call of a module: what it was given, and what it returned, both copied."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any


Calls = dict[str, deque[Call]]


class CallRecorder:
    """Records the calls of modules by name, first before and last behind: a module's own hooks are
    part of it."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self._modules = modules
        self._paused = False

    @contextmanager
    def recording(self, ended: Callable[[str, Calls], None]) -> Iterator[None]:
        """``ended`` is told of each call as it ends, and may take calls out."""
        calls: Calls = {}
        running: list[tuple[Any, Any]] = []
        handles = []

        def before(module: nn.Module, args: Any, kwargs: Any) -> None:
            if not self._paused:
                running.append((copied(args), copied(kwargs)))

        def after(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
                if not self._paused:
                    call = Call(*running.pop(), copied(output))
                    calls.setdefault(name, deque()).append(call)
                    ended(name, calls)

            return hook

        for name, module in self._modules.items():
            handles += [
                module.register_forward_pre_hook(before, prepend=True, with_kwargs=True),
                module.register_forward_hook(after(name), with_kwargs=True),
            ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Calls are no part of the pass meanwhile."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False
