"""Conformance suites under pytest: which classes are collected, and what their items decide."""

NOT_OFFERED = "not offered"  # how the reason begins for a property whose capability nobody claims
