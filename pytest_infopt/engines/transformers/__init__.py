"""Causal language models of transformers, in process. Importing this package imports no torch."""
