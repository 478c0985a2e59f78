"""What a sweep found: numpy, pandas, moocore and plotly; neither ray, optuna nor mlflow."""

from rsas.analysis.pareto import choose, front, hypervolume, knee, trials_frame
from rsas.analysis.plots import accuracy_figure, front_figure

__all__ = [
    "accuracy_figure",
    "choose",
    "front",
    "front_figure",
    "hypervolume",
    "knee",
    "trials_frame",
]
