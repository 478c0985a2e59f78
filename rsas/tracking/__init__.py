"""MLflow as a mirror of a sweep: the only package that imports mlflow."""

from rsas.records import MirroredRun
from rsas.tracking.client import connect, delete_run
from rsas.tracking.reading import read_history, read_mirror
from rsas.tracking.tracker import Say, Tracker

__all__ = ["MirroredRun", "Say", "Tracker", "connect", "delete_run", "read_history", "read_mirror"]
