"""Budgets and verdicts: samples in, PASS, FAIL or INCONCLUSIVE out. Nothing is measured here."""
