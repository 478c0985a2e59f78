"""The front of a sweep and its hypervolume; moocore computes both."""

from __future__ import annotations

from collections.abc import Sequence

import moocore
import numpy as np
import numpy.typing as npt
import pandas as pd

from rsas.records import Objective, TrialRecord

__all__ = ["front", "hypervolume", "trials_frame"]


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


def _values(
    trials: Sequence[TrialRecord], objectives: Sequence[Objective]
) -> npt.NDArray[np.float64]:
    return np.array(
        [[trial.objectives[objective.name] for objective in objectives] for trial in trials],
        dtype=np.float64,
    )


def _maximise(objectives: Sequence[Objective]) -> list[bool]:
    return [objective.direction == "max" for objective in objectives]
