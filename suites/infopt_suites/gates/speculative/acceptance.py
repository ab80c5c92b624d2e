"""The share of drafted tokens that were accepted, of counts that can belong to one decoding."""

from pytest_infopt.errors import InvalidComparisonError


def acceptance_of(
    drafted: int, accepted: int, decoder: str, *, is_wrong: bool = False
) -> float | None:
    """The accepted share; None where nothing was drafted.

    Raises InvalidComparisonError for counts that contradict each other. Where the tokens
    themselves are wrong (``is_wrong``), they may: that is counted as mismatches, and no acceptance
    is known.
    """
    if not 0 <= accepted <= drafted:
        if is_wrong:
            return None
        raise InvalidComparisonError(
            f"{decoder} counts {accepted} accepted tokens of {drafted} drafted, where 0 to "
            f"{max(drafted, 0)} can be: passes or drafts were counted twice or not at all, or "
            "other requests came between; mend the counts, or gate it without a draft"
        )
    return accepted / drafted if drafted else None
