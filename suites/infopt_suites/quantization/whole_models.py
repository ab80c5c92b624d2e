"""Tiny models whose weight matrices lie in many kinds of places, and those places by hand.

All weights are drawn so that a wrong axis shows: each row of a matrix [out, in] has a size of its
own, up to 64 times another's, and each expert too. Built in milliseconds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

VOCABULARY, WIDTH, INNER, HEADS, EXPERTS = 32, 64, 128, 4, 4
TOKENS = torch.arange(12).view(2, 6) * 7 % VOCABULARY
TABLE = "embedding"  # the kind of matrices whose rows are looked up

_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS // 2,
    "max_position_embeddings": 32,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
_MIXTURE = {
    "num_hidden_layers": 1,
    "num_local_experts": EXPERTS,
    "num_experts_per_tok": 2,
    "experts_implementation": "eager",
}


@dataclass(frozen=True)
class WholeModel:
    """How a model is built, and which of its parameters are weight matrices of which kind."""

    build: Callable[[], nn.Module]
    kinds: Mapping[str, str]  # kind, by a pattern of the parameter's whole name
    turned: tuple[str, ...] = ()  # kinds that are stored [..., in, out]

    def kind(self, name: str) -> str:
        """The kind of a parameter; "" where nothing is multiplied by it."""
        found = (kind for pattern, kind in self.kinds.items() if re.fullmatch(pattern, name))
        return next(found, "")

    def make(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Module:
        """The model with random weights, in eval mode, all of it in one dtype."""
        torch.manual_seed(seed)
        model = self.build().to(dtype).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(_weights(parameter, self.kind(name), self.turned))
        return model


def outputs(model: nn.Module, tokens: Tensor = TOKENS) -> Tensor:
    """Logits [B, T, vocabulary] of a causal model."""
    with torch.no_grad():
        found: Any = model(tokens)
    logits: Tensor = getattr(found, "logits", found)
    return logits


def _weights(parameter: Tensor, kind: str, turned_kinds: tuple[str, ...]) -> Tensor:
    drawn, turned = torch.randn(parameter.shape), kind in turned_kinds
    if parameter.ndim == 1:
        return 1 + drawn / 16  # norms; biases may be as large
    if not kind:
        return drawn / math.sqrt(parameter[0].numel())
    matrix: Tensor = drawn.mT if turned else drawn
    *_, rows, columns = matrix.shape
    sizes = 2.0 ** (torch.arange(rows) * 5 % 7 - 3)  # 1/8 … 8, in no order
    matrix = matrix * sizes[:, None] / columns**0.5
    if matrix.ndim == 3:
        matrix = matrix * (2.0 ** torch.arange(-2, len(matrix) - 2))[:, None, None]
    return matrix.mT if turned else matrix


class OwnLinear(nn.Linear):
    """A library's linear layer, as Falcon has one: the product is written out."""

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = x @ self.weight.T + self.bias
        return found


class Halved(nn.Linear):
    """A subclass that computes more than a product."""

    factor = 0.5

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = super().forward(x) * self.factor
        return found


class Dense(nn.Module):
    """Linear-like, and of no known class; its table is no state."""

    table: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(WIDTH, WIDTH))
        self.register_buffer("table", torch.linspace(-1, 1, WIDTH)[None], persistent=False)
        self.frequencies = torch.linspace(0, 1, WIDTH)[None]  # neither parameter nor buffer

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x + self.table + self.frequencies.to(x.dtype), self.weight)


