"""Figures; ``to_html`` makes pages that need no network."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from rsas.analysis.compare import Comparison
from rsas.analysis.pareto import attainment, course, front, knee, split_seeds
from rsas.analysis.trials import Sweep
from rsas.errors import InputError
from rsas.records import Objective, TrialRecord, values_by_seed

__all__ = [
    "COLORS",
    "OTHERS",
    "accuracy_figure",
    "attainment_figure",
    "churn_figure",
    "course_figure",
    "front_figure",
    "fronts_figure",
    "importance_figure",
    "label_of",
    "layers_figure",
    "repeats_figure",
    "themed",
    "to_html",
    "values_figure",
]

# Okabe and Ito's colours, which the colour-blind can tell apart, and which show on light and dark.
COLORS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_METHODS = (*COLORS[1:], "#8c6bb1", "#7f7f7f")  # the first one is the front's
OTHERS = "#94a3b8"
_LABELS = {
    "val_accuracy": "validation accuracy",
    "test_accuracy": "test accuracy",
    "val_loss": "validation loss",
    "train_loss": "training loss",
    "sparsity": "sparsity (share of weights that are off)",
    "churn": "churn (share of weights on that were off)",
    "seconds": "seconds an epoch",
}


def label_of(name: str) -> str:
    """What a column of the history is called on an axis."""
    return _LABELS.get(name, name)


def front_figure(
    trials: Sequence[TrialRecord], objectives: Sequence[Objective], title: str = ""
) -> go.Figure:
    """The complete trials, the front and its knee among them, over the last and first objective.

    Trials of several methods differ in colour; several seeds give bars of one standard deviation.
    """
    complete = [trial for trial in trials if trial.state == "complete"]
    figure = go.Figure()
    methods = list(dict.fromkeys(str(trial.params.get("method", "")) for trial in complete))
    if len(methods) == 1:
        members = {trial.trial_id for trial in front(trials, objectives)}
        others = [trial for trial in complete if trial.trial_id not in members]
        _add_points(figure, others, objectives, "dominated", OTHERS)
    else:
        for method, color in zip(methods, itertools.cycle(_METHODS), strict=False):
            own = [trial for trial in complete if str(trial.params.get("method", "")) == method]
            _add_points(figure, own, objectives, method or "no method", color, size=8)
    _add_front(figure, complete, objectives, "Pareto front", COLORS[0])
    return _styled(figure, title, objectives)


def fronts_figure(sweeps: Sequence[Sweep], title: str = "") -> go.Figure:
    """The fronts of several sweeps with the same objectives, each with its other trials, faint.

    Each trace has the name of its sweep as ``meta``.
    """
    objectives, figure = sweeps[0].objectives, go.Figure()
    for sweep, color in zip(sweeps, _cycled(len(sweeps)), strict=True):
        members = {trial.trial_id for trial in sweep.front}
        others = [t for t in sweep.trials if t.state == "complete" and t.trial_id not in members]
        own = go.Figure()
        _add_points(own, others, objectives, sweep.name, color, opacity=0.3, legend=False)
        _add_front(own, sweep.trials, objectives, sweep.name, color)
        figure.add_traces(own.update_traces(meta=sweep.name).data)
    return _styled(figure, title, objectives)


def values_figure(comparison: Comparison, title: str = "") -> go.Figure:
    """The best of the first objective that each sweep has at values of the last one.

    Bars are intervals of 95% over seeds, where there are several.
    """
    figure = go.Figure()
    up, across = comparison.objectives[0], comparison.objectives[-1]
    groups = comparison.values.groupby("sweep", sort=False)
    for (name, rows), color in zip(groups, _cycled(len(groups)), strict=True):
        figure.add_scatter(
            x=rows["at"],
            y=rows["value"],
            customdata=rows["trial_id"],
            name=name,
            mode="lines+markers",
            line={"color": color, "width": 2},
            marker={"size": 8},
            error_y={
                "type": "data",
                "symmetric": False,
                "array": (rows["high"] - rows["value"]).clip(lower=0),
                "arrayminus": (rows["value"] - rows["low"]).clip(lower=0),
                "visible": bool(rows["low"].notna().any()),
                "thickness": 1.2,
            },
            hovertemplate="%{customdata}: %{y:.4f}<extra>%{fullData.name}</extra>",
        )
    told = f"at {comparison.word} this {across.name.replace('_', ' ')}"
    figure.update_xaxes(title_text=told)
    figure.update_yaxes(title_text=f"best {label_of(up.name)}")
    return themed(figure, title)


def attainment_figure(sweep: Sweep, title: str = "") -> go.Figure:
    """What the best seed, half of the seeds and all seeds of a sweep attain.

    Raises:
        InputError: it has one seed alone.
    """
    sets = split_seeds(sweep.trials, sweep.objectives)
    if len(sets) < 2:
        raise InputError(f"sweep {sweep.name!r}: attainment over seeds needs several seeds")
    surfaces = attainment(sets, sweep.objectives)
    across, up = sweep.objectives[-1].name, sweep.objectives[0].name
    figure = go.Figure()
    styles = ((0, "the best seed", "dot"), (50, "half of the seeds", "solid"), (100, "all", "dash"))
    for percentile, name, dash in styles:
        corners = surfaces[surfaces["percentile"] == percentile].sort_values(across)
        figure.add_scatter(
            x=corners[across],
            y=corners[up],
            name=name,
            mode="lines+markers",
            line={"color": COLORS[0], "shape": _shape(sweep.objectives), "dash": dash},
        )
    return _styled(figure, title, sweep.objectives)


def course_figure(sweeps: Sequence[Sweep], title: str = "") -> go.Figure:
    """The hypervolume over complete trials, and over device-seconds of all trials."""
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.04)
    for sweep, color in zip(sweeps, _cycled(len(sweeps)), strict=True):
        found = course(sweep.trials, sweep.objectives)
        for column, across in ((1, "trials"), (2, "device_seconds")):
            figure.add_scatter(
                x=found[across],
                y=found["hypervolume"],
                name=sweep.name,
                legendgroup=sweep.name,
                showlegend=column == 1 and len(sweeps) > 1,
                text=found["trial_id"],
                hovertemplate="%{text}: %{y:.4f}<extra></extra>",
                mode="lines",
                line={"color": color, "shape": "hv", "width": 2},
                row=1,
                col=column,
            )
    figure.update_xaxes(title_text="complete trials", row=1, col=1)
    figure.update_xaxes(title_text="device-seconds of training", row=1, col=2)
    figure.update_yaxes(title_text="hypervolume", row=1, col=1)
    return themed(figure, title)


def importance_figure(frame: pd.DataFrame, title: str = "") -> go.Figure:
    """Bars of ``rsas.analysis.importance``, the most important parameter on top."""
    figure = go.Figure()
    for name, color in zip(frame.columns, _cycled(len(frame.columns)), strict=True):
        figure.add_bar(
            y=frame.index[::-1],
            x=frame[name][::-1],
            name=label_of(name),
            orientation="h",
            marker={"color": color},
            hovertemplate="%{y}: %{x:.1%}<extra></extra>",
        )
    figure.update_layout(barmode="group", height=140 + 44 * len(frame))
    figure.update_xaxes(title_text="share of the variance explained", tickformat=".0%")
    return themed(figure, title)


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
        for layer, color in zip(layers, _cycled(len(layers)), strict=True):
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
    for (trial, name), color in zip(names.items(), _cycled(len(names)), strict=True):
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


def to_html(figure: go.Figure) -> str:
    """A page with everything inside, as MLflow's artifact viewer needs it."""
    html: str = figure.to_html(include_plotlyjs=True, full_html=True, config={"responsive": True})
    return html


