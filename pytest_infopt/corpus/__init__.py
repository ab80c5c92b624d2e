"""The documents on which models are compared."""
