"""MLflow as a mirror of a sweep: one parent run, a child run a trial, the front on the parent.

What is logged comes from the book and the trials' histories, so ``Tracker.sync`` can make up
for anything that MLflow missed. Live logging happens on a thread of its own and never holds up
the sweep.
"""

from __future__ import annotations

import contextlib
import getpass
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

# Read by mlflow when it is used: an unreachable server is noticed in seconds, not minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")

from mlflow.entities import Metric, Param, Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from rsas.analysis.pareto import front, hypervolume, trials_frame
from rsas.analysis.plots import front_figure, to_html
from rsas.errors import InputError
from rsas.records import Objective, State, TrialRecord

__all__ = ["Tracker", "connect"]

_STATUS: dict[State, str] = {
    "running": "RUNNING",
    "complete": "FINISHED",
    "pruned": "KILLED",
    "failed": "FAILED",
}
# Limits of MLflow's log_batch.
_PARAMS_A_BATCH = 100
_METRICS_A_BATCH = 1000


@dataclass
class _Mirrored:
    """What MLflow has of a trial."""

    run_id: str
    status: str = "RUNNING"
    params: int = 0  # how many are logged
    epoch: float = 0.0  # last one logged
    member: bool | None = None  # of the front, as tagged


def connect(uri: str) -> MlflowClient:
    """A client of the tracking server, or of the SQLite file, once it has answered.

    Raises:
        InputError: it does not answer.
    """
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        client = MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0].partition(" failed with ")[0]
        raise InputError(
            f"tracking server {uri!r} does not answer ({reason[:200]}); start it, or unset "
            "MLFLOW_TRACKING_URI to use a file in the workspace"
        ) from None
    return client


