"""``rsas check --repair``: repair the faults that ``check`` finds."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from optuna.storages.journal import JournalFileOpenLock

from rsas import tracking
from rsas.errors import InputError, StorageError
from rsas.sweep.audit.check import (
    Fault,
    aside,
    check_mirror,
    check_storage,
    is_behind,
    own_mirror,
)
from rsas.sweep.audit.rebuild import rebuild
from rsas.sweep.experiment import Experiment, load_experiment
from rsas.sweep.files.retention import Retention
from rsas.sweep.files.sweep_dir import SweepDir
from rsas.sweep.files.sweep_record import OtherStudy
from rsas.sweep.files.trial_dir import TrialDir
from rsas.sweep.files.workspace import Workspace
from rsas.sweep.mirror import tracker_of

__all__ = ["experiment_of", "repair", "repair_mirror", "repair_study"]


def repair(sweep_dir: SweepDir) -> list[str]:
    """Repair the faults that ``check`` finds, as far as possible; return messages on the repairs.

    The caller must hold the sweep's lock. MLflow runs whose data differ from the study are marked
    as deleted in MLflow and logged again. Folders that the study does not know are renamed.
    """
    experiment = experiment_of(sweep_dir)
    lines = repair_study(sweep_dir, experiment) + repair_mirror(sweep_dir)
    status = sweep_dir.status(mine=True)
    study = sweep_dir.study(experiment)
    uri = sweep_dir.tracking_uri()
    faults = list(check_storage(sweep_dir, status))
    mirror = tracking.read_mirror(uri, sweep_dir.record["id"])
    wrong = {fault.run_id for fault in check_mirror(mirror, sweep_dir, status) if fault.content}
    runs = {run.trial_id: run.run_id for run in mirror.runs}
    for fault in faults:
        try:
            line = _repair_fault(fault, sweep_dir, uri, runs.get(fault.trial_id))
        except StorageError as error:  # one unwritable file must not stop the other repairs
            line = str(error)
        lines += [line] if line else []
    for run_id in wrong:
        tracking.delete_run(uri, run_id)
        lines.append(f"MLflow's run {run_id} is marked as deleted")
    messages: list[str] = []
    retention = Retention(sweep_dir.storage, study, sweep_dir.objectives, messages.append)
    for trial in status.trials:
        retention.begin(trial)
    retention.close(status.trials)
    tracker = tracker_of(sweep_dir, study, say=messages.append)
    tracker.close(status.state)
    return lines + messages


def repair_study(sweep_dir: SweepDir, experiment: Experiment) -> list[str]:
    """Rebuild the study if its file is damaged; return messages on the repair.

    Raises:
        InputError: the study is missing from its database; a new one would run all trials again.
            Or the study belongs to another sweep, or the new file cannot be written.
    """
    if sweep_dir.record.get("study_storage"):
        _check_database(sweep_dir)
        return []  # the database server guards its own files
    records = sweep_dir.kept_records()
    lock = JournalFileOpenLock(f"{sweep_dir.journal}.rebuild")
    try:
        # A damaged study may show no lease, so two processes may reach this line at once.
        lock.acquire()
        try:
            return _rebuild(sweep_dir, experiment, records)
        finally:
            lock.release()
    except OSError as error:
        raise InputError(
            f"sweep {sweep_dir.name!r}: its study cannot be rebuilt ({error.strerror or error})"
        ) from None


def _rebuild(
    sweep_dir: SweepDir, experiment: Experiment, records: Mapping[int, Mapping[str, Any]]
) -> list[str]:
    try:
        if not is_behind(sweep_dir.study(experiment), records):
            return []
    except OtherStudy:
        raise  # a rebuilt file would still hold the trials of another sweep
    except InputError:
        pass
    _check_objectives(sweep_dir, records)
    return rebuild(
        sweep_dir.journal, records, experiment, record=sweep_dir.record, lease=sweep_dir.lease
    )


def repair_mirror(sweep_dir: SweepDir) -> list[str]:
    """Keep the workspace's own MLflow file aside if it is damaged; return messages on that.

    The next tracker of this sweep logs the sweep's runs again.
    """
    file = own_mirror(sweep_dir)
    if file is None or not (reason := tracking.damage(file)):
        return []
    aside = tracking.set_aside(file)
    if aside is None:
        return []
    workspace = Workspace(sweep_dir.workspace)
    others = [n for n in workspace.names() if n != sweep_dir.name and _is_there(workspace, n)]
    hint = f"; 'rsas check NAME --repair' logs those of {', '.join(others)}" if others else ""
    return [
        f"{file} was damaged ({reason}) and is kept aside as {aside.name}; the runs of "
        f"{sweep_dir.name} are logged again{hint}"
    ]


def _is_there(workspace: Workspace, name: str) -> bool:
    """Return whether a sweep of the workspace is mirrored in the workspace's own file."""
    with contextlib.suppress(InputError):
        return own_mirror(workspace.open(name)) is not None
    return False


