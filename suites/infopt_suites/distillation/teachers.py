"""The suite's own teachers: who answer late, fail, hang and count, on virtual time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from .teacher_protocol import Reply, TeacherError

Script = Mapping[str, Sequence["Reply | str"]]  # by prompt: replies in turn, or words


@dataclass
class ScriptedTeacher:
    """Answers "answer to <prompt>" after a while; of prompts in the script, by their words.

    Words: "error" raises, "hang" never returns, "crash" raises what nobody expects. The last entry
    of a script is repeated. Records all calls, and how many ran at once.
    """

    script: Script = field(default_factory=dict)
    delay: Callable[[str], float] = lambda prompt: 1.0
    calls: Counter[str] = field(default_factory=Counter)
    begun: list[tuple[str, float]] = field(default_factory=list)
    ended: Counter[str] = field(default_factory=Counter)
    running: int = 0
    most: int = 0

    async def complete(self, prompt: str) -> Reply:
        number = self.calls[prompt]
        self.calls[prompt] += 1
        self.begun.append((prompt, asyncio.get_running_loop().time()))
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(self.delay(prompt))
            said = self.script.get(prompt)
            word = answer_to(prompt) if not said else said[min(number, len(said) - 1)]
            if word == "error":
                raise TeacherError(f"the server refused call {number + 1}")
            if word == "crash":
                raise RuntimeError("what a library raises when it breaks")
            if word == "hang":
                await asyncio.Event().wait()
            self.ended[prompt] += 1
            return word if isinstance(word, Reply) else Reply(word)
        finally:
            self.running -= 1


def answer_to(prompt: str) -> str:
    """What a teacher answers unless its script says more."""
    return f"answer to {prompt}"


def make_prompts(count: int) -> dict[str, str]:
    """Ids that do not sort as they stand, and their texts."""
    return {f"q{11 * number % 97}": f"question {number}" for number in range(count)}


def uneven(prompts: Iterable[str]) -> Callable[[str], float]:
    """Delays by which later prompts are answered first."""
    order = {prompt: number for number, prompt in enumerate(prompts)}
    return lambda prompt: 1.0 + 10.0 / (1 + order[prompt] % 5)
