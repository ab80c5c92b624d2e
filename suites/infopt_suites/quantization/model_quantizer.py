"""ModelQuantizerSuite: is every weight matrix of a model quantized, and nothing else touched?"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import Any, ClassVar, cast

import torch
from infopt_reference.quantization import QuantizationScheme, preset
from torch import Tensor, nn

from ..base import Suite, requires
from ..properties import noted, tried
from ..tally import leave_out, note_kinds
from .grids import bounds
from .model_protocol import MakeModelQuantizer, ReportsLeftAlone
from .model_trial import Declared, ModelTrial, applied, same_bits
from .whole_models import MODELS, named_tensors, outputs, reordered

on_models = tried("make_model_quantizer")  # a property of a `ModelTrial`


class ModelQuantizerSuite(Suite):
    """Properties of quantizers of whole models, for each of ``models``.

    Give a fixture ``make_model_quantizer``: a `MakeModelQuantizer`. Class attributes say what is
    tried, and what is left alone:

    | attribute | default | meaning |
    |---|---|---|
    | ``schemes`` | int8, int4 in groups of 32 | schemes of weights |
    | ``dtypes`` | float32, bfloat16 | dtypes of models |
    | ``models`` | all of `whole_models.MODELS` | tiny models that are quantized |
    | ``takes`` | linear, subclass, conv1d, experts | kinds of matrices that are quantized |
    | ``leaves_alone`` | () | names, as parts of dotted paths, that are left alone, as "lm_head" |
    | ``tied_head`` | "left" | what becomes of a head that is the embedding |
    | ``refusals`` | (ValueError,) | what a second call may raise |
    | ``assigns`` | False | a saved state is loaded with ``assign=True`` |

    Kinds of matrices: "linear", `nn.Linear` itself; "subclass", its subclasses; "conv1d", GPT-2's
    layer, stored [in, out]; "experts", stacks of three axes; "embedding"; "own", a linear-like
    module of no known class; "bare", a parameter of a list. What is not taken stays as it is.

    A tied head is "left": float, and tied; "untied": quantized, while the embedding stays float; or
    "shared": both look into one quantized matrix.
    """

    topic = "model_quantizer"
    fixture = "make_model_quantizer"
    fixture_returns = "a callable: QuantizationScheme -> callable: model -> quantized model or None"
    offers = {  # noqa: RUF012  # read only
        "nearest": "each weight is within the bound of its scheme, as by rounding to nearest",
        "weight-only": "activations are not rounded",
        "copies": "the given model is not modified",
        "left-alone": "left_alone(model) names the parameters that stay as they are",
        "same-names": "the state has the names of the float model's",
        "state": "a state_dict restores a model that was quantized with other weights",
    }
    methods = {"left-alone": ("left_alone",)}  # noqa: RUF012  # read only
    schemes: ClassVar[Sequence[QuantizationScheme]] = (
        preset("int8"),
        preset("int4", group_size=32),
    )
    dtypes: ClassVar[Sequence[torch.dtype]] = (torch.float32, torch.bfloat16)
    models: ClassVar[Sequence[str]] = tuple(MODELS)
    takes: ClassVar[Collection[str]] = ("linear", "subclass", "conv1d", "experts")
    leaves_alone: ClassVar[Collection[str]] = ()
    tied_head: ClassVar[str] = "left"
    refusals: ClassVar[tuple[type[Exception], ...]] = (ValueError,)
    assigns: ClassVar[bool] = False

    def made_from(self, implementation: Any) -> Any:
        return implementation(self.schemes[0])

    def first_cases(self, implementation: Any) -> Iterator[tuple[str, Callable[[], object]]]:
        for name in self.models:
            yield f"the model {name!r}", partial(self._first, implementation, name)

    @on_models()
    def test_every_matrix_is_quantized_or_declared_to_be_left_alone(
        self, trial: ModelTrial
    ) -> None:
        """No weight of ``takes`` comes back as it was.

        Usual causes: only `nn.Linear` is looked for (experts, Conv1D, subclasses), names that match
        by a part of a word, a loop that ends early.
        """
        found = trial.quantized()
        left = [name for name in trial.taken if trial.is_as_it_was(found, name)]
        assert not left, f"left as they were, and not declared: {', '.join(left)}"

    @on_models(mixed=True)
    def test_everything_else_is_kept_bit_for_bit(self, trial: ModelTrial) -> None:
        """Biases, norms, embeddings, routers, tables and what is declared to be left alone: their
        bits, dtype, device and ``requires_grad``.

        Usual causes: a whole model that is cast, a tensor of two axes taken for a weight, buffers
        made anew, a bias that is rounded, gradients that are switched off for all.
        """
        found = dict(named_tensors(trial.quantized()))
        for name, tensor in trial.kept.items():
            assert name in found, f"{name} is gone"
            now = found[name]
            assert same_bits(tensor, now), f"{name} was changed: {_described(tensor, now)}"
            assert tensor.requires_grad == now.requires_grad, f"{name}: requires_grad was changed"

    @requires("nearest")
    @on_models(all_schemes=True, all_dtypes=True)
    def test_each_weight_is_within_the_bound_of_its_scheme(self, trial: ModelTrial) -> None:
        """Each matrix in its own orientation: scales belong to rows of [out, in], groups lie along
        the inputs, and each expert is a matrix by itself.

        Usual causes: Conv1D or experts that are stored [in, out], a scale for all experts, a weight
        of another module, codes of a scheme that was not asked for.
        """
        found = trial.quantized()
        for name in trial.taken:
            weight, now = trial.original(name), trial.matrix(found, name)
            assert now.shape == weight.shape, f"{name} has the shape {tuple(now.shape)}"
            rows = weight.reshape(-1, weight.shape[-1]).contiguous()
            allowed = bounds(rows, trial.scheme, trial.grid).error.view(weight.shape)
            error = (now.double() - weight.double()).abs()
            excess = error - allowed - trial.reading_error(name)
            assert bool((excess <= 0).all()), (
                f"{name}: {int((~(excess <= 0)).sum())} of {weight.numel()} weights are beyond the "
                f"bound of {trial.scheme}, by up to {float(excess.max()):.3g}"
            )

    @on_models()
    def test_a_tied_head_becomes_what_is_declared(self, trial: ModelTrial) -> None:
        """Head and embedding are one matrix, two, or two views of one quantized matrix.

        Usual causes: a tie that is broken without a word, so that the matrix is kept twice; an
        embedding that is quantized because the head is; two different roundings of one matrix.
        """
        if not trial.tied:
            leave_out()
            return
        found = trial.quantized()
        for embedding, head in trial.tied:
            if self.tied_head == "left":
                one, other = found.get_parameter(embedding), found.get_parameter(head)
                assert one is other, f"{head} is no longer {embedding}"
                continue
            one, other = (trial.matrix(found, name) for name in (embedding, head))
            if self.tied_head == "shared":
                assert torch.equal(one, other), f"{head} and {embedding} were quantized apart"
            else:
                assert torch.equal(one, trial.original(embedding)), f"{embedding} was quantized"

    @on_models()
    def test_shared_modules_and_weights_stay_shared(self, trial: ModelTrial) -> None:
        """A layer at two names is one layer afterwards; a weight of two layers one set of weights.

        Usual causes: a module that is replaced under one of its names, codes that are quantized
        again, a walk that drops the second name.
        """
        places = defaultdict[int, list[str]](list)
        for path, module in trial.model.named_modules(remove_duplicate=False):
            places[id(module)].append(path)
        weights = defaultdict[int, list[str]](list)
        for name in trial.taken:
            if not any(name in pair for pair in trial.tied):
                weights[id(trial.model.get_parameter(name))].append(name)
        groups = [names for names in [*places.values(), *weights.values()] if len(names) > 1]
        if not groups:
            leave_out()
            return
        found = trial.quantized()
        for first, *others in (paths for paths in places.values() if len(paths) > 1):
            for path in others:
                same = found.get_submodule(path) is found.get_submodule(first)
                assert same, f"{path} is no longer {first}"
        for first, *others in weights.values():
            for name in others:
                apart = (trial.matrix(found, name) - trial.matrix(found, first)).abs()
                read = trial.reading_error(name) + trial.reading_error(first)
                same = bool((apart <= read).all())
                assert same, f"{name} and {first} shared a weight, and differ"

    @on_models(all_schemes=True)
    def test_quantizing_twice_is_quantizing_once(self, trial: ModelTrial) -> None:
        """A second call changes nothing, or raises one of ``refusals`` and changes nothing.

        Usual causes: decoded weights that are rounded again, codes taken for weights, layers inside
        of quantized layers.
        """
        once = trial.quantized()
        before = {name: trial.matrix(once, name) for name in trial.taken}
        expected = outputs(once)
        again = trial.quantized()  # not every library's tensors can be copied
        try:
            again = applied(trial.make(), again)
        except self.refusals:
            note_kinds(twice="refused")
        for name, weight in before.items():
            same = torch.equal(trial.matrix(again, name), weight)
            assert same, f"{name} was changed by quantizing again"
        assert torch.equal(outputs(again), expected), "outputs changed by quantizing again"

    @requires("copies")
    @on_models()
    def test_the_given_model_is_not_modified(self, trial: ModelTrial) -> None:
        """The caller keeps a float model, bit for bit, to compare with.

        Usual causes: a shallow copy, whose modules are the given one's; ties broken in a shared
        configuration.
        """
        given = copy.deepcopy(trial.model)
        kinds = [type(module) for module in given.modules()]
        tied = getattr(getattr(given, "config", None), "tie_word_embeddings", None)
        found = applied(trial.make(), given)
        assert found is not given, "the given model was returned"
        now = dict(named_tensors(given))
        for name, tensor in named_tensors(trial.model):
            kept = name in now and same_bits(tensor, now[name])
            assert kept, f"{name} of the given model was changed"
        assert kinds == [type(module) for module in given.modules()], "modules were replaced"
        after = getattr(getattr(given, "config", None), "tie_word_embeddings", None)
        assert tied == after, "config.tie_word_embeddings of the given model was changed"

    @on_models()
    def test_training_modes_and_module_names_stay(self, trial: ModelTrial) -> None:
        """Every module is still at its path, in training where it was in training.

        Usual causes: a layer that is made anew in training mode, ``eval()`` on the whole model, a
        wrapper around the model.
        """
        model = copy.deepcopy(trial.model).train()
        for number, module in enumerate(model.modules()):
            if number % 3 == 1:
                module.training = False
        modes = {k: m.training for k, m in model.named_modules(remove_duplicate=False)}
        found = dict(trial.quantized(model).named_modules(remove_duplicate=False))
        for path, training in modes.items():
            assert path in found, f"no module at {path!r} any more"
            assert found[path].training == training, f"{path!r}: training was {training}"

    @on_models()
    def test_the_state_keeps_its_names(self, trial: ModelTrial) -> None:
        """What is not quantized is saved under its name; all is where "same-names" is claimed.

        Usual causes: a wrapper's prefix, buffers that become persistent, a bias of another name.
        """
        before = trial.model.state_dict()
        after = trial.quantized().state_dict()
        rest = [name for name in before if name not in trial.taken]
        missing = [name for name in rest if name not in after]
        assert not missing, f"not saved any more: {', '.join(missing)}"
        owners = tuple(f"{name.rpartition('.')[0]}." for name in trial.taken)
        new = [n for n in after if n not in before and not n.startswith(owners)]
        assert not new, f"new names beside those of quantized modules: {', '.join(new)}"
        if "same-names" in self.capabilities:
            assert [*before] == [*after], f"names of the state: {sorted({*before} ^ {*after})}"

    @requires("weight-only")
    @on_models(all_schemes=True, all_dtypes=True)
    def test_outputs_are_those_of_the_decoded_weights(self, trial: ModelTrial) -> None:
        """The model equals a float model that holds the decoded weights, but for what its dtype
        costs.

        Usual causes: code that reads a weight in place of calling the layer, a bias that is left
        out, a product that is scaled twice, an expert that is given its neighbour's matrix.
        """
        found = trial.quantized()
        expected = trial.with_matrices(found)
        inexact, result = outputs(expected).double(), outputs(found)
        exact = outputs(expected.double())
        assert result.dtype is trial.dtype, f"{trial.dtype} became {result.dtype}"
        rounding = torch.finfo(trial.dtype).eps * float(exact.abs().max())
        cost = float((inexact - exact).abs().max()) + rounding
        error = float((result.double() - exact).abs().max())
        assert error <= 4 * cost, f"off by {error:.3g}; the dtype costs {cost:.3g}"

    @on_models()
    def test_the_quantized_model_runs(self, trial: ModelTrial) -> None:
        """Outputs are finite, of the float model's shape and dtype, and follow the tokens.

        Usual causes: a module that looks for a weight which is gone, 0/0, a kernel for one shape.
        """
        found = outputs(trial.quantized())
        expected = outputs(trial.model)
        assert found.shape == expected.shape
        assert found.dtype is expected.dtype, f"{expected.dtype} became {found.dtype}"
        assert bool(torch.isfinite(found).all()), "outputs are not finite"
        assert not torch.equal(found[0], found[1]), "outputs do not depend on the tokens"

    @on_models()
    def test_the_order_of_modules_does_not_matter(self, trial: ModelTrial) -> None:
        """Modules registered the other way round get the same weights.

        Usual causes: a counter that decides what is taken, a first or last layer that is known by
        its place, a replacement while the walk goes on.
        """
        expected = trial.quantized()
        found = trial.quantized(reordered(copy.deepcopy(trial.model)))
        for name in trial.matrices:
            same = torch.equal(trial.matrix(found, name), trial.matrix(expected, name))
            assert same, f"{name} depends on the order of modules"

    @on_models()
    def test_nothing_is_remembered_from_earlier_models(self, trial: ModelTrial) -> None:
        """A quantizer that has seen a model with other weights does to this what a fresh one does.

        Usual causes: scales or codes kept by name or by shape, a set of modules that were done.
        """
        expected, used = trial.quantized(), trial.make()
        applied(used, trial.case.make(trial.dtype, seed=1))
        found = trial.quantized(by=used)
        for name in trial.matrices:
            same = torch.equal(trial.matrix(found, name), trial.matrix(expected, name))
            assert same, f"{name} depends on a model that was quantized before"

    @requires("state")
    @on_models()
    def test_a_saved_state_restores_the_model(self, trial: ModelTrial) -> None:
        """Loaded into a model that was quantized with other weights, it gives the same outputs.

        Usual causes: scales that are no buffers, a zero point that is not saved, decoded weights
        that are kept beside the codes.
        """
        saved = trial.quantized()
        state: dict[str, Any] = copy.deepcopy(saved.state_dict())
        other = applied(trial.make(), trial.case.make(trial.dtype, seed=1))
        outputs(other)
        other.load_state_dict(state, assign=self.assigns)
        for name in trial.matrices:
            same = torch.equal(trial.matrix(other, name), trial.matrix(saved, name))
            assert same, f"{name} is another after loading"
        assert torch.equal(outputs(other), outputs(saved)), "outputs differ after loading"

    @requires("left-alone")
    @on_models()
    def test_what_is_left_alone_is_named(self, trial: ModelTrial) -> None:
        """The names reported are those of all tensors of two or more axes that were not changed.

        Usual causes: experts that are passed over in silence, names of the quantized model, a tied
        head that is reported as quantized.
        """
        named = {*cast(ReportsLeftAlone, trial.make()).left_alone(copy.deepcopy(trial.model))}
        parameters = dict(trial.model.named_parameters(remove_duplicate=False))
        wide = {name for name, parameter in parameters.items() if parameter.ndim > 1}
        left = {n for n in wide if not {n, n.rpartition(".")[0]}.isdisjoint(named)}
        silent = sorted(wide - {*trial.taken} - left - {n for n in wide if "bias" in n})
        assert not silent, f"left alone, and not named: {', '.join(silent)}"
        wrong = sorted(left & {*trial.taken})
        assert not wrong, f"named as left alone, and quantized: {', '.join(wrong)}"
        unknown = named - {*parameters} - {name for name, _ in trial.model.named_modules()}
        assert not unknown, f"no names of the model: {', '.join(sorted(unknown))}"

    # How properties are tried

    def _hold(
        self,
        make_model_quantizer: MakeModelQuantizer,
        holds: Callable[[ModelTrial], None],
        all_schemes: bool = False,
        all_dtypes: bool = False,
        mixed: bool = False,
    ) -> None:
        __tracebackhide__ = True
        for name in self.models:
            for scheme in self.schemes if all_schemes else self.schemes[:1]:
                for dtype in self.dtypes if all_dtypes else self.dtypes[:1]:
                    note_kinds(models=name, dtypes=str(dtype).removeprefix("torch."))
                    trial = self._trial(make_model_quantizer, name, scheme, dtype)
                    if mixed:
                        _mix(trial.model)
                    with noted(f"on the model {name!r} in {dtype}, {scheme}"):
                        holds(trial)

    def _trial(
        self,
        make: MakeModelQuantizer,
        name: str,
        scheme: QuantizationScheme,
        dtype: torch.dtype,
    ) -> ModelTrial:
        declared = Declared(self.takes, self.leaves_alone, self.tied_head)
        return ModelTrial(partial(make, scheme), MODELS[name], name, scheme, dtype, declared)

    def _first(self, implementation: MakeModelQuantizer, name: str) -> None:
        self._trial(implementation, name, self.schemes[0], self.dtypes[0]).quantized()


def _mix(model: nn.Module) -> None:
    """Half of the parameters frozen, norms in another dtype."""
    for number, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(number % 2 == 0)
    for module in model.modules():
        own = [*module.parameters(recurse=False)]
        if all(parameter.ndim == 1 for parameter in own):
            for parameter in own:
                parameter.data = parameter.data.double()


def _described(before: Tensor, after: Tensor) -> str:
    if type(before.data) is not type(after.data):
        return f"it is a {type(after.data).__name__}"
    if before.dtype is not after.dtype or before.shape != after.shape:
        return f"{before.dtype} {tuple(before.shape)} → {after.dtype} {tuple(after.shape)}"
    changed = int((before.detach() != after.detach()).sum())
    return f"{changed} of {before.numel()} numbers"
