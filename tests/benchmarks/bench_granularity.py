"""INT4 with a scale for each tensor, channel, and group: what finer granularity buys and costs.

On SmolLM2-135M: bits a weight, signal-to-noise ratio of the weights, and mean KL divergence from
the float32 model over held-out documents, with the standard error over documents.
"""

from __future__ import annotations

import copy
import math
import statistics

import torch
from infopt_reference.quantization import (
    Granularity,
    QuantizationScheme,
    quantize,
    quantize_model,
    sqnr_db,
)
from infopt_reference.weight_matrices import select_weight_matrices

from pytest_infopt.corpus.embedded import embedded_texts
from pytest_infopt.engines.registry import load_engine
from pytest_infopt.release import ModelSource

DOCUMENTS, TOKENS = 16, 64
PLACES: dict[str, dict[str, object]] = {
    "tensor": {"granularity": Granularity.TENSOR},
    "channel": {"granularity": Granularity.CHANNEL},
    **{
        f"group of {size}": {"granularity": Granularity.GROUP, "group_size": size}
        for size in (192, 64, 32)
    },
}


@torch.no_grad()
def log_probabilities(model: torch.nn.Module, documents: list[torch.Tensor]) -> list[torch.Tensor]:
    """Float32 [T, V] of each document."""
    return [model(ids).logits[0].float().log_softmax(-1) for ids in documents]


def divergences(reference: list[torch.Tensor], candidate: list[torch.Tensor]) -> list[float]:
    """Mean KL, nats, of each document."""
    pairs = zip(reference, candidate, strict=True)
    return [float((p.exp() * (p - q)).sum(-1).mean()) for p, q in pairs]


def main() -> None:
    torch.set_num_threads(1)
    engine = load_engine(ModelSource("reference", "embedded:smollm2", dtype="float32"))
    texts = [text for _, text in embedded_texts()]
    chosen = texts[:: len(texts) // DOCUMENTS][:DOCUMENTS]
    documents = [torch.tensor([engine.encode(text)[:TOKENS]]) for text in chosen]
    reference = log_probabilities(engine.module, documents)
    print(f"int4 (zero-point) of SmolLM2-135M, {len(documents)} documents of {TOKENS} tokens")
    print("  scales for each     bits/weight   weights' SQNR   mean KL ± standard error")
    for name, place in PLACES.items():
        scheme = QuantizationScheme(
            bits=4,
            symmetric=False,
            scale_dtype=torch.float16,
            **place,  # type: ignore[arg-type]
        )
        model = copy.deepcopy(engine.module)
        layers = select_weight_matrices(model).chosen
        quantized = {path: quantize(layer.weight, scheme) for path, layer in layers.items()}
        bits = 8 * sum(q.nbytes for q in quantized.values())
        weights = sum(layer.weight.numel() for layer in layers.values())
        ratio = statistics.mean(
            sqnr_db(layer.weight.detach(), quantized[path].dequantize())
            for path, layer in layers.items()
        )
        quantize_model(model, scheme)
        found = divergences(reference, log_probabilities(model, documents))
        error = statistics.stdev(found) / math.sqrt(len(found))
        print(
            f"  {name:18} {bits / weights:12.3f} {ratio:12.1f} dB"
            f"   {statistics.mean(found):8.4f} ± {error:.4f}"
        )


if __name__ == "__main__":
    main()
