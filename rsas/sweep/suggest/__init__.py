"""Suggest the next configuration: the search space, Optuna's samplers, and halving."""
