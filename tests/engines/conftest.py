"""Tiny saved checkpoints for the engine tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_models import CONFIGS, make_model, make_tokenizer


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A saved float32 checkpoint for every architecture. Tests that damage one copy it first."""
    root = tmp_path_factory.mktemp("checkpoints")
    for architecture in CONFIGS:
        make_model(architecture).save_pretrained(root / architecture)
        make_tokenizer().save_pretrained(root / architecture)
    return {architecture: root / architecture for architecture in CONFIGS}
