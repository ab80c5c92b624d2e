"""Equivalence along one axis of serving: one model, the same prompts, and one thing done otherwise.

`assertion.assert_equivalent` is the public function; `sides` says what can be compared, `ways` how
each axis asks, `differences` what counts as a difference. Imports torch where it is used.
"""
