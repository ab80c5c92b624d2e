"""What several gates measure with: divergences, dtype errors, greedy tokens, timed requests.

Imports torch: for the process of the models, not for pytest's own.
"""

from .asked_ahead import AskedAhead
from .compact_divergence import compare
from .control_arms import OracleComparison, compare_with_oracle, control_arms
from .divergence import TokenComparison, compare_scores, most_probable
from .dtype_error import (
    OUTPUT_FACTOR,
    DtypeError,
    dtype_error_of,
    dtype_named,
    host_logits,
    logit_error,
    rms,
    row_rms,
    seen_by_softmax,
    two_runs,
)
from .findings import Decode, named_tokens
from .greedy import Mismatches, first_finding, greedy_mismatches, near_tie_gap
from .inner_shapes import shapes_follow_tokens
from .length_effect import Difference, length_effect
from .load_loop import run_load
from .lumped import best_token, lumped_divergence
from .module_calls import nudged, rounded_once_more
from .passes import rows_of_passes
from .repeated_pass import RepeatedPass, calls_of_modules, differing_rows, first_difference
from .resolution import Resolution, resolution_of
from .row_errors import least_factor
from .same_shape import SameShapeComparison
from .self_comparison import Pair, SelfComparison
from .timing import SlowedEngine, measure_pair, time_request, warm_up

__all__ = [
    "OUTPUT_FACTOR",
    "AskedAhead",
    "Decode",
    "Difference",
    "DtypeError",
    "Mismatches",
    "OracleComparison",
    "Pair",
    "RepeatedPass",
    "Resolution",
    "SameShapeComparison",
    "SelfComparison",
    "SlowedEngine",
    "TokenComparison",
    "best_token",
    "calls_of_modules",
    "compare",
    "compare_scores",
    "compare_with_oracle",
    "control_arms",
    "differing_rows",
    "dtype_error_of",
    "dtype_named",
    "first_difference",
    "first_finding",
    "greedy_mismatches",
    "host_logits",
    "least_factor",
    "length_effect",
    "logit_error",
    "lumped_divergence",
    "measure_pair",
    "most_probable",
    "named_tokens",
    "near_tie_gap",
    "nudged",
    "resolution_of",
    "rms",
    "rounded_once_more",
    "row_rms",
    "rows_of_passes",
    "run_load",
    "seen_by_softmax",
    "shapes_follow_tokens",
    "time_request",
    "two_runs",
    "warm_up",
]
