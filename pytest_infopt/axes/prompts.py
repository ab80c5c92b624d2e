"""Prompts whose greedy tokens no rounding turns over.

``prompts.jsonl`` beside this file holds texts written for this package, and of each the smallest
gap (nats) between the two best tokens of 16 greedy ones of SmolLM2-135M-Instruct in float32. They
are those of the widest gaps among some 70 that were tried: counting, and texts that repeat. What is
a tie for one model is none for another, so the side's own gaps choose among them.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from importlib.resources import files

from .answers import Answer, Prompt, gaps
from .sides import Side

NEEDED = (
    "give prompts: token ids that the side takes. Where it has no tokenizer, there are no others"
)


def corpus_texts() -> list[str]:
    """The texts, those of the widest gaps first."""
    text = (files("pytest_infopt") / "axes" / "prompts.jsonl").read_text(encoding="utf-8")
    rows = sorted(map(json.loads, text.splitlines()), key=lambda row: -float(row["gap"]))
    return [str(row["text"]) for row in rows]


def corpus_prompts(side: Side) -> list[Prompt]:
    """The corpus as the side takes it. A server has seen none of them: each begins with a number
    that is drawn now. Raises ValueError where the side has no tokenizer."""
    if side.encode is None:
        raise ValueError(NEEDED)
    drawn = secrets.token_hex(4) if side.keeps_prompts else ""
    return [side.encode(f"{drawn}\n{text}" if drawn else text) for text in corpus_texts()]


def tie_free(prompts: Sequence[Prompt], answers: Sequence[Answer]) -> list[int]:
    """The half of the prompts whose closest choice is the widest, by what the side tells; all
    where it tells nothing: the corpus then is tie-free by what it was chosen for."""
    closest = [min(gaps(answer), default=None) for answer in answers]
    known = {index: gap for index, gap in enumerate(closest) if gap is not None}
    if len(known) < len(prompts):
        return list(range(len(prompts)))
    widest = sorted(known, key=lambda index: -known[index])
    return sorted(widest[: max(1, len(prompts) // 2)])
