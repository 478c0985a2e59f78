"""Run what a sweep's book lacks: a fresh start and a resumed one are the same operation."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import signal
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

# Read by Tune when it is imported: its own output, loggers and snapshots are not used.
os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = str(10**9)
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from ray import tune
from rich.console import Console

from rsas import data, tracking, trainer
from rsas.config import TrainConfig
from rsas.errors import InputError
from rsas.records import TrialRecord, trial_id
from rsas.search.book import Book
from rsas.search.checkpoints import TrialFolder
from rsas.search.display import SweepDisplay
from rsas.search.experiment import Experiment, Resources, load_experiment
from rsas.search.searcher import BookSearcher
from rsas.search.spaces import check_space, idle_axes
from rsas.search.trainable import TrialTrainable
from rsas.search.workspace import Status, SweepFolder, Workspace

__all__ = ["launch", "resume"]


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

    Returns:
        What the sweep has come to; ``interrupted`` after Ctrl-C.

    Raises:
        InputError: something given cannot be used; nothing is left half-made.
    """
    workspace.check_writable()
    workspace.check_free(name)
    experiment = dataclasses.replace(experiment, base=_anchored(experiment.base))
    for field in check_space(experiment).keys() & set(assigned):
        raise InputError(f"--set {field}: the space of {experiment.name!r} searches this field")
    for line in idle_axes(experiment):
        console.print(f"note: the space of {experiment.name!r}: {line}", style="yellow")
    folder_of_data = (data_dir or data.default_data_dir()).expanduser().absolute()
    with console.status("reading the data"):
        arrays = data.load(experiment.base.dataset, folder_of_data)
        trainer.check(experiment.base, arrays)
        if tracking_uri is not None:
            tracking.connect(tracking_uri)
    path = _python_path(source)
    with _cluster(experiment.resources, path, console) as slots:
        record = {
            "id": uuid.uuid4().hex,
            "source": source,
            "experiment": experiment.to_dict(),
            "data_dir": str(folder_of_data),
            "tracking_uri": tracking_uri,  # None: the workspace's own, wherever it is moved
            "python_path": path,
        }
        folder = workspace.create(name, record)
        console.print(f"sweep {name}: {experiment.budget.trials} trials, in {folder.path}")
        with folder.locked():
            return _run(folder, workspace, experiment, arrays, slots=slots, console=console)


def resume(name: str, *, workspace: Workspace, console: Console) -> Status:
    """Run what a sweep still lacks; nothing when it is finished.

    Args:
        name: of the sweep.
        workspace: where its folder is.
        console: where progress is shown.

    Raises:
        InputError: there is no such sweep, another process runs it, or its code, its data or
            its tracking server is not there.
    """
    folder = workspace.open(name)
    with folder.locked():
        status = folder.status(mine=True)
        if status.state == "finished":
            # Nothing to run; MLflow may still lack what was logged while it was away.
            trials = folder.read_histories(status.trials)
            _tracker(folder, workspace, trials).close(trials, finished=True)
            return status
        record = folder.record
        sys.path += [place for place in record["python_path"] if place not in sys.path]
        current, _ = load_experiment(record["source"])
        experiment = Experiment.from_dict(record["experiment"], current.space)
        check_space(experiment)
        with console.status("reading the data"):
            arrays = data.load(experiment.base.dataset, record["data_dir"])
            trainer.check(experiment.base, arrays)
            if record["tracking_uri"] is not None:
                tracking.connect(record["tracking_uri"])
        with _cluster(experiment.resources, record["python_path"], console) as slots:
            return _run(folder, workspace, experiment, arrays, slots=slots, console=console)


