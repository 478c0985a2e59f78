"""The search: Ray Tune runs the trials, Optuna suggests them and keeps the book."""
