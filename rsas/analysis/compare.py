"""Compare sweeps: which front is better, at which values, and with which confidence."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from rsas.analysis.trials import Sweep
from rsas.errors import InputError
from rsas.pareto import (
    epsilon,
    front,
    hypervolume_of,
    knee_id,
    split_seeds,
    values_of,
)
from rsas.records import Objective, TrialRecord

__all__ = ["Comparison", "attained", "compare"]

_RESAMPLES = 500
_LEVEL = 0.95
_THRESHOLDS = 6  # number of values of the last objective at which sweeps are compared by default

Floats = npt.NDArray[np.float64]
Front = Sequence[TrialRecord]  # only its members


@dataclass(frozen=True)
class Comparison:
    """The result of ``compare``. ``low`` and ``high`` are NaN for sweeps with a single seed."""

    objectives: tuple[Objective, ...]
    sweeps: pd.DataFrame
    """A row per sweep: sweep, complete, front, hypervolume, low, high, knee, seeds."""
    differences: pd.DataFrame
    """A row per other sweep: sweep, against (the first), hypervolume (its own less the first's),
    low, high, epsilon (how far its front must be shifted to cover the first's)."""
    values: pd.DataFrame
    """A row per threshold and sweep: at (a value of the last objective), sweep, value (the best of
    the first objective there, NaN if no trial reaches the threshold), low, high, trial_id."""
    ranges: pd.DataFrame
    """A row per range of the last objective: low, high, best (a sweep, or ``equal``), lead (mean
    difference to the next best in the first objective, NaN if no other sweep has a trial there)."""

    @property
    def word(self) -> str:
        """Kind of the thresholds in ``values``: at ``least`` or at ``most``."""
        return "least" if self.objectives[-1].direction == "max" else "most"


def compare(*sweeps: Sweep, at: Sequence[float] | None = None, seed: int = 0) -> Comparison:
    """Compare sweeps, each with the first.

    Intervals are of 95%, by the basic bootstrap (Davison and Hinkley 1997, 5.2) over seeds. Each
    trial's seeds are resampled, its objectives are means over them, and the front is computed
    again. So the intervals hold for other seeds of the same trials, not for another search.

    Args:
        sweeps: at least two, with the same objectives, each with a complete trial.
        at: values of the last objective at which the first objective is compared; by default six
            over the range of the fronts.
        seed: of the resampling.

    Raises:
        InputError: the sweeps cannot be compared.
    """
    objectives = _shared_objectives(sweeps)
    fronts = [front(sweep.trials, objectives) for sweep in sweeps]
    thresholds = _thresholds(fronts, objectives) if at is None else np.asarray(at, dtype=np.float64)
    measures = [
        _measures(values_of(members, objectives), objectives, thresholds) for members in fronts
    ]
    draws = [
        _resampled(sweep.trials, objectives, thresholds, np.random.default_rng([seed, i]))
        for i, sweep in enumerate(sweeps)
    ]
    rows = []
    for sweep, members, own, drawn in zip(sweeps, fronts, measures, draws, strict=True):
        low, high = _interval(own[0], None if drawn is None else drawn[:, 0])
        rows.append(
            {
                "sweep": sweep.name,
                "complete": sum(trial.state == "complete" for trial in sweep.trials),
                "front": len(members),
                "hypervolume": own[0],
                "low": low,
                "high": high,
                "knee": knee_id(members, objectives),
                "seeds": len(split_seeds(sweep.trials, objectives)),
            }
        )
    differences = []
    for i, sweep in enumerate(sweeps[1:], 1):
        ours, first = draws[i], draws[0]
        both = None if ours is None or first is None else ours[:, 0] - first[:, 0]
        difference = measures[i][0] - measures[0][0]
        low, high = _interval(difference, both)
        differences.append(
            {
                "sweep": sweep.name,
                "against": sweeps[0].name,
                "hypervolume": difference,
                "low": low,
                "high": high,
                "epsilon": epsilon(fronts[i], fronts[0], objectives),
            }
        )
    values = []
    for j, threshold in enumerate(thresholds, 1):
        for sweep, members, own, drawn in zip(sweeps, fronts, measures, draws, strict=True):
            low, high = _interval(own[j], None if drawn is None else drawn[:, j])
            best = attained(members, objectives, threshold)
            values.append(
                {
                    "at": threshold,
                    "sweep": sweep.name,
                    "value": own[j],
                    "low": low,
                    "high": high,
                    "trial_id": "" if best is None else best.trial_id,
                }
            )
    return Comparison(
        objectives=objectives,
        sweeps=pd.DataFrame(rows),
        differences=pd.DataFrame(differences),
        values=pd.DataFrame(values),
        ranges=_ranges(sweeps, fronts, objectives),
    )


def attained(
    trials: Sequence[TrialRecord], objectives: Sequence[Objective], threshold: float
) -> TrialRecord | None:
    """Return the best complete trial in the first objective, among those at a threshold.

    Such a trial is at least as good as the threshold in the last objective.

    Returns:
        The trial; None if no trial reaches the threshold.
    """
    first, last = objectives[0], objectives[-1]
    candidates = [
        trial
        for trial in front(trials, objectives)
        if last.sign * trial.objectives[last.name] >= last.sign * threshold
    ]
    return max(candidates, key=lambda t: first.sign * t.objectives[first.name], default=None)


def _ranges(
    sweeps: Sequence[Sweep], fronts: Sequence[Front], objectives: Sequence[Objective]
) -> pd.DataFrame:
    """Return the ranges of the last objective in which the same sweep is best.

    The best sweep can only change at a value of a front. So between two neighbouring values, the
    better one decides.
    """
    sign = objectives[-1].sign
    edges = np.unique(sign * _across(fronts, objectives))
    values = [values_of(members, objectives) for members in fronts]
    pieces = [
        (worse, better, *_leader(sweeps, values, objectives, sign * better))
        for worse, better in itertools.pairwise(edges.tolist())
    ]
    rows = []
    for best, group in itertools.groupby(pieces, key=lambda piece: piece[2]):
        starts, ends, _, leads = zip(*group, strict=True)
        low, high = sorted((sign * starts[0], sign * ends[-1]))
        widths = np.where(np.isnan(leads), 0.0, np.subtract(ends, starts))
        lead = float(np.nansum(leads * widths) / widths.sum()) if widths.any() else np.nan
        rows.append({"low": low, "high": high, "best": best, "lead": lead})
    return pd.DataFrame(rows, columns=["low", "high", "best", "lead"])


def _leader(
    sweeps: Sequence[Sweep],
    values: Sequence[Floats],
    objectives: Sequence[Objective],
    threshold: float,
) -> tuple[str, float]:
    """Return the sweep that is best at a threshold, and its lead."""
    best = np.array([_best(own, objectives, threshold) for own in values])
    scores = np.where(np.isnan(best), -np.inf, objectives[0].sign * best)
    order = np.argsort(-scores, kind="stable")
    first, second = scores[order[0]], scores[order[1]]
    if first == second:
        return "equal", 0.0
    return sweeps[order[0]].name, float(first - second) if np.isfinite(second) else np.nan


def _resampled(
    trials: Sequence[TrialRecord],
    objectives: Sequence[Objective],
    thresholds: Floats,
    rng: np.random.Generator,
) -> Floats | None:
    """Return measures of trials with resampled seeds, shape (resamples, measures)."""
    sets = split_seeds(trials, objectives)
    if len(sets) < 2:
        return None
    values = np.array([values_of(of_seed, objectives) for of_seed in sets])
    measures = []
    for _ in range(_RESAMPLES):
        drawn = rng.integers(len(sets), size=(len(sets), values.shape[1]))
        means = np.take_along_axis(values, drawn[..., None], axis=0).mean(axis=0)
        measures.append(_measures(means, objectives, thresholds))
    return np.array(measures)


def _measures(values: Floats, objectives: Sequence[Objective], thresholds: Floats) -> Floats:
    """Return the hypervolume, then the best value at each threshold.

    Args:
        values: shape (trials, objectives).
        objectives: of the sweeps.
        thresholds: of the last objective.
    """
    best = [_best(values, objectives, threshold) for threshold in thresholds]
    return np.array([hypervolume_of(values, objectives), *best])


def _best(values: Floats, objectives: Sequence[Objective], threshold: float) -> float:
    """Return the first objective of ``attained``; NaN if no trial reaches the threshold.

    The value is the same for all trials and for their front.
    """
    first, last = objectives[0].sign, objectives[-1].sign
    candidates = values[last * values[:, -1] >= last * threshold, 0]
    return float(first * np.max(first * candidates)) if len(candidates) else np.nan


def _interval(estimate: float, draws: Floats | None) -> tuple[float, float]:
    if draws is None or np.isnan(draws).any() or np.isnan(estimate):
        return np.nan, np.nan
    low, high = np.quantile(draws, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return float(2 * estimate - high), float(2 * estimate - low)


def _shared_objectives(sweeps: Sequence[Sweep]) -> tuple[Objective, ...]:
    if len(sweeps) < 2:
        raise InputError("compare: expected at least two sweeps")
    for sweep in sweeps:
        if sweep.objectives != sweeps[0].objectives:
            raise InputError(
                f"compare: the objectives of {sweep.name!r} differ from those of "
                f"{sweeps[0].name!r}, so their hypervolumes mean different things"
            )
        if not sweep.front:
            raise InputError(f"compare: sweep {sweep.name!r} has no complete trial")
    return sweeps[0].objectives


def _thresholds(fronts: Sequence[Front], objectives: Sequence[Objective]) -> Floats:
    values = _across(fronts, objectives)
    return np.linspace(values.min(), values.max(), _THRESHOLDS)


def _across(fronts: Sequence[Front], objectives: Sequence[Objective]) -> Floats:
    """Return the values of the last objective of all members of the fronts."""
    return np.concatenate([values_of(members, objectives)[:, -1] for members in fronts])
