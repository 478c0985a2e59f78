"""The mirror of a sweep in MLflow: the only package that imports mlflow."""

from rsas.tracking.client import connect, delete_run
from rsas.tracking.database import damage, set_aside
from rsas.tracking.models import register
from rsas.tracking.reading import read_history, read_mirror, read_models, read_runs, read_sweep
from rsas.tracking.tracker import Tracker
from rsas.tracking.writer import Progress, Say, Source

__all__ = [
    "Progress",
    "Say",
    "Source",
    "Tracker",
    "connect",
    "damage",
    "delete_run",
    "read_history",
    "read_mirror",
    "read_models",
    "read_runs",
    "read_sweep",
    "register",
    "set_aside",
]
