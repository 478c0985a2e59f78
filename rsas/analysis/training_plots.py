"""Figures of single trainings: their epochs, and configurations trained with several seeds."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from rsas.analysis.style import COLORS, OTHERS, cycled, label_of, themed

__all__ = ["accuracy_figure", "churn_figure", "layers_figure", "repeats_figure", "tradeoff_figure"]

_DASHES = ("solid", "dot", "dash")  # of lines that share a colour


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
        comparison: of ``rsas.seed_study.comparison``; the first configuration's mean goes through
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


def tradeoff_figure(
    comparisons: Mapping[float, pd.DataFrame], measure: str, title: str = ""
) -> go.Figure:
    """A line a configuration over the sparsities: means, with their 95% intervals as bars.

    Args:
        comparisons: of ``rsas.seed_study.comparison``, of the same configurations, by the sparsity
            at which they were made.
        measure: name of the column that was compared.
        title: of the figure.
    """
    found = pd.concat(comparisons, names=["sparsity"])
    levels = list(comparisons)
    names = found["configuration"].unique()
    figure = go.Figure()
    for number, (name, color) in enumerate(zip(names, cycled(len(names)), strict=True)):
        own = found[found["configuration"] == name]
        # Evenly spaced, as 0.98 and 0.99 are as far apart as 0.8 and 0.9; side by side, so that
        # bars do not hide each other.
        aside = 0.02 * (number - (len(names) - 1) / 2)
        figure.add_scatter(
            x=[at + aside for at in range(len(levels))],
            y=own["mean"],
            name="<br>".join(textwrap.wrap(name, 40)),
            mode="lines+markers",
            line={
                "color": color,
                "width": 2 if number else 4,  # the first one is what the others are compared with
                "dash": _DASHES[number // len(COLORS) % len(_DASHES)],
            },
            error_y={
                "type": "data",
                "symmetric": False,
                "array": own["high"] - own["mean"],
                "arrayminus": own["mean"] - own["low"],
                "thickness": 1,
            },
        )
    figure.update_xaxes(
        title_text=label_of("sparsity"),
        zeroline=False,
        tickvals=list(range(len(levels))),
        ticktext=[f"{level:g}" for level in levels],
    )
    figure.update_yaxes(title_text=label_of(measure))
    figure = themed(figure, title)
    beside = {"orientation": "v", "x": 1.02, "xanchor": "left", "y": 1, "yanchor": "top"}
    return figure.update_layout(legend=beside)
