"""Draw figures of sweeps: fronts, hypervolumes, attainment, importance."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from rsas.analysis.compare import Comparison
from rsas.analysis.style import (
    COLORS,
    OTHERS,
    cycled,
    interval_bars,
    label_of,
    parameter_label,
    themed,
)
from rsas.analysis.trials import Sweep
from rsas.columns import values_by_seed
from rsas.errors import InputError
from rsas.pareto import attainment, course, front, knee, split_seeds
from rsas.records import Objective, TrialRecord

__all__ = [
    "attainment_figure",
    "course_figure",
    "front_figure",
    "fronts_figure",
    "importance_figure",
    "values_figure",
]

_METHODS = (*COLORS[1:], "#8c6bb1", "#7f7f7f")  # the first colour is the front's
_MANY = 1000  # trials; the points of more would hide each other


def front_figure(
    trials: Sequence[TrialRecord], objectives: Sequence[Objective], title: str = ""
) -> go.Figure:
    """Draw the complete trials with their front and its knee.

    The last objective is on the x axis, the first on the y axis. Trials of several methods differ
    in colour. Several seeds give bars of one standard deviation. Points of more than 1,000 trials
    are small and translucent.
    """
    complete = [trial for trial in trials if trial.state == "complete"]
    figure = go.Figure()
    methods = list(dict.fromkeys(str(trial.params.get("method", "")) for trial in complete))
    size, opacity = (4, 0.5) if len(complete) > _MANY else (7 if len(methods) == 1 else 8, 1.0)
    if len(methods) == 1:
        members = {trial.trial_id for trial in front(trials, objectives)}
        others = [trial for trial in complete if trial.trial_id not in members]
        _add_points(figure, others, objectives, "dominated", OTHERS, size=size, opacity=opacity)
    else:
        for method, color in zip(methods, itertools.cycle(_METHODS), strict=False):
            own = [trial for trial in complete if str(trial.params.get("method", "")) == method]
            name = method or "no method"
            _add_points(figure, own, objectives, name, color, size=size, opacity=opacity)
    _add_front(figure, complete, objectives, "Pareto front", COLORS[0])
    return _styled(figure, title, objectives)


def fronts_figure(sweeps: Sequence[Sweep], title: str = "") -> go.Figure:
    """Draw the fronts of several sweeps with the same objectives, and faintly their other trials.

    Each trace has the name of its sweep as ``meta``.
    """
    objectives, figure = sweeps[0].objectives, go.Figure()
    for sweep, color in zip(sweeps, cycled(len(sweeps)), strict=True):
        members = {trial.trial_id for trial in sweep.front}
        others = [t for t in sweep.trials if t.state == "complete" and t.trial_id not in members]
        own = go.Figure()
        _add_points(own, others, objectives, sweep.name, color, opacity=0.3, legend=False)
        _add_front(own, sweep.trials, objectives, sweep.name, color)
        figure.add_traces(own.update_traces(meta=sweep.name).data)
    return _styled(figure, title, objectives)


def values_figure(comparison: Comparison, title: str = "") -> go.Figure:
    """Draw the best of the first objective that each sweep has at values of the last one.

    Bars are intervals of 95% over seeds, if there are several.
    """
    figure = go.Figure()
    first, last = comparison.objectives[0], comparison.objectives[-1]
    groups = comparison.values.groupby("sweep", sort=False)
    for (name, rows), color in zip(groups, cycled(len(groups)), strict=True):
        figure.add_scatter(
            x=rows["at"],
            y=rows["value"],
            customdata=rows["trial_id"],
            name=name,
            mode="lines+markers",
            line={"color": color, "width": 2},
            marker={"size": 8},
            error_y=interval_bars(
                rows["value"],
                rows["low"],
                rows["high"],
                visible=bool(rows["low"].notna().any()),
                thickness=1.2,
            ),
            hovertemplate="%{customdata}: %{y:.4f}<extra>%{fullData.name}</extra>",
        )
    figure.update_xaxes(title_text=f"at {comparison.word} this {last.name.replace('_', ' ')}")
    figure.update_yaxes(title_text=f"best {label_of(first.name)}")
    return themed(figure, title)


def attainment_figure(sweep: Sweep, title: str = "") -> go.Figure:
    """Draw what the best seed, half of the seeds and all seeds of a sweep attain.

    Raises:
        InputError: the sweep has only one seed.
    """
    sets = split_seeds(sweep.trials, sweep.objectives)
    if len(sets) < 2:
        raise InputError(f"sweep {sweep.name!r}: attainment over seeds needs several seeds")
    surfaces = attainment(sets, sweep.objectives)
    last, first = sweep.objectives[-1].name, sweep.objectives[0].name
    figure = go.Figure()
    styles = ((0, "the best seed", "dot"), (50, "half of the seeds", "solid"), (100, "all", "dash"))
    for percentile, name, dash in styles:
        corners = surfaces[surfaces["percentile"] == percentile].sort_values(last)
        figure.add_scatter(
            x=corners[last],
            y=corners[first],
            name=name,
            mode="lines+markers",
            line={"color": COLORS[0], "shape": _shape(sweep.objectives), "dash": dash},
        )
    return _styled(figure, title, sweep.objectives)


def course_figure(sweeps: Sequence[Sweep], title: str = "") -> go.Figure:
    """Draw the hypervolume over complete trials, and over device-seconds of all trials."""
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.04)
    for sweep, color in zip(sweeps, cycled(len(sweeps)), strict=True):
        steps = course(sweep.trials, sweep.objectives)
        for column, name in ((1, "trials"), (2, "device_seconds")):
            figure.add_scatter(
                x=steps[name],
                y=steps["hypervolume"],
                name=sweep.name,
                legendgroup=sweep.name,
                showlegend=column == 1 and len(sweeps) > 1,
                text=steps["trial_id"],
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
    """Draw bars of ``rsas.analysis.importance`` with their intervals, the most important on top."""
    rows, figure = frame[::-1], go.Figure()
    names = [name for name in frame.columns if f"{name}_low" in frame.columns]
    for name, color in zip(names, cycled(len(names)), strict=True):
        bounds = rows[[f"{name}_low", f"{name}_high"]]
        figure.add_bar(
            y=rows.index,
            x=rows[name],
            error_x=interval_bars(
                rows[name], *(bounds[bound] for bound in bounds), color=OTHERS, thickness=1.2
            ),
            customdata=bounds,
            name=label_of(name),
            orientation="h",
            marker={"color": color},
            hovertemplate="%{y}: %{x:.1%} (%{customdata[0]:.1%} to %{customdata[1]:.1%})"
            "<extra></extra>",
        )
    figure.update_layout(barmode="group", height=140 + 44 * len(frame))
    figure.update_xaxes(
        title_text="share of the variance explained, among trials with the parameter",
        tickformat=".0%",
    )
    return themed(figure, title)


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
        # The region that a front dominates has corners, not slopes.
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
    last, first = objectives[-1].name, objectives[0].name
    return {
        "x": [trial.objectives[last] for trial in trials],
        "y": [trial.objectives[first] for trial in trials],
        "text": [_description(trial) for trial in trials],
        "customdata": [trial.trial_id for trial in trials],
        "hovertemplate": "%{text}<extra></extra>",
    }


def _deviation(trial: TrialRecord, name: str) -> float:
    """Return the standard deviation of an objective over seeds; 0 with one seed."""
    values = values_by_seed(trial.by_seed, [name]).get(name, [])
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _description(trial: TrialRecord) -> str:
    values: dict[str, Any] = dict(trial.objectives)
    for name, value in trial.params.items():
        values[parameter_label(name, trial.objectives)] = value
    lines = [f"{k} = {v:.4g}" if isinstance(v, float) else f"{k} = {v}" for k, v in values.items()]
    return "<br>".join([f"<b>{trial.trial_id}</b>", *lines])


def _shape(objectives: Sequence[Objective]) -> str:
    """Return the shape of the line between two members of the front.

    The line goes through the corner that the better of the two still dominates.
    """
    return "vh" if objectives[-1].direction == "max" else "hv"


def _styled(figure: go.Figure, title: str, objectives: Sequence[Objective]) -> go.Figure:
    figure.update_xaxes(title_text=label_of(objectives[-1].name))
    figure.update_yaxes(title_text=label_of(objectives[0].name))
    return themed(figure, title)
