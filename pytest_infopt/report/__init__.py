"""The result of a run, and every form in which a person or a machine reads it."""
