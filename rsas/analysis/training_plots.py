"""Figures of single trainings: their epochs, and configurations trained with several seeds."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from rsas.analysis.style import COLORS, OTHERS, cycled, label_of, themed

__all__ = ["accuracy_figure", "churn_figure", "layers_figure", "repeats_figure"]


def layers_figure(history: pd.DataFrame, names: Mapping[str, str], title: str = "") -> go.Figure:
    """Sparsity of each layer over the epochs, a panel a trial.

    Args:
        history: as of ``load_history``.
        names: trials to show -> what they are called.
        title: of the figure.
    """
    rows = history[(history["name"] == "sparsity") & (history["layer"] != "")]
    titles = [f"{trial}<br>{name}" for trial, name in names.items()]  # two lines fit a phone
    figure = make_subplots(rows=1, cols=len(names), shared_yaxes=True, subplot_titles=titles)
    layers = list(dict.fromkeys(rows["layer"]))
    for column, trial in enumerate(names, 1):
        for layer, color in zip(layers, cycled(len(layers)), strict=True):
            own = rows[(rows["trial_id"] == trial) & (rows["layer"] == layer)]
            figure.add_scatter(
                x=own["epoch"],
                y=own["value"],
                name=layer,
                legendgroup=layer,
                showlegend=column == 1,
                mode="lines",
                line={"color": color, "width": 2},
                row=1,
                col=column,
            )
    figure.update_xaxes(title_text="epoch")
    figure.update_yaxes(title_text="sparsity", row=1, col=1)
    figure = themed(figure, title)
    return figure.update_layout(
        legend={"y": -0.2, "yanchor": "top", "x": 0.5, "xanchor": "center"},
        margin={"t": 110 if title else 70, "b": 90},
    )


def churn_figure(history: pd.DataFrame, names: Mapping[str, str], title: str = "") -> go.Figure:
    """How much of the masks each epoch explored, dotted, and how much of them it so replaced.

    Arguments as of ``layers_figure``.
    """
    rows = history[history["seed"].isna()]
    figure = go.Figure()
    for (trial, name), color in zip(names.items(), cycled(len(names)), strict=True):
        for what, dash in (("churn", "solid"), ("exploration", "dot")):
            own = rows[(rows["trial_id"] == trial) & (rows["name"] == what)]
            if what == "churn" or own["value"].any():
                figure.add_scatter(
                    x=own["epoch"],
                    y=own["value"],
                    name=f"{what}, {trial} ({name})",
                    mode="lines",
                    line={"color": color, "width": 2, "dash": dash},
                )
    figure.update_xaxes(title_text="epoch")
    figure.update_yaxes(title_text="share of the weights on", tickformat=".0%")
    return themed(figure, title)


def accuracy_figure(history: pd.DataFrame, title: str) -> go.Figure:
    """Validation accuracy and sparsity over the epochs of one run."""
    figure = go.Figure()
    for name, color in (("val_accuracy", COLORS[0]), ("sparsity", OTHERS)):
        figure.add_scatter(
            x=history["epoch"],
            y=history[name],
            name=label_of(name),
            mode="lines+markers",
            line={"color": color},
        )
    figure.update_xaxes(title_text="epoch")
    figure.update_yaxes(title_text="validation accuracy, sparsity")
    return themed(figure, title)


def repeats_figure(comparison: pd.DataFrame, measure: str, title: str = "") -> go.Figure:
    """A line a configuration: each seed, their mean, and its 95% interval.

    Args:
        comparison: of ``rsas.repeats.comparison``; the first configuration's mean goes through
            the figure as a dashed line.
        measure: name of the column that was compared.
        title: of the figure.
    """
    names = ["<br>".join(textwrap.wrap(name, 40)) for name in comparison["configuration"]]
    figure = go.Figure()
    seeds = [(n, v) for n, values in zip(names, comparison["values"], strict=True) for v in values]
    figure.add_scatter(
        x=[value for _, value in seeds],
        y=[name for name, _ in seeds],
        name="each seed",
        mode="markers",
        marker={"color": OTHERS, "size": 6, "opacity": 0.7},
    )
    figure.add_scatter(
        x=comparison["mean"],
        y=names,
        name="mean, 95% interval",
        mode="markers",
        marker={"color": COLORS[0], "size": 10, "symbol": "diamond"},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": comparison["high"] - comparison["mean"],
            "arrayminus": comparison["mean"] - comparison["low"],
        },
    )
    if math.isfinite(comparison["mean"].iloc[0]):
        figure.add_vline(x=comparison["mean"].iloc[0], line={"dash": "dash", "color": OTHERS})
    figure.update_xaxes(title_text=label_of(measure))
    figure.update_yaxes(autorange="reversed", automargin=True)  # the first one on top
    return themed(figure, title)
