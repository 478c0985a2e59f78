"""Sweeps side by side: whose front is better, where, and how sure that is."""

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
    knee,
    split_seeds,
    values_of,
)
from rsas.records import Objective, TrialRecord

__all__ = ["Comparison", "attained", "compare"]

_RESAMPLES = 500
_LEVEL = 0.95
_PLACES = 6  # where values are compared, unless the caller says where

Floats = npt.NDArray[np.float64]
Front = Sequence[TrialRecord]  # its members alone


@dataclass(frozen=True)
class Comparison:
    """What ``compare`` found. ``low`` and ``high`` are NaN where sweeps have one seed alone."""

    objectives: tuple[Objective, ...]
    sweeps: pd.DataFrame
    """A row a sweep: sweep, complete, front, hypervolume, low, high, knee, seeds."""
    differences: pd.DataFrame
    """A row each other sweep: sweep, against (the first), hypervolume (its own less the first's),
    low, high, epsilon (by how much its front must be shifted to cover the first's)."""
    values: pd.DataFrame
    """A row a place and a sweep: at (a value of the last objective), sweep, value (the best of the
    first objective that is had there, NaN where nothing is), low, high, trial_id."""
    ranges: pd.DataFrame
    """A row a range of the last objective: low, high, best (a sweep, or ``equal``), lead (mean
    difference to the next best in the first objective, NaN where no other has anything)."""

    @property
    def word(self) -> str:
        """How the places of ``values`` are meant: at ``least`` or at ``most`` so much."""
        return "least" if self.objectives[-1].direction == "max" else "most"


def compare(*sweeps: Sweep, at: Sequence[float] | None = None, seed: int = 0) -> Comparison:
    """Compare sweeps, each with the first.

    Intervals are of 95%, by the basic bootstrap (Davison and Hinkley 1997, 5.2) over seeds: each
    trial's seeds are drawn again, its objectives are means over them, and the front is taken
    anew. They say what other seeds of the same trials would give, not what another search would.

    Args:
        sweeps: at least two, with the same objectives, each with a complete trial.
        at: values of the last objective at which the first one is compared; by default six over
            the range of the fronts.
        seed: of the resampling.

    Raises:
        InputError: they cannot be compared.
    """
    objectives = _shared_objectives(sweeps)
    fronts = [front(sweep.trials, objectives) for sweep in sweeps]
    places = _places(fronts, objectives) if at is None else np.asarray(at, dtype=np.float64)
    found = [_measures(values_of(members, objectives), objectives, places) for members in fronts]
    draws = [
        _resampled(sweep.trials, objectives, places, np.random.default_rng([seed, i]))
        for i, sweep in enumerate(sweeps)
    ]
    rows = []
    for sweep, members, own, drawn in zip(sweeps, fronts, found, draws, strict=True):
        low, high = _interval(own[0], None if drawn is None else drawn[:, 0])
        middle = knee(members, objectives)
        rows.append(
            {
                "sweep": sweep.name,
                "complete": sum(trial.state == "complete" for trial in sweep.trials),
                "front": len(members),
                "hypervolume": own[0],
                "low": low,
                "high": high,
                "knee": "" if middle is None else middle.trial_id,
                "seeds": len(split_seeds(sweep.trials, objectives)),
            }
        )
    differences = []
    for i, sweep in enumerate(sweeps[1:], 1):
        ours, first = draws[i], draws[0]
        both = None if ours is None or first is None else ours[:, 0] - first[:, 0]
        low, high = _interval(found[i][0] - found[0][0], both)
        differences.append(
            {
                "sweep": sweep.name,
                "against": sweeps[0].name,
                "hypervolume": found[i][0] - found[0][0],
                "low": low,
                "high": high,
                "epsilon": epsilon(fronts[i], fronts[0], objectives),
            }
        )
    values = []
    for j, place in enumerate(places, 1):
        for sweep, members, own, drawn in zip(sweeps, fronts, found, draws, strict=True):
            low, high = _interval(own[j], None if drawn is None else drawn[:, j])
            best = attained(members, objectives, place)
            values.append(
                {
                    "at": place,
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
    trials: Sequence[TrialRecord], objectives: Sequence[Objective], place: float
) -> TrialRecord | None:
    """The best complete trial in the first objective, at least as good as ``place`` in the last.

    None where there is none.
    """
    up, across = objectives[0], objectives[-1]
    there = [
        trial
        for trial in front(trials, objectives)
        if _sign(across) * trial.objectives[across.name] >= _sign(across) * place
    ]
    return max(there, key=lambda trial: _sign(up) * trial.objectives[up.name], default=None)


def _ranges(
    sweeps: Sequence[Sweep], fronts: Sequence[Front], objectives: Sequence[Objective]
) -> pd.DataFrame:
    """Between neighbouring values of the fronts nothing changes: the better end speaks for all."""
    sign = _sign(objectives[-1])
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
    place: float,
) -> tuple[str, float]:
    best = np.array([_best(each, objectives, place) for each in values])
    scores = np.where(np.isnan(best), -np.inf, _sign(objectives[0]) * best)
    order = np.argsort(-scores, kind="stable")
    first, second = scores[order[0]], scores[order[1]]
    if first == second:
        return "equal", 0.0
    return sweeps[order[0]].name, float(first - second) if np.isfinite(second) else np.nan


def _resampled(
    trials: Sequence[TrialRecord],
    objectives: Sequence[Objective],
    places: Floats,
    rng: np.random.Generator,
) -> Floats | None:
    """Measures of trials whose seeds are drawn again, shape (resamples, measures)."""
    sets = split_seeds(trials, objectives)
    if len(sets) < 2:
        return None
    values = np.array([values_of(each, objectives) for each in sets])
    found = []
    for _ in range(_RESAMPLES):
        drawn = rng.integers(len(sets), size=(len(sets), values.shape[1]))
        means = np.take_along_axis(values, drawn[..., None], axis=0).mean(axis=0)
        found.append(_measures(means, objectives, places))
    return np.array(found)


def _measures(values: Floats, objectives: Sequence[Objective], places: Floats) -> Floats:
    """The hypervolume of values of shape (trials, objectives), and what they attain at places."""
    best = [_best(values, objectives, place) for place in places]
    return np.array([hypervolume_of(values, objectives), *best])


def _best(values: Floats, objectives: Sequence[Objective], place: float) -> float:
    """The value of ``attained``; NaN where nothing is.

    The whole set of trials and their front have the same one.
    """
    up, across = _sign(objectives[0]), _sign(objectives[-1])
    there = values[across * values[:, -1] >= across * place, 0]
    return float(up * np.max(up * there)) if len(there) else np.nan


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


def _places(fronts: Sequence[Front], objectives: Sequence[Objective]) -> Floats:
    values = _across(fronts, objectives)
    return np.linspace(values.min(), values.max(), _PLACES)


def _across(fronts: Sequence[Front], objectives: Sequence[Objective]) -> Floats:
    """Values of the last objective of all members of the fronts."""
    return np.concatenate([values_of(members, objectives)[:, -1] for members in fronts])


def _sign(objective: Objective) -> float:
    return 1.0 if objective.direction == "max" else -1.0
