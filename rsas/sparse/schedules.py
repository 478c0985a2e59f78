"""When masks are redrawn, and how shares change with the progress of the training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from rsas.options import Shape

__all__ = ["Clock", "Every", "Position", "count_of", "cubic", "interpolate"]


@dataclass(frozen=True)
class Position:
    """Where in the training a step is, counted from 0."""

    epoch: int
    step: int
    epochs: int
    steps_per_epoch: int

    @property
    def done(self) -> int:
        """Steps of the whole training that are done when this one is."""
        return self.epoch * self.steps_per_epoch + self.step + 1

    def steps_of(self, part: float) -> int:
        """Return the number of steps in the first ``part`` of the training, at least one."""
        return max(1, round(part * self.epochs * self.steps_per_epoch))


class Clock(Protocol):
    """The steps after which masks are redrawn."""

    def ahead(self, at: Position) -> float:
        """Return the steps to the next redraw: 0 if due after this one, inf after the last one."""

    def progress(self, at: Position) -> float:
        """Return the progress of the schedule at a redraw, in [0, 1]; 1 at the final one."""


@dataclass(frozen=True)
class Every:
    """After every ``interval`` steps of the training, up to the stop.

    Attributes:
        interval: number of steps.
        stop: part of the training, in (0, 1].
        final: whether there is a redraw at the stop, whatever the interval.
    """

    interval: int
    stop: float
    final: bool = True

    def ahead(self, at: Position) -> float:
        left = at.steps_of(self.stop) - at.done
        ahead = min(-at.done % self.interval, left)
        return ahead if left > ahead or (self.final and left >= 0) else math.inf

    def progress(self, at: Position) -> float:
        return at.done / at.steps_of(self.stop)


def interpolate(shape: Shape, start: float, end: float, progress: float) -> float:
    """Interpolate from ``start`` at progress 0 to ``end`` at progress 1.

    Args:
        shape: ``linear``; ``cosine``, half a period (flat at both ends, as in SGDR,
            Loshchilov & Hutter 2017, eq. 5); or ``constant``, which stays at ``start``.
        start: value at progress 0.
        end: value at progress 1.
        progress: clipped to [0, 1].
    """
    progress = min(max(progress, 0.0), 1.0)
    if shape == "constant":
        return start
    if shape == "cosine":
        progress = (1 - math.cos(math.pi * progress)) / 2
    return start + (end - start) * progress


def cubic(progress: float) -> float:
    """Rise from 0 at progress 0 to 1 at progress 1, fast at first (Zhu & Gupta 2018, eq. 1)."""
    return 1 - (1 - progress) ** 3


def count_of(count: int, share: float) -> int:
    """Return count * share rounded down, where 100 * 0.29 is 29 and not 28.999999999999996."""
    return math.floor(round(count * share, 9))
