"""Examples in a JSONL file that grows line by line, and survives being killed.

Contract. A line is one example, written whole and flushed before it counts. A last line without its
end was cut off while it was written: it is removed, and its prompt asked again. A line that is no
example, an id that comes twice, or a prompt that is another today raise ValueError and name the
line; nobody's data is overwritten. Failures are never lines.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from .example import Example, Prompt


class ExampleStore:
    """The examples in the file ``path``, and those that are added.

    Raises:
        ValueError: the file holds something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.examples: dict[str, Example] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        data = path.read_bytes() if path.exists() else b""
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            os.truncate(path, len(whole))
        for number, line in enumerate(whole.decode("utf-8").split("\n")[:-1], start=1):
            self._read(line, f"{path}, line {number}")

    def add(self, example: Example) -> None:
        """Write an example at the end."""
        line = json.dumps(asdict(example), ensure_ascii=False) + "\n"
        with self.path.open("ab") as file:
            file.write(line.encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())
        self.examples[example.id] = example

    def check(self, prompts: Iterable[Prompt]) -> None:
        """Raises ValueError where the stored example of an id answers another prompt."""
        for prompt in prompts:
            stored = self.examples.get(prompt.id)
            if stored is not None and list(stored.messages) != [dict(m) for m in prompt.messages]:
                raise ValueError(
                    f"{self.path} answers another prompt under the id {prompt.id!r}; give the new "
                    "prompts ids of their own, or another file"
                )

    def _read(self, line: str, place: str) -> None:
        try:
            example = Example(**json.loads(line))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{place}: no example: {error}") from None
        if example.id in self.examples:
            raise ValueError(f"{place}: the id {example.id!r} comes twice")
        self.examples[example.id] = example
