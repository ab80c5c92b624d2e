"""Which weight matrices of a model an optimisation takes: one walk to quantize, train, prune.
And the modes in which a model runs meanwhile.

A weight matrix W is multiplied with activations. It is either
    a layer's      the module computes x·Wᵀ + b and nothing else: `nn.Linear`, and every subclass of
                   it or Conv1D (GPT-2, stored [in, out]) that is seen to do so on a few numbers, or
    a stack        [E, out, in], or [E, in, out], also with the first two axes as one (DBRX), a
                   parameter of a module that computes with it in its own way: the experts of a
                   mixture; and a matrix of a subclass that does more.

Everything else with two or more axes is left alone, with the reason: embeddings (a table look-up,
not a product), convolutions, routers (few weights, which choose experts), matrices that an
embedding shares and keeps in float anyway, layers that the caller names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

DEFAULT_SKIP = ("lm_head",)
_UNKNOWN_ORDER = "the order of the axes is not known"


@dataclass(frozen=True)
class Layout:
    """How a parameter holds its matrices."""

    transposed: bool = False  # [..., in, out]
    flat: int | None = None  # so many matrices lie one below the other in two axes

    def matrices(self, parameter: Tensor) -> Tensor:
        """[out, in] or [E, out, in] of what is stored; a view of it."""
        if self.flat is not None:
            parameter = parameter.view(self.flat, -1, parameter.shape[-1])
        return parameter.mT if self.transposed else parameter

    def stored(self, matrices: Tensor) -> Tensor:
        """What `matrices` gave, or a mask of its shape, in the shape of the parameter."""
        stored = matrices.mT if self.transposed else matrices
        return stored if self.flat is None else stored.flatten(0, 1)


@dataclass(frozen=True, eq=False)
class WeightMatrix:
    """A parameter that holds a matrix, or a stack of them, and the module that owns it."""

    path: str  # of the module
    module: nn.Module
    parameter_name: str
    is_layer: bool  # the module computes x·Wᵀ + b
    layout: Layout = Layout()

    @property
    def name(self) -> str:
        """The layer's path; a stack's is that of its parameter."""
        return self.path if self.is_layer else self.key

    @property
    def key(self) -> str:
        """The parameter's name in the model."""
        return f"{self.path}.{self.parameter_name}" if self.path else self.parameter_name

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter as it is stored."""
        parameter = self.module._parameters[self.parameter_name]
        assert parameter is not None
        return parameter

    @property
    def weight(self) -> Tensor:
        """The matrix [out, in], or the stack [E, out, in]; shares memory with the parameter."""
        return self.layout.matrices(self.parameter)

    @property
    def bias(self) -> nn.Parameter | None:
        """The layer's bias; what a stack's module adds is its own affair."""
        return getattr(self.module, "bias", None) if self.is_layer else None

    @property
    def rows(self) -> Tensor:
        """All matrices one below the other, [E·out, in]; of a transposed stack, a copy."""
        return self.weight.reshape(-1, self.in_features)

    @property
    def in_features(self) -> int:
        return int(self.weight.shape[-1])

    @property
    def out_features(self) -> int:
        return int(self.weight.shape[-2])


@dataclass(frozen=True)
class Selection:
    """What an optimisation takes of a model, and what it leaves alone."""

    chosen: dict[str, WeightMatrix]  # by `WeightMatrix.name`
    skipped: dict[str, str]  # why, by the name that the matrix would have


def select_weight_matrices(
    model: nn.Module, skip: Iterable[str] = DEFAULT_SKIP, *, include_tied: bool = False
) -> Selection:
    """The weight matrices to take, and the reason for every other parameter of two or more axes.

    A matrix that a model holds under two names appears under both.

    Args:
        model: any module, for instance a transformers model.
        skip: names to leave alone. A name stands for every module or parameter whose dotted path
            has it as consecutive parts: "down_proj", "layers.0", "lm_head". ``()`` takes the head
            too.
        include_tied: take also layers whose weight an embedding shares.

    Raises:
        ValueError: a name in skip matches nothing, the order of the axes of an expert's parameter
            can't be told (it is named), or no matrix is left.
    """
    skip = tuple(skip)
    _check_skip(model, skip)
    selection = weight_matrices(model)
    tied = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    for name, matrix in list(selection.chosen.items()):
        part = next((part for part in skip if _matches(matrix.key, part)), None)
        shared = id(matrix.parameter) in tied and not include_tied
        if part is not None or shared:
            why = "shares its weight with an embedding" if part is None else f"skip = {part!r}"
            selection.skipped[name] = why
            del selection.chosen[name]
    _refuse_unknown_order(selection, skip)
    if not selection.chosen:
        reasons = "; ".join(f"{name}: {why}" for name, why in selection.skipped.items())
        raise ValueError(f"no weight matrix left; skipped: {reasons or 'none'}")
    return selection


def weight_matrices(model: nn.Module) -> Selection:
    """All weight matrices of a model, and why every other parameter of two or more axes is none."""
    selection = Selection({}, {})
    known: dict[tuple[int, str], WeightMatrix | str] = {}
    hidden = _hidden_size(model)
    for path, module in model.named_modules(remove_duplicate=False):
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            place = (id(module), name)
            if place not in known:
                known[place] = _of_parameter(module, path, name, parameter, hidden)
            found = known[place]
            if isinstance(found, WeightMatrix):
                matrix = replace(found, path=path)
                selection.chosen[matrix.name] = matrix
            elif parameter.ndim >= 2:
                selection.skipped[f"{path}.{name}" if path else name] = found
    return selection


def layer_matrix(module: nn.Module, path: str = "") -> WeightMatrix | None:
    """The matrix of a module that computes x·Wᵀ + b; None for any other."""
    weight = module._parameters.get("weight")
    matrix = None if weight is None else _of_parameter(module, path, "weight", weight)
    return matrix if isinstance(matrix, WeightMatrix) and matrix.is_layer else None


def _of_parameter(
    module: nn.Module, path: str, name: str, parameter: Tensor, hidden: int | None = None
) -> WeightMatrix | str:
    """The matrix that a parameter holds, or why it is none."""
    kind = type(module).__name__
    if parameter.ndim < 2 or "bias" in name:
        return "is added or scales single features"
    if not parameter.is_floating_point() or type(parameter) is not nn.Parameter:
        return f"{type(parameter).__name__} in {parameter.dtype}: quantized already"
    if getattr(module, "fake_quantized", False):
        return "fake-quantized already"
    if isinstance(module, nn.Embedding):
        return "an embedding: rows are looked up, not multiplied"
    if isinstance(module, nn.modules.conv._ConvNd):
        return "a convolution"
    if "router" in kind.lower() or (parameter.ndim == 2 and len(parameter) == _experts(module)):
        return f"the router of {kind}: few weights, which choose experts"
    transposed = kind == "Conv1D" and hasattr(module, "nf")  # transformers' own linear layer
    if name == "weight" and parameter.ndim == 2 and (transposed or isinstance(module, nn.Linear)):
        matrix = WeightMatrix(path, module, name, is_layer=True, layout=Layout(transposed))
        is_layer = type(module) is nn.Linear or _is_linear(matrix)
        return replace(matrix, is_layer=is_layer)
    return _of_experts(module, path, name, parameter, hidden)


def _of_experts(
    module: nn.Module, path: str, name: str, parameter: Tensor, hidden: int | None
) -> WeightMatrix | str:
    """A stack of experts' matrices: of three axes, or of two with the first for both (DBRX)."""
    kind, experts = type(module).__name__, _experts(module)
    if experts is None:
        return f"a parameter of {kind}, which is not known to multiply by it"
    rows, shape = parameter.shape[0], tuple(parameter.shape)
    flat = experts if parameter.ndim == 2 and rows > experts and not rows % experts else None
    if flat is None and (parameter.ndim != 3 or rows != experts):
        return f"a parameter of {kind} of shape {shape}: no stack of matrices"
    transposed = _is_transposed(module, name, Layout(flat=flat).matrices(parameter), hidden)
    if transposed is None:
        return f"{_UNKNOWN_ORDER} of a parameter of {kind} of shape {shape}"
    return WeightMatrix(path, module, name, is_layer=False, layout=Layout(transposed, flat))