class Patchwork(nn.Module):
    """Layers in lists and behind names that contain, or begin like, other names."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.lm_header = nn.Linear(WIDTH, WIDTH)  # not the head
        self.stack = nn.ModuleList([nn.Linear(WIDTH, WIDTH) for _ in range(11)])  # 1 and 10
        self.raw = nn.ParameterList([torch.empty(WIDTH, WIDTH)])
        self.Bias_of_weight = nn.Linear(WIDTH, INNER, bias=False)
        self.embedding_of = nn.Linear(INNER, WIDTH)  # no embedding
        self.dense = Dense()
        self.convolution = nn.Conv1d(WIDTH, WIDTH, 1)
        self.norm = nn.LayerNorm(WIDTH)
        self.drop = nn.Dropout(0.5)
        self.lm_head = nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.norm(self.lm_header(self.embed(tokens)))
        for layer in self.stack:
            x = x + functional.silu(self.norm(layer(x)))
        x = self.norm(functional.linear(x, self.raw[0]))
        x = self.embedding_of(functional.silu(self.Bias_of_weight(x)))
        x = self.convolution(self.norm(self.dense(x)).mT).mT
        logits: Tensor = self.lm_head(self.norm(self.drop(x)))
        return logits


class Subclasses(nn.Module):
    """Layers that are an `nn.Linear`, and not that class itself."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.own = OwnLinear(WIDTH, INNER)
        self.halved = Halved(INNER, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.lm_head = nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.norm(self.halved(functional.silu(self.own(self.embed(tokens)))))
        logits: Tensor = self.lm_head(x)
        return logits


class Shared(nn.Module):
    """One layer at two names, one weight in two layers, and a head that is the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.first = nn.Linear(WIDTH, WIDTH)
        self.again = self.first
        self.one = nn.Linear(WIDTH, WIDTH)
        self.other = nn.Linear(WIDTH, WIDTH)
        self.other.weight = self.one.weight
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for layer in (self.first, self.one, self.again, self.other):
            x = self.norm(layer(x))
        logits: Tensor = self.head(x)
        return logits


def _transformer(name: str, **settings: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from transformers import AutoModelForCausalLM
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING

        model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[name](**settings))
        assert isinstance(model, nn.Module)
        return model

    return build


def reordered(model: nn.Module) -> nn.Module:
    """The model with its modules registered in the opposite order; lists stay. In place."""
    for module in model.modules():
        if not isinstance(module, nn.ModuleList | nn.Sequential):
            module._modules = dict(reversed(module._modules.items()))
    return model


def named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """All parameters, buffers and plain attributes, under each of their names."""
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)
    for path, module in model.named_modules(remove_duplicate=False):
        for name, value in vars(module).items():
            if isinstance(value, Tensor):
                yield f"{path}.{name}", value


_LINEAR = {r"model\.layers\..*_proj\.weight|lm_head\.weight": "linear"}
_TABLES = {r"(.*\.)?(embed|embed_tokens|wte|wpe)\.weight": TABLE}
_EXPERTS = {r".*\.experts\.(gate_up_proj|down_proj)": "experts"}

MODELS: dict[str, WholeModel] = {
    "llama": WholeModel(_transformer("llama", **_SIZES, attention_bias=True), _LINEAR | _TABLES),
    "llama-tied": WholeModel(
        _transformer("llama", **_SIZES | {"tie_word_embeddings": True, "num_hidden_layers": 1}),
        _LINEAR | _TABLES,
    ),
    "gpt2": WholeModel(
        _transformer(
            "gpt2",
            vocab_size=VOCABULARY,
            n_embd=WIDTH,
            n_layer=1,
            n_head=HEADS,
            n_positions=32,
            bos_token_id=0,
            eos_token_id=1,
        ),
        {r".*\.c_(attn|proj|fc)\.weight": "conv1d", r"lm_head\.weight": "linear"} | _TABLES,
        turned=("conv1d",),
    ),
    "mixtral": WholeModel(
        _transformer("mixtral", **_SIZES | _MIXTURE), _LINEAR | _TABLES | _EXPERTS
    ),
    "gpt-oss": WholeModel(
        _transformer(
            "gpt_oss",
            **_SIZES | _MIXTURE,
            head_dim=WIDTH // HEADS,
            layer_types=["full_attention"],
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        ),
        _LINEAR | _TABLES | _EXPERTS,
        turned=("experts",),
    ),
    "patchwork": WholeModel(
        Patchwork,
        {
            r"(stack\.\d+|lm_header|Bias_of_weight|embedding_of|lm_head)\.weight": "linear",
            r"dense\.weight": "own",
            r"raw\.0": "bare",
        }
        | _TABLES,
    ),
    "subclasses": WholeModel(
        Subclasses,
        {r"(own|halved)\.weight": "subclass", r"lm_head\.weight": "linear"} | _TABLES,
    ),
    "shared": WholeModel(Shared, {r"(first|again|one|other|head)\.weight": "linear"} | _TABLES),
}
