"""Views of a running sweep: progress on the terminal, Prometheus, and Optuna's dashboard."""
