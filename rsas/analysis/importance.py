"""Which parameter moved which objective; Optuna computes it."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from rsas.records import Objective, TrialRecord

if TYPE_CHECKING:  # a second to import
    from optuna.distributions import BaseDistribution
    from optuna.importance import BaseImportanceEvaluator
    from optuna.study import Study

__all__ = ["importance", "sampled", "without_effect"]

_LEAST = 8  # trials, below which nothing is said
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
    """How much of each objective the parameters explain, among the complete trials.

    Args:
        trials: of a sweep.
        objectives: of the sweep.
        axes: of its space, as ``Sweep.experiment["axes"]`` has them: they tell which are searched
            in logarithms.
        evaluator: ``fanova``, the share of the variance (Hutter et al. 2014); or ``ped_anova``,
            the share of what makes the best tenth differ (Watanabe et al. 2023).

    Returns:
        A row a parameter, the most important first. Columns, for each objective: its name, the
        share in [0, 1]; ``NAME_low`` and ``NAME_high``, the middle 95% of what other trials,
        drawn from these with replacement, give: how much hangs on which ones they are. A
        confidence interval it is not, as trees favour the strongest parameter. Shares add up to
        1, but for a parameter that only some configurations have: it is judged among those, as a
        share of what differs there. Empty where fewer than eight trials are complete.
    """
    complete = _in_logarithms([t for t in trials if t.state == "complete"], axes or {})
    distributions = _distributions(complete)
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)  # trials -> their own parameters
    for name in distributions:
        groups[tuple(t.trial_id for t in complete if name in t.params)].append(name)
    parts = {objective.name: [pd.DataFrame(columns=["", *_BOUNDS])] for objective in objectives}
    for those, names in groups.items():
        chosen = [trial for trial in complete if trial.trial_id in set(those)]
        if len(chosen) < _LEAST:
            continue
        shared = [name for name in distributions if all(name in t.params for t in chosen)]
        for objective in objectives:
            found = _of(chosen, objective, {n: distributions[n] for n in shared}, evaluator)
            parts[objective.name].append(found.loc[names])
    columns = [pd.concat(rows).add_prefix(name) for name, rows in parts.items()]
    frame = pd.concat(columns, axis=1).astype(float)
    order = frame[list(parts)].mean(axis=1).sort_values(ascending=False, kind="stable")
    return frame.loc[order.index]


def sampled(trials: Sequence[TrialRecord], most: int) -> list[TrialRecord]:
    """Return the complete trials in their order; of more than ``most``, a sample of ``most``.

    The sample is drawn uniformly, without replacement, and is the same each time.
    """
    complete = [trial for trial in trials if trial.state == "complete"]
    if len(complete) <= most:
        return complete
    drawn = np.random.default_rng(0).choice(len(complete), most, replace=False)
    return [complete[at] for at in np.sort(drawn)]


def without_effect(
    trials: Sequence[TrialRecord], objectives: Sequence[Objective]
) -> dict[str, float]:
    """Parameters of which no effect on any objective can be seen -> the smallest p-value.

    The trials are put into four bins of equal size by the parameter, or into its choices, and
    each objective compared between them (Kruskal and Wallis 1952; p is multiplied by the number of
    objectives, as Bonferroni did). To see no effect does not mean that there is none: with few
    trials only large ones show. Parameters that eight complete trials do not have are left out.
    """
    from scipy.stats import kruskal

    complete = [trial for trial in trials if trial.state == "complete"]
    found = {}
    for name in dict.fromkeys(name for trial in complete for name in trial.params):
        having = [trial for trial in complete if name in trial.params]
        if len(having) < _LEAST:
            continue
        bins = _binned([trial.params[name] for trial in having])
        values = []
        for objective in objectives:
            numbers = np.array([trial.objectives[objective.name] for trial in having])
            samples = [numbers[bins == each] for each in np.unique(bins)]
            is_flat = len(samples) < 2 or np.ptp(numbers) == 0
            values.append(1.0 if is_flat else float(kruskal(*samples).pvalue))
        smallest = min(1.0, min(values) * len(objectives))
        if smallest > _LEVEL:
            found[name] = smallest
    return found


def _of(
    trials: Sequence[TrialRecord],
    objective: Objective,
    distributions: dict[str, BaseDistribution],
    evaluator: str,
) -> pd.DataFrame:
    """A row a parameter: its share, and the bounds of the interval."""
    from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator

    study = _study(trials, objective, distributions)
    if evaluator == "fanova":
        # Every tree of the forest has trials of its own, drawn with replacement.
        forest = [FanovaImportanceEvaluator(n_trees=1, seed=seed) for seed in range(_DRAWS)]
        draws = pd.DataFrame([_shares(study, distributions, tree) for tree in forest])
        shares = draws.mean()
    else:
        judge = PedAnovaImportanceEvaluator()
        drawn = np.random.default_rng(0).integers(len(trials), size=(_DRAWS, len(trials)))
        others = [_study([trials[at] for at in each], objective, distributions) for each in drawn]
        draws = pd.DataFrame([_shares(other, distributions, judge) for other in others])
        shares = pd.Series(_shares(study, distributions, judge))
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
    """Of each parameter; NaN where the values do not vary, and there is nothing to explain."""
    from optuna.importance import get_param_importances

    try:
        varies = len({trial.value for trial in study.get_trials(deepcopy=False)}) > 1
        found = get_param_importances(study, evaluator=evaluator) if varies else {}
    except RuntimeError:  # Optuna's, where those that a tree drew are all alike
        found = {}
    return {name: found.get(name, math.nan) for name in names}


def _in_logarithms(trials: Sequence[TrialRecord], axes: Mapping[str, Any]) -> list[TrialRecord]:
    """Trials with the logarithms of what is searched in logarithms.

    Optuna's fANOVA takes the mean over an axis as it is, and most of a range such as 0.001 to 1
    would be a corner that few trials are in.
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
    """Of each parameter that differs between trials, over the range it has there."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    found: dict[str, BaseDistribution] = {}
    for name in dict.fromkeys(name for trial in trials for name in trial.params):
        values = [trial.params[name] for trial in trials if name in trial.params]
        if len({str(value) for value in values}) < 2:
            continue
        if all(_is_number(value) for value in values):
            found[name] = FloatDistribution(min(values), max(values))
        else:
            # As texts: a choice may be a list, which Optuna would have to look up.
            found[name] = CategoricalDistribution(list(dict.fromkeys(map(str, values))))
    return found


def _binned(values: Sequence[Any]) -> Any:
    """The bin of each value: a quartile of numbers, else the value as text."""
    if all(_is_number(value) for value in values) and len(set(values)) > _BINS:
        edges = np.quantile(values, np.linspace(0, 1, _BINS + 1)[1:-1])
        return np.searchsorted(edges, values, side="right")
    return np.array([str(value) for value in values])


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
