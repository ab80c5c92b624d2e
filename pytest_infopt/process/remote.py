"""Methods that another process may call, and the proxy that stands for their object over here.

The object's class is named as "module:class", so that pytest's own process, which must not import
torch, never imports it. For type checkers the proxy *is* the object: they see every signature.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from ..errors import InfoptError

Method = TypeVar("Method", bound=Callable[..., Any])
_MARK = "infopt_remote"


def remote(method: Method) -> Method:
    """A method that may be called from pytest's process: its arguments and its result are pickled,
    so they are plain data."""
    setattr(method, _MARK, True)
    return method


def call_remote(receiver: object, method: str, arguments: tuple[Any, ...]) -> Any:
    """Call a marked method, in the process of its object.

    Raises InfoptError for a method that is not there or not marked.
    """
    function = getattr(type(receiver), method, None)
    if not getattr(function, _MARK, False):
        marked = [name for name in dir(receiver) if _is_marked(type(receiver), name)]
        raise InfoptError(
            f"{type(receiver).__name__} has no remote method {method!r} (remote methods: "
            f"{', '.join(marked) or 'none'}); mark it with @remote"
        )
    return getattr(receiver, method)(*arguments)


def _is_marked(kind: type, name: str) -> bool:
    return bool(getattr(getattr(kind, name, None), _MARK, False))


class RemoteProxy:
    """Stands for an object of another process; only methods can be had of it.

    ``call`` takes a method's name and its arguments, and returns what it computed over there.
    """

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        return partial(self._call, name)
