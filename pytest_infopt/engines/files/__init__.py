"""Where a model's files lie, and what can be known of them before it is loaded."""
