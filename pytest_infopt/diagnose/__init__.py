"""Where a candidate that failed parts from its reference: module, step, layers."""
