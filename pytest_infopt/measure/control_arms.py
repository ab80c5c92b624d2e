"""Control arms: passes of a plain implementation that round otherwise.

Where a model makes discrete choices (experts of a router), rounding decides near-ties. A plain
implementation shows at a few positions of a prompt what that costs, and any other, as sound, at
others: what the one errs by at a position says little of the next.

So the plain implementation passes the prompt several times, each time with every output of its
modules off by one rounding unit. The usual row then errs about twice as much as the dtype makes it,
and so as far as it may. A choice that this turns over is a near-tie.

Legend: T positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from ..engines.base import Capability, Engine, ModuleEngine, WholeLogitsEngine, able
from .dtype_error import OUTPUT_FACTOR, DtypeError, host_logits, logit_error, rms, row_rms
from .greedy import Mismatches, greedy_mismatches
from .inner_shapes import shapes_follow_tokens
from .module_calls import rounded_once_more
from .row_errors import least_factor

# Of 480 sound passes by two models with routers, one came to a token that none of 16 arms excuses.
_ARMS = 24


def control_arms(engine: Engine, token_ids: Sequence[int]) -> list[torch.Tensor]:
    """Logits [T, V] of passes that round otherwise, each in another way.

    No passes where the engine's modules are not at hand, or nothing says that its model makes
    discrete choices: shapes inside it do not follow the tokens.
    """
    if not {Capability.MODULES, Capability.FULL_LOGITS} <= engine.capabilities:
        return []
    whole, model = able(engine, WholeLogitsEngine), able(engine, ModuleEngine).module
    if not shapes_follow_tokens(whole, token_ids):
        return []
    arms = []
    for seed in range(_ARMS):
        with rounded_once_more(model, seed):
            arms.append(host_logits(whole.full_logits(token_ids)))
    return arms


@dataclass(frozen=True)
class OracleComparison:
    """How far logits are from the oracle's: ``ratio`` in units of the dtype error, 0 where that is
    not known; ``note`` says whether control arms were asked."""

    ratio: float
    mismatches: Mismatches
    note: str = ""

    @property
    def is_rounding(self) -> bool:
        """Whether it is no more than the dtype explains."""
        return self.ratio <= OUTPUT_FACTOR and not self.mismatches.illegal


def compare_with_oracle(
    logits: torch.Tensor,
    oracle: torch.Tensor,
    dtype_error: DtypeError,
    dtype: torch.dtype,
    arms: Callable[[], Sequence[torch.Tensor]] = list,
) -> OracleComparison:
    """Compare logits [T, V] with the oracle's, by what a plain implementation of ``dtype`` errs by.

    Where that does not explain them, ``arms`` gives `control_arms`, and what these err by takes its
    place: their largest error at each position for tokens, and the worst arm's for all positions
    together. The usual row then is held to the arms' by `least_factor`: so a near-tie explains what
    a few rows err by, and not what all do.
    """
    first = _compared(logits, oracle, dtype_error, dtype)
    if first.is_rounding or not (known := [logit_error(arm, oracle) for arm in arms()]):
        return first
    granted = _granted(known, dtype_error)
    found = _compared(logits, oracle, granted, dtype)
    rows = row_rms(logit_error(logits, oracle))
    of_arms = torch.cat([row_rms(error) for error in known]) + dtype_error.floor
    factor = min(least_factor(rows, each) for each in (dtype_error.usual, of_arms / OUTPUT_FACTOR))
    note = (
        "passes of the reference's weights that round otherwise err by up to "
        f"{max(map(rms, known)) / dtype_error.overall:.3g} times as much as the dtype makes one, "
        "since near-ties inside the model are decided otherwise; the candidate is held to them"
    )
    return replace(found, ratio=max(found.ratio, factor), note=note)


def _compared(
    logits: torch.Tensor, oracle: torch.Tensor, dtype_error: DtypeError, dtype: torch.dtype
) -> OracleComparison:
    mismatches = greedy_mismatches(logits, oracle, dtype_error, dtype)
    if not dtype_error.usable:
        return OracleComparison(0.0, mismatches)
    return OracleComparison(rms(logit_error(logits, oracle)) / dtype_error.overall, mismatches)


def _granted(errors: Sequence[torch.Tensor], dtype_error: DtypeError) -> DtypeError:
    """What the dtype costs by the plain pass and all arms, whose errors [T, V] count by half: they
    are about twice as large as the dtype's."""
    rows = [dtype_error.errors, *(row_rms(error) / OUTPUT_FACTOR for error in errors)]
    extremes = [dtype_error.extremes]
    extremes += [error.abs().amax(-1) / OUTPUT_FACTOR for error in errors]
    return replace(dtype_error, errors=max(rows, key=rms), extremes=torch.stack(extremes).amax(0))