def _is_transposed(module: nn.Module, name: str, stack: Tensor, hidden: int | None) -> bool | None:
    """Whether a stack is stored [E, in, out]; None where nothing tells.

    transformers says so on classes whose experts it computes (`use_experts_implementation`). Else
    the axis that is as long as the inputs tells: a module's own ``input_size``, or the hidden size,
    its own or the model's, which gates and "up" take and "down" gives.
    """
    declared = getattr(module, "is_transposed", None)
    if isinstance(declared, bool):
        return declared
    first, second = stack.shape[1:]
    inputs = _size(module, "input_size", "in_features")
    takes = True
    if inputs is None:
        inputs = _size(module, "hidden_size", "hidden_dim") or hidden
        takes = name.startswith(("gate", "up", "v1", "w1", "w3", "wi"))
        if not takes and not name.startswith(("down", "w2", "wo")):
            return None
    if (first == inputs) == (second == inputs):
        return None
    return (first == inputs) == takes


def _size(module: nn.Module, *names: str) -> int | None:
    """The first of a module's sizes by these names, or else of its configuration's."""
    owners = (module, getattr(module, "config", None))
    sizes = (getattr(owner, name, None) for owner in owners for name in names)
    return next((size for size in sizes if isinstance(size, int)), None)


def _hidden_size(model: nn.Module) -> int | None:
    """What the model's configuration says, or that of its text tower."""
    config = getattr(model, "config", None)
    text_config = getattr(config, "get_text_config", lambda: config)
    return getattr(text_config(), "hidden_size", None)


