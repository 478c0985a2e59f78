"""The study: all trials of a sweep, kept by Optuna in a journal or in a database."""
