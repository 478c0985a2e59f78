"""Where MLflow is, and what is found there by tag."""

from __future__ import annotations

import contextlib
import logging
import os
import uuid
from typing import TYPE_CHECKING

from rsas.errors import InputError, first_line, reason_of
from rsas.tracking.database import follow_replaced_files
from rsas.uris import sqlite_file, sqlite_uri

# Read by mlflow when it is used: an unreachable server is noticed in seconds, not minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
# Or a server, or a proxy before it, could ask for a pause of a day ("Retry-After").
os.environ.setdefault("MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER", "false")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # of single small files
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # of each run that ends

if TYPE_CHECKING:  # seconds to import
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

__all__ = ["connect", "delete_run", "experiment_id", "search_runs"]


def connect(uri: str) -> MlflowClient:
    """A client of the tracking server, or of the SQLite file, once it has answered.

    Raises:
        InputError: it does not answer.
    """
    from mlflow.tracking import MlflowClient

    # Errors come as exceptions, too, and are told in a line; MLflow would log them with tracebacks.
    for name in ("mlflow", "alembic"):  # after the import, which sets levels of its own
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if sqlite_file(uri) is not None:
        follow_replaced_files()
    try:
        _make_database(uri)
        client = MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)
    except Exception as error:
        # Of MLflow's sentence the innermost cause, such as a refused connection.
        reason = reason_of(error).rpartition(" failed with exception ")[2]
        reason = reason.rpartition("(Caused by ")[2].removesuffix(")")
        raise InputError(
            f"tracking server {uri!r} does not answer ({reason[:200]}); start it, or unset "
            "MLFLOW_TRACKING_URI to use a file in the workspace"
        ) from None
    return client


def experiment_id(client: MlflowClient, name: str, artifacts: str | None) -> str:
    """The experiment of this name, made or restored where it is not there.

    Raises:
        InputError: the server refuses it.
    """
    from mlflow.exceptions import MlflowException

    try:
        found = client.get_experiment_by_name(name)
        if found is None:
            return str(client.create_experiment(name, artifact_location=artifacts))
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)
    except MlflowException as error:
        raise InputError(f"MLflow experiment {name!r}: {first_line(error)}") from None


def search_runs(client: MlflowClient, condition: str) -> list[Run]:
    """The runs of all experiments that a condition holds for, oldest first."""
    experiments: list[str] = []
    token: str | None = None
    while True:
        found = client.search_experiments(page_token=token)
        experiments += [each.experiment_id for each in found]
        token = found.token
        if not token:
            break
    runs: list[Run] = []
    token = None
    while True:
        page = client.search_runs(
            experiments, condition, order_by=["attributes.start_time"], page_token=token
        )
        runs += page
        token = page.token
        if not token:
            return runs


def delete_run(uri: str, run_id: str) -> None:
    """Mark a run as deleted; MLflow can restore it."""
    connect(uri).delete_run(run_id)


def _make_database(uri: str) -> None:
    """Make a new SQLite file aside, so that a kill in between does not leave half its tables."""
    from mlflow.tracking import MlflowClient

    path = sqlite_file(uri)
    if path is None or path.exists():
        return
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        MlflowClient(tracking_uri=sqlite_uri(partial)).search_experiments(max_results=1)
        with contextlib.suppress(FileExistsError):  # another sweep was sooner
            os.link(partial, path)
    finally:
        partial.unlink(missing_ok=True)
