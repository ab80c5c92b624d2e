"""Silence for known harmless chatter of the libraries, and for nothing else."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

# Messages by logger. bitsandbytes says the first for every layer and call, the second once a
# process; transformers says the third for each GGUF, and de-quantizing is what is asked for here;
# the last two come when transformers imports torchao where it is installed, used or not.
_KNOWN = {
    "bitsandbytes.autograd._functions": r"MatMul8bitLt: inputs will be cast",
    "bitsandbytes.backends.cpu.ops": r"Failed to load CPU gemm_4bit_forward",
    "transformers.quantizers.quantizer_gguf": r"Dequantizing the whole model",
    "torchao": r"Failed to load \S+\.so:",
    "torch.utils._pytree": r"<enum '\w+'> is an Enum subclass and is now natively supported",
}


class _DropKnown(logging.Filter):
    def __init__(self, pattern: str) -> None:
        super().__init__()
        self.pattern = re.compile(pattern)

    def filter(self, record: logging.LogRecord) -> bool:
        return self.pattern.match(record.getMessage()) is None


def drop_known_chatter() -> None:
    """Filter the known messages from their loggers for the rest of the process; idempotent."""
    for name, pattern in _KNOWN.items():
        logger = logging.getLogger(name)
        if not any(isinstance(known, _DropKnown) for known in logger.filters):
            logger.addFilter(_DropKnown(pattern))


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
