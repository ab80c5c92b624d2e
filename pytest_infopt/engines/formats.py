"""The one table of number formats: what a quantization name means, and how it is loaded.

A further format is one entry in `FORMATS`. Imports neither torch nor a quantization library; a
format's loader is imported when a model is loaded in it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, cast

from ..errors import ConfigurationError
from ..naming import import_named, nearest
from .format_options import check_options

__all__ = ["FORMATS", "Format", "format_of"]

DTYPES = {"float32": 32, "float16": 16, "bfloat16": 16}  # those of releases, with their bits
ORACLE_DTYPE = "float64"  # the one besides that a model is computed in, to measure the others
DTYPE_ALIASES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
OWN_LOADER = r"[\w.]+:\w+"  # module:function
_LOADERS = "pytest_infopt.engines.loaders."
_REFERENCE = f"{_LOADERS}reference:"

# Options of sources: those of any loader, where quantized weights lie, on which grid, and which
# texts a quantizer is calibrated on.
PLAIN = frozenset({"attn_implementation"})
SKIP = PLAIN | {"skip"}
PLACES = frozenset({"group_size", "granularity", "axis"})
GRID = PLACES | {"bits", "symmetric"}
CALIBRATION = frozenset({"calibration", "calibration_documents", "calibration_tokens"})

# Seen in bitsandbytes 0.50: 4-bit products of single rows on CPU are made in bfloat16, and
# LLM.int8() takes its input in float16. gptqmodel 7.6 makes all 4-bit products on CPU in bfloat16.
_ROUNDS_4BIT = {"cpu": "bfloat16"}
_ROUNDS_INT8 = {"cpu": "float16", "cuda": "float16"}
# Activations in int8 are off by up to half a step, 1/254 of a row's largest: what bfloat16 loses.
# Two values that differ in their last bit may be rounded to neighbouring steps.
_ROUNDS_ACTIVATIONS = {"cpu": "bfloat16", "cuda": "bfloat16"}
# RMS error of a weight, of a row's RMS: .009 in int8, where the largest is four times that, and
# twice as much for each bit less. Mantissas of 3 and 2 bits have .027 and .054. Activations in int8
# err as weights do, by outliers much more (SmolLM2: KL of .022 and .031 beside .0043 of int8).
_E4M3, _E5M2 = 6, 5
INTEGER_ACTIVATIONS = 6


@dataclass(frozen=True)
class Format:
    """A quantization by its name.

    ``bits`` is the size of one code, without scales; None where the checkpoint decides. ``loader``
    is "module:function", which makes a transformers module of a `loaders.LoadRequest`; ``options``
    are the keys that its sources may set, None for any. ``packed`` says that the loaded model keeps
    its weights in that size, ``pruned`` that weights are zeros, kept like any others. ``module`` is
    the library it needs, which ``extra`` (by default of the same name) installs. ``default_dtype``
    is the compute dtype of sources that say "auto"; "source" is what the checkpoint declares.
    ``loses_as`` is the width of integer weights that lose as much, where that is not ``bits``.
    ``rounds_to`` names, by device type, the format that its kernels round activations to whatever
    the compute dtype. ``couples_rows`` says that they take something over all rows of a pass, so
    that what a row comes to depends on its neighbours.
    """

    name: str
    bits: int | None
    summary: str
    loader: str
    options: frozenset[str] | None
    packed: bool = True
    pruned: bool = False
    module: str | None = None
    extra: str | None = None
    default_dtype: str = "source"
    loses_as: int | None = None
    rounds_to: Mapping[str, str] = field(default_factory=dict)
    couples_rows: bool = False

    @property
    def serves(self) -> bool:
        """Whether it is meant to serve; our reference implementations are written to be read."""
        return not self.loader.startswith(_REFERENCE)

    @property
    def calibrated(self) -> bool:
        """Whether it looks at texts."""
        return (self.options or frozenset()) >= CALIBRATION

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Raise ConfigurationError, with the nearest name, for an option that it does not take, and
        for a value that the option does not take."""
        if self.options is None:
            return
        for key in options:
            if key not in self.options:
                raise unknown(f"option of quantization {self.name!r}", key, sorted(self.options))
        try:
            check_options(self.name, options)
        except ValueError as error:
            raise ConfigurationError(f"option of quantization {self.name!r}: {error}") from error

    def load_function(self) -> Callable[[Any], Any]:
        """The loader; ConfigurationError where it cannot be imported."""
        try:
            return cast(Callable[[Any], Any], import_named(self.loader))
        except ConfigurationError as error:
            raise ConfigurationError(
                f"quantization {self.name!r} cannot be imported: {error}"
            ) from error

    def missing(self) -> str | None:
        """Why it cannot be loaded here, or None. Imports nothing."""
        if self.module is None or _is_installed(self.module):
            return None
        return needs(self.name, self.module, "which is not installed", self.extra)


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its parent is not there
        return False


def needs(who: str, module: str, why: str, extra: str | None = None) -> str:
    """That a library is missing, and the extra (by default of the same name) that installs it."""
    remedy = f"pip install 'pytest-infopt[{extra or module}]'"
    return f"{who} needs {module}, {why}; run `{remedy}`"


def unknown(what: str, name: str, known: Iterable[str]) -> ConfigurationError:
    """The error for a name that there is not, with the nearest that there is."""
    return ConfigurationError(f"unknown {what} {name!r}{nearest(name, known)}")


def format_of(quantization: str) -> Format:
    """The format of that name; a loader of one's own, "module:function", is one nothing is known
    of. ConfigurationError, with the nearest name, for anything else."""
    if quantization in FORMATS:
        return FORMATS[quantization]
    if not re.fullmatch(OWN_LOADER, quantization):
        raise unknown("quantization", quantization, FORMATS)
    return Format(quantization, None, "a loader of your own", quantization, None, packed=False)


