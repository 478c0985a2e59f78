"""Run a sweep: Tune executes the trials of the study, and all followers receive the results."""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time

from prometheus_client import CollectorRegistry
from rich.console import Console

from rsas.errors import Halted, InputError, LeaseLost, StorageError
from rsas.follower import Follower, Followers
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
    sweep_dir: SweepDir,
    experiment: Experiment,
    task: Task,
    slots: cluster.Slots,
    console: Console,
    registry: CollectorRegistry,
) -> Status:
    """Run the trials that the study of a sweep lacks, in the Ray that is connected.

    Args:
        sweep_dir: of the sweep, locked by this process.
        experiment: the experiment of the sweep.
        task: the training of the experiment's trials.
        slots: returns how many trials can run at once now.
        console: shows progress.
        registry: gets the gauges of the sweep, for Prometheus.

    Raises:
        Halted: the sweep had to stop; it can be resumed.
        LeaseLost: another process has taken the sweep over.
    """
    study = sweep_dir.study(experiment)
    _prepare(study, sweep_dir, console)
    trials = study.trials(experiment.objectives)
    progress = SweepProgress(
        console,
        name=sweep_dir.name,
        asked=experiment.budget.trials,
        epochs=experiment.config.epochs,
        objectives=experiment.objectives,
        trials=trials,
    )
    for line in repair_mirror(sweep_dir):
        progress.note(line)
    tracker = tracker_of(sweep_dir, study, say=progress.note, progress=progress.mirror)
    retention = Retention(sweep_dir.storage, study, experiment.objectives, progress.note)
    gauges = SweepGauges(
        sweep_dir.name,
        asked=experiment.budget.trials,
        objectives=experiment.objectives,
        trials=trials,
        slots=slots,
    )
    registry.register(gauges)
    launch = LaunchLog(study, slots)
    halving = halving_of(experiment)
    dispatcher = Dispatcher(
        study,
        experiment,
        halving=halving,
        slots=slots,
        hours=hours_of(study.launches()),
        follower=Followers(launch, progress, gauges, tracker, retention, _LeaseCheck(study)),
        history=lambda number: sweep_dir.history(study.trial(number, experiment.objectives)),
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
                location=sweep_dir.storage.location,
                rungs=halving.rungs if halving else (),
                slots=slots(),
                scratch=scratch,
            )
    finally:
        sys.setswitchinterval(interval)
        launch.save()
        status = _last_status(sweep_dir)
        mirrored, lost = False, _is_lost(sweep_dir)
        if not lost:
            retention.close(status.trials if status else ())
            with progress.mirror:
                mirrored = tracker.close(status.state if status else "interrupted")
            if not mirrored:
                console.print(
                    f"MLflow lacks some results; 'rsas resume {sweep_dir.name}' logs them"
                )
    if lost:
        raise LeaseLost(
            f"another process has taken the sweep over; 'rsas status {sweep_dir.name}' follows it"
        )
    if dispatcher.halted:
        raise Halted(f"sweep {sweep_dir.name!r} had to stop: {dispatcher.halted}")
    if status is None:
        raise Halted(f"sweep {sweep_dir.name!r}: its study or storage can no longer be read")
    return dataclasses.replace(status, mirrored=mirrored)


def _is_lost(sweep_dir: SweepDir) -> bool:
    """Return whether another process has taken the sweep over, and now logs to MLflow."""
    try:
        return sweep_dir.is_lost()
    except (InputError, OSError):  # without the study, no process can take the sweep over
        return False


def _last_status(sweep_dir: SweepDir) -> Status | None:
    """Return the status of the sweep, or None if its study or storage cannot be read."""
    try:
        return sweep_dir.status(mine=True)
    except (InputError, StorageError):
        return None


class _LeaseCheck(Follower):
    """A follower that halts the sweep soon after another process has taken the sweep over."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._checked = time.monotonic()

    def tick(self) -> None:
        if time.monotonic() > self._checked + _CHECK_SECONDS:
            self._checked = time.monotonic()
            self._study.check_lease()


def _prepare(study: Study, sweep_dir: SweepDir, console: Console) -> None:
    """Store the sweep's record, queue and known trials in the study, before the first trial.

    ``note_copies`` comes last and marks the end, so a resume after a kill repeats the rest.
    """
    record = sweep_dir.record
    if study.record() is not None:
        sweep_dir.note_copies(study)  # the record changes when the sweep is extended
        return
    if record.get("known") is not None:
        other = Workspace(sweep_dir.workspace).open(record["known"])
        count = study.add_known(other.study(), other.name)
        console.print(f"the sampler knows {count} trials of {other.name}")
    study.enqueue(record["enqueued"])
    sweep_dir.note_copies(study)
