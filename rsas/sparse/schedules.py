"""Progress of training -> a fraction."""

import math
from typing import Literal

__all__ = ["Shape", "count_of", "cubic", "interpolate"]

Shape = Literal["linear", "cosine", "constant"]


def interpolate(shape: Shape, start: float, end: float, progress: float) -> float:
    """From ``start`` at progress 0 to ``end`` at progress 1.

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
    """From 0 at progress 0 to 1 at progress 1, fast at first (Zhu & Gupta 2018, eq. 1)."""
    return 1 - (1 - progress) ** 3


def count_of(count: int, share: float) -> int:
    """Count * share rounded down, where 100 * 0.29 is 29 and not 28.999999999999996."""
    return math.floor(round(count * share, 9))