def _loaded_by(
    function: str, options: Set[str], *formats: tuple[str, int | None, str], **fields: Any
) -> Iterator[Format]:
    """Formats that share a loader, options and ``fields``: name, bits and summary of each."""
    loader = _LOADERS + function
    for name, bits, summary in formats:
        yield Format(name, bits, summary, loader, frozenset(options), **fields)


_GPTQ = {"act_order", "static_groups", "damping", "block_size", "row_fallback", "true_sequential"}

FORMATS: dict[str, Format] = {
    form.name: form
    for form in [
        *_loaded_by("checkpoint:load_checkpoint", PLAIN,
            ("none", None, "the checkpoint as it is, in the given dtype")),
        *_loaded_by("reference:load_quantized", SKIP | GRID,
            ("int8", 8, "absmax integers, round to nearest"),
            ("int4", 4, "group-wise integers, round to nearest"),
            ("int3", 3, "group-wise integers, round to nearest")),
        *_loaded_by("reference:load_quantized", SKIP | PLACES,
            ("nf4", 4, "4-bit NormalFloat, block-wise absmax"),
            ("nf4-double", 4, "4-bit NormalFloat, absmax quantized in turn"),
            ("fp4", 4, "4-bit floats, block-wise absmax")),
        *_loaded_by("reference:load_quantized", SKIP | PLACES,
            ("fp8", 8, "8-bit floats E4M3FN, absmax of a channel"), loses_as=_E4M3),
        *_loaded_by("reference:load_quantized", SKIP | PLACES,
            ("fp8-e5m2", 8, "8-bit floats E5M2, absmax of a channel"), loses_as=_E5M2),
        *_loaded_by("reference:load_quantized", SKIP | GRID | CALIBRATION | _GPTQ,
            ("gptq", 4, "group-wise integers, errors made up for by later columns (GPTQ)")),
        *_loaded_by("reference:load_quantized", SKIP | GRID | CALIBRATION | {"steps", "clip"},
            ("awq", 4, "group-wise integers, channels scaled by activations (AWQ)")),
        *_loaded_by("reference:load_quantized", SKIP | CALIBRATION | {"alpha"},
            ("smoothquant", 8, "integer weights and activations, outliers shared (SmoothQuant)"),
            rounds_to=_ROUNDS_ACTIVATIONS, loses_as=INTEGER_ACTIVATIONS),
        *_loaded_by("reference:load_quantized", SKIP | {"threshold"},
            ("llm-int8", 8, "integer weights and activations but for outliers (LLM.int8())"),
            rounds_to=_ROUNDS_ACTIVATIONS, loses_as=INTEGER_ACTIVATIONS, couples_rows=True),
        *_loaded_by("reference:load_pruned", SKIP | {"sparsity"},
            ("magnitude", None, "smallest weights set to 0"), packed=False, pruned=True),
        *_loaded_by("reference:load_pruned", SKIP | CALIBRATION | {"sparsity"},
            ("wanda", None, "weights of least effect set to 0"), packed=False, pruned=True),
        *_loaded_by("bitsandbytes:load_bitsandbytes_int8", SKIP | {"threshold"},
            ("bitsandbytes-int8", 8, "LLM.int8() of bitsandbytes"),
            rounds_to=_ROUNDS_INT8, loses_as=INTEGER_ACTIVATIONS, module="bitsandbytes",
            couples_rows=True),
        *_loaded_by("bitsandbytes:load_bitsandbytes_4bit", SKIP | {"double_quantization"},
            ("bitsandbytes-nf4", 4, "NF4 of bitsandbytes"),
            ("bitsandbytes-fp4", 4, "FP4 of bitsandbytes"),
            rounds_to=_ROUNDS_4BIT, module="bitsandbytes"),
        *_loaded_by("torchao:load_torchao", SKIP,
            ("torchao-int8", 8, "int8 weights of torchao"), module="torchao"),
        *_loaded_by("torchao:load_torchao", SKIP,
            ("torchao-int8-dynamic", 8, "int8 weights and activations of torchao"),
            rounds_to=_ROUNDS_ACTIVATIONS, loses_as=INTEGER_ACTIVATIONS, module="torchao"),
        *_loaded_by("torchao:load_torchao", SKIP | {"group_size"},
            ("torchao-int4", 4, "int4 weights of torchao, a byte each"),
            packed=False, module="torchao"),
        *_loaded_by("torchao:load_torchao", SKIP,
            ("torchao-float8", 8, "float8 weights of torchao"), loses_as=_E4M3, module="torchao"),
        *_loaded_by("quanto:load_quanto", SKIP,
            ("quanto-int8", 8, "int8 weights of optimum-quanto"),
            ("quanto-int4", 4, "int4 weights of optimum-quanto"),
            module="optimum.quanto", extra="quanto"),
        *_loaded_by("gptqmodel:load_gptqmodel", PLAIN | CALIBRATION
            | {"bits", "group_size", "symmetric", "act_order", "damping"},
            ("gptqmodel", 4, "GPTQ of gptqmodel"),
            rounds_to=_ROUNDS_4BIT, module="gptqmodel", extra="gptq"),
        # transformers de-quantizes GGUF weights while loading: the memory is that of the dtype.
        *_loaded_by("checkpoint:load_gguf", PLAIN,
            ("gguf", None, "a GGUF file, de-quantized into the dtype"),
            packed=False, default_dtype="float32"),
    ]
}  # fmt: skip
