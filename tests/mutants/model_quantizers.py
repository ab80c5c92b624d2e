"""A small quantizer of whole models that is right, variants of it, and the same with faults.

Each sound class shares no code with the reference but the rounding of a matrix.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from infopt_reference.quantization import QuantizationScheme, preset, quantize
from torch import Tensor, nn
from torch.nn.utils import parametrize

AREA = "1 quantizers of whole models"
INT8, INT4 = preset("int8"), preset("int4", group_size=32)


class SmallModelQuantizer:
    """Every matrix becomes a parameter that holds the decoded weights; a tied head stays."""

    def __init__(self, scheme: QuantizationScheme) -> None:
        self.scheme = scheme

    def __call__(self, model: nn.Module) -> nn.Module | None:
        if any(getattr(module, "rounded", False) for module in model.modules()):
            raise ValueError("the model is quantized already")
        done: dict[int, nn.Parameter] = {}
        for path, module, name, parameter in [*self.found(model)]:
            if id(parameter) not in done:
                done[id(parameter)] = self.new(parameter, self.is_turned(module))
            self.put(model, path, module, name, done[id(parameter)])
        self.finish(model)
        return None

    def found(self, model: nn.Module) -> Iterator[tuple[str, nn.Module, str, nn.Parameter]]:
        """Paths, owners, names and parameters to take."""
        for path, module in model.named_modules():
            for name, parameter in module._parameters.items():
                if parameter is not None and self.takes(model, path, module, name, parameter):
                    yield path, module, name, parameter

    def takes(
        self, model: nn.Module, path: str, module: nn.Module, name: str, parameter: Tensor
    ) -> bool:
        kind = type(module).__name__
        if name == "weight" and (isinstance(module, nn.Linear) or kind == "Conv1D"):
            return not self.is_tied(model, parameter)
        return kind.endswith("Experts") and parameter.ndim == 3

    def is_tied(self, model: nn.Module, parameter: Tensor) -> bool:
        tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
        return any(table.weight is parameter for table in tables)

    def is_turned(self, module: nn.Module) -> bool:
        return type(module).__name__.endswith(("Conv1D", "GptOssExperts"))

    def new(self, parameter: nn.Parameter, turned: bool) -> nn.Parameter:
        stored = parameter.detach()
        decoded = self.rounded(stored.mT if turned else stored)
        return nn.Parameter((decoded.mT if turned else decoded).contiguous(), requires_grad=False)

    def rounded(self, weight: Tensor) -> Tensor:
        rows = weight.reshape(-1, weight.shape[-1])
        return quantize(rows, self.scheme).dequantize().view(weight.shape)

    def put(
        self, model: nn.Module, path: str, module: nn.Module, name: str, new: nn.Parameter
    ) -> None:
        module._parameters[name] = new
        module.rounded = True  # type: ignore[assignment]  # a plain attribute

    def finish(self, model: nn.Module) -> None:
        """After all matrices."""

    def left_alone(self, model: nn.Module) -> Collection[str]:
        taken = {id(parameter) for _, _, _, parameter in self.found(model)}
        named = model.named_parameters(remove_duplicate=False)
        return {name for name, p in named if p.ndim > 1 and id(p) not in taken}


class SmallCopying(SmallModelQuantizer):
    """The same for a copy."""

    def __call__(self, model: nn.Module) -> nn.Module:
        made = copy.deepcopy(model)
        super().__call__(made)
        return made


class Decoding(nn.Module):
    """Codes of a parameter, decoded when it is read."""

    def __init__(self, weight: Tensor, scheme: QuantizationScheme) -> None:
        super().__init__()
        self.rows = quantize(weight.reshape(-1, weight.shape[-1]), scheme)
        self.shape = weight.shape

    def forward(self, weight: Tensor) -> Tensor:
        return self.rows.dequantize().view(self.shape)


class Turned(nn.Module):
    """Read in the other order of the last two axes."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight.mT


class SmallParametrized(SmallModelQuantizer):
    """By `torch.nn.utils.parametrize`: what is read is computed, modules keep their places."""

    def put(
        self, model: nn.Module, path: str, module: nn.Module, name: str, new: nn.Parameter
    ) -> None:
        weight = getattr(module, name).detach()
        turned = self.is_turned(module)
        decoding = Decoding(weight.mT if turned else weight, self.scheme)
        steps = [decoding, Turned()] if turned else [decoding]
        for step in steps:
            parametrize.register_parametrization(
                module, name, step.train(module.training), unsafe=True
            )
        module.parametrizations.train(module.training)  # type: ignore[union-attr]
        for entry in module.parametrizations.children():  # type: ignore[union-attr]
            entry.train(module.training)
        module.rounded = True  # type: ignore[assignment]


