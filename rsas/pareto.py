"""The front of a sweep and its hypervolume, both computed by moocore."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import moocore
import numpy as np
import numpy.typing as npt
import pandas as pd

from rsas.columns import values_by_seed
from rsas.errors import InputError
from rsas.records import Objective, TrialRecord

__all__ = [
    "CHOICES",
    "attainment",
    "choose",
    "course",
    "epsilon",
    "front",
    "hypervolume",
    "hypervolume_of",
    "knee",
    "knee_id",
    "running_fronts",
    "split_seeds",
    "values_of",
    "with_objectives",
]

CHOICES = ("knee", "most-accurate", "sparsest")
"""Members of the front that ``choose`` finds by their properties."""


def front(trials: Sequence[TrialRecord], objectives: Sequence[Objective]) -> list[TrialRecord]:
    """Return the complete trials that no other one dominates, in the order of the last objective.

    A trial dominates another if it is at least as good in all objectives and better in one. Equal
    trials are all members.

    Raises:
        InputError: an objective is not finite. All functions that compute fronts raise this error.
    """
    complete = [trial for trial in trials if trial.state == "complete"]
    if not complete:
        return []
    nondominated = moocore.is_nondominated(
        values_of(complete, objectives), maximise=_maximise(objectives), keep_weakly=True
    )
    members = [trial for trial, is_member in zip(complete, nondominated, strict=True) if is_member]
    last = objectives[-1].name
    return sorted(members, key=lambda trial: (trial.objectives[last], trial.trial_id))


def hypervolume(trials: Sequence[TrialRecord], objectives: Sequence[Objective]) -> float:
    """Return the volume that the complete trials dominate, above each objective's ``worst``.

    Trials that are not better than ``worst`` in every objective add nothing. For accuracy
    above 0.1 and sparsity above 0 the volume is in [0, 0.9]; without trials it is 0. Fonseca et
    al. 2006.
    """
    complete = [trial for trial in trials if trial.state == "complete"]
    return hypervolume_of(values_of(complete, objectives), objectives) if complete else 0.0


def hypervolume_of(values: npt.NDArray[np.float64], objectives: Sequence[Objective]) -> float:
    """Return the ``hypervolume`` of finite values, shape (trials, objectives), of >= 1 trial."""
    maximise = _maximise(objectives)
    # Dominated values and the order of the others change the last digits of the sum.
    members = np.unique(values[moocore.is_nondominated(values, maximise=maximise)], axis=0)
    worst = np.array([objective.worst for objective in objectives])
    return float(moocore.hypervolume(members, ref=worst, maximise=maximise))


def running_fronts(
    trials: Sequence[TrialRecord], objectives: Sequence[Objective]
) -> Iterator[tuple[TrialRecord, int, float]]:
    """Yield each complete trial, and the front of the complete trials up to and including it.

    The values equal those of ``front`` and ``hypervolume`` of each prefix. Both are computed only
    where a trial joins the front, and from the front's members alone.

    Args:
        trials: in the order of the prefixes.
        objectives: of the sweep.

    Yields:
        The trial, the number of members of the front, and its hypervolume.
    """
    complete = [trial for trial in trials if trial.state == "complete"]
    if not complete:
        return
    signs = _signs(objectives)
    members = np.empty((0, len(objectives)))
    volume = 0.0
    for trial, values in zip(complete, values_of(complete, objectives) * signs, strict=True):
        differs = (members != values).any(axis=1)
        if not ((members >= values).all(axis=1) & differs).any():
            is_beaten = (members <= values).all(axis=1) & differs
            members = np.vstack([members[~is_beaten], values])
            volume = hypervolume_of(members * signs, objectives)
        yield trial, len(members), volume


def knee(trials: Sequence[TrialRecord], objectives: Sequence[Objective]) -> TrialRecord | None:
    """Return the member of the front at which small gains in one objective cost most of another.

    Each objective is scaled to [0, 1] over the front; 1 is the best. The knee is the member
    farthest above the chord between the front's ends. With n objectives, the chord is the plane
    through the n unit points. The scaled values of the knee have the greatest sum (Das 1999, "On
    characterizing the knee of the Pareto curve").

    Among equals, the first in the order of ``front`` is the knee. So the first member is the knee
    of a front with one or two members, and of a front that is nowhere above its chord.

    Returns:
        The knee; None without complete trials.
    """
    members = front(trials, objectives)
    if not members:
        return None
    values = values_of(members, objectives) * _signs(objectives)
    low, span = values.min(axis=0), np.ptp(values, axis=0)
    scaled = (values - low) / np.where(span > 0, span, 1)
    # Rounded, so that sums such as 0.1 + 0.9 and 0.5 + 0.5 are equal despite rounding errors.
    return members[int(scaled.sum(axis=1).round(9).argmax())]


def knee_id(trials: Sequence[TrialRecord], objectives: Sequence[Objective]) -> str:
    """Return the ``trial_id`` of the ``knee``; empty without complete trials."""
    trial = knee(trials, objectives)
    return "" if trial is None else trial.trial_id


def choose(
    trials: Sequence[TrialRecord], objectives: Sequence[Objective], which: str
) -> TrialRecord:
    """Return one trial of a sweep.

    Args:
        trials: of the sweep.
        objectives: of the sweep.
        which: a member of the front, or the ``trial_id`` of any trial. ``knee`` is the knee.
            ``most-accurate`` is the best in the first objective that is an accuracy; if none
            is, in the first objective. ``sparsest`` has the highest ``sparsity``.

    Raises:
        InputError: the trial does not exist.
    """
    if which not in CHOICES:
        for trial in trials:
            if trial.trial_id == which:
                return trial
        raise InputError(
            f"trial {which!r}: expected {', '.join(CHOICES)}, or one of the sweep's "
            f"trials ({_first_to_last(trials)})"
        )
    members = front(trials, objectives)
    member = knee(trials, objectives)
    if member is None:
        raise InputError(f"trial {which!r}: no trial of the sweep is complete yet")
    if which == "most-accurate":
        accuracies = [objective for objective in objectives if "accuracy" in objective.name]
        best = (accuracies or list(objectives))[0]
        member = max(members, key=lambda trial: best.sign * trial.objectives[best.name])
    elif which == "sparsest":
        if "sparsity" not in member.objectives:
            names = ", ".join(objective.name for objective in objectives)
            raise InputError(f"trial 'sparsest': sparsity is not an objective here, only {names}")
        member = max(members, key=lambda trial: trial.objectives["sparsity"])
    return member


def course(trials: Sequence[TrialRecord], objectives: Sequence[Objective]) -> pd.DataFrame:
    """Return the growth of the hypervolume, a row per complete trial, in the order they finished.

    Returns:
        trial_id; trials, the number of complete ones so far; device_seconds, of all trials that
        had ended by then; hypervolume; gain, by this trial; and cost_per_gain, device-seconds
        since the last gain per unit of hypervolume gained, NaN without a gain.
    """
    ended = sorted(
        (trial for trial in trials if trial.state != "running"),
        key=lambda trial: (trial.finished or 0.0, trial.trial_id),
    )
    fronts = running_fronts(ended, objectives)
    rows: list[dict[str, Any]] = []
    spent = since = volume = 0.0
    for trial in ended:
        spent += trial.device_seconds
        if trial.state != "complete":
            continue
        _, _, new_volume = next(fronts)
        gain, volume = new_volume - volume, new_volume
        rows.append(
            {
                "trial_id": trial.trial_id,
                "trials": len(rows) + 1,
                "device_seconds": spent,
                "hypervolume": new_volume,
                "gain": gain,
                "cost_per_gain": (spent - since) / gain if gain > 0 else np.nan,
            }
        )
        since = spent if gain > 0 else since
    columns = ["trial_id", "trials", "device_seconds", "hypervolume", "gain", "cost_per_gain"]
    return pd.DataFrame(rows, columns=columns)


def epsilon(
    trials: Sequence[TrialRecord],
    reference: Sequence[TrialRecord],
    objectives: Sequence[Objective],
) -> float:
    """Return how far a front must be shifted, in every objective, to cover another one.

    This is the additive epsilon indicator (Zitzler et al. 2003), in units of the objectives. The
    value is 0 or less if the front of ``trials`` covers the front of ``reference`` already.

    Raises:
        InputError: ``trials`` or ``reference`` has no complete trial.
    """
    fronts = [front(records, objectives) for records in (trials, reference)]
    if not all(fronts):
        raise InputError("epsilon: both sweeps need a complete trial")
    values, reference_values = (values_of(members, objectives) for members in fronts)
    maximise = _maximise(objectives)
    return float(moocore.epsilon_additive(values, ref=reference_values, maximise=maximise))


def attainment(
    sets: Sequence[Sequence[TrialRecord]],
    objectives: Sequence[Objective],
    percentiles: Sequence[float] = (0, 50, 100),
) -> pd.DataFrame:
    """Return the surfaces that given percentages of several sets of trials attain.

    This is the empirical attainment function (Grunert da Fonseca et al. 2001). Half of the sets
    reach or beat the surface at 50; at least one set reaches that at 0, and all sets that at 100.
    ``split_seeds`` makes one set per seed.

    Args:
        sets: sets of trials, each with at least one complete trial.
        objectives: of the trials.
        percentiles: in [0, 100].

    Returns:
        percentile, and a column per objective; a row per corner of a surface.

    Raises:
        InputError: a set has no complete trial, or there is one objective alone.
    """
    if len(objectives) < 2:
        raise InputError("attainment: a surface needs two objectives or more")
    fronts = [front(trials, objectives) for trials in sets]
    if not fronts or not all(fronts):
        raise InputError("attainment: each set needs a complete trial")
    signs = -_signs(objectives)  # the attainment function is of objectives to minimise
    points = np.concatenate([values_of(members, objectives) for members in fronts]) * signs
    number = np.concatenate([np.full(len(members), i + 1) for i, members in enumerate(fronts)])
    surface = moocore.eaf(points, number, percentiles=list(percentiles))
    names = [objective.name for objective in objectives]
    corners = pd.DataFrame(surface[:, :-1] * signs, columns=names)
    corners.insert(0, "percentile", surface[:, -1])
    return corners


def split_seeds(
    trials: Sequence[TrialRecord], objectives: Sequence[Objective]
) -> list[list[TrialRecord]]:
    """Return, for each seed, the complete trials with that seed's objectives.

    With a single seed, the only set has the trials as they are.
    """
    complete = [trial for trial in trials if trial.state == "complete"]
    names = [objective.name for objective in objectives]
    values = [values_by_seed(trial.by_seed, names) for trial in complete]
    count = min((len(by_seed[name]) for by_seed in values for name in by_seed), default=0)
    if count == 0 or not all(len(by_seed) == len(names) for by_seed in values):
        return [complete]
    return [
        with_objectives(
            complete, objectives, [[by_seed[n][i] for n in names] for by_seed in values]
        )
        for i in range(count)
    ]


def with_objectives(
    trials: Sequence[TrialRecord], objectives: Sequence[Objective], values: npt.ArrayLike
) -> list[TrialRecord]:
    """Return the trials with other values of their objectives, shape (trials, objectives)."""
    names = [objective.name for objective in objectives]
    return [
        dataclasses.replace(trial, objectives=dict(zip(names, row, strict=True)))
        for trial, row in zip(trials, np.asarray(values, dtype=np.float64).tolist(), strict=True)
    ]


def values_of(
    trials: Sequence[TrialRecord], objectives: Sequence[Objective]
) -> npt.NDArray[np.float64]:
    """Return the objectives of complete trials, shape (trials, objectives).

    Raises:
        InputError: an objective is not finite.
    """
    values = np.array(
        [[trial.objectives[objective.name] for objective in objectives] for trial in trials],
        dtype=np.float64,
    )
    for row, column in np.argwhere(~np.isfinite(values)):
        name, value = objectives[column].name, values[row, column]
        raise InputError(f"{trials[row].trial_id}: {name}={value}: expected a finite number")
    return values


def _first_to_last(trials: Sequence[TrialRecord]) -> str:
    names = sorted(trial.trial_id for trial in trials)
    return " to ".join(dict.fromkeys([names[0], names[-1]])) if names else "none yet"


def _signs(objectives: Sequence[Objective]) -> npt.NDArray[np.float64]:
    return np.array([objective.sign for objective in objectives], dtype=np.float64)


def _maximise(objectives: Sequence[Objective]) -> list[bool]:
    return [objective.direction == "max" for objective in objectives]