class Tracker:
    """Mirrors one sweep, on a thread of its own that connects first and then catches up.

    Args:
        uri: of the tracking server or the SQLite file.
        trials: all trials the book holds so far, with their histories.
        sweep: name of the sweep, the tag ``rsas.sweep`` of its runs.
        sweep_id: identity of the sweep, by which its parent run is found on a server that has
            sweeps of the same name from other workspaces.
        experiment: name of the MLflow experiment.
        artifacts: where a new MLflow experiment keeps its artifacts; None is the server's choice.
        objectives: of the sweep.
        record: the resolved experiment, logged to the parent run.
    """

    def __init__(
        self,
        uri: str,
        trials: Sequence[TrialRecord],
        *,
        sweep: str,
        sweep_id: str,
        experiment: str,
        artifacts: str | None,
        objectives: Sequence[Objective],
        record: dict[str, Any],
    ) -> None:
        self._uri = uri
        self._sweep = sweep
        self._sweep_id = sweep_id
        self._experiment_name = experiment
        self._artifacts = artifacts
        self._objectives = objectives
        self._record = record
        self._runs: dict[str, _Mirrored] = {}  # by trial
        self._points = 0  # complete trials up to which the hypervolume is logged
        self._drawn = 0  # complete trials that the front's files show
        self._missed = False
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._later(lambda: self._catch_up(trials))
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def begin(self, trial: TrialRecord) -> None:
        """A trial is handed out."""
        self._later(lambda: self._ensure_run(trial))

    def row(self, trial: str, row: dict[str, float]) -> None:
        """A trial has trained an epoch."""
        self._later(lambda: self._log_rows(trial, [row]))

    def end(self, trial: TrialRecord, trials: Sequence[TrialRecord]) -> None:
        """A trial ended; ``trials`` are all of the sweep now."""
        self._later(lambda: self._end_run(trial))
        self._later(lambda: self._log_front(trials))

    def close(self, trials: Sequence[TrialRecord], *, finished: bool) -> bool:
        """Log what is left and end the parent run.

        Args:
            trials: all of the sweep with their histories.
            finished: False for a sweep that was interrupted: its running trials are marked
                KILLED until it is resumed.

        Returns:
            Whether MLflow has everything.
        """
        self._queue.put(None)
        self._thread.join()
        try:
            if self._missed:
                self._catch_up(trials)
            complete = _in_order(trials)
            if self._drawn < len(complete):  # dominated trials came after the last redraw
                self._log_front_files(complete, front(complete, self._objectives))
            for trial in trials:
                if trial.state == "running" and trial.trial_id in self._runs:
                    self._client.set_terminated(self._runs[trial.trial_id].run_id, "KILLED")
            self._client.set_terminated(self._parent, "FINISHED" if finished else "KILLED")
        except Exception:
            return False
        return True

    def _later(self, action: Callable[[], None]) -> None:
        self._queue.put(action)

    def _work(self) -> None:
        while (action := self._queue.get()) is not None:
            if self._missed:
                continue  # close() or the next resume logs it all; a dead server is not asked
            try:
                action()
            except Exception as error:
                self._missed = True
                reason = str(error).splitlines()[0][:200]
                logging.getLogger("rsas").warning(
                    "the tracking server stopped answering (%s); the sweep goes on and logs what "
                    "is missing at its end or when it is resumed",
                    reason,
                )

    def _catch_up(self, trials: Sequence[TrialRecord]) -> None:
        """Bring MLflow in line with the book: runs, points, states and the front."""
        self._client = connect(self._uri)
        self._experiment = _experiment_id(self._client, self._experiment_name, self._artifacts)
        self._parent = self._find_or_make_parent()
        self._find_runs()
        for trial in trials:
            self._ensure_run(trial)
            self._log_rows(trial.trial_id, trial.rows)
            if trial.state != "running":
                self._end_run(trial)
        self._log_front(trials)

    def _find_or_make_parent(self) -> str:
        found = self._search(f"tags.`rsas.sweep_id` = '{self._sweep_id}'")
        if found:
            run = found[0]
            self._client.update_run(run.info.run_id, status="RUNNING")
        else:
            run = self._client.create_run(
                self._experiment,
                run_name=self._sweep,
                tags={
                    "rsas.sweep": self._sweep,
                    "rsas.sweep_id": self._sweep_id,
                    "rsas.kind": "sweep",
                    **_author(),
                },
            )
        parent = str(run.info.run_id)
        if not run.data.params:
            plain = {k: v for k, v in self._record.items() if not isinstance(v, (dict, list))}
            base = {f"base.{name}": value for name, value in self._record["base"].items()}
            self._client.log_dict(parent, self._record, "experiment.json")
            self._log_params(parent, plain | base)
        return parent

    def _find_runs(self) -> None:
        for run in self._search(f"tags.`mlflow.parentRunId` = '{self._parent}'"):
            tags = run.data.tags
            if "rsas.trial_id" not in tags:
                continue  # somebody's own run under this parent
            self._runs[tags["rsas.trial_id"]] = _Mirrored(
                run_id=run.info.run_id,
                status=run.info.status,
                params=len(run.data.params),
                epoch=run.data.metrics.get("epoch", 0),
                member={"true": True, "false": False}.get(tags.get("rsas.pareto", "")),
            )
        points = self._client.get_metric_history(self._parent, "front_size")
        self._points = max((point.step for point in points), default=0)
        parent = self._client.get_run(self._parent)
        self._drawn = int(parent.data.tags.get("rsas.front_trials", 0))

    def _ensure_run(self, trial: TrialRecord) -> None:
        run = self._runs.get(trial.trial_id)
        if run is None:
            made = self._client.create_run(
                self._experiment,
                start_time=round(trial.started * 1000),
                run_name=trial.trial_id,
                tags={
                    "mlflow.parentRunId": self._parent,
                    "rsas.sweep": self._sweep,
                    "rsas.kind": "trial",
                    "rsas.trial_id": trial.trial_id,
                    **_author(),
                },
            )
            run = self._runs[trial.trial_id] = _Mirrored(run_id=made.info.run_id)
        if run.params < len(trial.params):
            self._log_params(run.run_id, trial.params)
            run.params = len(trial.params)
        if trial.state == "running":
            self._set_status(run, "RUNNING")

    def _set_status(self, run: _Mirrored, status: str) -> None:
        if run.status != status:
            self._client.update_run(run.run_id, status=status)
            run.status = status

    def _log_params(self, run: str, params: dict[str, Any]) -> None:
        items = [Param(name, str(value)) for name, value in params.items()]
        for start in range(0, len(items), _PARAMS_A_BATCH):
            self._client.log_batch(run, params=items[start : start + _PARAMS_A_BATCH])

    def _log_rows(self, trial: str, rows: Sequence[dict[str, float]]) -> None:
        """Log the rows MLflow lacks. An epoch that was trained again gave the same numbers."""
        run = self._runs[trial]
        now = round(time.time() * 1000)
        lacking = [row for row in rows if row["epoch"] > run.epoch]
        metrics = [
            Metric(name, value, now, round(row["epoch"]))
            for row in lacking
            for name, value in row.items()
        ]
        for start in range(0, len(metrics), _METRICS_A_BATCH):
            self._client.log_batch(run.run_id, metrics=metrics[start : start + _METRICS_A_BATCH])
        if lacking:
            run.epoch = lacking[-1]["epoch"]

    def _end_run(self, trial: TrialRecord) -> None:
        run = self._runs[trial.trial_id]
        status = _STATUS[trial.state]
        if run.status == status:
            return
        if trial.reason:
            self._client.set_tag(run.run_id, "rsas.reason", trial.reason[:5000])
        ended = None if trial.finished is None else round(trial.finished * 1000)
        self._client.set_terminated(run.run_id, status, end_time=ended)
        run.status = status

    def _log_front(self, trials: Sequence[TrialRecord]) -> None:
        """The front's files, the tags of its members, and its size and hypervolume over time."""
        complete = _in_order(trials)
        members = front(complete, self._objectives)
        names = {trial.trial_id for trial in members}
        # Files before tags: tags that are right tell that the files are.
        if names != {trial for trial, run in self._runs.items() if run.member}:
            self._log_front_files(complete, members)
        for trial in complete:
            run, member = self._runs[trial.trial_id], trial.trial_id in names
            if run.member != member:
                self._client.set_tag(run.run_id, "rsas.pareto", str(member).lower())
                run.member = member
        now = round(time.time() * 1000)
        for count in range(self._points + 1, len(complete) + 1):
            size = len(front(complete[:count], self._objectives))
            volume = hypervolume(complete[:count], self._objectives)
            metrics = [
                Metric("front_size", size, now, count),
                Metric("hypervolume", volume, now, count),
            ]
            self._client.log_batch(self._parent, metrics=metrics)
            self._points = count

    def _log_front_files(
        self, complete: Sequence[TrialRecord], members: Sequence[TrialRecord]
    ) -> None:
        entries = [
            {
                "trial_id": trial.trial_id,
                "run_id": self._runs[trial.trial_id].run_id,
                "params": trial.params,
                "objectives": trial.objectives,
            }
            for trial in members
        ]
        self._client.log_dict(self._parent, {"front": entries}, "pareto/front.json")
        table = trials_frame(members).to_csv(index=False)
        self._client.log_text(self._parent, table, "pareto/front.csv")
        title = f"{self._sweep}: front of {len(complete)} trials"
        page = to_html(front_figure(complete, self._objectives, title))
        self._client.log_text(self._parent, page, "pareto/front.html")
        # The description of the parent run, what its page shows first.
        note = f"{title}. The picture is the artifact `pareto/front.html`.\n\n"
        note += _markdown([{"trial": t.trial_id, **t.objectives} for t in members])
        self._client.set_tag(self._parent, "mlflow.note.content", note)
        self._client.set_tag(self._parent, "rsas.front_trials", str(len(complete)))
        self._drawn = len(complete)

    def _search(self, condition: str) -> list[Run]:
        runs: list[Run] = []
        token: str | None = None
        while True:
            page = self._client.search_runs(
                [self._experiment], condition, ViewType.ACTIVE_ONLY, page_token=token
            )
            runs += page
            token = page.token
            if not token:
                return runs


def _experiment_id(client: MlflowClient, name: str, artifacts: str | None) -> str:
    try:
        found = client.get_experiment_by_name(name)
        if found is None:
            return str(client.create_experiment(name, artifact_location=artifacts))
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)
    except MlflowException as error:
        raise InputError(f"MLflow experiment {name!r}: {str(error).splitlines()[0]}") from None


def _in_order(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The complete trials in the order they were finished."""
    complete = [trial for trial in trials if trial.state == "complete"]
    return sorted(complete, key=lambda trial: trial.finished or 0.0)


def _author() -> dict[str, str]:
    """Tags that MLflow's pages show as creator and source of a run."""
    tags = {"mlflow.source.name": "rsas"}
    with contextlib.suppress(OSError, KeyError):  # a container's user may have no name
        tags["mlflow.user"] = getpass.getuser()
    return tags


def _markdown(rows: Sequence[dict[str, Any]]) -> str:
    """A table of rows with the same keys."""

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cells) + " |\n"

    table = line(rows[0]) + line("---" for _ in rows[0])
    for row in rows:
        table += line(f"{v:.4f}" if isinstance(v, float) else str(v) for v in row.values())
    return table
