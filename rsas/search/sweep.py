"""Run what a sweep's book lacks: a fresh start and a resumed one are the same operation."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray.util.client
from prometheus_client import CollectorRegistry
from ray import tune
from ray.train._internal import storage as tune_storage
from rich.console import Console

from rsas import data, tracking, trainer
from rsas.config import TrainConfig
from rsas.errors import Halted, InputError
from rsas.records import trial_id
from rsas.redact import redact
from rsas.search import cluster, doctor
from rsas.search.book import Book, Launch
from rsas.search.display import SweepDisplay
from rsas.search.experiment import Experiment
from rsas.search.keeper import Keeper
from rsas.search.metrics import SweepMetrics, serving
from rsas.search.origin import origin
from rsas.search.repair import experiment_of, mend_book, tracker_of
from rsas.search.scheduler import Halving
from rsas.search.searcher import BookSearcher, RungScheduler
from rsas.search.spaces import axes, check_points, check_space, idle_axes
from rsas.search.storage import Storage, StorageError
from rsas.search.trainable import TrialTrainable
from rsas.search.workspace import Status, SweepFolder, Workspace, hours_of, known_uri

__all__ = ["diagnose", "extend", "launch", "resume"]

_TRACKER_DELAY = 30.0
_END_SECONDS = 20.0  # after SIGTERM; what is lost is trained again from the last checkpoint


def launch(
    experiment: Experiment,
    source: str,
    *,
    name: str,
    workspace: Workspace,
    console: Console,
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
        assigned: fields of ``base`` that were set by hand; the space must not set them again.
        data_dir: folder of the data sets; by default ``RSAS_DATA_DIR``.
        tracking_uri: of an MLflow server; by default a SQLite file in the workspace.
        address: of a Ray cluster (``auto``, ``HOST:PORT`` or ``ray://HOST:PORT``); by default one
            is started on this machine, for this sweep alone.
        storage: where trials keep their files, a path or URI that all nodes reach; by default
            the workspace.
        study_storage: URL of a database for the book; by default a file in the workspace.
        enqueued: values of parameters to begin with, ``space.checked_points`` of them.
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
    for field in check_space(experiment).keys() & set(assigned):
        raise InputError(f"--set {field}: the space of {experiment.name!r} searches this field")
    check_points(experiment, enqueued)
    if known is not None:
        _check_known(workspace.open(known), experiment)
    for line in idle_axes(experiment):
        console.print(f"note: the space of {experiment.name!r}: {line}", style="yellow")
    folder_of_data = (data_dir or data.default_data_dir()).expanduser().absolute()
    identity = uuid.uuid4().hex
    record: dict[str, Any] = {
        "id": identity,
        "source": source,
        "experiment": experiment.to_dict() | {"axes": axes(experiment)},
        "origin": origin(source),
        "data_dir": str(folder_of_data),
        # None: the workspace's own, wherever it is moved. Passwords are not kept.
        "tracking_uri": tracking_uri and redact(tracking_uri),
        "storage": storage and (Storage(_absolute(storage)) / f"{name}-{identity[:8]}").place,
        "study_storage": study_storage and redact(study_storage),
        "address": address,
        "enqueued": [dict(point) for point in enqueued],
        "known": known,
        "python_path": cluster.python_path(source),
    }
    with console.status("reading the data"):
        arrays = data.load(experiment.base.dataset, folder_of_data)
        trainer.check(experiment.base, arrays)
        record["experiment"]["data"] = data.describe(experiment.base.dataset, arrays)
        if tracking_uri is not None:
            os.environ["MLFLOW_TRACKING_URI"] = tracking_uri
            tracking.connect(tracking_uri)
        if storage is not None:
            _try_storage(storage)
        if study_storage is not None:
            os.environ["RSAS_STUDY_STORAGE"] = study_storage
            Book(study_storage, experiment, study=f"{identity}-test").delete()
    with (
        serving(metrics_port, console.print) as registry,
        _cluster(address, experiment, source, console) as slots,
    ):
        folder = workspace.create(name, record)
        console.print(f"sweep {name}: {experiment.budget.trials} trials, in {folder.path}")
        with folder.locked():
            return _run(folder, workspace, experiment, arrays, slots, console, registry)


def resume(
    name: str,
    *,
    workspace: Workspace,
    console: Console,
    address: str | None = None,
    metrics_port: int | None = None,
) -> Status:
    """Run what a sweep still lacks; nothing when it is finished.

    Args:
        name: of the sweep.
        workspace: where its folder is.
        console: where progress is shown.
        address: of the Ray cluster; by default the one it was begun on.
        metrics_port: as of ``launch``.

    Raises:
        InputError: there is no such sweep, another process runs it, or its code, its data or
            its tracking server is not there.
        Halted: the sweep had to stop again.
    """
    folder = workspace.open(name)
    with serving(metrics_port, console.print) as registry, folder.locked():
        return _resume(folder, workspace, console, address, registry)


def extend(
    name: str,
    budget: Mapping[str, Any],
    *,
    workspace: Workspace,
    console: Console,
    address: str | None = None,
    metrics_port: int | None = None,
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

    Raises:
        InputError: as ``resume`` does, or it is not more than the sweep has.
        Halted: the sweep had to stop again.
    """
    folder = workspace.open(name)
    with serving(metrics_port, console.print) as registry, folder.locked():
        before = folder.budget
        for field, value in budget.items():
            had = getattr(before, field)
            if had is None or value <= had:
                raise InputError(
                    f"--{field.replace('_', '-')} {value:g}: sweep {name!r} "
                    + (f"has {had:g} already; give more" if had else "has no such limit")
                )
        folder.set_budget(dataclasses.replace(before, **budget))
        try:
            return _resume(folder, workspace, console, address, registry)
        except InputError:  # it could not go on: nothing has changed
            folder.set_budget(before)
            raise


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
    folder: SweepFolder,
    workspace: Workspace,
    console: Console,
    address: str | None,
    registry: CollectorRegistry,
) -> Status:
    record = folder.record
    sys.path += [place for place in record["python_path"] if place not in sys.path]
    experiment = experiment_of(folder)
    for line in mend_book(folder, experiment):
        console.print(f"note: {line}", style="yellow", markup=False)
    status = folder.status(mine=True)
    if status.state == "finished":
        # Nothing to run; MLflow may still lack what was logged while it was away.
        book = folder.book(experiment)
        tracker_of(folder, workspace, book, say=console.print).close(finished=True)
        return status
    check_space(experiment)
    with console.status("reading the data"):
        arrays = data.load(experiment.base.dataset, record["data_dir"])
        trainer.check(experiment.base, arrays)
        if record["tracking_uri"] is not None:
            known_uri(record["tracking_uri"], "MLFLOW_TRACKING_URI")
    address = address or record.get("address")
    with _cluster(address, experiment, record["source"], console) as slots:
        return _run(folder, workspace, experiment, arrays, slots, console, registry)


