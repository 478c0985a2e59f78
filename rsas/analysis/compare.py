"""Sweeps side by side: whose front is better, where, and how sure that is."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from rsas.analysis.pareto import epsilon, front, hypervolume, knee, split_seeds, with_objectives
from rsas.analysis.trials import Sweep
from rsas.errors import InputError
from rsas.records import Objective, TrialRecord

__all__ = ["Comparison", "attained", "compare"]

_RESAMPLES = 500
_LEVEL = 0.95
_PLACES = 6  # where values are compared, unless the caller says where

Floats = npt.NDArray[np.float64]


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
    places = _places(sweeps, objectives) if at is None else np.asarray(at, dtype=np.float64)

    def measures(trials: Sequence[TrialRecord]) -> Floats:
        return np.array(
            [hypervolume(trials, objectives)]
            + [_value(attained(trials, objectives, place), objectives) for place in places]
        )

    found = [measures(sweep.trials) for sweep in sweeps]
    draws = [
        _resampled(sweep.trials, objectives, measures, np.random.default_rng([seed, i]))
        for i, sweep in enumerate(sweeps)
    ]
    rows = []
    for sweep, own, drawn in zip(sweeps, found, draws, strict=True):
        low, high = _interval(own[0], None if drawn is None else drawn[:, 0])
        middle = knee(sweep.trials, objectives)
        rows.append(
            {
                "sweep": sweep.name,
                "complete": sum(trial.state == "complete" for trial in sweep.trials),
                "front": len(front(sweep.trials, objectives)),
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
                "epsilon": epsilon(sweep.trials, sweeps[0].trials, objectives),
            }
        )
    values = []
    for j, place in enumerate(places, 1):
        for sweep, own, drawn in zip(sweeps, found, draws, strict=True):
            low, high = _interval(own[j], None if drawn is None else drawn[:, j])
            best = attained(sweep.trials, objectives, place)
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
        ranges=_ranges(sweeps, objectives),
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


def _ranges(sweeps: Sequence[Sweep], objectives: Sequence[Objective]) -> pd.DataFrame:
    """Between neighbouring values of the fronts nothing changes: the better end speaks for all."""
    sign = _sign(objectives[-1])
    edges = np.unique(sign * _fronts_values(sweeps, objectives))
    pieces = [
        (worse, better, *_leader(sweeps, objectives, sign * better))
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
    sweeps: Sequence[Sweep], objectives: Sequence[Objective], place: float
) -> tuple[str, float]:
    values = np.array(
        [_value(attained(sweep.trials, objectives, place), objectives) for sweep in sweeps]
    )
    scores = np.where(np.isnan(values), -np.inf, _sign(objectives[0]) * values)
    order = np.argsort(-scores, kind="stable")
    first, second = scores[order[0]], scores[order[1]]
    if first == second:
        return "equal", 0.0
    return sweeps[order[0]].name, float(first - second) if np.isfinite(second) else np.nan


def _resampled(
    trials: Sequence[TrialRecord],
    objectives: Sequence[Objective],
    measures: Callable[[Sequence[TrialRecord]], Floats],
    rng: np.random.Generator,
) -> Floats | None:
    """Measures of trials whose seeds are drawn again, shape (resamples, measures)."""
    sets = split_seeds(trials, objectives)
    if len(sets) < 2:
        return None
    names = [objective.name for objective in objectives]
    values = np.array([[[t.objectives[n] for n in names] for t in each] for each in sets])
    found = []
    for _ in range(_RESAMPLES):
        drawn = rng.integers(len(sets), size=(len(sets), values.shape[1]))
        means = np.take_along_axis(values, drawn[..., None], axis=0).mean(axis=0)
        found.append(measures(with_objectives(sets[0], objectives, means)))
    return np.array(found)


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


def _places(sweeps: Sequence[Sweep], objectives: Sequence[Objective]) -> Floats:
    values = _fronts_values(sweeps, objectives)
    return np.linspace(values.min(), values.max(), _PLACES)


def _fronts_values(sweeps: Sequence[Sweep], objectives: Sequence[Objective]) -> Floats:
    """Values of the last objective of all members of the fronts."""
    across = objectives[-1].name
    return np.array(
        [t.objectives[across] for sweep in sweeps for t in front(sweep.trials, objectives)]
    )


def _value(trial: TrialRecord | None, objectives: Sequence[Objective]) -> float:
    return np.nan if trial is None else trial.objectives[objectives[0].name]


def _sign(objective: Objective) -> float:
    return 1.0 if objective.direction == "max" else -1.0
