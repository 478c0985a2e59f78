"""What MLflow has of a sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rsas.errors import InputError
from rsas.records import Mirror, MirroredRun
from rsas.tracking.client import connect, search_runs

if TYPE_CHECKING:  # seconds to import
    from mlflow.tracking import MlflowClient

__all__ = ["read_history", "read_mirror"]


def read_mirror(uri: str, sweep_id: str) -> Mirror:
    """What the tracking server, or the SQLite file, has of a sweep.

    Raises:
        InputError: it does not answer.
    """
    client = connect(uri)
    try:
        return _read_mirror(client, sweep_id)
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"tracking server {uri!r} stopped answering ({reason[:200]})") from None


def read_history(uri: str, run_id: str) -> list[dict[str, float]]:
    """The rows that MLflow has of a trial, from which a lost history is made again."""
    client = connect(uri)
    rows: dict[int, dict[str, float]] = {}
    for name in client.get_run(run_id).data.metrics:
        if name != "device_seconds":
            for point in client.get_metric_history(run_id, name):
                rows.setdefault(point.step, {})[name] = point.value
    return [rows[step] for step in sorted(rows)]


def _read_mirror(client: MlflowClient, sweep_id: str) -> Mirror:
    parents = search_runs(client, f"tags.`rsas.sweep_id` = '{sweep_id}'")
    if not parents:
        return Mirror([], "", "", [], [])
    parent = parents[0].info.run_id
    runs = [
        MirroredRun(
            run_id=run.info.run_id,
            trial_id=run.data.tags["rsas.trial_id"],
            status=run.info.status,
            state=run.data.tags.get("rsas.state", ""),
            pareto=run.data.tags.get("rsas.pareto", ""),
            params=run.data.params,
            metrics=run.data.metrics,
            epochs=[point.step for point in client.get_metric_history(run.info.run_id, "epoch")],
        )
        for each in parents
        for run in search_runs(client, f"tags.`mlflow.parentRunId` = '{each.info.run_id}'")
        if "rsas.trial_id" in run.data.tags
    ]
    return Mirror(
        parents=[run.info.run_id for run in parents],
        status=parents[0].info.status,
        front=parents[0].data.tags.get("rsas.front", ""),
        points=[point.step for point in client.get_metric_history(parent, "hypervolume")],
        runs=runs,
    )