def _run(
    folder: SweepFolder,
    workspace: Workspace,
    experiment: Experiment,
    arrays: data.Arrays,
    *,
    slots: int,
    console: Console,
) -> Status:
    book = Book(folder.journal, experiment)

    def trials() -> list[TrialRecord]:
        return book.trials(experiment.objectives)

    tracker = _tracker(folder, workspace, folder.read_histories(trials()))
    display = SweepDisplay(
        console,
        name=folder.name,
        asked=experiment.budget.trials,
        epochs=experiment.base.epochs,
        objectives=experiment.objectives,
        trials=trials(),
    )

    def on_begin(number: int) -> None:
        display.begin(number)
        tracker.begin(trials()[number])

    def on_row(number: int, row: dict[str, float]) -> None:
        display.row(number, row)
        tracker.row(trial_id(number), row)

    def on_end(number: int) -> None:
        now = trials()
        display.end(number, now)
        tracker.end(now[number], now)

    def reason(number: int) -> str:
        lines = TrialFolder(folder.trials / trial_id(number)).error().strip().splitlines()
        return lines[-1] if lines else "the process that ran it died"

    searcher = BookSearcher(
        book,
        experiment.budget,
        slots=slots,
        on_begin=on_begin,
        on_row=on_row,
        on_end=on_end,
        reason=reason,
    )
    # Tune begins one trial after the other unless told how many may be on their way.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(slots)
    try:
        with display:
            _tuner(folder, experiment, arrays, searcher).fit()
    finally:
        status = folder.status(mine=True)
        ended = status.state != "interrupted"
        if not tracker.close(folder.read_histories(status.trials), finished=ended):
            console.print(f"MLflow lacks some results; 'rsas resume {folder.name}' logs them")
    return status


def _tracker(
    folder: SweepFolder, workspace: Workspace, trials: Sequence[TrialRecord]
) -> tracking.Tracker:
    record, server = folder.record["experiment"], folder.record["tracking_uri"]
    return tracking.Tracker(
        server or f"sqlite:///{workspace.path / 'mlflow.db'}",
        trials,
        sweep=folder.name,
        sweep_id=folder.record["id"],
        experiment=record["name"],
        artifacts=None if server else (workspace.path / "artifacts").as_uri(),
        objectives=folder.objectives,
        record=record,
    )


def _tuner(
    folder: SweepFolder, experiment: Experiment, arrays: data.Arrays, searcher: BookSearcher
) -> tune.Tuner:
    resources = experiment.resources
    trainable = tune.with_parameters(
        TrialTrainable,
        arrays=arrays,  # put into the object store once
        trials=folder.trials,
        resources=resources,
        checkpoint_every=experiment.checkpoint_every,
    )
    return tune.Tuner(
        tune.with_resources(trainable, {"cpu": resources.cpus, "gpu": resources.gpus}),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            num_samples=-1,  # until the searcher says that the book is full
            reuse_actors=True,
            trial_name_creator=_name_of,
            trial_dirname_creator=_name_of,
        ),
        run_config=tune.RunConfig(
            # A name of its own for each launch: Tune overwrites what it finds under an old one.
            name=f"launch-{round(time.time() * 1000)}",
            storage_path=str(folder.ray),
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # trials keep theirs
            failure_config=tune.FailureConfig(max_failures=experiment.retries),
        ),
    )


def _name_of(trial: Any) -> str:
    return str(trial.config["trial"])


@contextlib.contextmanager
def _cluster(resources: Resources, python_path: Sequence[str], console: Console) -> Iterator[int]:
    """A Ray cluster on this machine; yields how many trials run at once.

    Raises:
        InputError: not even one trial fits.
    """
    with console.status("starting Ray"):
        ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(python_path)}},
        )
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # failures are told by us
    # Ray's handler would end the process at once; Tune ends in order on SIGINT.
    signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    try:
        total = ray.cluster_resources()
        cpus, gpus = total.get("CPU", 0.0), total.get("GPU", 0.0)
        slots = math.floor(cpus / resources.cpus)
        if resources.gpus:
            slots = min(slots, math.floor(gpus / resources.gpus))
        if slots < 1:
            raise InputError(
                f"resources: a trial needs {resources.cpus:g} CPUs and {resources.gpus:g} GPUs, "
                f"but this machine has {cpus:g} and {gpus:g}"
            )
        yield slots
    finally:
        ray.shutdown()


def _anchored(config: TrainConfig) -> TrainConfig:
    """The configuration with absolute paths, for a resume that is given elsewhere."""
    kind, _, path = config.dataset.partition(":")
    if kind == "npz":
        config = config.replace(dataset=f"npz:{Path(path).expanduser().absolute()}")
    place, _, function = config.model.rpartition(":")
    if place.endswith(".py"):
        config = config.replace(model=f"{Path(place).absolute()}:{function}")
    return config


def _python_path(source: str) -> list[str]:
    """Where models of the user's own are found: here, and beside the experiment's file."""
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    beside = str(Path(source.rpartition(":")[0]).parent)
    return [str(Path.cwd()), beside, *(place for place in inherited if place)]
