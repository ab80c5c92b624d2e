"""Clear reference implementations of inference optimisations. No pytest in here."""
