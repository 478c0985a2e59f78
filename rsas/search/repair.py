"""``rsas check``: find what a sweep's books do not agree on, and mend it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from optuna.storages.journal import JournalFileOpenLock

from rsas import tracking
from rsas.errors import InputError, StorageError
from rsas.records import TrialRecord
from rsas.search.book import Book
from rsas.search.check import Fault, aside, check_mirror, check_storage
from rsas.search.checkpoints import TrialFolder
from rsas.search.experiment import Experiment, load_experiment
from rsas.search.final import final_model
from rsas.search.folder import SweepFolder
from rsas.search.keeper import Keeper
from rsas.search.rebuild import is_behind, rebuild
from rsas.search.record import OtherStudy
from rsas.search.workspace import Workspace

__all__ = ["check", "experiment_of", "mend_book", "mend_mirror", "repair", "tracker_of"]


def check(folder: SweepFolder) -> list[Fault]:
    """Every ghost, twin, gap, mismatch and damage in the books of a sweep; none when they agree.

    Raises:
        InputError: the tracking server does not answer.
    """
    faults = list(_check_book(folder))
    if faults:  # all else is compared with the book
        return faults
    status = folder.status()
    faults += check_storage(folder, status)
    if (file := _own_mirror(folder)) and (reason := tracking.damage(file)):
        return [*faults, Fault("damaged", "mlflow", "", f"{file} is damaged ({reason})")]
    uri = folder.tracking_uri()
    faults += check_mirror(tracking.read_mirror(uri, folder.record["id"]), folder, status)
    return faults


def repair(folder: SweepFolder) -> list[str]:
    """Mend what ``check`` finds, as far as it can be; returns lines that say what was done.

    Call it with the sweep locked. MLflow's runs that say something else than the book are marked
    as deleted there and made anew; folders that the book does not know are renamed.
    """
    experiment = experiment_of(folder)
    lines = mend_book(folder, experiment) + mend_mirror(folder)
    status = folder.status(mine=True)
    book = folder.book(experiment)
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
    keeper = Keeper(folder.storage, book, folder.objectives, said.append)
    for trial in status.trials:
        keeper.record(int(trial.trial_id[1:]))
    keeper.close(status.trials)
    tracker = tracker_of(folder, book, say=said.append)
    tracker.close(status.state)
    return lines + said


def mend_book(folder: SweepFolder, experiment: Experiment) -> list[str]:
    """Make the book anew where its file is damaged; returns lines that say so.

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
        lock.acquire()  # a damaged book shows no lease, so two processes may have come here
        try:
            return _rebuild(folder, experiment, records)
        finally:
            lock.release()
    except OSError as error:
        raise InputError(
            f"sweep {folder.name!r}: its book cannot be made again ({error.strerror or error})"
        ) from None


def _rebuild(
    folder: SweepFolder, experiment: Experiment, records: Mapping[int, Mapping[str, Any]]
) -> list[str]:
    try:
        if not is_behind(folder.book(experiment), records):
            return []
    except OtherStudy:
        raise  # a new file would not be this sweep's, either
    except InputError:
        pass
    _check_objectives(folder, records)
    return rebuild(folder.journal, records, experiment, record=folder.record, lease=folder.lease)


def mend_mirror(folder: SweepFolder) -> list[str]:
    """Keep the workspace's own file of MLflow aside where it is damaged; returns a line on it.

    The runs of this sweep are logged again by its next tracker.
    """
    file = _own_mirror(folder)
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


def _own_mirror(folder: SweepFolder) -> Path | None:
    """The workspace's own file of MLflow, where the sweep is mirrored there."""
    return folder.workspace / "mlflow.db" if folder.record["tracking_uri"] is None else None


def _is_there(place: Workspace, name: str) -> bool:
    """Whether a sweep of the workspace is mirrored in its own file."""
    with contextlib.suppress(InputError):
        return _own_mirror(place.open(name)) is not None
    return False


