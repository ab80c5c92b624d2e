"""The gates that judge a candidate without limits of its own, where nothing is timed."""

GATES = ["equivalence", "quality", "modules", "kv-cache", "prefix-cache", "memory", "stability"]
