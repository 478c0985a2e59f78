"""Asynchronous successive halving: decide which trials continue after their first epochs.

Imports neither ray nor optuna.

Trials are compared at rungs, numbers of epochs that grow by a factor. A trial continues from a rung
if it is in the top 1/reduction of the trials that have reached this rung. Later trials do not
change the decision, so no trial waits (ASHA, Li et al. 2020, in the variant that stops trials).
With several objectives, trials are ranked by non-dominated sorting (Deb et al. 2002). Inside a
front, an epsilon-net takes first the trials that lie far apart (MO-ASHA, Schmucker et al. 2021).

A pruning rate is known from the first epoch, while accuracy still grows. The rate therefore decides
which trials are compared. A sparse trial learns slowly. Only a trial that is at least as sparse,
and more accurate after as many epochs, can displace a sparse trial; a denser trial cannot.
"""

from __future__ import annotations

from collections.abc import Sequence

import moocore
import numpy as np
import numpy.typing as npt

from rsas.errors import InputError
from rsas.records import Objective
from rsas.sweep.experiment import Experiment

__all__ = ["Halving", "epsilon_net", "fronts", "halving_of", "rungs"]

Values = npt.NDArray[np.float64]
"""Finite numbers, shape (trials, objectives), at least one of each; larger is better."""


def rungs(epochs: int, first: int, reduction: int) -> tuple[int, ...]:
    """Return the rungs in epochs: first, first * reduction, first * reduction^2, ...

    The last rung leaves at least half of the training, unless this rung is the first one. A trial
    that is stopped shortly before its end costs nearly as much as a complete trial.

    Args:
        epochs: of a whole training, at least 1; the end of the training is not a rung.
        first: the first rung, at least 1; there are no rungs if ``first`` >= ``epochs``.
        reduction: factor from one rung to the next, at least 2.

    Raises:
        InputError: a number is too small.
    """
    for name, value, least in (
        ("epochs", epochs, 1),
        ("first", first, 1),
        ("reduction", reduction, 2),
    ):
        if value < least:
            raise InputError(f"{name}={value!r}: expected an integer from {least} on")
    levels: list[int] = []
    while first < epochs and (not levels or 2 * first <= epochs):
        levels.append(first)
        first *= reduction
    return tuple(levels)


def fronts(values: Values) -> npt.NDArray[np.int_]:
    """Return the number of each trial's front.

    Front 0 has the trials that no other trial dominates. Front 1 has those that only trials of
    front 0 dominate, and so on.

    A trial dominates another one if it is at least as good in all objectives and better in one. So
    equal trials share a front. Deb et al. 2002; O(n log n) for two objectives.

    Returns:
        Integers in [0, n - 1], shape (n,).
    """
    return np.asarray(moocore.pareto_rank(values, maximise=True), dtype=np.int_)


def epsilon_net(values: Values) -> list[int]:
    """Return an order of the rows in which the first k rows, for any k, are spread over all rows.

    The first row is the best one in the first objective. Each next row is the one with the largest
    Euclidean distance to the nearest chosen row. Objectives are scaled to their span, so units do
    not matter. Among rows at equal distance, the best one in the first objective that differs comes
    first. So the order depends only on the values, and copies of a row come last. O(n^2).
    Schmucker et al. 2021.

    Returns:
        Indices of the rows, each once.
    """
    low, span = values.min(axis=0), np.ptp(values, axis=0)
    best_first = np.lexsort(values.T[::-1])[::-1]
    points = ((values - low) / np.where(span > 0, span, 1.0))[best_first]
    distance = np.full(len(points), np.inf)
    chosen: list[int] = []
    for _ in points:
        chosen.append(int(distance.argmax()))  # among equal ones the first, which is the best
        distance = np.minimum(distance, np.linalg.norm(points - points[chosen[-1]], axis=1))
        distance[chosen[-1]] = -1.0
    return [int(row) for row in best_first[chosen]]


class Halving:
    """The decision at each rung whether a trial continues.

    With one objective, this is ASHA. With several, every trial that no other trial at its rung
    dominates continues. At each rung, the first ``reduction`` - 1 trials continue, too.

    Args:
        objectives: by which trials are compared, at least one.
        epochs: of a whole training, at least 1.
        first: epochs of the first rung, at least 1.
        reduction: at least 2; one trial in ``reduction`` continues, up to ``reduction`` times the
            epochs.

    Attributes:
        rungs: epochs after which the caller asks ``keeps``.
        names: of the objectives, in the order of ``values``.

    Raises:
        InputError: a number is too small, or ``objectives`` is empty.
    """

    def __init__(
        self, objectives: Sequence[Objective], *, epochs: int, first: int, reduction: int
    ) -> None:
        if not objectives:
            raise InputError("objectives=[]: successive halving needs at least one")
        self.rungs = rungs(epochs, first, reduction)
        self.names = [objective.name for objective in objectives]
        self._reduction = reduction
        self._signs = np.array([objective.sign for objective in objectives], dtype=np.float64)
        self._seen: dict[int, dict[int, Values]] = {rung: {} for rung in self.rungs}

    def record(self, rung: int, number: int, values: Sequence[float]) -> None:
        """Store the values of a trial at a rung, for example those from before an interruption.

        Values of the same trial and rung from an earlier call are replaced.

        Args:
            rung: one of ``rungs``.
            number: of the trial.
            values: of the objectives, in their order and own directions. A trial with a value that
                is not finite cannot be compared and is left out.
        """
        point = self._signs * np.asarray(values, dtype=np.float64)
        self._seen[rung].pop(number, None)
        if np.isfinite(point).all():
            self._seen[rung][number] = point

    def keeps(self, rung: int, number: int, values: Sequence[float]) -> bool:
        """Record a trial at a rung, and return whether the trial continues.

        A trial with a value that is not finite never continues. The answer depends on the values
        at this rung, not on the order in which the trials reached the rung. The arguments are those
        of ``record``.
        """
        self.record(rung, number, values)
        seen = self._seen[rung]
        if number not in seen:
            return False
        points, own = np.array(list(seen.values())), seen[number]
        front = fronts(points)
        rank = front[-1]  # record() has put this trial last
        if rank == 0 or len(points) < self._reduction:
            return True
        rivals = points[front == rank]
        equal = (rivals[epsilon_net(rivals)] == own).all(axis=1)  # equal trials share a position
        position = int((front < rank).sum() + equal.argmax())
        return position < len(points) // self._reduction


def halving_of(experiment: Experiment) -> Halving | None:
    """Return the halving that an experiment asks for; None if no trial is to be stopped."""
    if experiment.scheduler == "none":
        return None
    objectives = experiment.objectives
    return Halving(
        objectives if experiment.scheduler == "pareto_asha" else objectives[:1],
        epochs=experiment.config.epochs,
        first=experiment.grace_period,
        reduction=experiment.reduction_factor,
    )
