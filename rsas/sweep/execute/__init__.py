"""Execution of trials: the dispatcher (no Ray), Tune, the workers, the cluster and the doctor."""
