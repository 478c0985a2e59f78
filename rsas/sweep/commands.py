"""Launch and resume sweeps: run the trials that the study lacks."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import threading
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rich.console import Console

from rsas import data, tracking
from rsas.config import LoopConfig, TrainConfig
from rsas.errors import InputError, StorageError, first_line
from rsas.sweep.audit.repair import repair_mirror, repair_study
from rsas.sweep.changes import check_axes, definition, differences
from rsas.sweep.execute import doctor
from rsas.sweep.execute.cluster import Connection, Slots, python_path
from rsas.sweep.execute.task import Task, task_of
from rsas.sweep.experiment import Experiment, load_experiment
from rsas.sweep.files.file_store import FileStore
from rsas.sweep.files.retention import Retention
from rsas.sweep.files.sweep_dir import SweepDir
from rsas.sweep.files.workspace import Workspace
from rsas.sweep.follow.progress import MirrorProgress
from rsas.sweep.follow.prometheus import serving
from rsas.sweep.mirror import tracker_of
from rsas.sweep.provenance import provenance_of
from rsas.sweep.session import run
from rsas.sweep.status import Status
from rsas.sweep.study.study import Study
from rsas.sweep.suggest.space import check_points, check_space, sample, unused_axes
from rsas.userfile import search_in

__all__ = ["diagnose", "launch", "resume"]

_END_SECONDS = 20.0  # after SIGTERM; a resume trains cut-off epochs again, from a checkpoint


def launch(
    experiment: Experiment,
    source: str,
    *,
    name: str,
    workspace: Workspace,
    console: Console,
    connection: Connection,
    defined: Experiment,
    assigned: Iterable[str] = (),
    data_dir: Path | None = None,
    tracking_uri: str | None = None,
    storage: str | None = None,
    study_storage: str | None = None,
    enqueued: Sequence[Mapping[str, Any]] = (),
    known: str | None = None,
    metrics_port: int | None = None,
) -> Status:
    """Begin a sweep and run it to its end.

    All checks of the input come before the first write.

    Args:
        experiment: the experiment to search.
        source: the name by which its code is loaded again, as ``load_experiment`` returns it.
        name: of the sweep; the workspace must not have this name yet.
        workspace: gets the folder of the sweep.
        console: shows progress.
        connection: to a Ray cluster, whose address a resume uses again.
        defined: the experiment as its file defines it, before any field was set by hand.
        assigned: fields of ``base`` that were set by hand; the space must not set them again.
        data_dir: folder of the data sets; by default ``RSAS_DATA_DIR``.
        tracking_uri: of an MLflow server; by default a SQLite file in the workspace.
        storage: path or URI that all nodes reach, for trials' files; by default the workspace.
        study_storage: URL of a database for the study; by default a file in the workspace.
        enqueued: parameter values for the first trials; ``space.check_points`` checks them.
        known: name of a sweep in the workspace whose results the sampler gets.
        metrics_port: port of this machine that serves metrics to Prometheus; 0 for a free port.

    Returns:
        The status of the sweep; its state is ``interrupted`` after Ctrl-C.

    Raises:
        InputError: an argument cannot be used; no incomplete sweep is left.
        Halted: the sweep had to stop; it can be resumed.
    """
    workspace.check_writable()
    workspace.check_free(name)
    experiment = experiment.with_config(_anchored(experiment.config))
    tracking_uri, study_storage = map(_anchored_uri, (tracking_uri, study_storage))
    for field in check_space(experiment).keys() & set(assigned):
        raise InputError(f"--set {field}: the space of {experiment.name!r} searches this field")
    check_points(experiment, enqueued)
    if known is not None:
        _check_known(workspace.open(known), experiment)
    for line in unused_axes(experiment):
        console.print(
            f"note: the space of {experiment.name!r}: {line}", style="yellow", markup=False
        )
    data_path = (data_dir or data.default_data_dir()).expanduser().absolute()
    identity = uuid.uuid4().hex
    record: dict[str, Any] = {
        "id": identity,
        "source": source,
        "experiment": definition(experiment),
        "defined": definition(defined),
        "provenance": provenance_of(source),
        "data_dir": str(data_path),
        "tracking_uri": tracking_uri,  # None: the workspace's own file, even after a move
        "storage": storage and (FileStore(_absolute(storage)) / f"{name}-{identity[:8]}").location,
        "study_storage": study_storage,
        "address": connection.address,
        "enqueued": [dict(point) for point in enqueued],
        "known": known,
        "python_path": python_path(source),
    }
    with console.status("reading the data"):
        task = task_of(experiment, source, data_path)
        task.check(sample(experiment))
        record["experiment"]["data"] = task.describe()
        if tracking_uri is not None:
            tracking.connect(tracking_uri)
        if storage is not None:
            _try_storage(storage)
        if study_storage is not None:
            Study(study_storage, experiment, name=f"{identity}-test").delete()
    with serving(metrics_port, console.print) as registry:
        slots = _connect(connection, experiment, console)
        sweep_dir = workspace.create(name, record)
        message = f"sweep {name}: {experiment.budget.trials} trials, in {sweep_dir.path}"
        console.print(message, markup=False)
        with sweep_dir.locked():
            return run(sweep_dir, experiment, task, slots, console, registry)


def resume(
    name: str,
    *,
    workspace: Workspace,
    console: Console,
    connection: Connection,
    budget: Mapping[str, Any] = MappingProxyType({}),
    metrics_port: int | None = None,
    take_over: bool = False,
) -> Status:
    """Run the trials that a sweep still lacks; none if the sweep is finished.

    Args:
        name: of the sweep.
        workspace: has the folder of the sweep.
        console: shows progress.
        connection: to a Ray cluster.
        budget: new values of fields of ``Budget``, such as ``{"trials": 20}``; each is the total
            for the sweep.
        metrics_port: as in ``launch``.
        take_over: resume even if another process runs the sweep; that process may write no more.

    Raises:
        InputError: the sweep does not exist, another process runs the sweep, or its code, its data
            or its tracking server is missing. Or a value does not exceed the present budget.
        Halted: the sweep had to stop again.
    """
    sweep_dir = workspace.open(name)
    with (
        serving(metrics_port, console.print) as registry,
        sweep_dir.locked(take_over=take_over),
    ):
        before = sweep_dir.budget
        for field, value in budget.items():
            present = getattr(before, field)
            if present is None or value <= present:
                raise InputError(
                    f"--{field.replace('_', '-')} {value:g}: sweep {name!r} "
                    + (f"has {present:g} already; give more" if present else "has no such limit")
                )
        if budget:
            sweep_dir.set_budget(dataclasses.replace(before, **budget))
        try:
            ready = _ready(sweep_dir, console, connection)
        except (InputError, StorageError):  # nothing was run for the new budget
            if budget:
                sweep_dir.set_budget(before)
            raise
        return ready if isinstance(ready, Status) else run(sweep_dir, *ready, console, registry)


def diagnose(
    experiment: Experiment,
    source: str,
    *,
    connection: Connection,
    data_dir: Path | None,
    tracking_uri: str | None,
    storage: str | None,
) -> list[doctor.Finding]:
    """Ask every node of a cluster whether the node can run an experiment.

    The arguments are those of ``launch``.

    Raises:
        InputError: the cluster or the data set does not exist.
    """
    task = task_of(experiment, source, data_dir)
    connection.slots(experiment.resources, any_size=True)
    return doctor.examine(
        experiment,
        task,
        sample(experiment).to_dict(),
        storage=storage and _absolute(storage),
        tracking_uri=tracking_uri,
    )


def _ready(
    sweep_dir: SweepDir, console: Console, connection: Connection
) -> Status | tuple[Experiment, Task, Slots]:
    """Return the inputs of ``run`` after Ray has started, or the status of a finished sweep."""
    record = sweep_dir.record
    search_in(record["python_path"])
    current, _ = load_experiment(record["source"])
    experiment = Experiment.from_dict(record["experiment"], current.space, current.train)
    for line in repair_study(sweep_dir, experiment):
        console.print(f"note: {line}", style="yellow", markup=False)
    status = sweep_dir.status(mine=True)
    if status.state == "finished":
        # A kill or an outage may have left files and MLflow behind the study.
        study = sweep_dir.study(experiment)
        Retention(sweep_dir.storage, study, sweep_dir.objectives, console.print).close(
            status.trials
        )
        with MirrorProgress(console, console.print) as progress:
            for line in repair_mirror(sweep_dir):
                console.print(line, markup=False)
            tracker = tracker_of(sweep_dir, study, say=console.print, progress=progress)
            mirrored = tracker.close(status.state)
        if not mirrored:
            console.print(f"MLflow lacks some results; 'rsas resume {sweep_dir.name}' logs them")
        return dataclasses.replace(status, mirrored=mirrored)
    check_space(experiment)
    _compare(sweep_dir, current, console)
    with console.status("reading the data"):
        task = task_of(experiment, record["source"], record["data_dir"])
        task.check(sample(experiment))
        sweep_dir.tracking_uri()  # raises if the environment lacks its password
    return experiment, task, _connect(connection, experiment, console)


def _compare(sweep_dir: SweepDir, current: Experiment, console: Console) -> None:
    """Print and note how a sweep's experiment file has changed since the sweep began.

    Raises:
        InputError: the study of the sweep cannot hold trials of the changed space.
    """
    now = definition(current)
    then = sweep_dir.record["defined"]
    try:
        check_axes(then, now)
    except InputError as error:
        raise InputError(f"{sweep_dir.record['source']}: {error}") from None
    lines = differences(then, now)
    for line in lines:
        message = f"note: {sweep_dir.record['source']}: {line}"
        console.print(message, style="yellow", markup=False)
    sweep_dir.note_changes(lines)


def _connect(connection: Connection, experiment: Experiment, console: Console) -> Slots:
    with console.status("connecting to Ray" if connection.address else "starting Ray"):
        slots = connection.slots(experiment.resources)
    # Ray's handler would end the process at once; on SIGINT, Tune shuts down normally.
    signal.signal(signal.SIGTERM, _end_soon)
    return slots


def _end_soon(*_: Any) -> None:
    """Handle SIGTERM: shut down normally, or exit after ``_END_SECONDS``."""
    # Ray does not answer if it also received a SIGTERM; the normal shutdown then may never end.
    timer = threading.Timer(_END_SECONDS, os._exit, [128 + signal.SIGTERM])
    timer.daemon = True
    timer.start()
    # The process does not send SIGINT to itself: background commands of a script ignore SIGINT.
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler):
        raise KeyboardInterrupt
    handler(signal.SIGINT, None)


def _check_known(other: SweepDir, experiment: Experiment) -> None:
    """Check that the results of another sweep are valid in this one.

    Raises:
        InputError: its objectives, base, space or axes differ, or its study cannot be read.
    """
    theirs = other.record["experiment"]
    mine = definition(experiment)
    for part in ("objectives", "base", "space", "axes"):
        if theirs.get(part) != mine[part]:
            raise InputError(
                f"--known {other.name}: its {part} differ from those of this sweep, so the "
                "sampler cannot use its results; --enqueue runs its front again"
            )
    other.study()  # raises if the study cannot be read


def _try_storage(uri: str) -> None:
    """Check that a storage can be written, and leave no file there.

    Raises:
        InputError: the storage cannot be written.
    """
    storage = FileStore(_absolute(uri))
    name = f".rsas-{uuid.uuid4().hex}"
    try:
        storage.write(name, b"")
        storage.delete(name)
    except (StorageError, OSError) as error:
        raise InputError(f"--storage: {first_line(error)}") from None


def _absolute(uri: str) -> str:
    return uri.rstrip("/") if "://" in uri else str(Path(uri).expanduser().absolute())


def _anchored(config: TrainConfig | LoopConfig) -> TrainConfig | LoopConfig:
    """Return the configuration with absolute paths, so that a resume may start in any folder."""
    if isinstance(config, LoopConfig):
        return config
    kind, _, path = config.dataset.partition(":")
    if kind == "npz":
        config = config.replace(dataset=f"npz:{Path(path).expanduser().absolute()}")
    file, _, function = config.model.rpartition(":")
    if file.endswith(".py"):
        config = config.replace(model=f"{Path(file).absolute()}:{function}")
    return config


def _anchored_uri(uri: str | None) -> str | None:
    """Return the URI, with an absolute path if the URI names a SQLite file by a relative one."""
    match = re.fullmatch(r"(sqlite(?:\+\w+)?:///)(?!/|:memory:|file:)([^?]+)(.*)", uri or "")
    return f"{match[1]}{Path(match[2]).absolute()}{match[3]}" if match else uri
