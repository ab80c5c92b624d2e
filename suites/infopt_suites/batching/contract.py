"""Asking an adapter for what its protocol declares, and saying so where it does something else."""

from __future__ import annotations

import inspect
from typing import Any


class ProtocolError(AssertionError):
    """An adapter's method is missing, takes other arguments, or returns what it should not."""


async def ask(protocol: type, adapter: Any, name: str, *arguments: Any, **options: Any) -> Any:
    """What the coroutine method ``name`` of an adapter returns.

    Raises ProtocolError where ``protocol`` declares another method: none, other arguments, or one
    that is not awaited.
    """
    method = getattr(adapter, name, None)
    if method is None:
        raise ProtocolError(f"{_type(adapter)} has no {name}; {declared(protocol, name)}")
    try:
        result = method(*arguments, **options)
    except TypeError:
        if _takes(method, arguments, options):
            raise
        raise ProtocolError(
            f"{_type(adapter)}.{name}{_signature(method)} was called with "
            f"{_told(arguments, options)}; {declared(protocol, name)}"
        ) from None
    if not inspect.isawaitable(result):
        raise ProtocolError(
            f"{_type(adapter)}.{name} returned an object of {_type(result)}, which cannot be "
            f"awaited; {declared(protocol, name)}"
        )
    return await result


def declared(protocol: type, name: str) -> str:
    """What a protocol says of a method: which one, its signature, and the first words on it."""
    method = getattr(protocol, name)
    whose = (inspect.getdoc(protocol) or "").partition("\n")[0].rstrip(".")
    promise = " ".join((inspect.getdoc(method) or "").partition("\n\n")[0].split())
    kind = "async def " if inspect.iscoroutinefunction(method) else "def "
    return f"{protocol.__name__} ({whose}) declares {kind}{name}{_signature(method)}: {promise}"


def _signature(method: Any) -> str:
    return str(inspect.signature(method)).replace("'", "")  # annotations are texts


def _takes(method: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> bool:
    try:
        inspect.signature(method).bind(*arguments, **options)
    except TypeError:
        return False
    except ValueError:  # written in C, without a signature
        return True
    return True


def _told(arguments: tuple[Any, ...], options: dict[str, Any]) -> str:
    words = [f"an object of {_type(value)}" for value in arguments]
    return ", ".join([*words, *(f"{name}={value!r}" for name, value in options.items())])


def _type(value: object) -> str:
    return type(value).__name__
