"""Open the study that keeps a sweep's book, and make its samplers; it may be away for a while."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.study import StudyDirection

from rsas.errors import Halted, first_line
from rsas.records import Objective
from rsas.sweep.experiment import Experiment
from rsas.sweep.study.database import open_database
from rsas.sweep.study.journal import Damaged, Journal
from rsas.sweep.study.lease import Lease

__all__ = ["PATIENCE", "direction", "open_storage", "patiently", "sampler"]

PATIENCE = 60.0
"""Seconds for which a database that is away is asked again."""

_SAMPLERS: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed),
    "nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=16),
    "gp": lambda seed: optuna.samplers.GPSampler(seed=seed),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
}

T = TypeVar("T")


def open_storage(place: Path | str, study: str, lease: Lease | None) -> BaseStorage:
    """Open a journal file, or a database by its URL.

    Args:
        place: of the study.
        study: its name.
        lease: of this process, which each write compares; None to read, and in tests.
    """
    if isinstance(place, Path):
        return JournalStorage(Journal(place, lease))
    return open_database(place, study, lease)


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
        except Damaged as error:
            raise Halted(
                f"the book is damaged ({error}); 'rsas check NAME --repair' mends it"
            ) from None
        except OSError as error:
            raise Halted(f"the book cannot be written ({error.strerror or error})") from None


def sampler(experiment: Experiment, number: int) -> optuna.samplers.BaseSampler:
    """The sampler that an experiment asks for, with a seed for one trial."""
    state = np.random.SeedSequence([experiment.seed, number]).generate_state(1)
    return _SAMPLERS[experiment.sampler](int(state[0]))


def direction(objective: Objective) -> StudyDirection:
    """Optuna's word for it."""
    return StudyDirection.MAXIMIZE if objective.direction == "max" else StudyDirection.MINIMIZE
