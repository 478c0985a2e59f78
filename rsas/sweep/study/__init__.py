"""The study: all trials of a sweep, stored by Optuna in a journal or in a database."""