def experiment_of(folder: SweepFolder) -> Experiment:
    """The experiment of a sweep, its space from the file that defined it.

    Raises:
        InputError: the file is not there any more, or does not define one.
    """
    current, _ = load_experiment(folder.record["source"])
    return Experiment.from_dict(folder.record["experiment"], current.space)


def tracker_of(
    folder: SweepFolder,
    book: Book,
    *,
    say: tracking.Say,
    progress: tracking.Progress = lambda done, total: None,
) -> tracking.Tracker:
    """The mirror of a sweep in MLflow; a damaged file is made again."""
    for line in mend_mirror(folder):
        say(line)
    record = folder.record["experiment"]
    is_local = folder.record["tracking_uri"] is None
    source = tracking.Source(
        uri=folder.tracking_uri(),
        trials=lambda: book.trials(folder.objectives),
        rows=lambda trial: folder.history(trial).rows,
        sweep=folder.name,
        sweep_id=folder.record["id"],
        experiment=record["name"],
        artifacts=(folder.workspace / "artifacts").as_uri() if is_local else None,
        objectives=folder.objectives,
        record=record,
        check=book.check_lease,
        progress=progress,
        origin=folder.record["origin"],
        models=lambda trial: _network(folder, book, trial),
    )
    return tracking.Tracker(source, say)


def _network(folder: SweepFolder, book: Book, trial: TrialRecord) -> tuple[Any, Any]:
    """The final network of a trial, and two inputs of zeros."""
    from rsas.export import Network

    config, state = final_model(folder, book, trial)
    example = np.zeros((2, *state["input_shape"]), dtype=np.float32)
    return Network.from_state(state, config).model.eval(), example


def _check_book(folder: SweepFolder) -> list[Fault]:
    try:
        book, records = folder.book_begun(), folder.kept_records()
        if book is None and not records:
            return []
        if book is None or is_behind(book, records):
            told = "the book lacks what the trials' own records have"
            return [Fault("damaged", "book", "", told)]
    except InputError as error:
        return [Fault("damaged", "book", "", str(error))]
    return []


def _check_database(folder: SweepFolder) -> None:
    """See that a database which is to have the book of trials is not another one, or a new one."""
    book = folder.book_begun()
    if book is not None and book.trials(folder.objectives):
        return
    if records := folder.kept_records():
        raise InputError(
            f"sweep {folder.name!r}: the database {folder.record['study_storage']} has no study of "
            f"this sweep, yet {len(records)} of its trials are kept in {folder.trials.place}; "
            "bring that database back (a relative path begins where the sweep was begun)"
        )


def _check_objectives(folder: SweepFolder, records: Mapping[int, Mapping[str, Any]]) -> None:
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


def _mend(fault: Fault, folder: SweepFolder, uri: str, run_id: str | None) -> str:
    """Mend something on the storage; returns what was done, or that it cannot be.

    Raises:
        StorageError: the storage cannot be written.
    """
    name = fault.trial_id
    if fault.kind == "ghost" and fault.what.startswith("the book"):
        place = folder.models if fault.what.endswith("model") else folder.trials
        to = aside(name, place.names())
        place.move(name, to)
        return f"{name}: its folder is kept aside as {to}"
    if fault.kind == "damaged" and "checkpoint" in fault.what:
        damaged = TrialFolder(folder.trials / name).set_aside()
        return f"{name}: {', '.join(damaged)} kept aside as .damaged" if damaged else ""
    if "history" in fault.what:
        rows = tracking.read_history(uri, run_id) if run_id else []
        if not rows:
            return f"{name}: {fault.what}, and MLflow does not have it either; it is lost"
        trial = TrialFolder(folder.trials / name)
        trial.begin()
        trial.append(rows)
        return f"{name}: its history is made again from MLflow"
    if "final model" in fault.what:
        return f"{name}: {fault.what}; it can be had again by training its configuration"
    return ""
