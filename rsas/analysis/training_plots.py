"""Draw figures of single trainings, and of configurations trained with several seeds."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from rsas.analysis.style import COLORS, OTHERS, cycled, interval_bars, label_of, themed

__all__ = ["churn_figure", "history_figure", "layers_figure", "repeats_figure", "tradeoff_figure"]

_DASHES = ("solid", "dot", "dash")  # of lines that share a colour


def layers_figure(history: pd.DataFrame, names: Mapping[str, str], title: str = "") -> go.Figure:
    """Draw the sparsity of each layer over the epochs, with a panel per trial.

    Args:
        history: as ``load_history`` returns it.
        names: trials to show -> their names in the figure.
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
    """Draw the share of the masks that each epoch replaced, and, dotted, the share it explored.

    The arguments are as in ``layers_figure``.
    """
    rows = history[history["seed"].isna()]
    figure = go.Figure()
    for (trial, name), color in zip(names.items(), cycled(len(names)), strict=True):
        for column, dash in (("churn", "solid"), ("exploration", "dot")):
            own = rows[(rows["trial_id"] == trial) & (rows["name"] == column)]
            if column == "churn" or own["value"].any():
                figure.add_scatter(
                    x=own["epoch"],
                    y=own["value"],
                    name=f"{column}, {trial} ({name})",
                    mode="lines",
                    line={"color": color, "width": 2, "dash": dash},
                )
    figure.update_xaxes(title_text="epoch")
    figure.update_yaxes(title_text="share of the weights on", tickformat=".0%")
    return themed(figure, title)


def history_figure(
    history: pd.DataFrame, title: str, metrics: Sequence[str] = ("val_accuracy",)
) -> go.Figure:
    """Draw metrics and the sparsity over the epochs of one run.

    Args:
        history: a row per epoch.
        title: of the figure.
        metrics: columns of the history.
    """
    figure = go.Figure()
    lines = [name for name in metrics if name != "sparsity"] + ["sparsity"]
    for name, color in zip(lines, [*COLORS[: len(lines) - 1], OTHERS], strict=True):
        figure.add_scatter(
            x=history["epoch"],
            y=history[name],
            name=label_of(name),
            mode="lines+markers",
            line={"color": color},
        )
    figure.update_xaxes(title_text="epoch")
    figure.update_yaxes(title_text=", ".join(map(label_of, lines)))
    return themed(figure, title)


def repeats_figure(comparison: pd.DataFrame, measure: str, title: str = "") -> go.Figure:
    """Draw a line per configuration: each seed, the mean over seeds, and its 95% interval.

    Args:
        comparison: as ``rsas.seed_study.comparison`` returns it; a dashed line through the figure
            shows the mean of the first configuration.
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
        error_x=interval_bars(comparison["mean"], comparison["low"], comparison["high"]),
    )
    if math.isfinite(comparison["mean"].iloc[0]):
        figure.add_vline(x=comparison["mean"].iloc[0], line={"dash": "dash", "color": OTHERS})
    figure.update_xaxes(title_text=label_of(measure))
    figure.update_yaxes(autorange="reversed", automargin=True)  # the first configuration is on top
    return themed(figure, title)


def tradeoff_figure(
    comparisons: Mapping[float, pd.DataFrame], measure: str, title: str = ""
) -> go.Figure:
    """Draw a line per configuration over the sparsities: means, with 95% intervals as bars.

    Args:
        comparisons: as ``rsas.seed_study.comparison`` returns them, of the same configurations, by
            sparsity.
        measure: name of the column that was compared.
        title: of the figure.
    """
    rows = pd.concat(comparisons, names=["sparsity"])
    levels = list(comparisons)
    names = rows["configuration"].unique()
    figure = go.Figure()
    for number, (name, color) in enumerate(zip(names, cycled(len(names)), strict=True)):
        own = rows[rows["configuration"] == name]
        # Sparsities are evenly spaced: from 0.98 to 0.99 the weights halve, as from 0.8 to 0.9.
        # Configurations are side by side, so that bars do not hide each other.
        offset = 0.02 * (number - (len(names) - 1) / 2)
        figure.add_scatter(
            x=[index + offset for index in range(len(levels))],
            y=own["mean"],
            name="<br>".join(textwrap.wrap(name, 40)),
            mode="lines+markers",
            line={
                "color": color,
                "width": 2 if number else 4,  # others are compared with the first
                "dash": _DASHES[number // len(COLORS) % len(_DASHES)],
            },
            error_y=interval_bars(own["mean"], own["low"], own["high"], thickness=1),
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
