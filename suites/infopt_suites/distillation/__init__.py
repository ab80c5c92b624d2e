"""The suites for distillation: losses, what runs both models, and data from a teacher."""

from .loss import DistillationLossSuite
from .protocol import (
    AccumulatingLoss,
    DistillationLoss,
    FeatureDistillation,
    LossSpec,
    MakeDistillationLoss,
    ModelDistillation,
    OnPolicyDistillation,
    PairedVocabularies,
    StoredDistillation,
    TopKLoss,
)
from .teacher_data import TeacherDataSuite
from .teacher_protocol import (
    Answered,
    ChatWriter,
    Collected,
    GeneratorSpec,
    MakeTeacherDataGenerator,
    NumberReader,
    ReasoningGenerator,
    Reply,
    StoringGenerator,
    Teacher,
    TeacherDataGenerator,
    TeacherError,
)

__all__ = [
    "AccumulatingLoss",
    "Answered",
    "ChatWriter",
    "Collected",
    "DistillationLoss",
    "DistillationLossSuite",
    "FeatureDistillation",
    "GeneratorSpec",
    "LossSpec",
    "MakeDistillationLoss",
    "MakeTeacherDataGenerator",
    "ModelDistillation",
    "NumberReader",
    "OnPolicyDistillation",
    "PairedVocabularies",
    "ReasoningGenerator",
    "Reply",
    "StoredDistillation",
    "StoringGenerator",
    "Teacher",
    "TeacherDataGenerator",
    "TeacherDataSuite",
    "TeacherError",
    "TopKLoss",
]
