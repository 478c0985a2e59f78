"""The connection to MLflow, its experiments, and the search for runs by tag."""

from __future__ import annotations

import contextlib
import logging
import os
import uuid
from typing import TYPE_CHECKING

from rsas.errors import InputError, first_line, reason_of
from rsas.tracking.database import follow_replaced_files
from rsas.uris import sqlite_file, sqlite_uri

# With these limits an unreachable server is noticed in seconds, not minutes. MLflow reads the
# variables at each use, not at its import.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
# A server or a proxy could otherwise ask for a pause of a day ("Retry-After").
os.environ.setdefault("MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER", "false")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # the files are small
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # a line per ended run

if TYPE_CHECKING:  # seconds to import
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

__all__ = ["connect", "delete_run", "experiment_id", "search_runs"]


def connect(uri: str) -> MlflowClient:
    """Return a client of the tracking server, or of the SQLite file, once it has answered.

    Raises:
        InputError: the server does not answer.
    """
    from mlflow.tracking import MlflowClient

    # MLflow also raises its errors, and rsas prints one line of each. MLflow would log tracebacks.
    for name in ("mlflow", "alembic"):  # after the import, which sets its own levels
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if sqlite_file(uri) is not None:
        follow_replaced_files()
    try:
        _make_database(uri)
        client = MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)
    except Exception as error:
        # The end of MLflow's sentence is the innermost cause, such as a refused connection.
        reason = reason_of(error).rpartition(" failed with exception ")[2]
        reason = reason.rpartition("(Caused by ")[2].removesuffix(")")
        raise InputError(
            f"tracking server {uri!r} does not answer ({reason[:200]}); start it, or unset "
            "MLFLOW_TRACKING_URI to use a file in the workspace"
        ) from None
    return client


def experiment_id(client: MlflowClient, name: str, artifacts: str | None) -> str:
    """Return the id of the experiment of this name.

    A missing experiment is created; a deleted one is restored.

    Raises:
        InputError: the server refuses the experiment.
    """
    from mlflow.exceptions import MlflowException

    try:
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            return str(client.create_experiment(name, artifact_location=artifacts))
        if experiment.lifecycle_stage == "deleted":
            client.restore_experiment(experiment.experiment_id)
        return str(experiment.experiment_id)
    except MlflowException as error:
        raise InputError(f"MLflow experiment {name!r}: {first_line(error)}") from None


def search_runs(client: MlflowClient, condition: str) -> list[Run]:
    """Return the runs of all experiments that meet a condition, oldest first."""
    experiments: list[str] = []
    token: str | None = None
    while True:
        experiments_page = client.search_experiments(page_token=token)
        experiments += [experiment.experiment_id for experiment in experiments_page]
        token = experiments_page.token
        if not token:
            break
    runs: list[Run] = []
    token = None
    while True:
        runs_page = client.search_runs(
            experiments, condition, order_by=["attributes.start_time"], page_token=token
        )
        runs += runs_page
        token = runs_page.token
        if not token:
            return runs


def delete_run(uri: str, run_id: str) -> None:
    """Mark a run as deleted; MLflow can restore it."""
    connect(uri).delete_run(run_id)


def _make_database(uri: str) -> None:
    """Create a missing SQLite file under another name, then link it into place.

    So a process that is killed in between leaves no database with half of its tables.
    """
    from mlflow.tracking import MlflowClient

    path = sqlite_file(uri)
    if path is None or path.exists():
        return
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        MlflowClient(tracking_uri=sqlite_uri(partial)).search_experiments(max_results=1)
        with contextlib.suppress(FileExistsError):  # another sweep was faster
            os.link(partial, path)
    finally:
        partial.unlink(missing_ok=True)
