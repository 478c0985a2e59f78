"""The records of a sweep that the study, MLflow and the analysis share."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

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
        name: a column of the history, such as ``val_accuracy``, or a metric of an own loop.
        direction: ``max`` or ``min``.
        worst: the worst acceptable value, the reference point of the hypervolume. The user fixes
            it, so that hypervolumes of different sweeps can be compared.

    Raises:
        InputError: the name, the direction or ``worst`` is invalid.
    """

    name: str
    direction: Literal["max", "min"]
    worst: float

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise InputError(f"objective {self.name!r}: expected the name of a metric")
        if not isinstance(self.worst, (int, float)) or not math.isfinite(self.worst):
            raise InputError(f"objective {self.name!r}: worst={self.worst!r} is not a number")
        if self.direction not in ("max", "min"):
            raise InputError(f"objective {self.name!r}: direction is max or min")

    @property
    def sign(self) -> int:
        """1 if larger values are better, else -1."""
        return 1 if self.direction == "max" else -1


@dataclass(frozen=True)
class TrialRecord:
    """One trial as the study has it."""

    trial_id: str  # t0007, made of its number in the study; the same in Tune, Optuna and MLflow
    state: State
    params: dict[str, Any]  # chosen by the sampler
    objectives: dict[str, float]  # by name; empty unless complete
    started: float  # seconds since 1970
    finished: float | None
    reason: str = ""  # of a failure
    same_as: str = ""  # the trial whose configuration and result this one repeats
    epochs: float = 0.0  # trained, until the trial was complete or stopped
    device_seconds: float = 0.0  # of training, times its GPUs; without a GPU, times its CPUs
    by_seed: dict[str, float] = field(default_factory=dict)  # seedN/OBJECTIVE, with several seeds

    @property
    def number(self) -> int:
        """Number of the trial in the study."""
        return number_of(self.trial_id)


@dataclass(frozen=True)
class MirroredRun:
    """A trial's run in MLflow."""

    run_id: str
    trial_id: str
    status: str
    state: str  # tag rsas.state
    pareto: str  # tag rsas.pareto, empty without one
    params: dict[str, str]
    metrics: dict[str, float]  # last values
    epochs: list[int]  # logged ones, in order


@dataclass(frozen=True)
class Mirror:
    """The mirror of a sweep in MLflow."""

    parent: str  # run id, empty without one
    status: str  # of the parent
    front: str  # mark of the trials in pareto/front.json
    points: list[int]  # complete trials at which the hypervolume is logged
    runs: list[MirroredRun]  # one per trial
    surplus: dict[str, str]  # further parents and runs of trials: run id -> trial, or empty
    missing: set[str]  # artifacts that the parent should have
    strays: set[str]  # run ids of trials that are not under the parent


def front_mark(trials: Iterable[str]) -> str:
    """Return a short text that is the same for equal sets of trials, and only for these."""
    names = sorted(trials)
    return f"{len(names)}-{hashlib.sha256(' '.join(names).encode()).hexdigest()[:12]}"


def status_of(state: State, *, running: bool) -> str:
    """Return MLflow's status of a trial's run.

    Args:
        state: of the trial.
        running: whether the sweep runs; otherwise its running trials were interrupted.
    """
    if state == "running" and not running:
        return "KILLED"
    return _STATUS[state]


def trial_id(number: int) -> str:
    """Return the identifier of a trial as users see it: ``t0007`` for 7."""
    return f"t{number:04d}"


def number_of(trial: str) -> int:
    """Return the number of a trial in the study, from its ``trial_id``."""
    return int(trial.removeprefix("t"))


def clock(seconds: float) -> str:
    """Return seconds as a text such as ``1:02:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
