"""A server that decodes speculatively: are its answers the model's, and what does it say of its
drafts?

vLLM counts drafted and accepted tokens on its page of metrics, for all requests together: other
traffic counts, too. llama.cpp's server reports them with each answer.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from pytest_infopt import Sample

from ..chat_server import ChatServer, Message
from ..models_answers import ModelsAnswers
from .acceptance import acceptance_of
from .gate import ACCEPTANCE, MISMATCHES


def measure_served_draft(
    server: ChatServer,
    model: ModelsAnswers,
    chat: Sequence[Message],
    max_tokens: int,
    unit: str,
) -> Sample:
    """One chat; ``details["drafted"]`` is None where the server does not report it."""
    started = time.perf_counter()
    before = server.draft_counts()
    answer = server.answer(chat, max_tokens)
    drafts, after = answer.drafts, server.draft_counts()
    if drafts is None and before is not None and after is not None:
        drafts = after.since(before)
    parting = model.parting(chat, answer.text, unit)
    values = {MISMATCHES.name: float(parting is not None)}
    if drafts is not None:
        accepted = acceptance_of(
            drafts.drafted,
            drafts.accepted,
            f"server {server.url}",
            is_wrong=parting is not None,
        )
        if accepted is not None:
            values[ACCEPTANCE.name] = accepted
    return Sample(
        unit=unit,
        weight=max(1, drafts.drafted if drafts else 1),
        values=values,
        findings=[] if parting is None else [parting],
        details={
            "drafted": None if drafts is None else drafts.drafted,
            "accepted": None if drafts is None else drafts.accepted,
        },
        seconds=time.perf_counter() - started,
    )
