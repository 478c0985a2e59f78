"""Write a sweep to MLflow: a parent run with the front, and a child run per trial.

Every write can be repeated, because a server may carry out a request and lose the answer. Runs are
found by tag. The times of metrics depend on the study alone, so MLflow recognises a point that it
has already.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rsas.analysis.trials import Sweep
from rsas.errors import reason_of
from rsas.pareto import front, running_fronts
from rsas.records import SWEEP_STATUS, Objective, TrialRecord, front_mark, status_of
from rsas.tracking.artifacts import (
    author,
    dataset_input,
    log_front,
    log_provenance,
    redacted,
    report_page,
    run_name,
)
from rsas.tracking.client import connect, experiment_id
from rsas.tracking.database import analyze
from rsas.tracking.entities import end_metrics, end_tags, params_of, tags_of
from rsas.tracking.identity import (
    FRONT_FILES,
    PARENT,
    SWEEP_ID,
    TRIAL_ID,
    missing_artifacts,
    tidy,
)
from rsas.tracking.models import log_model
from rsas.uris import sqlite_file

if TYPE_CHECKING:  # seconds to import
    from mlflow.entities import Metric, Run

__all__ = ["Progress", "Say", "Source", "Writer"]

Say = Callable[[str], None]
"""Show the user a line."""
Progress = Callable[[int, int], None]
"""Show how many trials a catch-up has logged, and how many there are."""

_METRICS_A_BATCH = 800  # log_batch takes 1000 entities, among them up to 100 params and 100 tags


@dataclass(frozen=True)
class Source:
    """A sweep that is mirrored, read from the study and the histories."""

    uri: str  # of the tracking server or the SQLite file
    trials: Callable[[], Sequence[TrialRecord]]  # all trials that the study has now
    rows: Callable[[TrialRecord], Sequence[dict[str, float]]]  # the history of a trial
    sweep: str  # name of the sweep, and the tag rsas.sweep of its runs
    sweep_id: str  # distinguishes the runs from those of other sweeps of this name
    experiment: str  # name of the MLflow experiment
    artifacts: str | None  # where a new MLflow experiment stores artifacts; None: server's choice
    objectives: Sequence[Objective]
    record: Mapping[str, Any]  # the resolved experiment
    provenance: Mapping[
        str, Any
    ]  # the sweep's provenance, as ``rsas.sweep.provenance`` returned it
    # Raises LeaseLost after another process has taken the sweep over, and writes to MLflow.
    check: Callable[[], None] = lambda: None
    progress: Progress = lambda done, total: None
    # Returns a trial's final network, in eval mode, and two inputs as an array, or None.
    models: Callable[[TrialRecord], tuple[Any, Any] | None] = lambda trial: None


@dataclass
class _Mirrored:
    """The run of a trial, and its parts that are logged."""

    run_id: str
    trial: TrialRecord
    status: str = "RUNNING"
    params: int = 0  # number of logged parameters
    epoch: float = 0.0  # last logged epoch
    seconds: float = 0.0  # of training, up to that epoch
    tags: dict[str, str] = field(default_factory=dict)


class Writer:
    """A writer of one sweep to a tracking server.

    Call ``catch_up`` first. Any call may fail; ``catch_up`` of a new writer writes the rest.

    Args:
        source: the sweep.
        say: shows the user a line.
    """

    def __init__(self, source: Source, say: Say) -> None:
        self._source, self._say = source, say
        self._parent = ""
        self._runs: dict[str, _Mirrored] = {}  # by trial
        self._points: set[int] = set()  # complete trials at which the hypervolume is logged
        self._tags: dict[str, str] = {}  # of the parent run

    def catch_up(self) -> None:
        """Connect, and log the differences to the study: runs, points, states and the front.

        Raises:
            InputError: the server does not answer, or refuses the experiment.
        """
        source = self._source
        self._client = connect(source.uri)
        self._experiment = experiment_id(self._client, source.experiment, source.artifacts)
        # Again after a run was created: if the first answer was lost, the server has two such runs.
        has_new_runs = True
        while has_new_runs:
            logged = tidy(self._client, source.sweep_id)
            if logged.surplus:
                self._say(f"MLflow: {len(logged.surplus)} surplus runs are marked as deleted")
            if logged.parent is None:
                self._make_parent()
                continue
            trials = source.trials()
            self._take_parent(logged.parent)
            known = {trial.trial_id: trial for trial in trials}
            self._runs = {
                name: _Mirrored(
                    run_id=run.info.run_id,
                    trial=known[name],
                    status=run.info.status,
                    params=len(run.data.params),
                    epoch=run.data.metrics.get("epoch", 0),
                    tags=dict(run.data.tags),
                )
                for name, run in logged.runs.items()
                if name in known
            }
            has_new_runs = len(self._runs) < len(trials)
            self._log_all(trials)

    def log(self, trial: TrialRecord, *, member: bool | None = None) -> None:
        """Update the run of a trial to the study's state of the trial.

        Args:
            trial: the trial, as the study has it now.
            member: whether the trial is on the front; None if that is not known.
        """
        run = self._runs.get(trial.trial_id) or self._make_run(trial)
        run.trial = trial
        expected = end_tags(trial, member)
        lacking = {name: text for name, text in expected.items() if run.tags.get(name) != text}
        params = params_of(trial.params) if run.params < len(trial.params) else []
        batches: list[list[Metric]] = [[]]
        if "rsas.state" in lacking:
            batches = self._batches(run, self._lacking_rows(run)) or [[]]
            batches[-1] += end_metrics(trial)
        for batch in batches[:-1]:
            self._client.log_batch(run.run_id, metrics=batch)
        if batches[-1] or params or lacking:
            tags = tags_of(lacking)
            self._client.log_batch(run.run_id, metrics=batches[-1], params=params, tags=tags)
        run.params = len(trial.params)
        run.tags |= lacking
        if trial.state != "complete" and "rsas.pareto" in run.tags:  # another program's tag
            self._client.delete_tag(run.run_id, "rsas.pareto")
            del run.tags["rsas.pareto"]
        self._set_status(run, status_of(trial.state, running=True))

    def log_rows(self, trial: str, rows: Sequence[dict[str, float]]) -> None:
        """Log the rows that MLflow lacks. An epoch that is trained again gives the same numbers."""
        run = self._runs[trial]
        lacking = [row for row in rows if row["epoch"] > run.epoch]
        if lacking and lacking[0]["epoch"] > run.epoch + 1:
            # The process that trained the epochs between ended before it reported them.
            lacking = self._lacking_rows(run) or lacking
        self._log_rows(run, lacking)

    def log_front(self, trials: Sequence[TrialRecord]) -> None:
        """Log the front's files, the tags of its members, and its size and hypervolume."""
        complete = _in_order(trials)
        members = front(complete, self._source.objectives)
        names = {trial.trial_id for trial in members}
        if members and _mark(members) != self._tags.get("rsas.front"):
            self._log_front_files(complete, _mark(members))
        for trial in complete:
            run, text = self._runs[trial.trial_id], str(trial.trial_id in names).lower()
            if run.tags.get("rsas.pareto") != text:
                self._client.set_tag(run.run_id, "rsas.pareto", text)
                run.tags["rsas.pareto"] = text
        self._log_points(complete)

    def end(self, state: str) -> None:
        """Log the rest and end the parent run; for ``state`` see ``Tracker.close``."""
        trials = self._source.trials()
        complete = _in_order(trials)
        members = front(complete, self._source.objectives)
        if int(self._tags.get("rsas.front_trials", 0)) < len(complete):
            self._log_front_files(complete, _mark(members))  # dominated trials were added since
        if state != "interrupted" and members:
            self._log_end(trials, members)
        for trial in trials:
            if trial.state == "running":
                self._set_status(self._runs[trial.trial_id], "KILLED")
        self._client.set_terminated(self._parent, SWEEP_STATUS[state])
        if (file := sqlite_file(self._source.uri)) is not None:
            analyze(file)

    def _log_all(self, trials: Sequence[TrialRecord]) -> None:
        names = {trial.trial_id for trial in front(trials, self._source.objectives)}
        for count, trial in enumerate(trials):
            self._source.progress(count, len(trials))
            member = trial.trial_id in names if trial.state == "complete" else None
            self.log(trial, member=member)
            if trial.state == "running":
                run = self._runs[trial.trial_id]
                self._log_rows(run, self._lacking_rows(run))
        self.log_front(trials)
        self._source.progress(len(trials), len(trials))

    def _make_parent(self) -> None:
        tags = {"rsas.sweep": self._source.sweep, "rsas.kind": "sweep"}
        self._client.create_run(
            self._experiment,
            run_name=self._source.sweep,
            tags={**tags, SWEEP_ID: self._source.sweep_id, **author()},
        )

    def _take_parent(self, run: Run) -> None:
        """Continue a parent run, and log the parts of the sweep's record that the run lacks."""
        parent = self._parent = str(run.info.run_id)
        self._tags = dict(run.data.tags)
        if run.info.status != "RUNNING":
            self._client.update_run(parent, status="RUNNING")
        points = self._client.get_metric_history(parent, "front_size")
        self._points = {point.step for point in points}
        missing = missing_artifacts(self._client, run)
        if missing & FRONT_FILES:
            del self._tags["rsas.front"]
        if "report.html" in missing:
            del self._tags["rsas.report"]
        if not run.data.params or "experiment.json" in missing:
            record = self._source.record
            plain = {k: v for k, v in record.items() if not isinstance(v, (dict, list))}
            base = {f"base.{name}": value for name, value in record["base"].items()}
            self._client.log_dict(parent, redacted(record), "experiment.json")
            log_provenance(self._client, parent, self._source.provenance)
            self._log_dataset(parent)
            # Last, because parameters in the parent mean that all of this is logged.
            self._client.log_batch(parent, params=params_of(plain | base))

    def _make_run(self, trial: TrialRecord) -> _Mirrored:
        tags = {
            PARENT: self._parent,
            "rsas.sweep": self._source.sweep,
            SWEEP_ID: self._source.sweep_id,
            "rsas.kind": "trial",
            TRIAL_ID: trial.trial_id,
        }
        created = self._client.create_run(
            self._experiment,
            start_time=round(trial.started * 1000),
            run_name=run_name(trial),
            tags={**tags, **author()},
        )
        run = self._runs[trial.trial_id] = _Mirrored(created.info.run_id, trial)
        self._log_dataset(run.run_id)
        return run

    def _log_dataset(self, run: str) -> None:
        if self._source.record["data"] is None:  # that of a loop, which rsas does not know
            return
        self._client.log_inputs(run, [dataset_input(self._source.record["data"])])

    def _log_rows(self, run: _Mirrored, rows: Sequence[dict[str, float]]) -> None:
        for batch in self._batches(run, rows):
            self._client.log_batch(run.run_id, metrics=batch)

    def _set_status(self, run: _Mirrored, status: str) -> None:
        if run.status == status:
            return
        if status == "RUNNING":
            self._client.update_run(run.run_id, status=status)
        else:
            finished = run.trial.finished
            ended = None if finished is None else round(finished * 1000)
            self._client.set_terminated(run.run_id, status, end_time=ended)
        run.status = status

    def _lacking_rows(self, run: _Mirrored) -> list[dict[str, float]]:
        """Return the rows of a trial's history that MLflow lacks."""
        rows = self._source.rows(run.trial)
        logged = [row for row in rows if row["epoch"] <= run.epoch]
        run.seconds = sum(row.get("seconds", 0.0) for row in logged)
        return [row for row in rows if row["epoch"] > run.epoch]

    def _batches(self, run: _Mirrored, rows: Sequence[dict[str, float]]) -> list[list[Metric]]:
        """Return the points of rows, in batches of whole rows.

        Only the last epoch tells which rows are logged, so a row must not be logged in part. The
        time of a row is the trial's start plus the seconds of training since.
        """
        from mlflow.entities import Metric

        rows_a_batch = max(_METRICS_A_BATCH // max(map(len, rows), default=1), 1)
        points = []
        for row in rows:
            run.seconds += row.get("seconds", 0.0)
            run.epoch = row["epoch"]
            moment = round(1000 * (run.trial.started + run.seconds))
            step = round(row["epoch"])
            points.append([Metric(name, value, moment, step) for name, value in row.items()])
        return [
            [point for row in points[start : start + rows_a_batch] for point in row]
            for start in range(0, len(points), rows_a_batch)
        ]

    def _log_points(self, complete: Sequence[TrialRecord]) -> None:
        """Log the front's size and hypervolume at the complete trials where MLflow lacks them."""
        from mlflow.entities import Metric

        objectives = self._source.objectives
        lacking = set(range(1, len(complete) + 1)) - self._points
        if not lacking:
            return
        begin = min(lacking) - 1  # number of complete trials before the first that is lacking
        members = front(complete[:begin], objectives)
        fronts = running_fronts([*members, *complete[begin:]], objectives)
        metrics = []
        for count, (trial, size, volume) in enumerate(fronts, begin + 1 - len(members)):
            if count in lacking:
                moment = round(1000 * (trial.finished or 0.0))
                metrics.append(Metric("front_size", size, moment, count))
                metrics.append(Metric("hypervolume", volume, moment, count))
        for start in range(0, len(metrics), _METRICS_A_BATCH):
            self._client.log_batch(self._parent, metrics=metrics[start : start + _METRICS_A_BATCH])
        self._points.update(lacking)

    def _log_front_files(self, complete: Sequence[TrialRecord], mark: str) -> None:
        runs = {trial: run.run_id for trial, run in self._runs.items()}
        source = self._source
        log_front(self._client, self._parent, source.sweep, complete, source.objectives, runs)
        self._set_parent_tags({"rsas.front": mark, "rsas.front_trials": str(len(complete))})

    def _set_parent_tags(self, tags: Mapping[str, str]) -> None:
        self._client.log_batch(self._parent, tags=tags_of(tags))
        self._tags |= tags

    def _log_end(self, trials: Sequence[TrialRecord], members: Sequence[TrialRecord]) -> None:
        """Log the networks of the front and the report, which only a finished sweep has."""
        for trial in members:
            run = self._runs[trial.trial_id]
            if "rsas.model" not in run.tags:
                self._log_model(trial, run)
        mark = f"{len(trials)}-{_mark(members)}"
        if mark == self._tags.get("rsas.report"):
            return
        sweep = Sweep(
            name=self._source.sweep,
            state="finished",
            experiment=dict(self._source.record),
            objectives=tuple(self._source.objectives),
            trials=list(trials),
            history=self._source.rows,
        )
        try:
            page = report_page([sweep])
        except Exception as error:  # a report that fails must not end the sweep
            self._say(f"its report is not in MLflow ({reason_of(error)})")
        else:
            self._client.log_text(self._parent, page, "report.html")
            self._set_parent_tags({"rsas.report": mark})

    def _log_model(self, trial: TrialRecord, run: _Mirrored) -> None:
        try:
            network = self._source.models(trial)
            if network is None:
                return
            uri = log_model(self._source.uri, run.run_id, *network)
        except Exception as error:  # by torch.export or the user's model
            reason = reason_of(error)[:200]
            self._say(f"{trial.trial_id}: its network is not in MLflow ({reason})")
            return
        self._client.set_tag(run.run_id, "rsas.model", uri)
        run.tags["rsas.model"] = uri


def _mark(members: Sequence[TrialRecord]) -> str:
    return front_mark(trial.trial_id for trial in members)


def _in_order(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Return the complete trials in the order in which they finished."""
    complete = [trial for trial in trials if trial.state == "complete"]
    return sorted(complete, key=lambda trial: trial.finished or 0.0)
