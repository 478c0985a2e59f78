"""Mirrors a sweep in MLflow: one parent run, a child run a trial, the front on the parent.

What is logged comes from the book and the trials' histories, so whatever MLflow missed is made up
for when it can be reached again. All of it happens on a thread of its own and never holds up the
sweep; mlflow is imported there, too, since that takes seconds.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rsas.analysis.pareto import front, hypervolume
from rsas.analysis.trials import Sweep
from rsas.errors import first_line, reason_of
from rsas.records import SWEEP_STATUS, Objective, TrialRecord, front_mark, status_of
from rsas.redact import redact
from rsas.tracking.client import connect, experiment_id, search_runs
from rsas.tracking.models import log_model
from rsas.tracking.pages import (
    author,
    dataset_input,
    log_front,
    log_origin,
    redacted,
    report_page,
    run_name,
)

__all__ = ["Say", "Tracker"]

Say = Callable[[str], None]
"""Tells the user a line."""

# Limits of MLflow's log_batch.
_PARAMS_A_BATCH = 100
_METRICS_A_BATCH = 1000
_RETRY_SECONDS = 10.0  # between attempts to reach a server that is away


@dataclass
class _Mirrored:
    """What MLflow has of a trial."""

    run_id: str
    status: str = "RUNNING"
    state: str = ""  # in which it ended, as tagged: everything of it is logged
    params: int = 0  # how many are logged
    trial: TrialRecord | None = None  # as it was begun
    epoch: float = 0.0  # last one logged
    member: bool | None = None  # of the front, as tagged
    has_model: bool = False


class Tracker:
    """Mirrors one sweep, on a thread of its own that connects first and then catches up.

    Args:
        uri: of the tracking server or the SQLite file.
        trials: gives all trials the book holds now; called on the thread.
        rows: gives the history of a trial; called on the thread, for what MLflow lacks.
        sweep: name of the sweep, the tag ``rsas.sweep`` of its runs.
        sweep_id: identity of the sweep, by which its parent run is found on a server that has
            sweeps of the same name from other workspaces.
        experiment: name of the MLflow experiment.
        artifacts: where a new MLflow experiment keeps its artifacts; None is the server's choice.
        objectives: of the sweep.
        record: the resolved experiment, logged to the parent run.
        say: tells the user when the server is lost and when it is back, once each.
        origin: of the sweep, as ``rsas.search.origin`` found it.
        models: gives the final network of a trial, in eval mode, and two inputs as an array; None
            where it is not kept.
    """

    def __init__(
        self,
        uri: str,
        trials: Callable[[], Sequence[TrialRecord]],
        rows: Callable[[TrialRecord], Sequence[dict[str, float]]],
        *,
        sweep: str,
        sweep_id: str,
        experiment: str,
        artifacts: str | None,
        objectives: Sequence[Objective],
        record: dict[str, Any],
        say: Say,
        origin: Mapping[str, Any] | None = None,
        models: Callable[[TrialRecord], tuple[Any, Any] | None] = lambda trial: None,
    ) -> None:
        self._uri = uri
        self._trials, self._rows = trials, rows
        self._sweep = sweep
        self._sweep_id = sweep_id
        self._experiment_name = experiment
        self._artifacts = artifacts
        self._objectives = objectives
        self._record = record
        self._origin = origin or {}
        self._models = models
        self._say = say
        self._runs: dict[str, _Mirrored] = {}  # by trial
        self._points = 0  # complete trials up to which the hypervolume is logged
        self._drawn = 0  # complete trials that the front's files show
        self._front = ""  # mark of the members in those files
        self._reported = ""  # mark of the trials in the report
        self._is_connected = False
        self._told = False  # that the server is lost
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def begin(self, trial: TrialRecord) -> None:
        """A trial is handed out."""
        self._queue.put(lambda: self._ensure_run(trial))

    def rows(self, trial: str, rows: Sequence[dict[str, float]]) -> None:
        """A trial has trained epochs."""
        self._queue.put(lambda: self._log_rows(trial, rows))

    def end(self, trial: TrialRecord, trials: Sequence[TrialRecord]) -> None:
        """A trial ended; ``trials`` are all of the sweep now."""
        self._queue.put(lambda: self._end_run(trial))
        self._queue.put(lambda: self._log_front(trials))

    def close(self, state: str) -> bool:
        """Log what is left and end the parent run.

        Args:
            state: of the sweep: ``finished``, ``failed`` or ``interrupted``; the running trials of
                an interrupted one are marked KILLED until it is resumed.

        Returns:
            Whether MLflow has everything.
        """
        self._queue.put(None)
        self._thread.join()
        try:
            if not self._is_connected:
                self._catch_up()
            trials = self._trials()
            complete = _in_order(trials)
            members = front(complete, self._objectives)
            if self._drawn < len(complete):  # dominated trials came after the last redraw
                self._log_front_files(complete, _mark(members))
            if state != "interrupted" and members:
                self._log_end(trials, members)
            for trial in trials:
                if trial.state == "running" and trial.trial_id in self._runs:
                    self._client.set_terminated(self._runs[trial.trial_id].run_id, "KILLED")
            self._client.set_terminated(self._parent, SWEEP_STATUS[state])
        except Exception as error:
            self._lost(error)
            return False
        return True

    def _work(self) -> None:
        retry = 0.0
        while True:
            now = time.monotonic()
            if not self._is_connected and now >= retry:
                retry = now + _RETRY_SECONDS
                with contextlib.suppress(queue.Empty):  # what is told so far is in the book, too
                    while (action := self._queue.get_nowait()) is not None:
                        pass
                    return
                self._attempt(self._catch_up)
                self._is_connected = not self._told
            try:
                action = self._queue.get(timeout=None if self._is_connected else 1.0)
            except queue.Empty:
                continue
            if action is None:
                return
            if self._is_connected:
                self._attempt(action)

    def _attempt(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            self._lost(error)
        else:
            if self._told:
                self._told = False
                self._say("the tracking server is back; what it lacked is logged")

    def _lost(self, error: Exception) -> None:
        self._is_connected = False
        if not self._told:
            self._told = True
            # What a database's driver says: SQLAlchemy's error begins with other things.
            error = getattr(error.__cause__, "orig", error)
            reason = first_line(error)
            self._say(
                f"the tracking server stopped answering ({reason[:200]}); the sweep goes on, and "
                "logs what is missing when it is back or when the sweep is resumed"
            )

    def _catch_up(self) -> None:
        """Bring MLflow in line with the book: runs, points, states and the front."""
        trials = self._trials()
        self._client = connect(self._uri)
        self._experiment = experiment_id(self._client, self._experiment_name, self._artifacts)
        self._parent = self._find_or_make_parent()
        self._find_runs()
        for trial in trials:
            self._ensure_run(trial)
            run = self._runs[trial.trial_id]
            if run.state != trial.state:
                self._log_rows(trial.trial_id, self._rows(trial))
            if trial.state != "running":
                self._end_run(trial)
        self._log_front(trials)

    def _find_or_make_parent(self) -> str:
        found = search_runs(self._client, f"tags.`rsas.sweep_id` = '{self._sweep_id}'")
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
                    **author(),
                },
            )
        parent = str(run.info.run_id)
        if not run.data.params:
            plain = {k: v for k, v in self._record.items() if not isinstance(v, (dict, list))}
            base = {f"base.{name}": value for name, value in self._record["base"].items()}
            self._client.log_dict(parent, redacted(self._record), "experiment.json")
            log_origin(self._client, parent, self._origin)
            self._log_dataset(parent)
            self._log_params(parent, plain | base)  # last: they tell that all of it is there
        return parent

    def _find_runs(self) -> None:
        self._runs = {}  # of before an outage; somebody may have deleted some since
        for run in search_runs(self._client, f"tags.`mlflow.parentRunId` = '{self._parent}'"):
            tags = run.data.tags
            if "rsas.trial_id" not in tags:
                continue  # somebody's own run under this parent
            self._runs[tags["rsas.trial_id"]] = _Mirrored(
                run_id=run.info.run_id,
                status=run.info.status,
                state=tags.get("rsas.state", ""),
                params=len(run.data.params),
                epoch=run.data.metrics.get("epoch", 0),
                member={"true": True, "false": False}.get(tags.get("rsas.pareto", "")),
                has_model="rsas.model" in tags,
            )
        points = self._client.get_metric_history(self._parent, "front_size")
        self._points = max((point.step for point in points), default=0)
        parent = self._client.get_run(self._parent)
        self._drawn = int(parent.data.tags.get("rsas.front_trials", 0))
        self._front = parent.data.tags.get("rsas.front", "")
        self._reported = parent.data.tags.get("rsas.report", "")

    def _ensure_run(self, trial: TrialRecord) -> None:
        run = self._runs.get(trial.trial_id)
        if run is None:
            made = self._client.create_run(
                self._experiment,
                start_time=round(trial.started * 1000),
                run_name=run_name(trial),
                tags={
                    "mlflow.parentRunId": self._parent,
                    "rsas.sweep": self._sweep,
                    "rsas.kind": "trial",
                    "rsas.trial_id": trial.trial_id,
                    **author(),
                },
            )
            run = self._runs[trial.trial_id] = _Mirrored(run_id=made.info.run_id)
            self._log_dataset(run.run_id)
        if run.params < len(trial.params):
            self._log_params(run.run_id, trial.params)
            run.params = len(trial.params)
        run.trial = trial
        if trial.state == "running":
            self._set_status(run, "RUNNING")

    def _log_dataset(self, run: str) -> None:
        if "data" in self._record:  # sweeps of earlier versions lack it
            self._client.log_inputs(run, [dataset_input(self._record["data"])])

    def _set_status(self, run: _Mirrored, status: str) -> None:
        if run.status != status:
            self._client.update_run(run.run_id, status=status)
            run.status = status

    def _log_params(self, run: str, params: dict[str, Any]) -> None:
        from mlflow.entities import Param

        items = [Param(name, redact(str(value))) for name, value in params.items()]
        for start in range(0, len(items), _PARAMS_A_BATCH):
            self._client.log_batch(run, params=items[start : start + _PARAMS_A_BATCH])

    def _log_rows(self, trial: str, rows: Sequence[dict[str, float]]) -> None:
        """Log the rows MLflow lacks. An epoch that was trained again gave the same numbers."""
        from mlflow.entities import Metric

        run = self._runs[trial]
        now = round(time.time() * 1000)
        lacking = [row for row in rows if row["epoch"] > run.epoch]
        if lacking and lacking[0]["epoch"] > run.epoch + 1 and run.trial is not None:
            # A process that trained the epochs between died before it told of them.
            told = self._rows(run.trial)
            lacking = [row for row in told if row["epoch"] > run.epoch] or lacking
        # Whole rows: of one that an outage cut off, nobody would know what is missing.
        longest = max(map(len, lacking), default=1)
        at_once = max(_METRICS_A_BATCH // longest, 1)
        for start in range(0, len(lacking), at_once):
            metrics = [
                Metric(name, value, now, round(row["epoch"]))
                for row in lacking[start : start + at_once]
                for name, value in row.items()
            ]
            self._client.log_batch(run.run_id, metrics=metrics)
        if lacking:
            run.epoch = lacking[-1]["epoch"]

    def _end_run(self, trial: TrialRecord) -> None:
        run = self._runs[trial.trial_id]
        status = status_of(trial.state, running=True)
        if (run.status, run.state) == (status, trial.state):
            return
        if trial.reason:
            self._client.set_tag(run.run_id, "rsas.reason", redact(trial.reason)[:5000])
        if trial.same_as:
            self._client.set_tag(run.run_id, "rsas.same_as", trial.same_as)
            self._log_rows(trial.trial_id, self._rows(trial))
        if trial.device_seconds:
            self._client.log_metric(
                run.run_id, "device_seconds", trial.device_seconds, step=round(trial.epochs)
            )
        self._client.set_tag(run.run_id, "rsas.state", trial.state)
        ended = None if trial.finished is None else round(trial.finished * 1000)
        self._client.set_terminated(run.run_id, status, end_time=ended)
        run.status, run.state = status, trial.state

    def _log_front(self, trials: Sequence[TrialRecord]) -> None:
        """The front's files, the tags of its members, and its size and hypervolume over time."""
        complete = _in_order(trials)
        members = front(complete, self._objectives)
        names = {trial.trial_id for trial in members}
        if members and _mark(members) != self._front:
            self._log_front_files(complete, _mark(members))
        for trial in trials:
            run = self._runs[trial.trial_id]
            if trial.state != "complete" and run.member is not None:  # somebody else's tag
                self._client.delete_tag(run.run_id, "rsas.pareto")
                run.member = None
        for trial in complete:
            run, member = self._runs[trial.trial_id], trial.trial_id in names
            if run.member != member:
                self._client.set_tag(run.run_id, "rsas.pareto", str(member).lower())
                run.member = member
        from mlflow.entities import Metric

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

    def _log_front_files(self, complete: Sequence[TrialRecord], mark: str) -> None:
        runs = {trial: run.run_id for trial, run in self._runs.items()}
        log_front(self._client, self._parent, self._sweep, complete, self._objectives, runs)
        self._client.set_tag(self._parent, "rsas.front", mark)
        self._client.set_tag(self._parent, "rsas.front_trials", str(len(complete)))
        self._front = mark
        self._drawn = len(complete)

    def _log_end(self, trials: Sequence[TrialRecord], members: Sequence[TrialRecord]) -> None:
        """What a finished sweep has beside: the networks of the front, and the report."""
        for trial in members:
            run = self._runs[trial.trial_id]
            if not run.has_model:
                self._log_model(trial, run)
        mark = f"{len(trials)}-{_mark(members)}"
        if mark == self._reported:
            return
        sweep = Sweep(
            name=self._sweep,
            state="finished",
            experiment=self._record,
            objectives=tuple(self._objectives),
            trials=list(trials),
            history=self._rows,
        )
        try:
            page = report_page([sweep])
        except Exception as error:  # a picture is not worth a sweep
            self._say(f"its report is not in MLflow ({reason_of(error)})")
        else:
            self._client.log_text(self._parent, page, "report.html")
            self._client.set_tag(self._parent, "rsas.report", mark)
            self._reported = mark

    def _log_model(self, trial: TrialRecord, run: _Mirrored) -> None:
        try:
            found = self._models(trial)
            if found is None:
                return
            uri = log_model(self._uri, run.run_id, *found)
        except Exception as error:  # of torch.export, or of the user's own model
            reason = reason_of(error)[:200]
            self._say(f"{trial.trial_id}: its network is not in MLflow ({reason})")
            return
        self._client.set_tag(run.run_id, "rsas.model", uri)
        run.has_model = True


def _mark(members: Sequence[TrialRecord]) -> str:
    return front_mark(trial.trial_id for trial in members)


def _in_order(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The complete trials in the order they were finished."""
    complete = [trial for trial in trials if trial.state == "complete"]
    return sorted(complete, key=lambda trial: trial.finished or 0.0)
