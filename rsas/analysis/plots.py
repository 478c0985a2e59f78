"""Figures; ``to_html`` makes pages that need no network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from rsas.analysis.pareto import front
from rsas.records import Objective, TrialRecord

__all__ = ["accuracy_figure", "front_figure", "to_html"]

_FRONT, _OTHERS = "#c2410c", "#94a3b8"
_LABELS = {
    "val_accuracy": "validation accuracy",
    "val_loss": "validation loss",
    "train_loss": "training loss",
    "sparsity": "sparsity (share of weights that are off)",
    "seconds": "seconds an epoch",
}


def front_figure(
    trials: Sequence[TrialRecord], objectives: Sequence[Objective], title: str
) -> go.Figure:
    """All complete trials, the front among them, over the last and the first objective."""
    across, up = objectives[-1].name, objectives[0].name
    members = front(trials, objectives)
    chosen = {trial.trial_id for trial in members}
    others = [t for t in trials if t.state == "complete" and t.trial_id not in chosen]
    figure = go.Figure()
    for name, group, style in (
        ("dominated", others, {"mode": "markers", "marker": {"color": _OTHERS, "size": 7}}),
        (
            "Pareto front",
            members,
            {
                "mode": "lines+markers",
                # The region a front dominates has corners, not slopes.
                "line": {"color": _FRONT, "width": 2, "shape": "vh"},
                "marker": {"color": _FRONT, "size": 10},
            },
        ),
    ):
        figure.add_scatter(
            x=[trial.objectives[across] for trial in group],
            y=[trial.objectives[up] for trial in group],
            name=name,
            text=[_description(trial) for trial in group],
            hovertemplate="%{text}<extra></extra>",
            **style,
        )
    return _styled(figure, title, _LABELS.get(across, across), _LABELS.get(up, up))


def accuracy_figure(history: pd.DataFrame, title: str) -> go.Figure:
    """Validation accuracy and sparsity over the epochs of one run."""
    figure = go.Figure()
    for name, color in (("val_accuracy", _FRONT), ("sparsity", _OTHERS)):
        figure.add_scatter(
            x=history["epoch"],
            y=history[name],
            name=_LABELS[name],
            mode="lines+markers",
            line={"color": color},
        )
    return _styled(figure, title, "epoch", "validation accuracy, sparsity")


def to_html(figure: go.Figure) -> str:
    """A page with everything inside, as MLflow's artifact viewer needs it."""
    html: str = figure.to_html(include_plotlyjs=True, full_html=True, config={"responsive": True})
    return html


def _description(trial: TrialRecord) -> str:
    values: dict[str, Any] = dict(trial.objectives)
    for name, value in trial.params.items():
        # The pruning rate asked for may differ from the sparsity measured.
        values[f"{name} asked" if name in trial.objectives else name] = value
    lines = [f"{k} = {v:.4g}" if isinstance(v, float) else f"{k} = {v}" for k, v in values.items()]
    return "<br>".join([f"<b>{trial.trial_id}</b>", *lines])


def _styled(figure: go.Figure, title: str, x: str, y: str) -> go.Figure:
    return figure.update_layout(
        title=title,
        template="plotly_white",
        xaxis_title=x,
        yaxis_title=y,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 1, "xanchor": "right"},
        margin={"t": 80},
    )
