"""From a model's files to a transformers module on its device: the loaders of `engines.formats`.

Libraries beyond torch and transformers are imported by the loader that needs them, so a missing
one fails that candidate alone.
"""

from .checkpoint import load_float
from .request import LoadRequest

__all__ = ["LoadRequest", "load_float"]