class SmallUntying(SmallModelQuantizer):
    """A tied head is quantized, and the embedding stays."""

    def is_tied(self, model: nn.Module, parameter: Tensor) -> bool:
        return False

    def finish(self, model: nn.Module) -> None:
        config = getattr(model, "config", None)
        if config is not None:
            config.tie_word_embeddings = False


class SmallSharing(SmallModelQuantizer):
    """A tied head is quantized, and its embedding with it."""

    def takes(
        self, model: nn.Module, path: str, module: nn.Module, name: str, parameter: Tensor
    ) -> bool:
        if isinstance(module, nn.Embedding):
            users = [m for m in model.modules() if getattr(m, "weight", None) is parameter]
            return len(users) > 1
        return super().takes(model, path, module, name, parameter)

    def is_tied(self, model: nn.Module, parameter: Tensor) -> bool:
        return False


# Faults


class LinearsAlone(SmallModelQuantizer):
    """A5: only `nn.Linear` itself is looked for."""

    def takes(self, model: Any, path: str, module: Any, name: str, parameter: Tensor) -> bool:
        wanted = type(module) is nn.Linear
        return wanted and super().takes(model, path, module, name, parameter)


class ExpertsForgotten(SmallModelQuantizer):
    """A5: parameters of two axes alone."""

    def takes(self, model: Any, path: str, module: Any, name: str, parameter: Tensor) -> bool:
        return parameter.ndim == 2 and super().takes(model, path, module, name, parameter)


class HeadByPrefix(SmallModelQuantizer):
    """Not listed: "lm_head" is looked for in the whole path, and "lm_header" has it."""

    def takes(self, model: Any, path: str, module: Any, name: str, parameter: Tensor) -> bool:
        head = "lm_head" in path and path != "lm_head"
        return not head and super().takes(model, path, module, name, parameter)


class NamesWithBias(SmallModelQuantizer):
    """Not listed: a whole name that contains "bias" is taken for a bias."""

    def takes(self, model: Any, path: str, module: Any, name: str, parameter: Tensor) -> bool:
        bias = "bias" in path.lower() or "embed" in path.lower()
        return not bias and super().takes(model, path, module, name, parameter)


class FirstOfAList(SmallModelQuantizer):
    """Not listed: "stack.1" excludes "stack.10", too."""

    def takes(self, model: Any, path: str, module: Any, name: str, parameter: Tensor) -> bool:
        last = path.startswith("stack.1") and path != "stack.1"
        return not last and super().takes(model, path, module, name, parameter)


class SmallestLeft(SmallModelQuantizer):
    """Not listed: layers of fewer than 64 outputs are left alone without a word."""

    def takes(self, model: Any, path: str, module: Any, name: str, parameter: Tensor) -> bool:
        return parameter.shape[0] != 32 and super().takes(model, path, module, name, parameter)


class EveryMatrix(SmallModelQuantizer):
    """Not listed: whatever has two axes is a weight: embeddings, routers, biases of experts."""

    def takes(self, model: Any, path: str, module: Any, name: str, parameter: Tensor) -> bool:
        return parameter.ndim == 2 and "weight" in name


