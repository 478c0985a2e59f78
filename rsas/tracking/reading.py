"""Read a sweep, or parts of one, from MLflow."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rsas import columns
from rsas.analysis.trials import Sweep
from rsas.errors import InputError, first_line
from rsas.records import SWEEP_STATUS, Mirror, MirroredRun, Objective, State, TrialRecord
from rsas.tracking.client import connect, search_runs
from rsas.tracking.identity import SWEEP_ID, TRIAL_ID, SweepRuns, find, missing_artifacts

if TYPE_CHECKING:  # seconds to import
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

__all__ = ["read_history", "read_mirror", "read_models", "read_runs", "read_sweep"]

_SWEEP_STATES = {status: state for state, status in SWEEP_STATUS.items()}


def read_sweep(uri: str, name: str) -> Sweep:
    """Return a sweep, read from MLflow alone; among several of this name, the newest.

    Raises:
        InputError: the server has no such sweep, or does not answer.
    """
    client = connect(uri)
    with _answering(uri):
        condition = f"tags.`rsas.sweep` = '{name}' AND tags.`rsas.kind` = 'sweep'"
        parents = search_runs(client, condition)
        if not parents:
            raise InputError(f"tracking server {uri!r} has no sweep {name!r}")
        parent = parents[-1]
        with tempfile.TemporaryDirectory() as folder:
            path = client.download_artifacts(parent.info.run_id, "experiment.json", folder)
            experiment = json.loads(Path(path).read_text("utf-8"))
        children = find(client, parent.data.tags[SWEEP_ID]).runs
    tags = {trial: run.data.tags for trial, run in children.items()}
    runs = {trial: run.info.run_id for trial, run in children.items()}
    return Sweep(
        name=name,
        state=_SWEEP_STATES.get(parent.info.status, "interrupted"),
        experiment=experiment,
        objectives=tuple(Objective(**fields) for fields in experiment["objectives"]),
        trials=[_record(run, experiment) for _, run in sorted(children.items())],
        history=lambda trial: read_history(uri, runs[trial.trial_id]),
        runs=runs,
        models=_models(tags),
        tracking_uri=uri,
    )


def read_runs(uri: str, sweep_id: str) -> dict[str, str]:
    """Return the ids of the runs of a sweep's trials, by trial.

    Raises:
        InputError: the server does not answer.
    """
    client = connect(uri)
    with _answering(uri):
        return {trial: run.info.run_id for trial, run in find(client, sweep_id).runs.items()}


def read_mirror(uri: str, sweep_id: str) -> Mirror:
    """Return the mirror of a sweep on the tracking server or in the SQLite file.

    Raises:
        InputError: the server does not answer.
    """
    client = connect(uri)
    with _answering(uri):
        return _mirror(client, find(client, sweep_id))


def read_history(uri: str, run_id: str) -> list[dict[str, float]]:
    """Return the rows that MLflow has of a trial; a lost history can be restored from them.

    Raises:
        InputError: the server does not answer.
    """
    client = connect(uri)
    rows: dict[int, dict[str, float]] = {}
    with _answering(uri):
        for name in client.get_run(run_id).data.metrics:
            if name != "device_seconds":
                for point in client.get_metric_history(run_id, name):
                    rows.setdefault(point.step, {})[name] = point.value
    return [rows[step] for step in sorted(rows)]


def _mirror(client: MlflowClient, sweep_runs: SweepRuns) -> Mirror:
    runs = [
        MirroredRun(
            run_id=run.info.run_id,
            trial_id=trial,
            status=run.info.status,
            state=run.data.tags.get("rsas.state", ""),
            pareto=run.data.tags.get("rsas.pareto", ""),
            params=run.data.params,
            metrics=run.data.metrics,
            epochs=_steps(client, run.info.run_id, "epoch"),
        )
        for trial, run in sorted(sweep_runs.runs.items())
    ]
    parent = sweep_runs.parent
    return Mirror(
        parent=parent.info.run_id if parent else "",
        status=parent.info.status if parent else "",
        front=parent.data.tags.get("rsas.front", "") if parent else "",
        points=_steps(client, parent.info.run_id, "hypervolume") if parent else [],
        runs=runs,
        surplus={run.info.run_id: run.data.tags.get(TRIAL_ID, "") for run in sweep_runs.surplus},
        missing=missing_artifacts(client, parent) if parent else set(),
        strays={run.info.run_id for run in sweep_runs.strays},
    )


def _steps(client: MlflowClient, run: str, metric: str) -> list[int]:
    """Return the steps of a metric, in order.

    MLflow sorts them by time, and a clock may be set back.
    """
    return sorted(point.step for point in client.get_metric_history(run, metric))


def read_models(uri: str, runs: Mapping[str, str]) -> dict[str, str]:
    """Return the URIs of the networks that are logged to runs of trials, by trial.

    Raises:
        InputError: the server does not answer.
    """
    client = connect(uri)
    with _answering(uri):
        tags = {trial: client.get_run(run).data.tags for trial, run in runs.items()}
    return _models(tags)


def _models(tags: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Return the URI of each trial's network from the tags of the trials' runs."""
    return {trial: own["rsas.model"] for trial, own in tags.items() if "rsas.model" in own}


@contextlib.contextmanager
def _answering(uri: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # by mlflow or a library below it
        reason = first_line(error)
        raise InputError(f"tracking server {uri!r} stopped answering ({reason[:200]})") from None


def _record(run: Run, experiment: dict[str, Any]) -> TrialRecord:
    tags, metrics = run.data.tags, run.data.metrics
    names = [objective["name"] for objective in experiment["objectives"]]
    state: State = cast(State, tags.get("rsas.state", "running"))
    axes = experiment.get("axes", {})
    by_seed = columns.by_seed(metrics, names)
    is_complete = state == "complete"
    return TrialRecord(
        trial_id=tags[TRIAL_ID],
        state=state,
        params={name: _value(text, axes.get(name)) for name, text in run.data.params.items()},
        objectives={name: metrics[name] for name in names} if is_complete else {},
        started=run.info.start_time / 1000,
        finished=run.info.end_time / 1000 if state != "running" and run.info.end_time else None,
        reason=tags.get("rsas.reason", ""),
        same_as=tags.get("rsas.same_as", ""),
        epochs=metrics.get("epoch", 0.0) if state in ("complete", "pruned") else 0.0,
        device_seconds=metrics.get("device_seconds", 0.0),
        by_seed=by_seed if is_complete else {},
    )


def _value(text: str, axis: dict[str, Any] | None) -> Any:
    """Return a parameter from the text in MLflow, by its distribution if that is known."""
    if axis is not None and axis["name"] == "CategoricalDistribution":
        return {str(choice): choice for choice in axis["attributes"]["choices"]}.get(text, text)
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return {"True": True, "False": False, "None": None}.get(text, text)
