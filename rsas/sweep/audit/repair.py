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


def repair(folder: SweepDir) -> list[str]:
    """Repair the faults that ``check`` finds, as far as possible; return messages on the repairs.

    The caller must hold the sweep's lock. MLflow runs whose data differ from the study are marked
    as deleted in MLflow and logged again. Folders that the study does not know are renamed.
    """
    experiment = experiment_of(folder)
    lines = repair_study(folder, experiment) + repair_mirror(folder)
    status = folder.status(mine=True)
    study = folder.study(experiment)
    uri = folder.tracking_uri()
    faults = list(check_storage(folder, status))
    mirror = tracking.read_mirror(uri, folder.record["id"])
    wrong = {fault.run_id for fault in check_mirror(mirror, folder, status) if fault.content}
    runs = {run.trial_id: run.run_id for run in mirror.runs}
    for fault in faults:
        try:
            line = _repair_fault(fault, folder, uri, runs.get(fault.trial_id))
        except StorageError as error:  # one unwritable file must not stop the other repairs
            line = str(error)
        lines += [line] if line else []
    for run_id in wrong:
        tracking.delete_run(uri, run_id)
        lines.append(f"MLflow's run {run_id} is marked as deleted")
    messages: list[str] = []
    retention = Retention(folder.storage, study, folder.objectives, messages.append)
    for trial in status.trials:
        retention.begin(trial)
    retention.close(status.trials)
    tracker = tracker_of(folder, study, say=messages.append)
    tracker.close(status.state)
    return lines + messages


def repair_study(folder: SweepDir, experiment: Experiment) -> list[str]:
    """Rebuild the study if its file is damaged; return messages on the repair.

    Raises:
        InputError: the study is missing from its database; a new one would run all trials again.
            Or the study belongs to another sweep, or the new file cannot be written.
    """
    if folder.record.get("study_storage"):
        _check_database(folder)
        return []  # the database server guards its own files
    records = folder.kept_records()
    lock = JournalFileOpenLock(f"{folder.journal}.rebuild")
    try:
        # A damaged study may show no lease, so two processes may reach this line at once.
        lock.acquire()
        try:
            return _rebuild(folder, experiment, records)
        finally:
            lock.release()
    except OSError as error:
        raise InputError(
            f"sweep {folder.name!r}: its study cannot be rebuilt ({error.strerror or error})"
        ) from None


def _rebuild(
    folder: SweepDir, experiment: Experiment, records: Mapping[int, Mapping[str, Any]]
) -> list[str]:
    try:
        if not is_behind(folder.study(experiment), records):
            return []
    except OtherStudy:
        raise  # a rebuilt file would still hold the trials of another sweep
    except InputError:
        pass
    _check_objectives(folder, records)
    return rebuild(folder.journal, records, experiment, record=folder.record, lease=folder.lease)


def repair_mirror(folder: SweepDir) -> list[str]:
    """Keep the workspace's own MLflow file aside if it is damaged; return messages on that.

    The next tracker of this sweep logs the sweep's runs again.
    """
    file = own_mirror(folder)
    if file is None or not (reason := tracking.damage(file)):
        return []
    aside = tracking.set_aside(file)
    if aside is None:
        return []
    workspace = Workspace(folder.workspace)
    others = [n for n in workspace.names() if n != folder.name and _is_there(workspace, n)]
    hint = f"; 'rsas check NAME --repair' logs those of {', '.join(others)}" if others else ""
    return [
        f"{file} was damaged ({reason}) and is kept aside as {aside.name}; the runs of "
        f"{folder.name} are logged again{hint}"
    ]


def _is_there(workspace: Workspace, name: str) -> bool:
    """Return whether a sweep of the workspace is mirrored in the workspace's own file."""
    with contextlib.suppress(InputError):
        return own_mirror(workspace.open(name)) is not None
    return False


def experiment_of(folder: SweepDir) -> Experiment:
    """Return the experiment of a sweep, with the space from the file that defined the sweep.

    Raises:
        InputError: the file no longer exists, or does not define an experiment.
    """
    current, _ = load_experiment(folder.record["source"])
    return Experiment.from_dict(folder.record["experiment"], current.space)


def _check_database(folder: SweepDir) -> None:
    """Check that the database holds this sweep's study if trials have been run.

    Raises:
        InputError: the database is a new one or the wrong one.
    """
    study = folder.study_begun()
    if study is not None and study.trials(folder.objectives):
        return
    if records := folder.kept_records():
        raise InputError(
            f"sweep {folder.name!r}: the database {folder.record['study_storage']} has no study of "
            f"this sweep, yet {len(records)} of its trials are kept in {folder.trials.place}; "
            "restore that database (a relative path starts where the sweep was launched)"
        )


def _check_objectives(folder: SweepDir, records: Mapping[int, Mapping[str, Any]]) -> None:
    """Check that the record of the sweep has as many objectives as the records of its trials.

    Raises:
        OtherStudy: the numbers differ, so somebody has edited the sweep's record.
    """
    count = len(folder.objectives)
    for record in records.values():
        values = record["values"]
        if values is not None and len(values) != count:
            raise OtherStudy(
                f"sweep {folder.name!r}: sweep.json has {count} objectives, its trials have "
                f"{len(values)}; correct the file, or delete it to restore a copy"
            )


def _repair_fault(fault: Fault, folder: SweepDir, uri: str, run_id: str | None) -> str:
    """Repair a fault of the storage; return a message on the repair, or on why it is impossible.

    Raises:
        StorageError: the storage cannot be written.
    """
    name = fault.trial_id
    if fault.kind == "ghost" and fault.what.startswith("the study"):
        store = folder.models if fault.what.endswith("model") else folder.trials
        new_name = aside(name, store.names())
        store.move(name, new_name)
        return f"{name}: its folder is kept aside as {new_name}"
    if fault.kind == "damaged" and "checkpoint" in fault.what:
        damaged = TrialDir(folder.trials / name).set_aside()
        return f"{name}: {', '.join(damaged)} kept aside as .damaged" if damaged else ""
    if "history" in fault.what:
        rows = tracking.read_history(uri, run_id) if run_id else []
        if not rows:
            return f"{name}: {fault.what}; MLflow has no copy, so the history cannot be restored"
        trial = TrialDir(folder.trials / name)
        trial.begin()
        trial.append(rows)
        return f"{name}: the history is restored from MLflow"
    if "final model" in fault.what:
        return f"{name}: {fault.what}; training its configuration again makes a new model"
    return ""
