"""MLflow as a mirror of a sweep: one parent run, a child run a trial, the front on the parent.

What is logged comes from the book and the trials' histories, so whatever MLflow missed is made up
for when it can be reached again. All of it happens on a thread of its own and never holds up the
sweep; mlflow is imported there, too, since that takes seconds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import json
import logging
import os
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Read by mlflow when it is used: an unreachable server is noticed in seconds, not minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")

from rsas.analysis.pareto import front, hypervolume, trials_frame
from rsas.analysis.plots import front_figure, to_html
from rsas.errors import InputError
from rsas.records import Mirror, MirroredRun, Objective, TrialRecord, front_mark, status_of
from rsas.redact import redact

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

__all__ = ["MirroredRun", "Say", "Tracker", "connect", "delete_run", "read_history", "read_mirror"]

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


def connect(uri: str) -> MlflowClient:
    """A client of the tracking server, or of the SQLite file, once it has answered.

    Raises:
        InputError: it does not answer.
    """
    from mlflow.tracking import MlflowClient

    for name in ("mlflow", "alembic"):  # after the import, which sets levels of its own
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        _make_database(uri)
        client = MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0].partition(" failed with ")[0]
        raise InputError(
            f"tracking server {uri!r} does not answer ({reason[:200]}); start it, or unset "
            "MLFLOW_TRACKING_URI to use a file in the workspace"
        ) from None
    return client


def _make_database(uri: str) -> None:
    """Make a new SQLite file aside, so that a kill in between does not leave half its tables."""
    from mlflow.tracking import MlflowClient

    path = Path(uri.removeprefix("sqlite:///"))
    if not uri.startswith("sqlite:///") or path.exists():
        return
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        MlflowClient(tracking_uri=f"sqlite:///{partial}").search_experiments(max_results=1)
        with contextlib.suppress(FileExistsError):  # another sweep was sooner
            os.link(partial, path)
    finally:
        partial.unlink(missing_ok=True)


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


def _read_mirror(client: MlflowClient, sweep_id: str) -> Mirror:
    parents = _search_all(client, f"tags.`rsas.sweep_id` = '{sweep_id}'")
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
        for run in _search_all(client, f"tags.`mlflow.parentRunId` = '{each.info.run_id}'")
        if "rsas.trial_id" in run.data.tags
    ]
    return Mirror(
        parents=[run.info.run_id for run in parents],
        status=parents[0].info.status,
        front=parents[0].data.tags.get("rsas.front", ""),
        points=[point.step for point in client.get_metric_history(parent, "hypervolume")],
        runs=runs,
    )


def read_history(uri: str, run_id: str) -> list[dict[str, float]]:
    """The rows that MLflow has of a trial, from which a lost history is made again."""
    client = connect(uri)
    rows: dict[int, dict[str, float]] = {}
    for name in client.get_run(run_id).data.metrics:
        if name != "device_seconds":
            for point in client.get_metric_history(run_id, name):
                rows.setdefault(point.step, {})[name] = point.value
    return [rows[step] for step in sorted(rows)]


def delete_run(uri: str, run_id: str) -> None:
    """Mark a run as deleted; MLflow can restore it."""
    connect(uri).delete_run(run_id)


def _search_all(client: MlflowClient, condition: str) -> list[Run]:
    """The runs of all experiments that a condition holds for, oldest first."""
    experiments = [found.experiment_id for found in client.search_experiments()]
    runs: list[Run] = []
    token: str | None = None
    while True:
        page = client.search_runs(
            experiments, condition, order_by=["attributes.start_time"], page_token=token
        )
        runs += page
        token = page.token
        if not token:
            return runs


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
        delay: seconds before the thread connects, unless a trial has told of an epoch before;
            a sweep comes up sooner without it.
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
        delay: float = 0.0,
    ) -> None:
        self._uri = uri
        self._trials, self._rows = trials, rows
        self._sweep = sweep
        self._sweep_id = sweep_id
        self._experiment_name = experiment
        self._artifacts = artifacts
        self._objectives = objectives
        self._record = record
        self._say = say
        self._runs: dict[str, _Mirrored] = {}  # by trial
        self._points = 0  # complete trials up to which the hypervolume is logged
        self._drawn = 0  # complete trials that the front's files show
        self._front = ""  # mark of the members in those files
        self._is_connected = False
        self._told = False  # that the server is lost
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._awake = threading.Event()
        self._thread = threading.Thread(
            target=self._work, args=(delay,), name="mlflow", daemon=True
        )
        self._thread.start()

    def begin(self, trial: TrialRecord) -> None:
        """A trial is handed out."""
        self._queue.put(lambda: self._ensure_run(trial))

    def rows(self, trial: str, rows: Sequence[dict[str, float]]) -> None:
        """A trial has trained epochs."""
        self._queue.put(lambda: self._log_rows(trial, rows))
        self._awake.set()

    def end(self, trial: TrialRecord, trials: Sequence[TrialRecord]) -> None:
        """A trial ended; ``trials`` are all of the sweep now."""
        self._queue.put(lambda: self._end_run(trial))
        self._queue.put(lambda: self._log_front(trials))
        self._awake.set()

    def close(self, *, finished: bool) -> bool:
        """Log what is left and end the parent run.

        Args:
            finished: False for a sweep that was interrupted: its running trials are marked
                KILLED until it is resumed.

        Returns:
            Whether MLflow has everything.
        """
        self._awake.set()
        self._queue.put(None)
        self._thread.join()
        try:
            if not self._is_connected:
                self._catch_up()
            trials = self._trials()
            complete = _in_order(trials)
            if self._drawn < len(complete):  # dominated trials came after the last redraw
                self._log_front_files(complete, front(complete, self._objectives))
            for trial in trials:
                if trial.state == "running" and trial.trial_id in self._runs:
                    self._client.set_terminated(self._runs[trial.trial_id].run_id, "KILLED")
            self._client.set_terminated(self._parent, "FINISHED" if finished else "KILLED")
        except Exception as error:
            self._lost(error)
            return False
        return True

    def _work(self, delay: float) -> None:
        self._awake.wait(delay)
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
            reason = redact(str(error).splitlines()[0] if str(error) else type(error).__name__)
            self._say(
                f"the tracking server stopped answering ({reason[:200]}); the sweep goes on, and "
                "logs what is missing when it is back or when the sweep is resumed"
            )

    def _catch_up(self) -> None:
        """Bring MLflow in line with the book: runs, points, states and the front."""
        trials = self._trials()
        self._client = connect(self._uri)
        self._experiment = _experiment_id(self._client, self._experiment_name, self._artifacts)
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
        found = _search_all(self._client, f"tags.`rsas.sweep_id` = '{self._sweep_id}'")
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
            self._client.log_dict(parent, _redacted(self._record), "experiment.json")
            self._log_params(parent, plain | base)
        return parent

    def _find_runs(self) -> None:
        self._runs = {}  # of before an outage; somebody may have deleted some since
        for run in _search_all(self._client, f"tags.`mlflow.parentRunId` = '{self._parent}'"):
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
            )
        points = self._client.get_metric_history(self._parent, "front_size")
        self._points = max((point.step for point in points), default=0)
        parent = self._client.get_run(self._parent)
        self._drawn = int(parent.data.tags.get("rsas.front_trials", 0))
        self._front = parent.data.tags.get("rsas.front", "")

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
        run.trial = trial
        if trial.state == "running":
            self._set_status(run, "RUNNING")

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
        if members and front_mark(names) != self._front:
            self._log_front_files(complete, members)
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

    def _log_front_files(
        self, complete: Sequence[TrialRecord], members: Sequence[TrialRecord]
    ) -> None:
        complete, members = _without_secrets(complete), _without_secrets(members)
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
        mark = front_mark(trial.trial_id for trial in members)
        self._client.set_tag(self._parent, "rsas.front", mark)
        self._client.set_tag(self._parent, "rsas.front_trials", str(len(complete)))
        self._front = mark
        self._drawn = len(complete)


def _experiment_id(client: MlflowClient, name: str, artifacts: str | None) -> str:
    from mlflow.exceptions import MlflowException

    try:
        found = client.get_experiment_by_name(name)
        if found is None:
            return str(client.create_experiment(name, artifact_location=artifacts))
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)
    except MlflowException as error:
        raise InputError(f"MLflow experiment {name!r}: {str(error).splitlines()[0]}") from None


def _without_secrets(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """For pictures and tables, which would write a secret in many ways."""

    def hidden(value: Any) -> Any:
        return redact(value) if isinstance(value, str) else value

    return [
        dataclasses.replace(trial, params={k: hidden(v) for k, v in trial.params.items()})
        for trial in trials
    ]


def _redacted(value: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(redact(json.dumps(value)))
    return found


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
