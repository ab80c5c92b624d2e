"""What a server offers, found out by asking it; nothing is assumed of a server by its name.

Log-probabilities of a text can stand at the wrong place: llama-cpp-python's ``echo`` tells at each
position those of the next one. So each position's most probable token is compared with the greedy
token that the same server gives behind that position, at shifts of −1, 0 and +1.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from ...errors import InvalidComparisonError, NoChatTemplateError, ServerRefusedError
from ..base import Engine
from .chats import ChatCompletions, ChatTexts
from .client import ServerClient
from .dialects import Completions, LlamaCppCompletions, Row, VllmCompletions
from .token_texts import TokenTexts

_TEXT = "The capital of France is Paris. The quick brown fox jumps over the lazy dog, and then it"
_TOPS = (20, 5, 1)  # what servers tell of a position: vLLM and SGLang 20, OpenAI 5
_SHIFTS = (0, -1, 1)
_NOT_THERE = frozenset({404, 405})  # statuses of a path that a server does not have


def observed(
    client: ServerClient,
    model: str,
    engine: Engine,
    *,
    log_probs: bool = True,
    chats: bool = False,
) -> Completions:
    """The dialect that the server answers in, with what it offers; without ``log_probs``, none.
    Chats are asked for where it has no completions, or where ``chats`` says so.

    Raises InvalidComparisonError where it answers neither, or where its log-probabilities of
    a text stand at other positions than their own.
    """
    ids = probe_ids(engine)
    find = _chat if chats else _dialect
    dialect = find(client, model, engine, ids)
    if isinstance(dialect, ChatCompletions):
        ids = engine.encode(TokenTexts(engine).text_of(ids), dialect.begins_with)
    if not log_probs:
        return dialect
    if not isinstance(dialect, LlamaCppCompletions | ChatCompletions):
        dialect.top = _most(lambda top: bool(_with_top(dialect, top).text_rows(ids)))
        dialect.scores_texts = dialect.top > 0
    if not dialect.scores_texts:
        dialect.top = _most(lambda top: bool(_with_top(dialect, top).next_row(ids)))
        dialect.scores_next = dialect.top > 0
    else:
        check_alignment(dialect, ids)
    return dialect


def probe_ids(engine: Engine) -> list[int]:
    """A short text that is read back as it was written."""
    words = engine.decode(range(engine.vocabulary // 4, engine.vocabulary // 4 + 16))
    for text in (_TEXT, words):
        ids = engine.encode(text, "tokenizer")
        if len(set(ids)) > 3 and engine.encode(text) == engine.encode(engine.decode(ids)):
            return ids
    raise InvalidComparisonError(
        f"the tokenizer of {engine.name!r} does not read its own texts back: {_TEXT[:30]!r}"
    )


def _dialect(client: ServerClient, model: str, engine: Engine, ids: list[int]) -> Completions:
    texts = TokenTexts(engine)
    vllm = VllmCompletions(client, model, texts)
    llama_cpp = LlamaCppCompletions(client, model, texts)
    for dialect in (vllm, llama_cpp):
        dialect.takes_ids = dialect.ignores_end = True
        if (answer := _tried(dialect.answer, ids, 1)) and answer.token_ids is not None:
            return dialect
    plain = Completions(client, model, texts)
    answer = _tried(plain.answer, ids, 1)
    plain.takes_ids = answer is not None and answer.prompt_tokens in (None, len(ids))
    prompt = ids if plain.takes_ids else texts.text_of(ids)
    try:
        plain.answer(prompt, 1)
    except ServerRefusedError as error:
        if error.status not in _NOT_THERE:
            raise
        with contextlib.suppress(ServerRefusedError):
            return _chat(client, model, engine, ids)
        raise  # it has neither: what it says of completions is what is wrong
    return _with_end(plain, prompt)


def _chat(client: ServerClient, model: str, engine: Engine, ids: list[int]) -> Completions:
    dialect = ChatCompletions(client, model, ChatTexts(engine))
    message = TokenTexts(engine).text_of(ids)
    dialect.answer(message, 1)
    try:
        engine.encode(message, dialect.begins_with)
    except NoChatTemplateError as error:
        raise client.wrong(
            f"it is asked for chats, and the tokenizer of {engine.name!r} has no chat template; "
            "save that of the served model beside it"
        ) from error
    return _with_end(dialect, message)


def _with_end(dialect: Completions, prompt: str | list[int]) -> Completions:
    to_the_length = dialect.body(prompt, 1, to_the_length=True)
    dialect.ignores_end = _tried(dialect.client.ask, dialect.path, to_the_length) is not None
    return dialect


def _with_top(dialect: Completions, top: int) -> Completions:
    dialect.top = top
    return dialect


def _most(offered: Callable[[int], bool]) -> int:
    """The most tokens of a position that the server tells, 0 for none."""
    return next((top for top in _TOPS if _tried(offered, top)), 0)


def _tried(call: Callable[..., Any], *arguments: Any) -> Any:
    """What ``call`` returns, None where the server refuses it or leaves out what is asked for."""
    with contextlib.suppress(ServerRefusedError):
        return call(*arguments)
    return None


def check_alignment(dialect: Completions, token_ids: Sequence[int]) -> None:
    """Whether the rows of a text are those of its positions.

    Raises InvalidComparisonError that names the shift.
    """
    rows = dialect.text_rows(token_ids)
    greedy = {t: _greedy(dialect, token_ids[: t + 1]) for t in range(len(rows))}
    known = {t: token for t, token in greedy.items() if token is not None}
    agreeing = {shift: _agreeing(rows, known, shift) for shift in _SHIFTS}
    if not known or agreeing[0] * 2 > len(known):
        return
    shift = max(_SHIFTS, key=agreeing.__getitem__)
    where = (
        f"belong to the positions {shift:+d} further on" if shift else "belong to no position near"
    )
    counts = ", ".join(f"{agreeing[each]} at shift {each:+d}" for each in sorted(_SHIFTS))
    raise dialect.client.wrong(
        f"its log-probabilities of a text are misaligned (shift {shift:+d}): they {where}. Of "
        f"{len(known)} greedy tokens of its own, it finds most probable {counts}. Set options = "
        "{log_probs = false} to gate what does not take them"
    )


def _agreeing(rows: Sequence[Row], greedy: dict[int, int], shift: int) -> int:
    """Greedy tokens that are the most probable where rows are ``shift`` positions ahead."""
    places = ((t - shift, token) for t, token in greedy.items())
    return sum(
        max(rows[t], key=rows[t].__getitem__) == token for t, token in places if 0 <= t < len(rows)
    )


def _greedy(dialect: Completions, token_ids: Sequence[int]) -> int | None:
    """The server's greedy token behind a text; None where its text tells no single one."""
    with contextlib.suppress(InvalidComparisonError):
        texts = dialect.texts
        prompt = list(token_ids) if dialect.takes_ids else texts.text_of(token_ids)
        answer = dialect.answer(prompt, 1)
        ids = answer.token_ids
        found = texts.ids_of(answer.text, None) if ids is None else list(ids)
        return found[0] if len(found) == 1 else None
    return None
