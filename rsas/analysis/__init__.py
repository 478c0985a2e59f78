"""What a sweep found: numpy, pandas, moocore and plotly; neither ray, optuna nor mlflow."""

from rsas.analysis.pareto import front, hypervolume, trials_frame
from rsas.analysis.plots import accuracy_figure, front_figure

__all__ = ["accuracy_figure", "front", "front_figure", "hypervolume", "trials_frame"]
