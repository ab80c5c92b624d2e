"""The transformers engine on CUDA: the CPU's answers, synchronised stamps, peaks, memory."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

IDS = [(37 * i + 5) % 128 for i in range(40)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=128, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
        initializer_range=0.2,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("gpu") / "llama"
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(path)
    return path


def load(path: Path, device: str, **fields: Any) -> Any:
    from pytest_infopt.engines.registry import load_engine
    from pytest_infopt.release import ModelSource

    return load_engine(ModelSource("tiny", str(path), device=device, **fields))


def test_cuda_and_cpu_agree_in_float64(checkpoint: Path) -> None:
    cpu, cuda = (load(checkpoint, device, dtype="float64") for device in ("cpu", "cuda"))
    expected = cpu.full_logits(IDS)
    rounding = 2 * 4 * 128 * torch.finfo(torch.float64).eps * float(expected.abs().max())
    for found in (
        cuda.full_logits(IDS),
        cuda.cached_logits(IDS, 7),
        cuda.batch_logits([IDS, IDS[:3]])[0],
        cuda.score(IDS).logits(0, len(IDS)),
    ):
        assert found.device.type == "cuda"
        assert float((found.cpu() - expected).abs().max()) <= rounding


def test_auto_takes_the_gpu_and_stored_hidden_states_come_back(checkpoint: Path) -> None:
    engine = load(checkpoint, "auto")
    assert engine.device.startswith("cuda")
    scores = engine.score(IDS)
    stored = scores.hidden_states.cpu()
    assert torch.equal(engine.scores_from_hidden(stored).logits(2, 9), scores.logits(2, 9))


def test_a_stamp_waits_for_the_device(checkpoint: Path) -> None:
    engine = load(checkpoint, "cuda")
    events = iter(engine.stream(IDS, 3))
    next(events)
    torch.cuda._sleep(200_000_000)  # device cycles: queued before the next token's work
    queued = torch.cuda.Event()
    queued.record()
    arrived = next(events).arrived
    assert queued.query()  # done when the token arrived, whatever the clock says
    assert arrived <= time.perf_counter()


def test_peaks_are_reported_and_reset(checkpoint: Path) -> None:
    engine = load(checkpoint, "cuda")
    ballast = torch.empty(64 * 2**20, dtype=torch.uint8, device="cuda")
    before = engine.memory()
    assert before.peak_allocated_bytes >= ballast.nbytes + before.weight_bytes
    assert before.peak_reserved_bytes >= before.peak_allocated_bytes
    del ballast
    engine.reset_peaks()
    after = engine.memory()
    assert after.peak_allocated_bytes <= before.peak_allocated_bytes - 64 * 2**20
    assert engine.kv_cache_bytes(33, 2) == engine.predicted_kv_bytes(33, 2)


def test_closing_gives_the_device_memory_back(checkpoint: Path) -> None:
    load(checkpoint, "cuda").close()  # libraries have made their workspaces
    start = torch.cuda.memory_allocated()
    engine = load(checkpoint, "cuda")
    engine.score(IDS).logits(0, 4)
    assert torch.cuda.memory_allocated() > start
    engine.close()
    assert torch.cuda.memory_allocated() == start


@pytest.mark.parametrize("kind", ["int8", "nf4", "fp4"])
def test_bitsandbytes_on_cuda(checkpoint: Path, kind: str) -> None:
    pytest.importorskip("bitsandbytes")
    full = load(checkpoint, "cuda", dtype="bfloat16")
    engine = load(checkpoint, "cuda", dtype="bfloat16", quantization=f"bitsandbytes-{kind}")
    assert engine.memory().weight_bytes < full.memory().weight_bytes
    assert engine.score(IDS).logits(0, len(IDS)).isfinite().all()