def experiment_of(sweep_dir: SweepDir) -> Experiment:
    """Return the experiment of a sweep, with the space from the file that defined the sweep.

    Raises:
        InputError: the file no longer exists, or does not define an experiment.
    """
    current, _ = load_experiment(sweep_dir.record["source"])
    return Experiment.from_dict(sweep_dir.record["experiment"], current.space, current.train)


def _check_database(sweep_dir: SweepDir) -> None:
    """Check that the database holds this sweep's study if trials have been run.

    Raises:
        InputError: the database is a new one or the wrong one.
    """
    study = sweep_dir.study_begun()
    if study is not None and study.trials(sweep_dir.objectives):
        return
    if records := sweep_dir.kept_records():
        raise InputError(
            f"sweep {sweep_dir.name!r}: the database {sweep_dir.record['study_storage']} has no "
            f"study of this sweep, yet {len(records)} of its trials are kept in "
            f"{sweep_dir.trials.location}; restore that database (a relative path starts where the "
            "sweep was launched)"
        )


def _check_objectives(sweep_dir: SweepDir, records: Mapping[int, Mapping[str, Any]]) -> None:
    """Check that the record of the sweep has as many objectives as the records of its trials.

    Raises:
        OtherStudy: the numbers differ, so somebody has edited the sweep's record.
    """
    count = len(sweep_dir.objectives)
    for record in records.values():
        values = record["values"]
        if values is not None and len(values) != count:
            raise OtherStudy(
                f"sweep {sweep_dir.name!r}: sweep.json has {count} objectives, its trials have "
                f"{len(values)}; correct the file, or delete it to restore a copy"
            )


def _repair_fault(fault: Fault, sweep_dir: SweepDir, uri: str, run_id: str | None) -> str:
    """Repair a fault of the storage; return a message on the repair, or on why it is impossible.

    Raises:
        StorageError: the storage cannot be written.
    """
    name = fault.trial_id
    if fault.kind == "ghost" and fault.what.startswith("the study"):
        store = sweep_dir.models if fault.what.endswith("model") else sweep_dir.trials
        new_name = aside(name, store.names())
        store.move(name, new_name)
        return f"{name}: its folder is kept aside as {new_name}"
    if fault.kind == "damaged" and "checkpoint" in fault.what:
        damaged = TrialDir(sweep_dir.trials / name).set_aside()
        return f"{name}: {', '.join(damaged)} kept aside as .damaged" if damaged else ""
    if "history" in fault.what:
        rows = tracking.read_history(uri, run_id) if run_id else []
        if not rows:
            return f"{name}: {fault.what}; MLflow has no copy, so the history cannot be restored"
        trial = TrialDir(sweep_dir.trials / name)
        trial.begin()
        trial.append(rows)
        return f"{name}: the history is restored from MLflow"
    if "final model" in fault.what:
        return f"{name}: {fault.what}; training its configuration again makes a new model"
    return ""
