"""From the pieces of a streamed answer to its tokens, each with when it was complete."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from ...errors import InvalidComparisonError
from ..base import Engine, TokenEvent
from .dialects import HELD_BACK, Piece
from .token_texts import TokenTexts

__all__ = ["token_events", "untold_tokens"]

_UNTOLD = -1  # the id of a token that was made and is not told


def token_events(
    pieces: Iterable[tuple[Piece, float]], texts: TokenTexts, engine: Engine
) -> Iterator[TokenEvent]:
    """The tokens of an answer that came in pieces, each with the piece that completed it. Raises
    InvalidComparisonError where the server counts others."""
    arrivals: list[tuple[str, float]] = []
    counted = None
    told = held_back = 0
    for piece, now in pieces:
        counted = piece.usage.get("completion_tokens", counted)
        held_back += piece.usage.get(HELD_BACK, 0)
        if piece.text:
            arrivals.append((piece.text, now))
        for token in piece.token_ids or ():
            told += 1
            yield TokenEvent(token, now)
    if told == 0:
        events = list(_events_of_texts(arrivals, counted, texts, engine))
        told = len(events)
        yield from events
    there = told + held_back
    if counted is not None and counted not in (there, there + 1):
        raise InvalidComparisonError(
            f"model {engine.name!r}: the server counts {counted} tokens of an answer in which "
            f"{there} arrived"
        )


def untold_tokens(pieces: Sequence[tuple[Piece, float]]) -> list[TokenEvent]:
    """The tokens at an answer's end that the server made and held back, for who counts them."""
    return [
        TokenEvent(_UNTOLD, now)
        for piece, now in pieces
        for _ in range(piece.usage.get(HELD_BACK, 0))
    ]


def _events_of_texts(
    arrivals: Sequence[tuple[str, float]], counted: int | None, texts: TokenTexts, engine: Engine
) -> Iterator[TokenEvent]:
    whole = "".join(text for text, _ in arrivals)
    ids = texts.ids_of(whole, counted)
    left = iter(arrivals)
    there, now = 0, 0.0
    for place, token in enumerate(ids):
        needed = len(engine.decode(ids[: place + 1]).rstrip("\ufffd"))
        while there < min(needed, len(whole)):
            text, now = next(left)
            there += len(text)
        yield TokenEvent(token, now)
