"""Words in the place of a model or a candidate that are near misses, and no hub ids."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from ..engines.formats import DTYPE_ALIASES, DTYPES, FORMATS
from ..errors import ConfigurationError
from ..naming import closest, nearest, same
from ..options import FORMAT_SEPARATOR

_FORMATS = [*FORMATS, *DTYPES, *DTYPE_ALIASES]
# q4_k_m, w4a16, int5, 4bit: nobody names a model so.
_LIKE_A_FORMAT = re.compile(r"(u?int|n?f|bf|fp|w|i?q)\d[\w.-]*|\d+-?bits?", re.IGNORECASE)
_MODEL = re.compile(r"/.*|embedded:\w+|[\w.-]+(/[\w.-]+)*")


def check_candidate_word(text: str, names: Iterable[str]) -> None:
    """Refuse a candidate of the command line that is neither one of the file's ``names``, nor a
    number format, nor a model. A single word that is nothing known may be a hub id; a misspelt name
    or format should not be.

    Raises ConfigurationError.
    """
    option = f"--infopt-candidate {text}"
    if not _MODEL.fullmatch(text.rpartition(FORMAT_SEPARATOR)[2]):
        raise ConfigurationError(
            f"{option}: no name, no number format and no model; give the option once for each "
            "candidate"
        )
    known = [*names, *_FORMATS]
    if text in known or not re.fullmatch(r"[\w.-]+", text) or text.endswith(".gguf"):
        return
    if Path(text).is_dir():
        raise ConfigurationError(f"{option}: is a directory here; write it ./{text}")
    if closest(text, known) or _LIKE_A_FORMAT.fullmatch(text):
        raise ConfigurationError(
            f"{option}: no candidate and no number format{nearest(text, known)} "
            f"(a hub id is written OWNER/{text}, a directory ./{text})"
        )


def check_model_word(model: str, place: str) -> None:
    """Refuse a number format in the place of a model. Raises ConfigurationError."""
    if name := same(model, _FORMATS):
        raise ConfigurationError(
            f"{place}: {model!r} is a number format and no model (a directory is written "
            f"./{model}); a candidate in that format has quantization or dtype = {name!r}, or is "
            f"--infopt-candidate {name}"
        )