class BiasesRounded(SmallModelQuantizer):
    """Not listed: biases go to float16 and back."""

    def finish(self, model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.data = parameter.data.half().to(parameter.dtype)


class WholeModelCast(SmallModelQuantizer):
    """Not listed: the rest follows the dtype of the weights."""

    def finish(self, model: nn.Module) -> None:
        for parameter in model.parameters():
            parameter.data = parameter.data.float()


class BuffersRounded(SmallModelQuantizer):
    """Not listed: tables are rounded, the frequencies of RoPE among them."""

    def finish(self, model: nn.Module) -> None:
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.copy_(buffer.bfloat16())


class AttributesRounded(SmallModelQuantizer):
    """Not listed: tensors that are no state."""

    def finish(self, model: nn.Module) -> None:
        for module in model.modules():
            for name, value in vars(module).items():
                if isinstance(value, Tensor):
                    setattr(module, name, value.bfloat16().to(value.dtype))


class EverythingFrozen(SmallModelQuantizer):
    """Not listed: gradients are switched off everywhere."""

    def finish(self, model: nn.Module) -> None:
        model.requires_grad_(False)


class NormsRemade(SmallModelQuantizer):
    """Not listed: norms are multiplied by 1 + 2⁻⁹, as a folding does that is not undone."""

    def finish(self, model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            if "norm" in name and parameter.ndim == 1:
                parameter.data = parameter.data * (1 + 2**-9)


class ConvolutionTurned(SmallModelQuantizer):
    """A5's neighbour: Conv1D is quantized as it is stored."""

    def is_turned(self, module: nn.Module) -> bool:
        return type(module).__name__ == "GptOssExperts"


class ExpertsTurned(SmallModelQuantizer):
    """A5's neighbour: experts are [out, in], whatever their module says."""

    def is_turned(self, module: nn.Module) -> bool:
        return type(module).__name__ == "Conv1D"


class AllExpertsTurned(SmallModelQuantizer):
    """Not listed: experts are [in, out], whatever their module says."""

    def is_turned(self, module: nn.Module) -> bool:
        return "Conv1D" in type(module).__name__ or "Experts" in type(module).__name__


class SquareTurned(SmallModelQuantizer):
    """Not listed: scales of square matrices belong to the inputs."""

    def new(self, parameter: nn.Parameter, turned: bool) -> nn.Parameter:
        square = parameter.ndim == 2 and parameter.shape[0] == parameter.shape[1]
        return super().new(parameter, turned ^ square)


class OneScaleForAllExperts(SmallModelQuantizer):
    """Not listed: the scales of the largest expert serve all."""

    def rounded(self, weight: Tensor) -> Tensor:
        if weight.ndim == 2:
            return super().rounded(weight)
        scale = weight.abs().amax(dim=(0, 2), keepdim=True) / 127
        return (weight / scale).round() * scale


class OneScaleForTheMatrix(SmallModelQuantizer):
    """Not listed: per tensor where the scheme says per channel."""

    def rounded(self, weight: Tensor) -> Tensor:
        scale = weight.abs().amax() / 127
        return (weight / scale).round() * scale


class NextLayersWeights(SmallModelQuantizer):
    """Not listed: of two layers of one shape, the second gets the weights of the first."""

    def __call__(self, model: nn.Module) -> nn.Module | None:
        self.by_shape: dict[torch.Size, Tensor] = {}
        return super().__call__(model)

    def rounded(self, weight: Tensor) -> Tensor:
        return self.by_shape.setdefault(weight.shape, super().rounded(weight))


class FewerBits(SmallModelQuantizer):
    """Not listed: int4 whatever was asked for."""

    def rounded(self, weight: Tensor) -> Tensor:
        rows = weight.reshape(-1, weight.shape[-1])
        return quantize(rows, INT4).dequantize().view(weight.shape)


class TieBroken(SmallModelQuantizer):
    """Not listed: the head is quantized, the embedding keeps its own matrix."""

    def is_tied(self, model: nn.Module, parameter: Tensor) -> bool:
        return False


class TieCopied(SmallModelQuantizer):
    """Not listed: a head that stays is a copy afterwards."""

    def finish(self, model: nn.Module) -> None:
        for module in model.modules():
            if type(module) is nn.Linear and self.is_tied(model, module.weight):
                module.weight = nn.Parameter(module.weight.detach().clone())


class BothRounded(SmallUntying):
    """Not listed: the embedding is quantized because the head is."""

    def put(self, model: Any, path: str, module: Any, name: str, new: nn.Parameter) -> None:
        for table in model.modules():
            if isinstance(table, nn.Embedding) and table.weight is module._parameters[name]:
                table.weight = new
        super().put(model, path, module, name, new)


class RoundedApart(SmallSharing):
    """Not listed: head and embedding are quantized one after the other, differently."""

    def put(self, model: Any, path: str, module: Any, name: str, new: nn.Parameter) -> None:
        if isinstance(module, nn.Embedding):
            new = nn.Parameter(new.detach() * (1 + 2**-10), requires_grad=False)
        super().put(model, path, module, name, new)


class SecondNameLost(SmallModelQuantizer):
    """Not listed: a layer is replaced under its first name; the second keeps the float one."""

    def put(self, model: Any, path: str, module: Any, name: str, new: nn.Parameter) -> None:
        made = copy.copy(module)
        made._parameters = dict(module._parameters)
        super().put(model, path, made, name, new)
        model.set_submodule(path, made) if path else None


class SharedWeightTwice(SmallModelQuantizer):
    """Not listed: of two layers with one weight, the second rounds what the first has rounded."""

    def put(self, model: Any, path: str, module: Any, name: str, new: nn.Parameter) -> None:
        if any(p is new for m in model.modules() for p in m._parameters.values()):
            rows = new.detach() * 0.999
            new = nn.Parameter(self.rounded(rows), requires_grad=False)
        super().put(model, path, module, name, new)


class RoundedAgain(SmallModelQuantizer):
    """Not listed: nobody notices that a model is quantized, and each pass loses more."""

    def __call__(self, model: nn.Module) -> nn.Module | None:
        for module in model.modules():
            module.__dict__.pop("rounded", None)
        return super().__call__(model)

    def rounded(self, weight: Tensor) -> Tensor:
        scale = weight.abs().amax(-1, keepdim=True) / 127
        return (weight / scale).trunc() * scale


class RefusedTooLate(SmallModelQuantizer):
    """Not listed: the second call halves what is left before it refuses."""

    def __call__(self, model: nn.Module) -> nn.Module | None:
        for module in model.modules():
            if getattr(module, "rounded", False) and isinstance(module, nn.Linear):
                module.weight.data /= 2
        return super().__call__(model)


class ShallowCopy(SmallCopying):
    """Not listed: a new object around the old modules."""

    def __call__(self, model: nn.Module) -> nn.Module:
        made = copy.copy(model)
        SmallModelQuantizer.__call__(self, made)
        return made


class TheSameReturned(SmallCopying):
    """Not listed: promised a copy, changed in place."""

    def __call__(self, model: nn.Module) -> nn.Module:
        SmallModelQuantizer.__call__(self, model)
        return model


class ConfigurationShared(SmallCopying):
    """Not listed: the copy unties in a configuration that is the original's."""

    def __call__(self, model: nn.Module) -> nn.Module:
        made = super().__call__(model)
        if hasattr(model, "config"):
            model.config.tie_word_embeddings = not model.config.tie_word_embeddings
        return made


class AllInEval(SmallModelQuantizer):
    """Not listed: a model that is in training afterwards is not."""

    def finish(self, model: nn.Module) -> None:
        model.eval()


class LayersInTraining(SmallModelQuantizer):
    """Not listed: new layers begin in training."""

    def put(self, model: Any, path: str, module: Any, name: str, new: nn.Parameter) -> None:
        super().put(model, path, module, name, new)
        module.train()


class Wrapped(SmallModelQuantizer):
    """Not listed: the model is inside of another, and every name begins anew."""

    def __call__(self, model: nn.Module) -> nn.Module:
        super().__call__(model)
        return nn.Sequential(model)


class StateRenamed(SmallModelQuantizer):
    """Not listed: tables that were not saved are saved now."""

    def finish(self, model: nn.Module) -> None:
        for module in model.modules():
            module._non_persistent_buffers_set.clear()
            if not module._buffers and not module._parameters and not module._modules:
                module.register_buffer("scale_of_nothing", torch.ones(1))


class BiasRenamed(SmallModelQuantizer):
    """Not listed: the bias moves to a name that only the new code reads."""

    def put(self, model: Any, path: str, module: Any, name: str, new: nn.Parameter) -> None:
        super().put(model, path, module, name, new)
        bias = module._parameters.get("bias")
        if type(module) is nn.Linear and bias is not None:
            del module.bias
            module.bias = bias.detach()


class Scaled(SmallModelQuantizer):
    """Not listed: the head's outputs are scaled, whatever its weight says."""

    def finish(self, model: nn.Module) -> None:
        model.register_forward_hook(_scaled)


def _scaled(module: nn.Module, inputs: Any, found: Any) -> Any:
    if isinstance(found, Tensor):
        return found * 1.01
    found.logits = found.logits * 1.01
    return found


class NeighboursExpert(SmallModelQuantizer):
    """Not listed: while the mixture computes, its experts' matrices are those of the next."""

    def finish(self, model: nn.Module) -> None:
        for module in model.modules():
            if type(module).__name__.endswith("Experts"):
                module.register_forward_pre_hook(_rolled)
                module.register_forward_hook(_rolled_back)


def _rolled(module: Any, inputs: Any) -> None:
    module.down_proj.data = module.down_proj.data.roll(1, 0)


def _rolled_back(module: Any, inputs: Any, found: Any) -> None:
    module.down_proj.data = module.down_proj.data.roll(-1, 0)


class DeadHead(SmallModelQuantizer):
    """Not listed: 0/0 in outputs."""

    def finish(self, model: nn.Module) -> None:
        model.register_forward_hook(_not_finite)


def _not_finite(module: nn.Module, inputs: Any, found: Any) -> Any:
    if isinstance(found, Tensor):
        return found * 0 / 0
    found.logits = found.logits * 0 / 0
    return found


class Float32Outputs(SmallModelQuantizer):
    """Not listed: outputs of another dtype."""

    def finish(self, model: nn.Module) -> None:
        model.register_forward_hook(_doubled)


def _doubled(module: nn.Module, inputs: Any, found: Any) -> Any:
    if isinstance(found, Tensor):
        return found.double()
    found.logits = found.logits.double()
    return found


class EveryOther(SmallModelQuantizer):
    """Not listed: in the finer half of the model, which a counter decides, 4 bits suffice."""

    def __call__(self, model: nn.Module) -> nn.Module | None:
        self.count = 0
        return super().__call__(model)

    def rounded(self, weight: Tensor) -> Tensor:
        self.count += 1
        rows = weight.reshape(-1, weight.shape[-1])
        scheme = INT4 if self.count % 2 else self.scheme
        return quantize(rows, scheme).dequantize().view(weight.shape)


class FirstScheme(SmallModelQuantizer):
    """Not listed: what is the first of a model is rounded finely, wherever it lies."""

    def __call__(self, model: nn.Module) -> nn.Module | None:
        self.first = True
        return super().__call__(model)

    def rounded(self, weight: Tensor) -> Tensor:
        if self.first:
            self.first = False
            return weight.half().to(weight.dtype)
        return super().rounded(weight)


class KeptByName(SmallModelQuantizer):
    """Not listed: what was computed for a name serves the next model."""

    def __init__(self, scheme: QuantizationScheme) -> None:
        super().__init__(scheme)
        self.kept: dict[str, nn.Parameter] = {}

    def put(self, model: Any, path: str, module: Any, name: str, new: nn.Parameter) -> None:
        super().put(model, path, module, name, self.kept.setdefault(f"{path}.{name}", new))


class DoneByPath(SmallModelQuantizer):
    """Not listed: a set of paths that were done."""

    def __init__(self, scheme: QuantizationScheme) -> None:
        super().__init__(scheme)
        self.done: set[str] = set()

    def put(self, model: Any, path: str, module: Any, name: str, new: nn.Parameter) -> None:
        if f"{path}.{name}" not in self.done:
            super().put(model, path, module, name, new)
        self.done.add(f"{path}.{name}")


class LargestScaleKept(SmallModelQuantizer):
    """Not listed: a running maximum over all models."""

    def __init__(self, scheme: QuantizationScheme) -> None:
        super().__init__(scheme)
        self.largest = torch.zeros(())

    def rounded(self, weight: Tensor) -> Tensor:
        self.largest = torch.maximum(self.largest, weight.abs().amax())
        return weight.clamp(-self.largest / 2, self.largest / 2)


class NotSaved(SmallModelQuantizer):
    """Not listed: scales are no state: codes of one model, scales of another."""

    def put(self, model: Any, path: str, module: Any, name: str, new: nn.Parameter) -> None:
        super().put(model, path, module, name, new)
        if type(module) is nn.Linear:
            scale = new.detach().abs().amax()
            new.data = new.data / scale
            module.register_forward_pre_hook(lambda _, inputs: (inputs[0] * scale,))
            if module.bias is not None:
                module.bias.data = module.bias.data / 1


class DecodedBeside(SmallModelQuantizer):
    """Not listed: a cache of decoded weights outlives a load."""

    def put(self, model: Any, path: str, module: Any, name: str, new: nn.Parameter) -> None:
        super().put(model, path, module, name, new)
        if type(module) is nn.Linear:
            kept = new.detach().clone()
            module.forward = lambda x: nn.functional.linear(x, kept, module.bias)


class ExpertsUnnamed(SmallModelQuantizer):
    """A5: experts are passed over in silence."""

    def left_alone(self, model: nn.Module) -> Collection[str]:
        return {n for n in super().left_alone(model) if "embed" in n}


class AllNamed(SmallModelQuantizer):
    """Not listed: every parameter is named, whether it is left alone or not."""

    def left_alone(self, model: nn.Module) -> Collection[str]:
        return {n for n, _ in model.named_parameters(remove_duplicate=False)}


class NamesOfAnother(SmallModelQuantizer):
    """Not listed: names with a wrapper's prefix."""

    def left_alone(self, model: nn.Module) -> Collection[str]:
        return {f"base.{n}" for n in super().left_alone(model)} | {*super().left_alone(model)}


SOUND: dict[type[SmallModelQuantizer], dict[str, Any]] = {
    SmallCopying: {"capabilities": {"nearest", "weight-only", "copies", "same-names", "state"}},
    SmallParametrized: {"capabilities": {"nearest", "weight-only", "left-alone"}},
    SmallUntying: {"capabilities": {"nearest", "weight-only"}, "tied_head": "untied"},
    SmallSharing: {"capabilities": {"nearest", "weight-only"}, "tied_head": "shared"},
    SmallModelQuantizer: {
        "capabilities": {"nearest", "weight-only", "left-alone", "same-names", "state"}
    },
}


@dataclass(frozen=True)
class ModelMutant:
    """``fault`` must break the property; what it derives from must keep it."""

    fault: type[SmallModelQuantizer]
    broken: str

    @property
    def attributes(self) -> dict[str, Any]:
        return next(dict(SOUND[sound]) for sound in SOUND if issubclass(self.fault, sound))


TAKEN = "test_every_matrix_is_quantized_or_declared_to_be_left_alone"
KEPT = "test_everything_else_is_kept_bit_for_bit"
BOUND = "test_each_weight_is_within_the_bound_of_its_scheme"
TIED = "test_a_tied_head_becomes_what_is_declared"
SHARED = "test_shared_modules_and_weights_stay_shared"
TWICE = "test_quantizing_twice_is_quantizing_once"
GIVEN = "test_the_given_model_is_not_modified"
MODES = "test_training_modes_and_module_names_stay"
NAMES = "test_the_state_keeps_its_names"
OUTPUTS = "test_outputs_are_those_of_the_decoded_weights"
RUNS = "test_the_quantized_model_runs"
ORDER = "test_the_order_of_modules_does_not_matter"
REMEMBERED = "test_nothing_is_remembered_from_earlier_models"
SAVED = "test_a_saved_state_restores_the_model"
NAMED = "test_what_is_left_alone_is_named"

FAULTS: dict[str, tuple[type[SmallModelQuantizer], ...]] = {
    TAKEN: (
        LinearsAlone,
        ExpertsForgotten,
        HeadByPrefix,
        NamesWithBias,
        FirstOfAList,
        SmallestLeft,
    ),
    KEPT: (
        EveryMatrix,
        BiasesRounded,
        WholeModelCast,
        BuffersRounded,
        AttributesRounded,
        EverythingFrozen,
        NormsRemade,
    ),
    BOUND: (
        ConvolutionTurned,
        ExpertsTurned,
        AllExpertsTurned,
        SquareTurned,
        OneScaleForAllExperts,
        OneScaleForTheMatrix,
        NextLayersWeights,
        FewerBits,
    ),
    TIED: (TieBroken, TieCopied, BothRounded, RoundedApart),
    SHARED: (SecondNameLost, SharedWeightTwice),
    TWICE: (RoundedAgain, RefusedTooLate),
    GIVEN: (ShallowCopy, TheSameReturned, ConfigurationShared),
    MODES: (AllInEval, LayersInTraining, Wrapped),
    NAMES: (Wrapped, StateRenamed, BiasRenamed),
    OUTPUTS: (Scaled, NeighboursExpert),
    RUNS: (DeadHead, Float32Outputs),
    ORDER: (EveryOther, FirstScheme),
    REMEMBERED: (KeptByName, DoneByPath, LargestScaleKept),
    SAVED: (NotSaved, DecodedBeside),
    NAMED: (ExpertsUnnamed, AllNamed, NamesOfAnother),
}
MODEL_MUTANTS = [ModelMutant(fault, name) for name, faults in FAULTS.items() for fault in faults]
