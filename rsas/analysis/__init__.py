"""Analyze sweeps with numpy, pandas, moocore and plotly.

Importing this package imports neither ray, optuna nor mlflow.
"""

from rsas.analysis.compare import Comparison, compare
from rsas.analysis.importance import importance, without_effect
from rsas.analysis.plots import front_figure
from rsas.analysis.training_plots import history_figure
from rsas.analysis.trials import (
    Sweep,
    load_history,
    load_trials,
    split_by,
    trials_frame,
)
from rsas.pareto import (
    attainment,
    choose,
    course,
    epsilon,
    front,
    hypervolume,
    knee,
    running_fronts,
    split_seeds,
)

__all__ = [
    "Comparison",
    "Sweep",
    "attainment",
    "choose",
    "compare",
    "course",
    "epsilon",
    "front",
    "front_figure",
    "history_figure",
    "hypervolume",
    "importance",
    "knee",
    "load_history",
    "load_trials",
    "running_fronts",
    "split_by",
    "split_seeds",
    "trials_frame",
    "without_effect",
]
