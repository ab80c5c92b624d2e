"""What ``pytest --infopt`` collects: one module a gate."""
