"""Loaded models that can be scored and timed, and the ways to load them."""
