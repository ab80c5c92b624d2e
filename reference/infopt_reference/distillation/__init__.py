"""Distillation: losses, strategies, prefixes, a trainer, and data from a teacher.

Start at `DistillationLoss` (loss.py); `DistillationTrainer` (trainer.py) trains with it.
"""

from .chat_format import check_conversations, conversation, make_dataset, write_conversations
from .divergence import Divergence, JensenShannon, forward_kl, reverse_kl
from .example import Example, Failure, Prompt, TeacherData
from .features import FeatureLoss, spread_layers
from .labels import IGNORED, count_items
from .layers import keep_layers, least_needed, spread
from .loss import DistillationLoss, LossParts
from .prefixes import DataPrefixes, MixedPrefixes, PrefixSource, StudentPrefixes
from .reasoning import Reasoned, last_number, part_reasoning
from .rows import StoredLogitStrategy, pad_rows, store_teacher
from .strategies import (
    ChainOfThoughtStrategy,
    FeatureStrategy,
    LogitStrategy,
    ResponseStrategy,
    SelectiveStrategy,
    Strategy,
    StudentStrays,
    TeacherIsSure,
)
from .sweep import SweptStudent, as_markdown, as_svg, sweep_temperatures
from .teacher_data import TeacherDataGenerator
from .top_k import TopKTargets
from .trainer import DistillationTrainer, check_vocabularies

__all__ = [
    "IGNORED",
    "ChainOfThoughtStrategy",
    "DataPrefixes",
    "DistillationLoss",
    "DistillationTrainer",
    "Divergence",
    "Example",
    "Failure",
    "FeatureLoss",
    "FeatureStrategy",
    "JensenShannon",
    "LogitStrategy",
    "LossParts",
    "MixedPrefixes",
    "PrefixSource",
    "Prompt",
    "Reasoned",
    "ResponseStrategy",
    "SelectiveStrategy",
    "StoredLogitStrategy",
    "Strategy",
    "StudentPrefixes",
    "StudentStrays",
    "SweptStudent",
    "TeacherData",
    "TeacherDataGenerator",
    "TeacherIsSure",
    "TopKTargets",
    "as_markdown",
    "as_svg",
    "check_conversations",
    "check_vocabularies",
    "conversation",
    "count_items",
    "forward_kl",
    "keep_layers",
    "last_number",
    "least_needed",
    "make_dataset",
    "pad_rows",
    "part_reasoning",
    "reverse_kl",
    "spread",
    "spread_layers",
    "store_teacher",
    "sweep_temperatures",
    "write_conversations",
]
