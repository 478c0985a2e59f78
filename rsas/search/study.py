"""Open the study that keeps a sweep's book, and make its samplers; it may be away for a while."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import optuna
import sqlalchemy
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection

from rsas.errors import Halted, first_line
from rsas.records import Objective
from rsas.search.experiment import Experiment

__all__ = ["PATIENCE", "cut_torn_line", "direction", "open_storage", "patiently", "sampler"]

PATIENCE = 60.0
"""Seconds for which a database that is away is asked again."""

_DATABASE_SCHEMA = "rsas_study"  # not "rsas": a schema of the role's name would hide MLflow's

_SAMPLERS: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed),
    "nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=16),
    "gp": lambda seed: optuna.samplers.GPSampler(seed=seed),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
}

T = TypeVar("T")


class _Journal(JournalFileBackend):
    """A file of whole lines, also where the disk was full for a moment.

    Half a line would be glued to the next one that this process writes, and make the whole file
    unreadable. Whoever writes is alone, so all beyond the size of before is that line's.
    """

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        size = os.path.getsize(self._file_path)
        try:
            super().append_logs(logs)
        except OSError:
            with contextlib.suppress(OSError):
                os.truncate(self._file_path, size)
            raise


def open_storage(place: Path | str) -> BaseStorage:
    """A journal file, or a database by its URL."""
    if isinstance(place, Path):
        return JournalStorage(_Journal(str(place)))
    # A connection that a restarted server has dropped is noticed and made anew.
    options: dict[str, Any] = {"pool_pre_ping": True}
    if place.startswith("postgresql"):
        # Optuna and MLflow both have a table alembic_version: in one database they need a
        # schema each (mlflow #3374).
        engine = sqlalchemy.create_engine(place)
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text(f"CREATE SCHEMA IF NOT EXISTS {_DATABASE_SCHEMA}"))
        engine.dispose()
        options["connect_args"] = {"options": f"-csearch_path={_DATABASE_SCHEMA}"}
    return optuna.storages.RDBStorage(place, engine_kwargs=options)


def cut_torn_line(path: Path) -> None:
    """Remove what a process that was killed while it wrote may have left.

    A line that was cut off would be glued to the next one and make the whole file unreadable;
    what it was to say did not happen. A lock would hold Optuna up for 30 seconds.
    """
    Path(f"{path}.lock").unlink(missing_ok=True)
    if path.exists():
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(path, whole)


def patiently(action: Callable[[], T]) -> T:
    """Do it; again, for a while, where a database is away."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return action()
        except optuna.exceptions.StorageInternalError as error:
            if time.monotonic() > deadline:
                reason = first_line(error.__cause__ or error)
                raise Halted(f"the study's database does not answer ({reason})") from None
            time.sleep(1.0)
        except OSError as error:
            raise Halted(f"the book cannot be written ({error.strerror or error})") from None


def sampler(experiment: Experiment, number: int) -> optuna.samplers.BaseSampler:
    """The sampler that an experiment asks for, with a seed for one trial."""
    state = np.random.SeedSequence([experiment.seed, number]).generate_state(1)
    return _SAMPLERS[experiment.sampler](int(state[0]))


def direction(objective: Objective) -> StudyDirection:
    """Optuna's word for it."""
    return StudyDirection.MAXIMIZE if objective.direction == "max" else StudyDirection.MINIMIZE
