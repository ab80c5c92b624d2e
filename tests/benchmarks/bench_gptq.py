"""GPTQ: one layer's time against gptqmodel's, and a whole model: time, memory, divergence.

Run as a script, or with names of what to run: layer, model. Prints ratios of one run.

Layer: 576 outputs, 1536 inputs, int4 symmetric in groups of 64, on the same correlated inputs; CPU
seconds of one thread, rounds alternating, the second moments gathered before. Below 1 ours is the
faster.

Model: SmolLM2-135M, int4 in groups of 64, on the embedded calibration texts; each candidate in a
process of its own. Mean KL over documents of the embedded corpus, and the difference to gptqmodel's
paired by document. The settings are each side's own: gptqmodel takes a symmetric grid of 16 levels
and columns in an order of activations that keeps its groups; ours a zero-point grid, columns from
the first to the last. Rows with our symmetric grid (15 levels) and with activation order, and
without calibration, say what each of these is worth.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

ROWS, COLUMNS, TOKENS, ROUNDS = 576, 1536, 8192, 7
DOCUMENTS, DOCUMENT_TOKENS = 48, 256
CANDIDATES: dict[str, tuple[str, dict[str, Any]]] = {
    "rtn": ("int4", {}),
    "rtn symmetric": ("int4", {"symmetric": True}),
    "awq": ("awq", {}),
    "gptq": ("gptq", {}),
    "gptq act order": ("gptq", {"act_order": True}),
    "gptq symmetric": ("gptq", {"symmetric": True}),
    "gptq symmetric, act order": ("gptq", {"symmetric": True, "act_order": True}),
    "gptqmodel": ("gptqmodel", {}),
}
MEBIBYTE = 2**20
PEER = importlib.util.find_spec("gptqmodel") is not None


def correlated_layer() -> tuple[torch.nn.Linear, torch.Tensor]:
    """A layer and inputs [T, K] whose features share directions, as activations do."""
    generator = torch.Generator().manual_seed(0)
    layer = torch.nn.Linear(COLUMNS, ROWS, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(ROWS, COLUMNS, generator=generator) / COLUMNS**0.5)
    mixing = torch.randn(COLUMNS, COLUMNS, generator=generator) / COLUMNS**0.5
    noise = torch.randn(TOKENS, COLUMNS, generator=generator)
    return layer, noise @ mixing + 0.1 * noise


def our_layer(layer: torch.nn.Linear, inputs: torch.Tensor) -> Callable[[], torch.Tensor]:
    from infopt_reference.quantization import HessianStatistics, gptq, preset

    moments = HessianStatistics(COLUMNS)
    moments.observe(inputs)
    scheme = preset("int4", symmetric=True)
    return lambda: gptq(layer.weight, moments.hessian, scheme).dequantize()


def peer_layer(layer: torch.nn.Linear, inputs: torch.Tensor) -> Callable[[], torch.Tensor]:
    from gptqmodel import QuantizeConfig
    from gptqmodel.quantization.gptq import GPTQ

    configuration = QuantizeConfig(bits=4, group_size=64, sym=True, desc_act=False)

    def prepare() -> Any:
        task = GPTQ(module=layer, qcfg=configuration)
        task.expected_nsamples = TOKENS
        task.quantizer.configure(perchannel=True)
        task.add_batch(inputs[None], layer(inputs)[None])
        return task

    tasks = [prepare() for _ in range(ROUNDS)]  # one is used up by each round
    return lambda: tasks.pop().quantize()[0]


def cpu_seconds(work: Callable[[], torch.Tensor]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


@torch.no_grad()
def compare_layers() -> None:
    torch.set_num_threads(1)
    layer, inputs = correlated_layer()
    ours = our_layer(layer, inputs)
    own_times = []
    if not PEER:
        own_times = [cpu_seconds(ours) for _ in range(ROUNDS)]
        print(f"layer: ours {statistics.median(own_times):.2f} s; gptqmodel is not installed")
        return
    theirs = peer_layer(layer, inputs)
    peer_times = []
    for _ in range(ROUNDS):
        own_times.append(cpu_seconds(ours))
        peer_times.append(cpu_seconds(theirs))
    ratios = sorted(a / b for a, b in zip(own_times, peer_times, strict=True))
    quartiles = statistics.quantiles(ratios, n=4)
    print(
        f"layer {ROWS}x{COLUMNS}: ours {statistics.median(own_times):.2f} s, gptqmodel "
        f"{statistics.median(peer_times):.2f} s, ratio {quartiles[1]:.2f} "
        f"[{quartiles[0]:.2f}, {quartiles[2]:.2f}]"
    )


def measure_candidate(name: str) -> dict[str, Any]:
    """In a process of its own: how long it takes, how far the peak rises, KL by document."""
    from infopt_suites.gates.memory.footprint import peak_resident_bytes

    from pytest_infopt.corpus import load_corpus, shuffled, tokenise
    from pytest_infopt.engines.registry import load_engine
    from pytest_infopt.measure.divergence import compare_scores
    from pytest_infopt.release import CorpusSource, ModelSource

    source = ModelSource("reference", "embedded:smollm2", dtype="float32", device="cpu")
    reference = load_engine(source)
    resident = peak_resident_bytes()
    quantization, options = CANDIDATES[name]
    started, cpu = time.perf_counter(), time.process_time()
    candidate = load_engine(replace(source, name=name, quantization=quantization, options=options))
    measured = {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu,
        # Of the second model and all that was needed to make it.
        "peak_mebibytes": (peak_resident_bytes() - resident) / MEBIBYTE,
    }
    by_id = {document.id: document for document in load_corpus(CorpusSource(), Path())}
    corpus = CorpusSource(max_documents=DOCUMENTS, max_tokens=DOCUMENT_TOKENS)
    order = [by_id[key] for key in shuffled(by_id, seed=0)]
    divergences = {}
    for document in tokenise(order, reference.encode, corpus).documents:
        ids = document.token_ids
        tokens = compare_scores(reference.score(ids), candidate.score(ids), ids)
        divergences[document.id] = float(tokens.kl.mean())
    return measured | {"kl": divergences}


def in_own_process(name: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as cache:
        # So that gptqmodel's checkpoint is made and not found; the others keep nothing there.
        own_cache = {"INFOPT_CACHE": cache} if name == "gptqmodel" else {}
        output = Path(cache) / "measured.json"
        child = [sys.executable, __file__, "--candidate", name, str(output)]
        subprocess.run(
            child, check=True, stdout=subprocess.DEVNULL, env={**os.environ, **own_cache}
        )
        measured: dict[str, Any] = json.loads(output.read_text())
        return measured


def compare_models() -> None:
    results = {n: in_own_process(n) for n in CANDIDATES if n != "gptqmodel" or PEER}
    print("model                         wall s   CPU s   peak above the reference   mean KL, nats")
    for name, result in results.items():
        mean = statistics.fmean(result["kl"].values())
        print(
            f"  {name:26} {result['seconds']:7.0f} {result['cpu_seconds']:7.0f} "
            f"{result['peak_mebibytes']:18.0f} MiB {mean:18.4f}"
        )
    if not PEER:
        print("gptqmodel is not installed")
        return
    peer = results.pop("gptqmodel")["kl"]
    for name, result in results.items():
        print(f"  {name:26} minus gptqmodel, by document: {paired(result['kl'], peer)}")


def paired(own: dict[str, float], peer: dict[str, float]) -> str:
    """Mean difference with its 95 % interval (Student's t over documents), and Wilcoxon's p."""
    from scipy import stats

    differences = [own[key] - peer[key] for key in peer]
    mean = statistics.fmean(differences)
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    half = float(stats.t.ppf(0.975, len(differences) - 1)) * error
    p = float(stats.wilcoxon(differences, alternative="greater").pvalue)
    lower = sum(difference < 0 for difference in differences)
    return (
        f"{mean:+.4f} [{mean - half:+.4f}, {mean + half:+.4f}], lower on {lower} of "
        f"{len(differences)}; p(ours is not higher) = {p:.2g}"
    )


def main() -> None:
    if sys.argv[1:2] == ["--candidate"]:
        Path(sys.argv[3]).write_text(json.dumps(measure_candidate(sys.argv[2])))
        return
    jobs = {"layer": compare_layers, "model": compare_models}
    for name in sys.argv[1:] or jobs:
        jobs[name]()


if __name__ == "__main__":
    main()
