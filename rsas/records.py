"""What a sweep tells about itself: plain records that the study, MLflow and analysis share."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from rsas.columns import METRICS
from rsas.errors import InputError

__all__ = [
    "SWEEP_STATUS",
    "Mirror",
    "MirroredRun",
    "Objective",
    "State",
    "TrialRecord",
    "clock",
    "front_mark",
    "number_of",
    "status_of",
    "trial_id",
]

SWEEP_STATUS = {
    "running": "RUNNING",
    "finished": "FINISHED",
    "failed": "FAILED",
    "interrupted": "KILLED",
}
"""State of a sweep -> MLflow's status of its parent run."""

State = Literal["running", "complete", "pruned", "failed"]


_STATUS: dict[State, str] = {
    "running": "RUNNING",
    "complete": "FINISHED",
    "pruned": "KILLED",
    "failed": "FAILED",
}


@dataclass(frozen=True)
class Objective:
    """A number to optimise, and its worst value.

    Args:
        name: a column of the history, such as ``val_accuracy``.
        direction: ``max`` or ``min``.
        worst: what nobody would take; the reference point of the hypervolume. Fixed here, not
            taken from the data, so that hypervolumes of different sweeps can be compared.

    Raises:
        InputError: the name or the direction is not one of these.
    """

    name: str
    direction: Literal["max", "min"]
    worst: float

    def __post_init__(self) -> None:
        if self.name not in METRICS:
            raise InputError(f"objective {self.name!r}: expected one of {', '.join(METRICS)}")
        if not isinstance(self.worst, (int, float)) or not math.isfinite(self.worst):
            raise InputError(f"objective {self.name!r}: worst={self.worst!r} is not a number")
        if self.direction not in ("max", "min"):
            raise InputError(f"objective {self.name!r}: direction is max or min")


@dataclass(frozen=True)
class TrialRecord:
    """One trial as the study has it."""

    trial_id: str  # t0007, its number in the study: the same in Tune, Optuna and MLflow
    state: State
    params: dict[str, Any]  # what the sampler chose
    objectives: dict[str, float]  # by name; empty unless complete
    started: float  # seconds since 1970
    finished: float | None
    reason: str = ""  # of a failure
    same_as: str = ""  # the trial whose configuration and result it repeats
    epochs: float = 0.0  # after which it was complete or stopped
    device_seconds: float = 0.0  # of training, times GPUs, or CPUs where it has no GPU
    by_seed: dict[str, float] = field(default_factory=dict)  # seedN/OBJECTIVE, where it has seeds

    @property
    def number(self) -> int:
        """Of the trial in the study."""
        return number_of(self.trial_id)


@dataclass(frozen=True)
class MirroredRun:
    """What MLflow has of a trial."""

    run_id: str
    trial_id: str
    status: str
    state: str  # tag rsas.state
    pareto: str  # tag rsas.pareto, empty without one
    params: dict[str, str]
    metrics: dict[str, float]  # last values
    epochs: list[int]  # that are logged, in order


@dataclass(frozen=True)
class Mirror:
    """What MLflow has of a sweep."""

    parent: str  # run id, empty without one
    status: str  # of the parent
    front: str  # mark of the trials in pareto/front.json
    points: list[int]  # complete trials at which the hypervolume is logged
    runs: list[MirroredRun]  # one a trial
    surplus: dict[str, str]  # further parents and runs of trials: run id -> trial, or empty
    missing: set[str]  # artifacts of the parent that are gone
    strays: set[str]  # run ids of trials that are not under the parent


def front_mark(trials: Iterable[str]) -> str:
    """A short text by which two sets of trials are known to be equal."""
    names = sorted(trials)
    return f"{len(names)}-{hashlib.sha256(' '.join(names).encode()).hexdigest()[:12]}"


def status_of(state: State, *, running: bool) -> str:
    """MLflow's status of a trial's run; a trial of a sweep that nobody runs is cut off."""
    if state == "running" and not running:
        return "KILLED"
    return _STATUS[state]


def trial_id(number: int) -> str:
    """Return the identity of a trial as users see it: ``t0007`` of 7."""
    return f"t{number:04d}"


def number_of(trial: str) -> int:
    """Return the number of a ``trial_id``: its place in the study."""
    return int(trial.removeprefix("t"))


def clock(seconds: float) -> str:
    """``1:02:03`` of seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
