"""``rsas check --repair``: mend what ``check`` finds."""

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

__all__ = ["experiment_of", "mend_mirror", "mend_study", "repair"]


def repair(folder: SweepDir) -> list[str]:
    """Mend what ``check`` finds, as far as it can be; returns lines that say what was done.

    Call it with the sweep locked. MLflow's runs that say something else than the study are marked
    as deleted there and made anew; folders that the study does not know are renamed.
    """
    experiment = experiment_of(folder)
    lines = mend_study(folder, experiment) + mend_mirror(folder)
    status = folder.status(mine=True)
    study = folder.study(experiment)
    uri = folder.tracking_uri()
    faults = list(check_storage(folder, status))
    mirror = tracking.read_mirror(uri, folder.record["id"])
    wrong = {fault.run_id for fault in check_mirror(mirror, folder, status) if fault.content}
    runs = {run.trial_id: run.run_id for run in mirror.runs}
    for fault in faults:
        try:
            line = _mend(fault, folder, uri, runs.get(fault.trial_id))
        except StorageError as error:  # all else is mended
            line = str(error)
        lines += [line] if line else []
    for run_id in wrong:
        tracking.delete_run(uri, run_id)
        lines.append(f"MLflow's run {run_id} is marked as deleted")
    said: list[str] = []
    retention = Retention(folder.storage, study, folder.objectives, said.append)
    for trial in status.trials:
        retention.record(trial.number)
    retention.close(status.trials)
    tracker = tracker_of(folder, study, say=said.append)
    tracker.close(status.state)
    return lines + said


def mend_study(folder: SweepDir, experiment: Experiment) -> list[str]:
    """Make the study anew where its file is damaged; returns lines that say so.

    Raises:
        InputError: it is in a database, and not there; a new one would run all trials again. Or
            it is that of another sweep, or the new file cannot be written.
    """
    if folder.record.get("study_storage"):
        _check_database(folder)
        return []  # a database keeps itself
    records = folder.kept_records()
    lock = JournalFileOpenLock(f"{folder.journal}.rebuild")
    try:
        lock.acquire()  # a damaged study shows no lease, so two processes may have come here
        try:
            return _rebuild(folder, experiment, records)
        finally:
            lock.release()
    except OSError as error:
        raise InputError(
            f"sweep {folder.name!r}: its study cannot be made again ({error.strerror or error})"
        ) from None


def _rebuild(
    folder: SweepDir, experiment: Experiment, records: Mapping[int, Mapping[str, Any]]
) -> list[str]:
    try:
        if not is_behind(folder.study(experiment), records):
            return []
    except OtherStudy:
        raise  # a new file would not be this sweep's, either
    except InputError:
        pass
    _check_objectives(folder, records)
    return rebuild(folder.journal, records, experiment, record=folder.record, lease=folder.lease)


def mend_mirror(folder: SweepDir) -> list[str]:
    """Keep the workspace's own file of MLflow aside where it is damaged; returns a line on it.

    The runs of this sweep are logged again by its next tracker.
    """
    file = own_mirror(folder)
    if file is None or not (reason := tracking.damage(file)):
        return []
    aside = tracking.set_aside(file)
    if aside is None:
        return []
    place = Workspace(folder.workspace)
    others = [name for name in place.names() if name != folder.name and _is_there(place, name)]
    hint = f"; 'rsas check NAME --repair' logs those of {', '.join(others)}" if others else ""
    return [
        f"{file} was damaged ({reason}) and is kept aside as {aside.name}; the runs of "
        f"{folder.name} are logged again{hint}"
    ]


def _is_there(place: Workspace, name: str) -> bool:
    """Whether a sweep of the workspace is mirrored in its own file."""
    with contextlib.suppress(InputError):
        return own_mirror(place.open(name)) is not None
    return False


def experiment_of(folder: SweepDir) -> Experiment:
    """The experiment of a sweep, its space from the file that defined it.

    Raises:
        InputError: the file is not there any more, or does not define one.
    """
    current, _ = load_experiment(folder.record["source"])
    return Experiment.from_dict(folder.record["experiment"], current.space)


def _check_database(folder: SweepDir) -> None:
    """See that a database which is to have the study of trials is not another one, or a new one."""
    study = folder.study_begun()
    if study is not None and study.trials(folder.objectives):
        return
    if records := folder.kept_records():
        raise InputError(
            f"sweep {folder.name!r}: the database {folder.record['study_storage']} has no study of "
            f"this sweep, yet {len(records)} of its trials are kept in {folder.trials.place}; "
            "bring that database back (a relative path begins where the sweep was begun)"
        )


def _check_objectives(folder: SweepDir, records: Mapping[int, Mapping[str, Any]]) -> None:
    """See that the record of the sweep has as many objectives as the records of its trials.

    Raises:
        OtherStudy: it has not, so somebody has edited it.
    """
    count = len(folder.objectives)
    for record in records.values():
        values = record["values"]
        if values is not None and len(values) != count:
            raise OtherStudy(
                f"sweep {folder.name!r}: sweep.json has {count} objectives, and its trials "
                f"{len(values)}; correct the file, or delete it, and a copy is used"
            )


def _mend(fault: Fault, folder: SweepDir, uri: str, run_id: str | None) -> str:
    """Mend something on the storage; returns what was done, or that it cannot be.

    Raises:
        StorageError: the storage cannot be written.
    """
    name = fault.trial_id
    if fault.kind == "ghost" and fault.what.startswith("the study"):
        place = folder.models if fault.what.endswith("model") else folder.trials
        to = aside(name, place.names())
        place.move(name, to)
        return f"{name}: its folder is kept aside as {to}"
    if fault.kind == "damaged" and "checkpoint" in fault.what:
        damaged = TrialDir(folder.trials / name).set_aside()
        return f"{name}: {', '.join(damaged)} kept aside as .damaged" if damaged else ""
    if "history" in fault.what:
        rows = tracking.read_history(uri, run_id) if run_id else []
        if not rows:
            return f"{name}: {fault.what}, and MLflow does not have it either; it is lost"
        trial = TrialDir(folder.trials / name)
        trial.begin()
        trial.append(rows)
        return f"{name}: its history is made again from MLflow"
    if "final model" in fault.what:
        return f"{name}: {fault.what}; it can be had again by training its configuration"
    return ""
