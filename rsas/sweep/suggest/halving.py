"""Asynchronous successive halving: which trials go on after their first epochs. No ray, no optuna.

Trials are compared at rungs, numbers of epochs that grow by a factor. One that comes to a rung goes
on when it is in the top 1/reduction of those that have been there, and whatever comes later does
not change that: nobody waits (ASHA, Li et al. 2020, in the variant that stops trials). Over several
objectives, trials are ranked by non-dominated sorting (Deb et al. 2002) and inside a front by an
epsilon-net, which takes first those that lie far apart (MO-ASHA, Schmucker et al. 2021).

A pruning rate is known from the first epoch, while accuracy still grows. The rate therefore sets
who is compared with whom: a sparse trial, which learns slowly, is stopped for one that is at least
as sparse and more accurate after as many epochs, never for a denser one.
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
    """Epochs after which trials are compared: first, first * reduction, first * reduction^2, ...

    The last one leaves half of the training to save, unless it is the first: a trial that is
    stopped short of its end has cost nearly as much as one that counts.

    Args:
        epochs: of a whole training, which is no rung; at least 1.
        first: the first rung, at least 1; from ``epochs`` on there are no rungs.
        reduction: what a rung is multiplied by to give the next one, at least 2.

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
    found: list[int] = []
    while first < epochs and (not found or 2 * first <= epochs):
        found.append(first)
        first *= reduction
    return tuple(found)


def fronts(values: Values) -> npt.NDArray[np.int_]:
    """The front each trial is in: 0 where none dominates it, 1 where only those of front 0 do, ...

    A trial dominates another when it is no worse in any objective and better in one, so equal
    trials share a front. Deb et al. 2002; O(n log n) for two objectives.

    Returns:
        Integers in [0, n - 1], shape (n,).
    """
    return np.asarray(moocore.pareto_rank(values, maximise=True), dtype=np.int_)


def epsilon_net(values: Values) -> list[int]:
    """The rows in an order of which every beginning is spread over all of them.

    First comes the best in the first objective; then, again and again, the row whose Euclidean
    distance to the nearest one chosen is largest. Objectives are scaled to their span, so units do
    not matter; of several such rows the best in the first objective that differs is taken, so the
    order depends on the values alone, and copies of a row come last. O(n^2). Schmucker et al. 2021.
    """
    low, span = values.min(axis=0), np.ptp(values, axis=0)
    best_first = np.lexsort(values.T[::-1])[::-1]
    points = ((values - low) / np.where(span > 0, span, 1.0))[best_first]
    distance = np.full(len(points), np.inf)
    chosen: list[int] = []
    for _ in points:
        chosen.append(int(distance.argmax()))  # the first of several
        distance = np.minimum(distance, np.linalg.norm(points - points[chosen[-1]], axis=1))
        distance[chosen[-1]] = -1.0
    return [int(row) for row in best_first[chosen]]


class Halving:
    """Decides at each rung whether a trial goes on.

    With one objective this is ASHA. Otherwise a trial that no other at its rung dominates always
    goes on, however many there are. The first arrivals, fewer than ``reduction``, go on, too.

    Args:
        objectives: that trials are compared by, at least one.
        epochs: of a whole training, at least 1.
        first: epochs of the first rung, at least 1.
        reduction: at least 2; one trial in so many goes on, for so many times the epochs.

    Attributes:
        rungs: epochs after which ``keeps`` is to be asked.
        names: of the objectives, in the order of ``values``.

    Raises:
        InputError: a number is too small, or there is no objective.
    """

    def __init__(
        self, objectives: Sequence[Objective], *, epochs: int, first: int, reduction: int
    ) -> None:
        if not objectives:
            raise InputError("objectives=[]: successive halving needs at least one")
        self.rungs = rungs(epochs, first, reduction)
        self.names = [objective.name for objective in objectives]
        self._reduction = reduction
        self._signs = np.array([1.0 if o.direction == "max" else -1.0 for o in objectives])
        self._seen: dict[int, dict[int, Values]] = {rung: {} for rung in self.rungs}

    def record(self, rung: int, number: int, values: Sequence[float]) -> None:
        """Know what a trial had at a rung, as from before an interruption; what came last counts.

        Args:
            rung: one of ``rungs``.
            number: of the trial.
            values: of the objectives, in their order and own directions. A trial that has a value
                that is not finite cannot be compared and does not count.
        """
        point = self._signs * np.asarray(values, dtype=np.float64)
        self._seen[rung].pop(number, None)
        if np.isfinite(point).all():
            self._seen[rung][number] = point

    def keeps(self, rung: int, number: int, values: Sequence[float]) -> bool:
        """Record a trial and say whether it goes on; one with a value not finite never does.

        The answer depends on what is known at this rung, not on the order in which it came.
        Arguments as for ``record``.
        """
        self.record(rung, number, values)
        seen = self._seen[rung]
        if number not in seen:
            return False
        points, own = np.array(list(seen.values())), seen[number]
        front = fronts(points)
        rank = front[-1]  # record() put it last
        if rank == 0 or len(points) < self._reduction:
            return True
        rivals = points[front == rank]
        equal = (rivals[epsilon_net(rivals)] == own).all(axis=1)  # equal trials share a place
        place = int((front < rank).sum() + equal.argmax())
        return place < len(points) // self._reduction


def halving_of(experiment: Experiment) -> Halving | None:
    """Return the halving that an experiment asks for; None where no trial is to be stopped."""
    if experiment.scheduler == "none":
        return None
    objectives = experiment.objectives
    return Halving(
        objectives if experiment.scheduler == "pareto_asha" else objectives[:1],
        epochs=experiment.base.epochs,
        first=experiment.grace_period,
        reduction=experiment.reduction_factor,
    )
