"""Conformance suites under pytest: which classes are collected, and what their items decide."""

__all__ = ["NOTHING_TO_TRY", "NOT_OFFERED", "UNUSABLE"]

NOT_OFFERED = "not offered"  # how the reason begins for a property whose capability nobody claims
NOTHING_TO_TRY = "nothing to try"  # and for one that found no case among those declared
UNUSABLE = "not tried"  # and for one of an implementation that did not pass its precheck
