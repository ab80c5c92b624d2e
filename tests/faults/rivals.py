"""What firefly-ml and pytest-torch say of the same planted candidates.

Each is used as its documentation says, by its functions, on the models that the gates judge, and is
granted what it says of the clean candidate of the format: a fault is caught where a check fails
that the clean candidate passes. `make see` installs both beside the environment, since pytest-torch
would be a plugin of every run of pytest.

- firefly-ml 0.6: `run_capture` and `diff_captures` of attention, MLP and layer outputs, with the
  jitter floor of its action's example, and tolerances by its `derive_tolerances` from the clean
  candidate at its default safety factor.
- pytest-torch 1.1: `localize_divergence` at its own tolerances (rows that the clean candidate
  exceeds are left out), `check_inference_contract`, `assert_padding_invariant` and
  `assert_generation_equal` against the clean candidate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import torch

from .fault import Fault

FIREFLY, PYTEST_TORCH = "firefly-ml", "pytest-torch"
_MODULES = {FIREFLY: "firefly.capture", PYTEST_TORCH: "pytest_torch"}
_JITTER, _SAFETY = 0.001, 6.0  # firefly-ml's action's example, and its default
_NEW = 8  # generated tokens
INSTALL = "pip install --no-deps --target .venv/rivals firefly-ml==0.6.0 pytest-torch==1.1.1"


def missing() -> list[str]:
    """Those that cannot be imported."""
    found = []
    for name, module in _MODULES.items():
        try:
            import_module(module)
        except ImportError:
            found.append(name)
    return found


class Rivals:
    """Both tools for one clean candidate and its reference, whose outputs they keep."""

    def __init__(self, reference: Any, candidate: Any) -> None:
        self._reference, self._candidate = reference, candidate
        vocabulary = int(reference.config.get_text_config(decoder=True).vocab_size)
        ids = 3 + torch.arange(3 * 32).reshape(3, 32) * 7919 % (vocabulary - 3)
        mask = torch.ones_like(ids)
        mask[1, 24:] = 0  # padded on the right, as both pad
        self._inputs = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
        self._clean_taps = self._taps(candidate)
        self._clean_checks = set(self._checks())
        self._clean_layers = {layer.name for layer in self._layers()}
        self._clean_tokens = self._tokens()

    def verdicts(self, fault: Fault) -> dict[str, dict[str, Any]]:
        """By tool: whether it caught what is planted now, the place that it named, whether that is
        right; what it says of the clean candidate is ``accuses_clean``."""
        firefly = self._named_by_firefly()
        checks = [check for check in self._checks() if check not in self._clean_checks]
        layers = [x.name for x in self._layers() if x.name not in self._clean_layers]
        if not torch.equal(self._tokens(), self._clean_tokens):
            checks.append("generation")
        return {
            FIREFLY: _verdict(fault, firefly, []),
            PYTEST_TORCH: _verdict(fault, layers[0] if layers else "", checks),
        }

    @property
    def accuses_clean(self) -> dict[str, bool]:
        """Whether a tool, used as it is and without knowing the clean candidate, fails it."""
        return {
            FIREFLY: bool(self._first_beyond(self._clean_taps, {})),
            PYTEST_TORCH: bool(self._clean_layers or self._clean_checks),
        }

    # firefly-ml

    def _taps(self, model: Any) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = import_module("firefly.capture").run_capture(
            model, self._inputs
        )
        return found

    def _named_by_firefly(self) -> str:
        derive = import_module("firefly.calibrate").derive_tolerances
        clean = {name: [tensor] for name, tensor in self._clean_taps.items()}
        granted = derive(self._taps(self._reference), clean, _SAFETY, 1)
        return self._first_beyond(self._taps(self._candidate), granted)

    def _first_beyond(self, taps: dict[str, torch.Tensor], granted: dict[str, Any]) -> str:
        """The module of the first tap beyond its tolerance."""
        points = import_module("firefly.tap_points").select_tap_points(self._reference)
        paths = {point.name: point.module_path for point in points}
        found = import_module("firefly.compare").diff_captures(
            self._taps(self._reference), taps, list(paths), granted, _JITTER
        )
        return next((paths[tap.tap_name] for tap in found if tap.exceeds_tolerance), "")

    # pytest-torch

    def _layers(self) -> list[Any]:
        localize = import_module("pytest_torch").localize_divergence
        found: list[Any] = localize(self._reference, self._candidate, self._inputs).diverged
        return found

    def _checks(self) -> Iterator[str]:
        """Checks of the candidate alone that fail."""
        torch_tests = import_module("pytest_torch")
        whole = {**self._inputs, "attention_mask": torch.ones_like(self._inputs["input_ids"])}
        for side in ("right", "left"):
            if _fails(torch_tests.assert_padding_invariant, self._candidate, whole, side=side):
                yield f"padding on the {side}"
        report = torch_tests.check_inference_contract(
            self._candidate, whole, raise_on_failure=False
        )
        yield from (check.name for check in report.failures)

    def _tokens(self) -> torch.Tensor:
        """What `assert_generation_equal` compares: greedy tokens."""
        ids = self._inputs["input_ids"][:1]
        tokens: torch.Tensor = self._candidate.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=_NEW, do_sample=False
        )
        return tokens


def _fails(check: Callable[..., None], *args: Any, **kwargs: Any) -> bool:
    try:
        check(*args, **kwargs)
    except AssertionError:
        return True
    return False


def _verdict(fault: Fault, named: str, checks: list[str]) -> dict[str, Any]:
    right = bool(named) and (
        fault.is_named_by(named) or any(m.startswith(f"{named}.") for m in fault.modules)
    )
    return {
        "caught": bool(named or checks),
        "named": named,
        "right": right if fault.modules else None,
    }
