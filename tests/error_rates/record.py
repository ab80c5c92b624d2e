"""Records the traces of `recorded.py` on this machine: ``python tests/error_rates/record.py``.

They are calls of one function in a row, nothing else: a chain of matrix-vector products, as a
decoding step is, and a token of the embedded model behind a KV cache. What else the machine does
meanwhile is what makes the noise.

PYTEST_DONT_REWRITE: this module times.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))
from error_rates.recorded import RECORDED, described
from pytest_infopt.engines.base import ModuleEngine, able
from pytest_infopt.engines.registry import load_engine
from pytest_infopt.release import ModelSource

CACHED = 64  # tokens behind which the model decodes its next


class DecodeStep:
    """A chain of matrix-vector products, ``blocks`` of 1 MiB of weights."""

    def __init__(self, blocks: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        width = 512
        self.weights = [
            torch.randn(width, width, generator=generator) / width**0.5 for _ in range(blocks)
        ]
        self.state = torch.randn(1, width, generator=generator)

    def followed_by(self, other: DecodeStep) -> DecodeStep:
        """A step through these very weights, and then the other's."""
        both = DecodeStep(0, 0)
        both.state, both.weights = self.state, [*self.weights, *other.weights]
        return both

    def __call__(self) -> torch.Tensor:
        state = self.state
        for weight in self.weights:
            state = (state @ weight).tanh()
        return state


def timed(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def calibrated_blocks(target: float) -> int:
    """How many blocks take about ``target`` seconds, a multiple of 20."""
    probe = DecodeStep(200, 0)
    quickest = min(timed(probe) for _ in range(300))
    return max(20, 20 * round(target / quickest * 200 / 20))


def next_token() -> Callable[[], object]:
    """The embedded model's next token in bfloat16, behind the same cached tokens at each call."""
    engine = load_engine(ModelSource("model", "embedded:smollm2", dtype="bfloat16", device="cpu"))
    model = able(engine, ModuleEngine).module
    prompt = torch.arange(CACHED)[None]
    cache = model(prompt, use_cache=True).past_key_values

    def step() -> object:
        logits = model(prompt[:, -1:], past_key_values=cache, use_cache=True).logits
        cache.crop(-1)
        return logits

    return step


def trace(step: Callable[[], object], seconds: float) -> NDArray[np.float16]:
    for _ in range(20):
        step()
    gc.collect()
    gc.freeze()
    deadline, found = time.perf_counter() + seconds, list[float]()
    while time.perf_counter() < deadline:
        found.append(timed(step))
    gc.unfreeze()
    return np.array(found, np.float16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=360, help="of each trace (default 360)")
    seconds = parser.parse_args().seconds
    torch.set_num_threads(1)
    with torch.inference_mode():
        traces = {
            "decoding step": trace(DecodeStep(calibrated_blocks(0.004), 0), seconds),
            "token of SmolLM2": trace(next_token(), seconds),
        }
    np.savez_compressed(RECORDED, **traces)  # type: ignore[arg-type]  # names are no other option
    for name, found in traces.items():
        print(f"{described(name, found.astype(float))}, {len(found):,} calls")


if __name__ == "__main__":
    main()
