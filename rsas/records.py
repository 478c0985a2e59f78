"""What a sweep tells about itself: plain records that the book, MLflow and analysis share."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from rsas.errors import InputError

__all__ = ["METRICS", "Objective", "State", "TrialRecord", "metrics_of", "trial_id"]

METRICS = ("epoch", "train_loss", "val_loss", "val_accuracy", "sparsity", "seconds")
"""Columns every row of a history has; ``sparsity/LAYER`` columns come beside them."""

State = Literal["running", "complete", "pruned", "failed"]


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
    """One trial as the book has it."""

    trial_id: str  # t0007, its number in the book: the same in Tune, Optuna and MLflow
    state: State
    params: dict[str, Any]  # what the sampler chose
    objectives: dict[str, float]  # by name; empty unless complete
    started: float  # seconds since 1970
    finished: float | None
    reason: str = ""  # of a failure
    rows: list[dict[str, float]] = field(default_factory=list)  # its history, where that was read


def trial_id(number: int) -> str:
    """The identity of a trial with this number in the book."""
    return f"t{number:04d}"


def metrics_of(result: dict[str, Any]) -> dict[str, float]:
    """The columns of the history in a result that has others beside them."""
    return {
        name: float(value)
        for name, value in result.items()
        if name in METRICS or name.startswith("sparsity/")
    }
