"""What to try next: the search space, Optuna's samplers, and halving."""
