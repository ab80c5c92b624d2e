"""Two models compared module by module: which of the candidate's is at fault, and by how much."""

from .accusation import Accusation
from .comparison import Models, ModuleComparison
from .inputs import batch_inputs

__all__ = ["Accusation", "Models", "ModuleComparison", "batch_inputs"]
