"""Run what a sweep's study lacks: a fresh start and a resumed one are the same operation."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import signal
import sys
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from rich.console import Console

from rsas import build, data, tracking
from rsas.config import TrainConfig
from rsas.errors import InputError, StorageError, first_line
from rsas.redact import without_passwords
from rsas.sweep.audit.repair import mend_mirror, mend_study
from rsas.sweep.changes import check_axes, definition, differences
from rsas.sweep.execute import cluster, doctor
from rsas.sweep.experiment import Experiment, load_experiment
from rsas.sweep.files.file_store import FileStore
from rsas.sweep.files.retention import Retention
from rsas.sweep.files.sweep_dir import SweepDir
from rsas.sweep.files.sweep_record import known_uri
from rsas.sweep.files.workspace import Workspace
from rsas.sweep.follow.progress import MirrorProgress
from rsas.sweep.follow.prometheus import serving
from rsas.sweep.mirror import tracker_of
from rsas.sweep.provenance import origin
from rsas.sweep.session import run
from rsas.sweep.status import Status
from rsas.sweep.study.study import Study
from rsas.sweep.suggest.space import check_points, check_space, idle_axes

__all__ = ["diagnose", "extend", "launch", "resume"]

_END_SECONDS = 20.0  # after SIGTERM; what is lost is trained again from the last checkpoint


def launch(
    experiment: Experiment,
    source: str,
    *,
    name: str,
    workspace: Workspace,
    console: Console,
    defined: Experiment,
    assigned: Iterable[str] = (),
    data_dir: Path | None = None,
    tracking_uri: str | None = None,
    address: str | None = None,
    storage: str | None = None,
    study_storage: str | None = None,
    enqueued: Sequence[Mapping[str, Any]] = (),
    known: str | None = None,
    metrics_port: int | None = None,
) -> Status:
    """Begin a sweep and run it to its end.

    Everything that can be checked is, before anything is written.

    Args:
        experiment: what to search.
        source: where its code is found again, as ``load_experiment`` returns it.
        name: of the sweep; new in the workspace.
        workspace: where its folder is made.
        console: where progress is shown.
        defined: the experiment as its file defines it, before anything was set by hand.
        assigned: fields of ``base`` that were set by hand; the space must not set them again.
        data_dir: folder of the data sets; by default ``RSAS_DATA_DIR``.
        tracking_uri: of an MLflow server; by default a SQLite file in the workspace.
        address: of a Ray cluster (``auto``, ``HOST:PORT`` or ``ray://HOST:PORT``); by default one
            is started on this machine, for this sweep alone.
        storage: where trials keep their files, a path or URI that all nodes reach; by default
            the workspace.
        study_storage: URL of a database for the study; by default a file in the workspace.
        enqueued: values of parameters to begin with, ``spaces.check_points`` of them.
        known: name of a sweep in the workspace whose results the sampler is told.
        metrics_port: of this machine, where Prometheus reads how it goes; 0 for a free one.

    Returns:
        What the sweep has come to; ``interrupted`` after Ctrl-C.

    Raises:
        InputError: something given cannot be used; nothing is left half-made.
        Halted: the sweep had to stop; it can be resumed.
    """
    workspace.check_writable()
    workspace.check_free(name)
    experiment = dataclasses.replace(experiment, base=_anchored(experiment.base))
    tracking_uri, study_storage = map(_anchored_uri, (tracking_uri, study_storage))
    for field in check_space(experiment).keys() & set(assigned):
        raise InputError(f"--set {field}: the space of {experiment.name!r} searches this field")
    check_points(experiment, enqueued)
    if known is not None:
        _check_known(workspace.open(known), experiment)
    for line in idle_axes(experiment):
        console.print(
            f"note: the space of {experiment.name!r}: {line}", style="yellow", markup=False
        )
    folder_of_data = (data_dir or data.default_data_dir()).expanduser().absolute()
    identity = uuid.uuid4().hex
    record: dict[str, Any] = {
        "id": identity,
        "source": source,
        "experiment": definition(experiment),
        "defined": definition(defined),
        "origin": origin(source),
        "data_dir": str(folder_of_data),
        # None: the workspace's own, wherever it is moved. Passwords are not kept.
        "tracking_uri": tracking_uri and without_passwords(tracking_uri),
        "storage": storage and (FileStore(_absolute(storage)) / f"{name}-{identity[:8]}").place,
        "study_storage": study_storage and without_passwords(study_storage),
        "address": address,
        "enqueued": [dict(point) for point in enqueued],
        "known": known,
        "python_path": cluster.python_path(source),
    }
    with console.status("reading the data"):
        arrays = data.load(experiment.base.dataset, folder_of_data)
        build.check(experiment.base, arrays)
        record["experiment"]["data"] = data.describe(experiment.base.dataset, arrays)
        if tracking_uri is not None:
            os.environ["MLFLOW_TRACKING_URI"] = tracking_uri
            tracking.connect(tracking_uri)
        if storage is not None:
            _try_storage(storage)
        if study_storage is not None:
            os.environ["RSAS_STUDY_STORAGE"] = study_storage
            Study(study_storage, experiment, name=f"{identity}-test").delete()
    with (
        serving(metrics_port, console.print) as registry,
        _cluster(address, experiment, source, console) as slots,
    ):
        folder = workspace.create(name, record)
        told = f"sweep {name}: {experiment.budget.trials} trials, in {folder.path}"
        console.print(told, markup=False)
        with folder.locked():
            return run(folder, experiment, arrays, slots, console, registry)


def resume(
    name: str,
    *,
    workspace: Workspace,
    console: Console,
    address: str | None = None,
    metrics_port: int | None = None,
    take_over: bool = False,
) -> Status:
    """Run what a sweep still lacks; nothing when it is finished.

    Args:
        name: of the sweep.
        workspace: where its folder is.
        console: where progress is shown.
        address: of the Ray cluster; by default the one it was begun on.
        metrics_port: as of ``launch``.
        take_over: also where another process runs it, which then may write no more.

    Raises:
        InputError: there is no such sweep, another process runs it, or its code, its data or
            its tracking server is not there.
        Halted: the sweep had to stop again.
    """
    folder = workspace.open(name)
    with (
        serving(metrics_port, console.print) as registry,
        folder.locked(take_over=take_over),
    ):
        return _resume(folder, console, address, registry)


def extend(
    name: str,
    budget: Mapping[str, Any],
    *,
    workspace: Workspace,
    console: Console,
    address: str | None = None,
    metrics_port: int | None = None,
    take_over: bool = False,
) -> Status:
    """Give a sweep more of something, and run what it then lacks.

    Args:
        name: of the sweep.
        budget: fields of ``Budget`` to be changed, such as ``{"trials": 20}``: the number that
            the sweep is to have in all.
        workspace: where its folder is.
        console: where progress is shown.
        address: of the Ray cluster; by default the one it was begun on.
        metrics_port: as of ``launch``.
        take_over: as of ``resume``.

    Raises:
        InputError: as ``resume`` does, or it is not more than the sweep has.
        Halted: the sweep had to stop again.
    """
    folder = workspace.open(name)
    with (
        serving(metrics_port, console.print) as registry,
        folder.locked(take_over=take_over),
    ):
        before = folder.budget
        for field, value in budget.items():
            had = getattr(before, field)
            if had is None or value <= had:
                raise InputError(
                    f"--{field.replace('_', '-')} {value:g}: sweep {name!r} "
                    + (f"has {had:g} already; give more" if had else "has no such limit")
                )
        folder.set_budget(dataclasses.replace(before, **budget))
        refused = partial(folder.set_budget, before)
        return _resume(folder, console, address, registry, refused)


def diagnose(
    experiment: Experiment,
    source: str,
    *,
    data_dir: Path | None,
    tracking_uri: str | None,
    address: str | None,
    storage: str | None,
) -> list[doctor.Finding]:
    """Ask every node of a cluster whether it can run an experiment; arguments as of ``launch``.

    Raises:
        InputError: there is no such cluster or data set.
    """
    arrays = data.load(experiment.base.dataset, data_dir)
    with cluster.connected(address, experiment.resources, source, any_size=True):
        return doctor.examine(
            experiment,
            arrays,
            storage=storage and _absolute(storage),
            tracking_uri=tracking_uri,
        )


def _resume(
    folder: SweepDir,
    console: Console,
    address: str | None,
    registry: CollectorRegistry,
    refused: Callable[[], None] = lambda: None,
) -> Status:
    """Go on; ``refused`` is called where it cannot, before anything is run."""
    with contextlib.ExitStack() as stack:
        try:
            found = stack.enter_context(_ready(folder, console, address))
        except (InputError, StorageError):
            refused()
            raise
        return found if isinstance(found, Status) else run(folder, *found, console, registry)


@contextlib.contextmanager
def _ready(
    folder: SweepDir, console: Console, address: str | None
) -> Iterator[Status | tuple[Experiment, data.Arrays, cluster.Slots]]:
    """What a sweep needs to go on, with Ray up; its status where nothing is left to run."""
    record = folder.record
    sys.path += [place for place in record["python_path"] if place not in sys.path]
    current, _ = load_experiment(record["source"])
    experiment = Experiment.from_dict(record["experiment"], current.space)
    for line in mend_study(folder, experiment):
        console.print(f"note: {line}", style="yellow", markup=False)
    status = folder.status(mine=True)
    if status.state == "finished":
        # Nothing to run; a kill or an outage may have left files and MLflow behind.
        study = folder.study(experiment)
        Retention(folder.storage, study, folder.objectives, console.print).close(status.trials)
        with MirrorProgress(console, console.print) as progress:
            for line in mend_mirror(folder):
                console.print(line, markup=False)
            tracker = tracker_of(folder, study, say=console.print, progress=progress)
            mirrored = tracker.close(status.state)
        if not mirrored:
            console.print(f"MLflow lacks some results; 'rsas resume {folder.name}' logs them")
        yield dataclasses.replace(status, mirrored=mirrored)
        return
    check_space(experiment)
    _compare(folder, current, console)
    with console.status("reading the data"):
        arrays = data.load(experiment.base.dataset, record["data_dir"])
        build.check(experiment.base, arrays)
        if record["tracking_uri"] is not None:
            known_uri(record["tracking_uri"], "MLFLOW_TRACKING_URI")
    address = address or record.get("address")
    with _cluster(address, experiment, record["source"], console) as slots:
        yield experiment, arrays, slots


def _compare(folder: SweepDir, current: Experiment, console: Console) -> None:
    """Print and note how the file of a sweep differs from what it was when the sweep began.

    Raises:
        InputError: its study cannot hold trials of the space as it is now.
    """
    now = definition(current)
    then = folder.record.get("defined", now)
    try:
        check_axes(then, now)
    except InputError as error:
        raise InputError(f"{folder.record['source']}: {error}") from None
    lines = differences(then, now)
    for line in lines:
        told = f"note: {folder.record['source']}: {line}"
        console.print(told, style="yellow", markup=False)
    folder.note_changes(lines)


@contextlib.contextmanager
def _cluster(
    address: str | None, experiment: Experiment, source: str, console: Console
) -> Iterator[cluster.Slots]:
    with contextlib.ExitStack() as stack:
        with console.status("starting Ray" if address is None else "connecting to Ray"):
            slots = stack.enter_context(cluster.connected(address, experiment.resources, source))
        # Ray's handler would end the process at once; Tune ends in order on SIGINT.
        signal.signal(signal.SIGTERM, _end_soon)
        yield slots


def _end_soon(*_: Any) -> None:
    """On SIGTERM: end in order, or without when Ray does not answer, as where it got one, too."""
    timer = threading.Timer(_END_SECONDS, os._exit, [128 + signal.SIGTERM])
    timer.daemon = True
    timer.start()
    # As on SIGINT, which itself may be ignored: a shell does so for what it runs beside a script.
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler):
        raise KeyboardInterrupt
    handler(signal.SIGINT, None)


def _check_known(other: SweepDir, experiment: Experiment) -> None:
    """See that results of another sweep mean the same in this one.

    Raises:
        InputError: it had other objectives, base or axes, or its study cannot be read.
    """
    theirs = other.record["experiment"]
    mine = definition(experiment)
    for part in ("objectives", "base", "space", "axes"):
        if theirs.get(part) != mine[part]:
            raise InputError(
                f"--known {other.name}: its {part} differ from those of this sweep, so its "
                "results cannot be told the sampler; --enqueue runs its front anew"
            )
    other.study()  # it can be read


def _try_storage(place: str) -> None:
    """See that a storage can be written, and leave nothing there.

    Raises:
        InputError: it cannot.
    """
    storage = FileStore(_absolute(place))
    name = f".rsas-{uuid.uuid4().hex}"
    try:
        storage.write(name, b"")
        storage.delete(name)
    except (StorageError, OSError) as error:
        raise InputError(f"--storage: {first_line(error)}") from None


def _absolute(place: str) -> str:
    return place.rstrip("/") if "://" in place else str(Path(place).expanduser().absolute())


def _anchored(config: TrainConfig) -> TrainConfig:
    """The configuration with absolute paths, for a resume that is given elsewhere."""
    kind, _, path = config.dataset.partition(":")
    if kind == "npz":
        config = config.replace(dataset=f"npz:{Path(path).expanduser().absolute()}")
    place, _, function = config.model.rpartition(":")
    if place.endswith(".py"):
        config = config.replace(model=f"{Path(place).absolute()}:{function}")
    return config


def _anchored_uri(uri: str | None) -> str | None:
    """The URI with an absolute path where it is a SQLite file's, for a resume given elsewhere."""
    found = re.fullmatch(r"(sqlite(?:\+\w+)?:///)(?!/|:memory:|file:)([^?]+)(.*)", uri or "")
    return f"{found[1]}{Path(found[2]).absolute()}{found[3]}" if found else uri
