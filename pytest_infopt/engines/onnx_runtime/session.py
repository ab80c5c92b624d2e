"""An ONNX file in a session of ONNX Runtime, and the sequences that are computed in it.

Shapes: B rows, W columns of a pass, P columns that are held, V vocabulary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from ..contexts.context import Column
from .tensors import IDS, LOGITS, MASK, POSITIONS, DecoderTensors

_ERRORS_ALONE = 3  # of ONNX Runtime's log


class OnnxModel:
    """The file at ``path``, computed by ``providers`` with ``threads`` threads.

    Raises ModelLoadError for a model that is no decoder, and what ONNX Runtime raises.
    """

    def __init__(self, path: Path, nbytes: int, threads: int, providers: Sequence[str]) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = _ERRORS_ALONE
        # Threads that wait for the next pass awake take the cores that the reference is timed on.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(str(path), options, providers=[*providers])
        self.tensors = DecoderTensors.of(self._session.get_inputs(), self._session.get_outputs())
        self.nbytes = nbytes
        # A pass: what cannot be computed here shows now, and how wide its logits are.
        self.vocabulary = int(self.context(1).compute([Column(0, 0)]).shape[-1])

    def context(self, tokens: int, sequences: int = 1) -> OnnxContext:
        """Sequences without tokens; ONNX Runtime takes room as they grow."""
        return OnnxContext(self._session, self.tensors, sequences)

    def close(self) -> None:
        """Give the weights back."""
        self._session = None


class OnnxContext:
    """Rows of one padded batch, with its keys and values, or without: then every pass computes all
    tokens anew."""

    def __init__(self, session: Any, tensors: DecoderTensors, rows: int) -> None:
        self._session = session
        self._tensors = tensors
        self._rows = rows
        self.clear()

    @property
    def kept(self) -> dict[str, torch.Tensor]:
        """Keys and values of all columns, by the names of the file's inputs."""
        return {name: torch.from_numpy(value.numpy()) for name, value in self._past.items()}

    def compute(self, columns: Sequence[Column]) -> torch.Tensor:
        """The logits [R, V] of the wanted among ``columns``; a pass is padded on the left."""
        counts = Counter(column.sequence for column in columns)
        width = max(counts.values())
        ids, positions, mask = np.zeros((3, self._rows, width), np.int64)
        free = {row: width - count for row, count in counts.items()}
        wanted = []
        for column in columns:
            place = (column.sequence, free[column.sequence])
            free[column.sequence] += 1
            ids[place], positions[place], mask[place] = column.token, column.position, 1
            if column.wanted:
                wanted.append(place)
        self._append(ids, positions, mask)
        logits = self._pass(width)[:, -width:]
        rows, places = np.array(wanted, int).reshape(-1, 2).T
        return torch.from_numpy(logits[rows, places])

    def take_back(self, sequence: int, start: int) -> bool:
        """Leave a sequence's tokens from ``start`` on out of the mask, and drop the columns behind
        the last that any sequence holds."""
        row = self._mask[sequence]
        row[np.flatnonzero(row)[start:]] = 0
        self._crop(int(np.flatnonzero(self._mask.any(0)).max(initial=-1)) + 1)
        return True

    def clear(self) -> None:
        """Forget all sequences."""
        # [B, P] each; of ids and positions, a cache makes those of earlier passes superfluous.
        self._ids, self._positions, self._mask = np.zeros((3, self._rows, 0), np.int64)
        self._past = {each.name: _value(each.empty(self._rows)) for each in self._tensors.past}

    def close(self) -> None:
        """Give the keys and values back."""
        self._past = {}

    def _append(self, *parts: Any) -> None:
        held = (self._ids, self._positions, self._mask)
        self._ids, self._positions, self._mask = (
            np.concatenate(both, axis=1) for both in zip(held, parts, strict=True)
        )

    def _pass(self, width: int) -> Any:
        past = self._tensors.past
        fresh = slice(-width, None) if past else slice(None)
        # A row that has not begun attends to its padding: nothing at all would be 0 / 0.
        mask = np.where(self._mask.any(1, keepdims=True), self._mask, 1)
        given = {IDS: self._ids[:, fresh], POSITIONS: self._positions[:, fresh], MASK: mask}
        feeds = {
            name: _value(np.ascontiguousarray(given[name], dtype))
            for name, dtype in self._tensors.integers.items()
        }
        names = [LOGITS, *(each.present for each in past)]
        logits, *present = self._session.run_with_ort_values(names, feeds | self._past)
        self._past = {each.name: value for each, value in zip(past, present, strict=True)}
        return logits.numpy()

    def _crop(self, columns: int) -> None:
        if columns == self._mask.shape[1]:
            return
        self._ids, self._positions, self._mask = (
            held[:, :columns] for held in (self._ids, self._positions, self._mask)
        )
        for each in self._tensors.past:
            kept = self._past[each.name].numpy().take(range(columns), each.axis)
            self._past[each.name] = _value(kept)


def _value(array: np.ndarray[Any, Any]) -> Any:
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)
