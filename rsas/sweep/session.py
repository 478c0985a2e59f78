"""Run a sweep: Tune executes what the study hands out, and all who follow it are told."""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
from collections.abc import Sequence

from prometheus_client import CollectorRegistry
from rich.console import Console

from rsas import data, tracking
from rsas.errors import Halted, InputError, LeaseLost, StorageError
from rsas.records import trial_id
from rsas.sweep.audit.repair import mend_mirror
from rsas.sweep.execute import cluster
from rsas.sweep.execute.dispatcher import Dispatcher
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
_CHECK_SECONDS = 1.0  # for which a driver that was replaced may go on


def run(
    folder: SweepDir,
    experiment: Experiment,
    arrays: data.Arrays,
    slots: cluster.Slots,
    console: Console,
    registry: CollectorRegistry,
) -> Status:
    """Run what the study of a sweep lacks, in the Ray that is up.

    Args:
        folder: of the sweep, locked by this process.
        experiment: what is searched.
        arrays: its data.
        slots: tells how many trials can run at once now.
        console: where progress is shown.
        registry: where Prometheus finds how it goes.

    Raises:
        Halted: the sweep had to stop; it can be resumed.
    """
    study = folder.study(experiment)
    _prepare(study, folder, console)
    display = SweepProgress(
        console,
        name=folder.name,
        asked=experiment.budget.trials,
        epochs=experiment.base.epochs,
        objectives=experiment.objectives,
        trials=study.trials(experiment.objectives),
    )
    for line in mend_mirror(folder):
        display.note(line)
    tracker = tracker_of(folder, study, say=display.note, progress=display.mirror)
    retention = Retention(folder.storage, study, experiment.objectives, display.note)
    metrics = SweepGauges(
        folder.name,
        asked=experiment.budget.trials,
        objectives=experiment.objectives,
        trials=study.trials(experiment.objectives),
        slots=slots,
    )
    registry.register(metrics)
    launch = LaunchLog(study, slots)
    listener = _Run(folder, study, experiment, display, tracker, retention, metrics, launch)
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
    # MLflow's thread computes a lot: each time the driver waits for a file or for Ray, Python would
    # give it back the lock after 5 ms only.
    interval = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_SECONDS)
    try:
        with display, tempfile.TemporaryDirectory(prefix="rsas-") as scratch:
            run_trials(
                dispatcher,
                experiment,
                arrays,
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
            with display.mirror:
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
        raise Halted(f"sweep {folder.name!r}: its study or storage cannot be read any more")
    return dataclasses.replace(status, mirrored=mirrored)


def _is_lost(folder: SweepDir) -> bool:
    """Tell whether another process has taken the sweep over, and logs what happens."""
    try:
        return folder.is_lost()
    except (InputError, OSError):  # the study is away, and with it all who could take it over
        return False


def _last_status(folder: SweepDir) -> Status | None:
    """What the sweep has come to; None where its study or its storage is away."""
    try:
        return folder.status(mine=True)
    except (InputError, StorageError):
        return None


class _Run:
    """Passes on what happens in a running sweep; the dispatcher's listener."""

    def __init__(
        self,
        folder: SweepDir,
        study: Study,
        experiment: Experiment,
        display: SweepProgress,
        tracker: tracking.Tracker,
        retention: Retention,
        metrics: SweepGauges,
        launch: LaunchLog,
    ) -> None:
        self.folder, self.experiment = folder, experiment
        self._study, self._launch = study, launch
        self._display, self._tracker, self._keeper = display, tracker, retention
        self._metrics = metrics
        self._checked = time.monotonic()  # whether this process still has the lease

    def begin(self, number: int) -> None:
        self._display.begin(number)
        self._metrics.begin(number)
        self._tracker.begin(self._study.trial(number, self.experiment.objectives))
        self._keeper.record(number)

    def rows(self, number: int, rows: Sequence[dict[str, float]]) -> None:
        self._launch.add_training(sum(row["seconds"] for row in rows))
        self._display.rows(number, rows)
        self._metrics.rows(rows)
        self._tracker.rows(trial_id(number), rows)

    def change(self, number: int) -> None:
        self._keeper.record(number)

    def end(self, number: int) -> None:
        self._launch.note()
        now = self._study.trials(self.experiment.objectives)
        trial = self._study.trial(number, self.experiment.objectives)
        self._display.end(number, now)
        self._metrics.end(number, now)
        self._tracker.end(trial, now)
        self._keeper.end(number, now)

    def note(self, number: int, line: str) -> None:
        self._display.note(f"{trial_id(number)}: {line}")

    def cut_off(self, number: int, device_seconds: float, line: str) -> None:
        self._launch.add_cut_off(device_seconds)
        self.note(number, line)

    def tick(self) -> None:
        self._launch.note_sometimes()
        if time.monotonic() > self._checked + _CHECK_SECONDS:
            self._checked = time.monotonic()
            self._study.check_lease()


def _prepare(study: Study, folder: SweepDir, console: Console) -> None:
    """What a sweep knows before its first trial; done once, also where a kill came between."""
    record = folder.record
    if study.record() is not None:
        folder.note_copies(study)  # it may have been extended
        return
    if record.get("known") is not None:
        other = Workspace(folder.workspace).open(record["known"])
        count = study.add_known(other.study(), other.name)
        console.print(f"the sampler knows {count} trials of {other.name}")
    study.enqueue(record["enqueued"])
    folder.note_copies(study)
