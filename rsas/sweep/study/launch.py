"""What the study notes of each process that ran the sweep. No optuna."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Launch"]


@dataclass(frozen=True)
class Launch:
    """One process that ran the sweep, as it last noted."""

    began: float  # seconds since 1970
    first: float | None = None  # when the first epoch began
    last: float = 0.0  # when it last noted how far it was
    slot_seconds: float = 0.0  # up to the last epoch, times the trials that could run at once
    trained: float = 0.0  # seconds of training, of all slots together
    cut_off: float = 0.0  # device-seconds of epochs that did not end after a limit was reached
    failures: int = 0  # trials that had failed before it