def _experts(module: nn.Module) -> int | None:
    names = (
        *("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"),
        "n_shared_experts",  # in one stack (Inkling)
    )
    counts = (getattr(module, name, None) for name in names)
    return next((count for count in counts if isinstance(count, int)), None)


@torch.no_grad()
def _is_linear(matrix: WeightMatrix) -> bool:
    """Whether the module computes x·Wᵀ + b: tried on two rows."""
    weight = matrix.weight
    numbers = torch.arange(2 * matrix.in_features, device=weight.device)
    x = ((numbers * 7919 % 17).to(weight.dtype) / 8 - 1).view(2, -1)
    expected = functional.linear(x, weight, matrix.bias)
    try:
        difference = (matrix.module(x) - expected).abs().max()
    except (RuntimeError, TypeError, ValueError, IndexError):  # it takes something else
        return False
    rounding = torch.finfo(weight.dtype).eps * matrix.in_features**0.5
    return bool(difference <= rounding * expected.abs().max())


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model without dropout; each module's mode comes back afterwards."""
    # By name: layers may be replaced meanwhile, and should not stay in memory for their mode.
    training = {name: module.training for name, module in model.named_modules()}
    model.eval()
    try:
        yield
    finally:
        for name, module in model.named_modules():
            module.training = training.get(name, module.training)  # a quantized weight's is new


@contextmanager
def experts_one_by_one(model: nn.Module) -> Iterator[None]:
    """transformers computes each expert's product by itself, with a view of its matrix."""
    configs: dict[int, Any] = {}
    for module in model.modules():
        config = getattr(module, "config", None)
        if hasattr(config, "_experts_implementation"):
            configs[id(config)] = config
    before = [(config, config._experts_implementation) for config in configs.values()]
    for config, _ in before:
        config._experts_implementation = "eager"
    try:
        yield
    finally:
        for config, implementation in before:
            config._experts_implementation = implementation


def _matches(name: str, part: str) -> bool:
    return f".{part}." in f".{name}."


def _refuse_unknown_order(selection: Selection, skip: tuple[str, ...]) -> None:
    for name, why in selection.skipped.items():
        if why.startswith(_UNKNOWN_ORDER) and not any(_matches(name, part) for part in skip):
            raise ValueError(
                f"{name}: {why}: [experts, out, in] or [experts, in, out]? Set is_transposed to "
                "True or False on its module, or name it in skip"
            )


def _check_skip(model: nn.Module, skip: tuple[str, ...]) -> None:
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    names += [name for name, _ in model.named_modules(remove_duplicate=False)]
    for part in skip:
        # The default must suit models without a head too.
        if part not in DEFAULT_SKIP and not any(_matches(name, part) for name in names):
            raise ValueError(f"skip names {part!r}, which is in no module's path of this model")
