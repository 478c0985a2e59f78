"""Compute the importance of parameters for objectives, with Optuna."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from rsas.fields import is_number
from rsas.records import Objective, TrialRecord

if TYPE_CHECKING:  # a second to import
    from optuna.distributions import BaseDistribution
    from optuna.importance import BaseImportanceEvaluator
    from optuna.study import Study

__all__ = ["importance", "sampled", "without_effect"]

_LEAST = 8  # complete trials that an importance needs
_BINS = 4
_LEVEL = 0.05
_DRAWS = 64  # as many trees as Optuna grows
_SURE = 0.95
_BOUNDS = ("_low", "_high")


def importance(
    trials: Sequence[TrialRecord],
    objectives: Sequence[Objective],
    axes: Mapping[str, Any] | None = None,
    *,
    evaluator: Literal["fanova", "ped_anova"] = "fanova",
) -> pd.DataFrame:
    """Return the share of each objective that each parameter explains, among complete trials.

    Args:
        trials: of a sweep.
        objectives: of the sweep.
        axes: of the sweep's space, as in ``Sweep.experiment["axes"]``; they show which parameters
            are searched in logarithms.
        evaluator: ``fanova``, the share of the variance (Hutter et al. 2014); or ``ped_anova``,
            the share of the difference between the best tenth and all trials (Watanabe et al.
            2023).

    Returns:
        A row per parameter, the most important first; empty with fewer than eight complete
        trials. Each objective has three columns: ``NAME``, the share in [0, 1], and ``NAME_low``
        and ``NAME_high``. These bounds hold the middle 95% of the shares from other trials, drawn
        from these with replacement. So they show how much the share depends on the choice of
        trials. They are not a confidence interval, because trees favour the strongest parameter.
        Shares add up to 1, except for a parameter that only some configurations have. Such a
        parameter is judged among those configurations, as a share of the differences there.
    """
    complete = _in_logarithms([t for t in trials if t.state == "complete"], axes or {})
    distributions = _distributions(complete)
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)  # trials -> their own parameters
    for name in distributions:
        groups[tuple(t.trial_id for t in complete if name in t.params)].append(name)
    parts = {objective.name: [pd.DataFrame(columns=["", *_BOUNDS])] for objective in objectives}
    for trial_ids, names in groups.items():
        chosen = [trial for trial in complete if trial.trial_id in set(trial_ids)]
        if len(chosen) < _LEAST:
            continue
        shared = [name for name in distributions if all(name in t.params for t in chosen)]
        for objective in objectives:
            shares = _bounded(chosen, objective, {n: distributions[n] for n in shared}, evaluator)
            parts[objective.name].append(shares.loc[names])
    columns = [pd.concat(rows).add_prefix(name) for name, rows in parts.items()]
    frame = pd.concat(columns, axis=1).astype(float)
    order = frame[list(parts)].mean(axis=1).sort_values(ascending=False, kind="stable")
    return frame.loc[order.index]


def sampled(trials: Sequence[TrialRecord], most: int) -> list[TrialRecord]:
    """Return the complete trials in their order, or a sample of ``most`` if there are more.

    The sample is drawn uniformly, without replacement, and is the same each time.
    """
    complete = [trial for trial in trials if trial.state == "complete"]
    if len(complete) <= most:
        return complete
    drawn = np.random.default_rng(0).choice(len(complete), most, replace=False)
    return [complete[index] for index in np.sort(drawn)]


def without_effect(
    trials: Sequence[TrialRecord], objectives: Sequence[Objective]
) -> dict[str, float]:
    """Return the parameters without a visible effect on any objective -> the smallest p-value.

    The trials are put into four bins of equal size by the parameter, or into its choices. Each
    objective is compared between the bins (Kruskal and Wallis 1952). The p-value is multiplied by
    the number of objectives (Bonferroni). A parameter without a visible effect may still have one:
    few trials show only large effects. A parameter needs eight complete trials that have it;
    others are left out.
    """
    from scipy.stats import kruskal

    complete = [trial for trial in trials if trial.state == "complete"]
    p_values = {}
    for name in dict.fromkeys(name for trial in complete for name in trial.params):
        having = [trial for trial in complete if name in trial.params]
        if len(having) < _LEAST:
            continue
        bins = _binned([trial.params[name] for trial in having])
        by_objective = []
        for objective in objectives:
            numbers = np.array([trial.objectives[objective.name] for trial in having])
            samples = [numbers[bins == label] for label in np.unique(bins)]
            is_flat = len(samples) < 2 or np.ptp(numbers) == 0
            by_objective.append(1.0 if is_flat else float(kruskal(*samples).pvalue))
        smallest = min(1.0, min(by_objective) * len(objectives))
        if smallest > _LEVEL:
            p_values[name] = smallest
    return p_values


def _bounded(
    trials: Sequence[TrialRecord],
    objective: Objective,
    distributions: dict[str, BaseDistribution],
    evaluator: str,
) -> pd.DataFrame:
    """Return a row per parameter: its share, and the bounds of the interval."""
    from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator

    study = _study(trials, objective, distributions)
    if evaluator == "fanova":
        # Each tree of the forest draws its own trials, with replacement.
        forest = [FanovaImportanceEvaluator(n_trees=1, seed=seed) for seed in range(_DRAWS)]
        draws = pd.DataFrame([_shares(study, distributions, tree) for tree in forest])
        shares = draws.mean()
    else:
        ped_anova = PedAnovaImportanceEvaluator()
        drawn = np.random.default_rng(0).integers(len(trials), size=(_DRAWS, len(trials)))
        resampled = [
            _study([trials[index] for index in indices], objective, distributions)
            for indices in drawn
        ]
        draws = pd.DataFrame([_shares(other, distributions, ped_anova) for other in resampled])
        shares = pd.Series(_shares(study, distributions, ped_anova))
    low, high = draws.quantile([(1 - _SURE) / 2, (1 + _SURE) / 2]).to_numpy()
    return pd.DataFrame({"": shares, _BOUNDS[0]: low, _BOUNDS[1]: high}).fillna(0.0)


def _study(
    trials: Sequence[TrialRecord],
    objective: Objective,
    distributions: dict[str, BaseDistribution],
) -> Study:
    import optuna
    from optuna.distributions import FloatDistribution

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        direction="maximize" if objective.direction == "max" else "minimize"
    )
    study.add_trials(
        optuna.trial.create_trial(
            params={
                name: trial.params[name]
                if isinstance(axis, FloatDistribution)
                else str(trial.params[name])
                for name, axis in distributions.items()
            },
            distributions=distributions,
            value=trial.objectives[objective.name],
        )
        for trial in trials
    )
    return study


def _shares(
    study: Study, names: Iterable[str], evaluator: BaseImportanceEvaluator
) -> dict[str, float]:
    """Return the share of each parameter; NaN if the objective does not vary."""
    from optuna.importance import get_param_importances

    try:
        varies = len({trial.value for trial in study.get_trials(deepcopy=False)}) > 1
        shares = get_param_importances(study, evaluator=evaluator) if varies else {}
    except RuntimeError:  # by Optuna, if all trials that a tree drew are alike
        shares = {}
    return {name: shares.get(name, math.nan) for name in names}


def _in_logarithms(trials: Sequence[TrialRecord], axes: Mapping[str, Any]) -> list[TrialRecord]:
    """Return the trials with logarithms of the parameters that are searched in logarithms.

    Optuna's fANOVA averages over an axis as given. Without logarithms, only few trials would be in
    most of a range such as 0.001 to 1.
    """
    logarithmic = {n for n, axis in axes.items() if axis["attributes"].get("log")}
    return [
        dataclasses.replace(
            trial,
            params={n: math.log(v) if n in logarithmic else v for n, v in trial.params.items()},
        )
        for trial in trials
    ]


def _distributions(trials: Sequence[TrialRecord]) -> dict[str, BaseDistribution]:
    """Return the distribution of each parameter that differs between trials, over its values."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    distributions: dict[str, BaseDistribution] = {}
    for name in dict.fromkeys(name for trial in trials for name in trial.params):
        values = [trial.params[name] for trial in trials if name in trial.params]
        if len({str(value) for value in values}) < 2:
            continue
        if all(is_number(value) for value in values):
            distributions[name] = FloatDistribution(min(values), max(values))
        else:
            # As texts, because a choice may be a list, and Optuna looks choices up.
            distributions[name] = CategoricalDistribution(list(dict.fromkeys(map(str, values))))
    return distributions


def _binned(values: Sequence[Any]) -> Any:
    """Return the bin of each value: the quartile of a number, else the value as text."""
    if all(is_number(value) for value in values) and len(set(values)) > _BINS:
        edges = np.quantile(values, np.linspace(0, 1, _BINS + 1)[1:-1])
        return np.searchsorted(edges, values, side="right")
    return np.array([str(value) for value in values])
