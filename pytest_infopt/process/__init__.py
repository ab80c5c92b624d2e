"""The process that holds the models, and how pytest's own process speaks to it."""
