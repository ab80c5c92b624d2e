"""Silence for known harmless chatter of the libraries, and for nothing else."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager

# Message starts by logger. bitsandbytes says the first for every layer and call, the second once a
# process; transformers says the third for each GGUF, and de-quantizing is what is asked for here.
_KNOWN = {
    "bitsandbytes.autograd._functions": "MatMul8bitLt: inputs will be cast",
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward",
    "transformers.quantizers.quantizer_gguf": "Dequantizing the whole model",
}


class _DropKnown(logging.Filter):
    def __init__(self, start: str) -> None:
        super().__init__()
        self.start = start

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(self.start)


def drop_known_chatter() -> None:
    """Filter the known messages from their loggers for the rest of the process; idempotent."""
    for name, start in _KNOWN.items():
        logger = logging.getLogger(name)
        if not any(isinstance(known, _DropKnown) for known in logger.filters):
            logger.addFilter(_DropKnown(start))


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Keep transformers' progress bars away inside the block."""
    from transformers import modeling_gguf_pytorch_utils as gguf_reader
    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    # The GGUF reader's bar is tqdm's own and heeds no switch of transformers.
    bar = gguf_reader.tqdm
    gguf_reader.tqdm = functools.partial(bar, disable=True)
    try:
        yield
    finally:
        gguf_reader.tqdm = bar
        if shown:
            transformers_logging.enable_progress_bar()
