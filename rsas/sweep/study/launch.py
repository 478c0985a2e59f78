"""The note that the study keeps of each process that ran the sweep. Does not import optuna."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Launch"]


@dataclass(frozen=True)
class Launch:
    """One process that ran the sweep, with the progress that it noted last."""

    began: float  # seconds since 1970
    first: float | None = None  # start of the first epoch, seconds since 1970
    last: float = 0.0  # time of the last note, seconds since 1970
    slot_seconds: float = 0.0  # up to the last epoch, times the trials that could run at once
    trained: float = 0.0  # seconds of training, sum over all slots
    cut_off: float = 0.0  # device-seconds of epochs that did not end after a limit was reached
    failures: int = 0  # trials that had failed before this process began
