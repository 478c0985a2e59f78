"""What MLflow has of a sweep."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rsas import columns
from rsas.errors import InputError, first_line
from rsas.records import SWEEP_STATUS, Mirror, MirroredRun, State, TrialRecord
from rsas.tracking.client import connect, search_runs
from rsas.tracking.identity import SWEEP_ID, TRIAL_ID, find, missing_artifacts

if TYPE_CHECKING:  # seconds to import
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

__all__ = ["LoggedSweep", "read_history", "read_mirror", "read_models", "read_runs", "read_sweep"]

_SWEEP_STATES = {status: state for state, status in SWEEP_STATUS.items()}


@dataclass(frozen=True)
class LoggedSweep:
    """A sweep as far as MLflow knows it."""

    state: str  # running, finished, interrupted or failed
    experiment: dict[str, Any]  # as resolved
    trials: list[TrialRecord]
    runs: dict[str, str]  # trial -> run
    models: dict[str, str]  # trial -> URI of its model


def read_sweep(uri: str, name: str) -> LoggedSweep:
    """A sweep from MLflow alone; of several of this name the one begun last.

    Raises:
        InputError: there is none, or the server does not answer.
    """
    client = connect(uri)
    with _answering(uri):
        found = search_runs(client, f"tags.`rsas.sweep` = '{name}' AND tags.`rsas.kind` = 'sweep'")
        if not found:
            raise InputError(f"tracking server {uri!r} has no sweep {name!r}")
        parent = found[-1]
        with tempfile.TemporaryDirectory() as folder:
            place = client.download_artifacts(parent.info.run_id, "experiment.json", folder)
            experiment = json.loads(Path(place).read_text("utf-8"))
        children = find(client, parent.data.tags[SWEEP_ID]).runs
    tags = {trial: run.data.tags for trial, run in children.items()}
    return LoggedSweep(
        state=_SWEEP_STATES.get(parent.info.status, "interrupted"),
        experiment=experiment,
        trials=[_record(run, experiment) for _, run in sorted(children.items())],
        runs={trial: run.info.run_id for trial, run in children.items()},
        models={t: each["rsas.model"] for t, each in tags.items() if "rsas.model" in each},
    )


def read_runs(uri: str, sweep_id: str) -> dict[str, str]:
    """The runs of the trials of a sweep, by trial.

    Raises:
        InputError: the server does not answer.
    """
    client = connect(uri)
    with _answering(uri):
        return {trial: run.info.run_id for trial, run in find(client, sweep_id).runs.items()}


def read_mirror(uri: str, sweep_id: str) -> Mirror:
    """What the tracking server, or the SQLite file, has of a sweep.

    Raises:
        InputError: it does not answer.
    """
    client = connect(uri)
    with _answering(uri):
        return _read_mirror(client, sweep_id)


def read_history(uri: str, run_id: str) -> list[dict[str, float]]:
    """The rows that MLflow has of a trial, from which a lost history is made again."""
    client = connect(uri)
    rows: dict[int, dict[str, float]] = {}
    with _answering(uri):
        for name in client.get_run(run_id).data.metrics:
            if name != "device_seconds":
                for point in client.get_metric_history(run_id, name):
                    rows.setdefault(point.step, {})[name] = point.value
    return [rows[step] for step in sorted(rows)]


def _read_mirror(client: MlflowClient, sweep_id: str) -> Mirror:
    found = find(client, sweep_id)
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
        for trial, run in sorted(found.runs.items())
    ]
    parent = found.parent
    return Mirror(
        parent=parent.info.run_id if parent else "",
        status=parent.info.status if parent else "",
        front=parent.data.tags.get("rsas.front", "") if parent else "",
        points=_steps(client, parent.info.run_id, "hypervolume") if parent else [],
        runs=runs,
        surplus={run.info.run_id: run.data.tags.get(TRIAL_ID, "") for run in found.surplus},
        missing=missing_artifacts(client, parent) if parent else set(),
        strays={run.info.run_id for run in found.strays},
    )


def _steps(client: MlflowClient, run: str, metric: str) -> list[int]:
    """The steps of a metric, in order: MLflow has them by time, and a clock may be set back."""
    return sorted(point.step for point in client.get_metric_history(run, metric))


def read_models(uri: str, runs: Mapping[str, str]) -> dict[str, str]:
    """The URIs of the networks that are logged to runs of trials, by trial.

    Raises:
        InputError: the server does not answer.
    """
    client = connect(uri)
    with _answering(uri):
        tags = {trial: client.get_run(run).data.tags for trial, run in runs.items()}
    return {trial: each["rsas.model"] for trial, each in tags.items() if "rsas.model" in each}


@contextlib.contextmanager
def _answering(uri: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # of mlflow's, and of those it uses
        reason = first_line(error)
        raise InputError(f"tracking server {uri!r} stopped answering ({reason[:200]})") from None


def _record(run: Run, experiment: dict[str, Any]) -> TrialRecord:
    tags, metrics = run.data.tags, run.data.metrics
    names = [each["name"] for each in experiment["objectives"]]
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
    """A parameter from the text that MLflow keeps, by its distribution where that is known."""
    if axis is not None and axis["name"] == "CategoricalDistribution":
        return {str(choice): choice for choice in axis["attributes"]["choices"]}.get(text, text)
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return {"True": True, "False": False, "None": None}.get(text, text)
