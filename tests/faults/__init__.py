"""Planted faults of every kind that the gates must see.

`kinds.KINDS` has them by name; `kinds.draw` draws a member of a kind by a seed. A drawn `Fault`
plants itself into a loaded transformers model and takes itself back, bit for bit.
"""
