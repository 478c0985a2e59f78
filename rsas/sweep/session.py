"""Run a sweep: Tune executes the trials of the study, and all followers receive the results."""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
from collections.abc import Sequence

from prometheus_client import CollectorRegistry
from rich.console import Console

from rsas import tracking
from rsas.errors import Halted, InputError, LeaseLost, StorageError
from rsas.records import trial_id
from rsas.sweep.audit.repair import repair_mirror
from rsas.sweep.execute import cluster
from rsas.sweep.execute.dispatcher import Dispatcher
from rsas.sweep.execute.task import Task
from rsas.sweep.execute.tune import run_trials
from rsas.sweep.experiment import Experiment
from rsas.sweep.files.retention import Retention
from rsas.sweep.files.sweep_dir import SweepDir
from rsas.sweep.files.workspace import Workspace
from rsas.sweep.follow.progress import SweepProgress
from rsas.sweep.follow.prometheus import SweepGauges
from rsas.sweep.launches import LaunchLog
from rsas.sweep.mirror import tracker_of
from rsas.sweep.status import Status, hours_of
from rsas.sweep.study.study import Study
from rsas.sweep.suggest.halving import halving_of

__all__ = ["run"]

_SWITCH_SECONDS = 0.0005
_CHECK_SECONDS = 1.0  # for which a driver that lost its lease may continue


def run(
    folder: SweepDir,
    experiment: Experiment,
    task: Task,
    slots: cluster.Slots,
    console: Console,
    registry: CollectorRegistry,
) -> Status:
    """Run the trials that the study of a sweep lacks, in the Ray that is connected.

    Args:
        folder: of the sweep, locked by this process.
        experiment: the experiment of the sweep.
        task: the training of the experiment's trials.
        slots: returns how many trials can run at once now.
        console: shows progress.
        registry: gets the gauges of the sweep, for Prometheus.

    Raises:
        Halted: the sweep had to stop; it can be resumed.
        LeaseLost: another process has taken the sweep over.
    """
    study = folder.study(experiment)
    _prepare(study, folder, console)
    progress = SweepProgress(
        console,
        name=folder.name,
        asked=experiment.budget.trials,
        epochs=experiment.config.epochs,
        objectives=experiment.objectives,
        trials=study.trials(experiment.objectives),
    )
    for line in repair_mirror(folder):
        progress.note(line)
    tracker = tracker_of(folder, study, say=progress.note, progress=progress.mirror)
    retention = Retention(folder.storage, study, experiment.objectives, progress.note)
    gauges = SweepGauges(
        folder.name,
        asked=experiment.budget.trials,
        objectives=experiment.objectives,
        trials=study.trials(experiment.objectives),
        slots=slots,
    )
    registry.register(gauges)
    launch = LaunchLog(study, slots)
    listener = _Run(folder, study, experiment, progress, tracker, retention, gauges, launch)
    halving = halving_of(experiment)
    dispatcher = Dispatcher(
        study,
        experiment,
        halving=halving,
        slots=slots,
        hours=hours_of(study.launches()),
        listener=listener,
        history=lambda number: folder.history(study.trial(number, experiment.objectives)),
    )
    # MLflow's thread computes a lot. With the default interval, the driver would wait 5 ms for the
    # interpreter's lock each time after it waited for a file or for Ray.
    interval = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_SECONDS)
    try:
        with progress, tempfile.TemporaryDirectory(prefix="rsas-") as scratch:
            run_trials(
                dispatcher,
                experiment,
                task,
                place=folder.storage.place,
                rungs=halving.rungs if halving else (),
                slots=slots(),
                scratch=scratch,
            )
    finally:
        sys.setswitchinterval(interval)
        launch.note()
        status = _last_status(folder)
        mirrored, lost = False, _is_lost(folder)
        if not lost:
            retention.close(status.trials if status else ())
            with progress.mirror:
                mirrored = tracker.close(status.state if status else "interrupted")
            if not mirrored:
                console.print(f"MLflow lacks some results; 'rsas resume {folder.name}' logs them")
    if lost:
        raise LeaseLost(
            f"another process has taken the sweep over; 'rsas status {folder.name}' follows it"
        )
    if dispatcher.halted:
        raise Halted(f"sweep {folder.name!r} had to stop: {dispatcher.halted}")
    if status is None:
        raise Halted(f"sweep {folder.name!r}: its study or storage can no longer be read")
    return dataclasses.replace(status, mirrored=mirrored)


def _is_lost(folder: SweepDir) -> bool:
    """Return whether another process has taken the sweep over, and now logs to MLflow."""
    try:
        return folder.is_lost()
    except (InputError, OSError):  # without the study, no process can take the sweep over
        return False


def _last_status(folder: SweepDir) -> Status | None:
    """Return the status of the sweep, or None if its study or storage cannot be read."""
    try:
        return folder.status(mine=True)
    except (InputError, StorageError):
        return None


class _Run:
    """The dispatcher's listener, which forwards each event of the run to all followers."""

    def __init__(
        self,
        folder: SweepDir,
        study: Study,
        experiment: Experiment,
        progress: SweepProgress,
        tracker: tracking.Tracker,
        retention: Retention,
        gauges: SweepGauges,
        launch: LaunchLog,
    ) -> None:
        self.folder, self.experiment = folder, experiment
        self._study, self._launch = study, launch
        self._progress, self._tracker, self._retention = progress, tracker, retention
        self._gauges = gauges
        self._checked = time.monotonic()  # time of the last check of the lease

    def begin(self, number: int) -> None:
        self._progress.begin(number)
        self._gauges.begin(number)
        self._tracker.begin(self._study.trial(number, self.experiment.objectives))
        self._retention.record(number)

    def rows(self, number: int, rows: Sequence[dict[str, float]]) -> None:
        self._launch.add_training(sum(row["seconds"] for row in rows))
        self._progress.rows(number, rows)
        self._gauges.rows(rows)
        self._tracker.rows(trial_id(number), rows)

    def change(self, number: int) -> None:
        self._retention.record(number)

    def end(self, number: int) -> None:
        self._launch.note()
        now = self._study.trials(self.experiment.objectives)
        trial = self._study.trial(number, self.experiment.objectives)
        self._progress.end(number, now)
        self._gauges.end(number, now)
        self._tracker.end(trial, now)
        self._retention.end(number, now)

    def note(self, number: int, line: str) -> None:
        self._progress.note(f"{trial_id(number)}: {line}")

    def cut_off(self, number: int, device_seconds: float, line: str) -> None:
        self._launch.add_cut_off(device_seconds)
        self.note(number, line)

    def tick(self) -> None:
        self._launch.note_sometimes()
        if time.monotonic() > self._checked + _CHECK_SECONDS:
            self._checked = time.monotonic()
            self._study.check_lease()


def _prepare(study: Study, folder: SweepDir, console: Console) -> None:
    """Store the sweep's record, queue and known trials in the study, before the first trial.

    ``note_copies`` comes last and marks the end, so a resume after a kill repeats the rest.
    """
    record = folder.record
    if study.record() is not None:
        folder.note_copies(study)  # the record changes when the sweep is extended
        return
    if record.get("known") is not None:
        other = Workspace(folder.workspace).open(record["known"])
        count = study.add_known(other.study(), other.name)
        console.print(f"the sampler knows {count} trials of {other.name}")
    study.enqueue(record["enqueued"])
    folder.note_copies(study)