def _run(
    folder: SweepFolder,
    workspace: Workspace,
    experiment: Experiment,
    arrays: data.Arrays,
    slots: cluster.Slots,
    console: Console,
    registry: CollectorRegistry,
) -> Status:
    book = folder.book(experiment)
    _prepare(book, folder, workspace, console)
    display = SweepDisplay(
        console,
        name=folder.name,
        asked=experiment.budget.trials,
        epochs=experiment.base.epochs,
        objectives=experiment.objectives,
        trials=book.trials(experiment.objectives),
    )
    tracker = tracker_of(folder, workspace, book, say=display.note, delay=_TRACKER_DELAY)
    keeper = Keeper(folder.storage, book, experiment.objectives, display.note)
    metrics = SweepMetrics(
        folder.name,
        asked=experiment.budget.trials,
        objectives=experiment.objectives,
        trials=book.trials(experiment.objectives),
        slots=slots,
    )
    registry.register(metrics)
    run = _Run(folder, book, experiment, display, tracker, keeper, metrics, slots)
    searcher = BookSearcher(
        book,
        experiment,
        halving=run.halving,
        slots=slots,
        hours=hours_of(book.launches()),
        listener=run,
        history=lambda number: folder.history(book.trial(number, experiment.objectives)),
    )
    # Tune begins one trial after the other unless told how many may be on their way.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(slots())
    try:
        with display, tempfile.TemporaryDirectory(prefix="rsas-") as scratch:
            _tune(run, arrays, searcher, scratch)
    finally:
        run.note_launch()
        status = folder.status(mine=True)
        keeper.close(status.trials)
        if not tracker.close(finished=status.state != "interrupted"):
            console.print(f"MLflow lacks some results; 'rsas resume {folder.name}' logs them")
    if searcher.halted:
        raise Halted(f"sweep {folder.name!r} had to stop: {searcher.halted}")
    return status


