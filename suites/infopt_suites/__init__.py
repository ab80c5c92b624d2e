"""Conformance suites for inference components, and the release gates of ``pytest --infopt``."""
