"""The front of a sweep and its hypervolume; moocore computes both."""

from __future__ import annotations

from collections.abc import Sequence

import moocore
import numpy as np
import numpy.typing as npt
import pandas as pd

from rsas.errors import InputError
from rsas.records import Objective, TrialRecord

__all__ = ["choose", "front", "hypervolume", "knee", "trials_frame"]


def front(trials: Sequence[TrialRecord], objectives: Sequence[Objective]) -> list[TrialRecord]:
    """The complete trials that no other one dominates, in the order of the last objective.

    A trial dominates another when it is no worse in any objective and better in one; equal
    trials are all members.
    """
    complete = [trial for trial in trials if trial.state == "complete"]
    if not complete:
        return []
    keep = moocore.is_nondominated(
        _values(complete, objectives), maximise=_maximise(objectives), keep_weakly=True
    )
    members = [trial for trial, kept in zip(complete, keep, strict=True) if kept]
    last = objectives[-1].name
    return sorted(members, key=lambda trial: (trial.objectives[last], trial.trial_id))


def hypervolume(trials: Sequence[TrialRecord], objectives: Sequence[Objective]) -> float:
    """Volume that the complete trials dominate, above each objective's ``worst`` value.

    Trials that are not better than ``worst`` in every objective add nothing. For accuracy
    above 0.1 and sparsity above 0 it is in [0, 0.9]. Fonseca et al. 2006; 0 without trials.
    """
    complete = [trial for trial in trials if trial.state == "complete"]
    if not complete:
        return 0.0
    return float(
        moocore.hypervolume(
            _values(complete, objectives),
            ref=np.array([objective.worst for objective in objectives]),
            maximise=_maximise(objectives),
        )
    )


def knee(trials: Sequence[TrialRecord], objectives: Sequence[Objective]) -> TrialRecord | None:
    """The member of the front where giving up a little of one objective costs most of another.

    Each objective is scaled to [0, 1] over the front, 1 the best. The knee is the member farthest
    above the chord between the front's ends or, with n objectives, above the plane through the n
    unit points: its scaled values have the greatest sum (Das 1999, "On characterizing the knee of
    the Pareto curve"). Of equals it is the first in the order of ``front``. So it is the only
    member of a front of one, and the first of two, or of a front that is nowhere above its chord.

    Returns:
        None without complete trials.
    """
    members = front(trials, objectives)
    if not members:
        return None
    values = _values(members, objectives) * [1 if up else -1 for up in _maximise(objectives)]
    low, span = values.min(axis=0), np.ptp(values, axis=0)
    scaled = (values - low) / np.where(span > 0, span, 1)
    return members[int(scaled.sum(axis=1).argmax())]


def choose(
    trials: Sequence[TrialRecord], objectives: Sequence[Objective], which: str
) -> TrialRecord:
    """One trial of a sweep.

    Args:
        trials: of the sweep.
        objectives: of the sweep.
        which: ``knee``; ``most-accurate``, the best in the first objective that is an accuracy,
            or in the first one where none is; ``sparsest``, the highest ``sparsity``; all three
            among the front. Or the identity of any trial.

    Raises:
        InputError: there is no such trial.
    """
    if which not in ("knee", "most-accurate", "sparsest"):
        for trial in trials:
            if trial.trial_id == which:
                return trial
        raise InputError(
            f"trial {which!r}: expected knee, most-accurate, sparsest, or one of the sweep's "
            f"trials ({_first_to_last(trials)})"
        )
    members = front(trials, objectives)
    found = knee(trials, objectives)
    if found is None:
        raise InputError(f"trial {which!r}: no trial of the sweep is complete yet")
    if which == "most-accurate":
        accuracies = [each for each in objectives if "accuracy" in each.name]
        up = (accuracies or list(objectives))[0]
        sign = 1 if up.direction == "max" else -1
        found = max(members, key=lambda trial: sign * trial.objectives[up.name])
    elif which == "sparsest":
        if "sparsity" not in found.objectives:
            told = ", ".join(objective.name for objective in objectives)
            raise InputError(f"trial 'sparsest': sparsity is not an objective here, only {told}")
        found = max(members, key=lambda trial: trial.objectives["sparsity"])
    return found


def trials_frame(trials: Sequence[TrialRecord]) -> pd.DataFrame:
    """A row a trial: trial_id, state, objectives, params, seconds from begin to end."""
    return pd.DataFrame(
        {
            "trial_id": trial.trial_id,
            "state": trial.state,
            **trial.objectives,
            # A parameter may have the name of an objective: pruning rate asked for, and held.
            **{f"params.{name}": value for name, value in trial.params.items()},
            "duration": np.nan if trial.finished is None else trial.finished - trial.started,
        }
        for trial in trials
    )


def _first_to_last(trials: Sequence[TrialRecord]) -> str:
    names = sorted(trial.trial_id for trial in trials)
    return " to ".join(dict.fromkeys([names[0], names[-1]])) if names else "none yet"


def _values(
    trials: Sequence[TrialRecord], objectives: Sequence[Objective]
) -> npt.NDArray[np.float64]:
    return np.array(
        [[trial.objectives[objective.name] for objective in objectives] for trial in trials],
        dtype=np.float64,
    )


def _maximise(objectives: Sequence[Objective]) -> list[bool]:
    return [objective.direction == "max" for objective in objectives]
