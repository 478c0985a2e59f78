"""What a sweep found: numpy, pandas, moocore and plotly; neither ray, optuna nor mlflow."""

from rsas.analysis.compare import Comparison, compare
from rsas.analysis.importance import importance, without_effect
from rsas.analysis.pareto import (
    attainment,
    choose,
    course,
    epsilon,
    front,
    hypervolume,
    knee,
    split_seeds,
)
from rsas.analysis.plots import accuracy_figure, front_figure
from rsas.analysis.trials import Sweep, load_history, load_sweep, load_trials, trials_frame

__all__ = [
    "Comparison",
    "Sweep",
    "accuracy_figure",
    "attainment",
    "choose",
    "compare",
    "course",
    "epsilon",
    "front",
    "front_figure",
    "hypervolume",
    "importance",
    "knee",
    "load_history",
    "load_sweep",
    "load_trials",
    "split_seeds",
    "trials_frame",
    "without_effect",
]