def _add_points(
    figure: go.Figure,
    trials: Sequence[TrialRecord],
    objectives: Sequence[Objective],
    name: str,
    color: str,
    *,
    size: int = 7,
    opacity: float = 1.0,
    legend: bool = True,
) -> None:
    figure.add_scatter(
        **_points(trials, objectives),
        name=name,
        mode="markers",
        marker={"color": color, "size": size, "opacity": opacity},
        showlegend=legend,
        legendgroup=name,
    )


def _add_front(
    figure: go.Figure,
    trials: Sequence[TrialRecord],
    objectives: Sequence[Objective],
    name: str,
    color: str,
) -> None:
    members = front(trials, objectives)
    spread: dict[str, Any] = {}
    for axis, objective in (("error_x", objectives[-1]), ("error_y", objectives[0])):
        deviations = [_deviation(trial, objective.name) for trial in members]
        if any(deviations):
            spread[axis] = {"type": "data", "array": deviations, "color": color, "thickness": 1}
    figure.add_scatter(
        **_points(members, objectives),
        **spread,
        name=name,
        mode="lines+markers",
        # The region a front dominates has corners, not slopes.
        line={"color": color, "width": 2, "shape": _shape(objectives)},
        marker={"color": color, "size": 10},
        legendgroup=name,
    )
    middle = knee(trials, objectives)
    if middle is not None:
        figure.add_scatter(
            **_points([middle], objectives),
            name=f"knee of {name}" if name != "Pareto front" else "knee",
            mode="markers",
            marker={
                "symbol": "star",
                "size": 18,
                "color": "#f0e442",
                "line": {"color": color, "width": 1.5},
            },
            legendgroup=name,
        )


def _points(trials: Sequence[TrialRecord], objectives: Sequence[Objective]) -> dict[str, Any]:
    across, up = objectives[-1].name, objectives[0].name
    return {
        "x": [trial.objectives[across] for trial in trials],
        "y": [trial.objectives[up] for trial in trials],
        "text": [_description(trial) for trial in trials],
        "customdata": [trial.trial_id for trial in trials],
        "hovertemplate": "%{text}<extra></extra>",
    }


def _deviation(trial: TrialRecord, name: str) -> float:
    """Standard deviation of an objective over seeds; 0 with one."""
    values = values_by_seed(trial.by_seed, [name]).get(name, [])
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _description(trial: TrialRecord) -> str:
    values: dict[str, Any] = dict(trial.objectives)
    for name, value in trial.params.items():
        # The pruning rate asked for may differ from the sparsity measured.
        values[f"{name} asked" if name in trial.objectives else name] = value
    lines = [f"{k} = {v:.4g}" if isinstance(v, float) else f"{k} = {v}" for k, v in values.items()]
    return "<br>".join([f"<b>{trial.trial_id}</b>", *lines])


def _shape(objectives: Sequence[Objective]) -> str:
    """Of the line between two members: to the corner that the better one still dominates."""
    return "vh" if objectives[-1].direction == "max" else "hv"


def _cycled(count: int) -> Iterable[str]:
    return [COLORS[i % len(COLORS)] for i in range(count)]


def _styled(figure: go.Figure, title: str, objectives: Sequence[Objective]) -> go.Figure:
    figure.update_xaxes(title_text=label_of(objectives[-1].name))
    figure.update_yaxes(title_text=label_of(objectives[0].name))
    return themed(figure, title)


def themed(figure: go.Figure, title: str) -> go.Figure:
    """How every figure looks on a page of its own or of a report."""
    return figure.update_layout(
        title=title or None,
        template="plotly_white",
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 1, "xanchor": "right"},
        margin={"t": 80 if title else 40, "l": 60, "r": 30, "b": 50},
    )
