"""From a model source to an engine: one loader per quantization, by name.

Every loader returns a transformers module on its device. Libraries beyond torch and transformers
are imported by the loader that needs them, so a missing one fails that candidate alone.
"""

from .checkpoint import load_float
from .load import load_engine
from .registry import LOADERS, loader_of
from .request import Loader, LoadRequest

__all__ = ["LOADERS", "LoadRequest", "Loader", "load_engine", "load_float", "loader_of"]