class _Run:
    """Passes on what happens in a running sweep; the searcher's listener."""

    def __init__(
        self,
        folder: SweepFolder,
        book: Book,
        experiment: Experiment,
        display: SweepDisplay,
        tracker: tracking.Tracker,
        keeper: Keeper,
        metrics: SweepMetrics,
        slots: cluster.Slots,
    ) -> None:
        self.folder, self.experiment = folder, experiment
        self._book, self._slots = book, slots
        self._display, self._tracker, self._keeper = display, tracker, keeper
        self._metrics = metrics
        self._index = len(book.launches())
        now = time.time()
        self._launch = Launch(began=now, last=now)
        self.halving = _halving(experiment)
        self.note_launch()

    def begin(self, number: int) -> None:
        self._display.begin(number)
        self._metrics.begin(number)
        self._tracker.begin(self._book.trial(number, self.experiment.objectives))
        self._keeper.record(number)

    def rows(self, number: int, rows: Sequence[dict[str, float]]) -> None:
        now, trained = time.time(), sum(row["seconds"] for row in rows)
        launch = self._launch
        first = launch.first or now - trained  # the epochs that are told of now began then
        slot_seconds = launch.slot_seconds + self._slots() * (now - max(launch.last, first))
        self._launch = dataclasses.replace(
            launch,
            first=first,
            last=now,
            slot_seconds=slot_seconds if launch.first else self._slots() * (now - first),
            trained=launch.trained + trained,
        )
        self._display.rows(number, rows)
        self._metrics.rows(rows)
        self._tracker.rows(trial_id(number), rows)

    def change(self, number: int) -> None:
        self._keeper.record(number)

    def end(self, number: int) -> None:
        self.note_launch()
        now = self._book.trials(self.experiment.objectives)
        trial = self._book.trial(number, self.experiment.objectives)
        self._display.end(number, now)
        self._metrics.end(number, now)
        self._tracker.end(trial, now)
        self._keeper.end(number, now)

    def note(self, number: int, line: str) -> None:
        self._display.note(f"{trial_id(number)}: {line}")

    def note_launch(self) -> None:
        """Keep how far this launch has come."""
        with contextlib.suppress(Halted):  # told by whoever cannot go on for it
            self._book.note_launch(self._index, self._launch)


def _prepare(book: Book, folder: SweepFolder, workspace: Workspace, console: Console) -> None:
    """What a sweep knows before its first trial; done once, also where a kill came between."""
    record = folder.record
    if book.record() is not None:
        if book.record() != record:  # extended
            book.note_record(record)
        return
    if record.get("known") is not None:
        count = book.add_known(workspace.open(record["known"]).book(), record["known"])
        console.print(f"the sampler knows {count} trials of {record['known']}")
    book.enqueue(record.get("enqueued", []))
    book.note_record(record)


def _halving(experiment: Experiment) -> Halving | None:
    if experiment.scheduler == "none":
        return None
    objectives = experiment.objectives
    return Halving(
        objectives if experiment.scheduler == "pareto_asha" else objectives[:1],
        epochs=experiment.base.epochs,
        first=experiment.grace_period,
        reduction=experiment.reduction_factor,
    )


def _tune(run: _Run, arrays: data.Arrays, searcher: BookSearcher, scratch: str) -> None:
    """Let Tune run what the searcher hands out, until it has no more.

    ``tune.run`` and not a ``Tuner``, which over ``ray://`` would run the searcher, and so the
    book, on another machine.
    """
    if ray.util.client.ray.is_connected():
        # Tune asks for the folder of a node's session, and a client on no node has none.
        tune_storage._get_ray_train_session_dir = lambda: scratch  # type: ignore[attr-defined]
    experiment, resources = run.experiment, run.experiment.resources
    trainable = tune.with_parameters(
        TrialTrainable,
        arrays=arrays,  # put into the object store once
        place=run.folder.storage.place,
        resources=resources,
        checkpoint_every=experiment.checkpoint_every,
        rungs=run.halving.rungs if run.halving else (),
        retries=experiment.retries,
        seeds=experiment.seeds,
    )
    tune.run(
        trainable,
        name="tune",
        storage_path=scratch,  # Tune's own files, which nobody reads
        resources_per_trial={"cpu": resources.cpus, "gpu": resources.gpus},
        search_alg=searcher,
        scheduler=RungScheduler(searcher),
        num_samples=-1,  # until the searcher says that the book is full
        reuse_actors=True,
        max_failures=experiment.retries,
        raise_on_failed_trial=False,
        checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # trials keep theirs
        trial_name_creator=_name_of,
        trial_dirname_creator=_name_of,
        verbose=0,
        _remote=False,
    )


def _name_of(trial: Any) -> str:
    return str(trial.config["trial"])


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


def _check_known(other: SweepFolder, experiment: Experiment) -> None:
    """See that results of another sweep mean the same in this one.

    Raises:
        InputError: it had other objectives or another base configuration.
    """
    theirs, mine = other.record["experiment"], experiment.to_dict()
    for part in ("objectives", "base", "space"):
        if theirs[part] != mine[part]:
            raise InputError(
                f"--known {other.name}: its {part} differ from those of this sweep, so its "
                "results cannot be told the sampler; --enqueue runs its front anew"
            )


def _try_storage(place: str) -> None:
    """See that a storage can be written, and leave nothing there.

    Raises:
        InputError: it cannot.
    """
    storage = Storage(_absolute(place))
    name = f".rsas-{uuid.uuid4().hex}"
    try:
        storage.write(name, b"")
        storage.delete(name)
    except (StorageError, OSError) as error:
        raise InputError(f"--storage: {str(error).splitlines()[0]}") from None


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
