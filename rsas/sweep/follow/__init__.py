"""Who follows a sweep while it runs: progress on the terminal, Prometheus, Optuna's dashboard."""
