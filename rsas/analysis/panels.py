"""Figures and tables of the dashboards: readable on light and dark, and points know their trial."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from rsas.analysis.compare import Comparison
from rsas.analysis.pareto import course, front, hypervolume, knee
from rsas.analysis.trials import Sweep, load_trials
from rsas.records import Objective, TrialRecord

__all__ = [
    "as_column",
    "course_panel",
    "first_choice",
    "front_panel",
    "on_page",
    "picked",
    "run_url",
    "summary",
    "trials_table",
    "values_panel",
    "volumes_table",
]

Point = tuple[str, str]  # sweep, trial

# Told apart by most colour-blind eyes, on white and on black alike (Okabe and Ito 2008, darkened).
COLORS = ("#e0611f", "#2f86d6", "#12a17d", "#c46fa8", "#b98a00", "#7c70d8", "#5a8f2e", "#d14b5a")
_OTHERS = "#8b95a3"
_GRID = "rgba(128, 128, 128, 0.22)"
_HEIGHT = 340


def front_panel(sweeps: Sequence[Sweep], chosen: Iterable[Point] = ()) -> go.Figure:
    """Complete trials of sweeps and their fronts, over the last and the first objective.

    Args:
        sweeps: at least one, with the same objectives.
        chosen: the trials that stand out; all where none is.
    """
    chosen = set(chosen)
    objectives = sweeps[0].objectives
    figure = go.Figure()
    for number, sweep in enumerate(sweeps):
        color = COLORS[number % len(COLORS)]
        members = front(sweep.trials, objectives)
        inside = {trial.trial_id for trial in members}
        others = [t for t in sweep.trials if t.state == "complete" and t.trial_id not in inside]
        alone = len(sweeps) == 1
        _add_points(
            figure,
            sweep,
            others,
            chosen,
            name="dominated",
            mode="markers",
            marker={"color": _OTHERS if alone else color, "size": 8, "opacity": 0.55},
            showlegend=alone and bool(others),
        )
        _add_points(
            figure,
            sweep,
            members,
            chosen,
            name="Pareto front" if alone else sweep.name,
            mode="lines+markers",
            # The region a front dominates has corners, not slopes.
            line={"color": color, "width": 2, "shape": "vh"},
            marker={"color": color, "size": 11, "line": {"color": "white", "width": 1}},
        )
    on_page(figure, _label(objectives[-1].name), _label(objectives[0].name))
    return figure.update_layout(
        dragmode="select", clickmode="event+select", hovermode="closest", margin_t=60
    )


def picked(figure: go.Figure, points: Sequence[Mapping[str, Any]]) -> list[Point]:
    """The trials of points of ``front_panel`` as ``mo.ui.plotly`` tells them, each once."""
    found = [
        figure.data[point["curveNumber"]].customdata[point["pointIndex"]]
        for point in points
        if "curveNumber" in point and "pointIndex" in point
    ]
    return list(dict.fromkeys((str(sweep), str(trial)) for sweep, trial in found))


def course_panel(sweeps: Sequence[Sweep]) -> go.Figure:
    """How the hypervolumes of sweeps grew with their complete trials."""
    figure = go.Figure()
    for number, sweep in enumerate(sweeps):
        rows = course(sweep.trials, sweep.objectives)
        figure.add_scatter(
            x=rows["trials"],
            y=rows["hypervolume"],
            customdata=rows[["trial_id", "gain"]],
            name=sweep.name,
            mode="lines+markers",
            line={"color": COLORS[number % len(COLORS)], "width": 2, "shape": "hv"},
            marker={"size": 6},
            hovertemplate="%{customdata[0]}: %{y:.4f} (+%{customdata[1]:.4f})<extra></extra>",
        )
    on_page(figure, "complete trials", "hypervolume")
    return figure.update_layout(showlegend=len(sweeps) > 1)


def values_panel(comparison: Comparison) -> go.Figure:
    """The best of the first objective that each sweep has at values of the last one."""
    figure = go.Figure()
    up, across = comparison.objectives[0].name, comparison.objectives[-1].name
    for number, (name, rows) in enumerate(comparison.values.groupby("sweep", sort=False)):
        sure = rows["low"].notna().any()
        figure.add_scatter(
            x=rows["at"],
            y=rows["value"],
            customdata=rows["trial_id"],
            name=name,
            mode="lines+markers",
            line={"color": COLORS[number % len(COLORS)], "width": 2},
            marker={"size": 8},
            error_y={
                "type": "data",
                "symmetric": False,
                "array": (rows["high"] - rows["value"]).clip(lower=0),
                "arrayminus": (rows["value"] - rows["low"]).clip(lower=0),
                "visible": bool(sure),
                "thickness": 1.2,
            },
            hovertemplate="%{customdata}: %{y:.4f}<extra>%{fullData.name}</extra>",
        )
    word = "at least" if comparison.objectives[-1].direction == "max" else "at most"
    return on_page(figure, f"{word} this {_label(across)}", f"best {_label(up)}")


def trials_table(
    sweeps: Sequence[Sweep], chosen: Iterable[Point] = (), *, ui: str = ""
) -> pd.DataFrame:
    """A row a trial, the fronts first, then the newest; only the chosen ones where there are any.

    Args:
        sweeps: whose trials.
        chosen: of these sweeps.
        ui: address of MLflow's UI.

    Returns:
        sweep, where there are several; trial; MLflow, the address of its run where that is known;
        front, a mark; state; objectives; parameters that any of these trials has; epochs; and
        seconds of devices.
    """
    chosen = set(chosen)
    parts = [load_trials(sweep).assign(sweep=sweep.name) for sweep in sweeps]
    urls = [run_url(sweep, trial, ui) for sweep in sweeps for trial in _names(sweep)]
    frame = pd.concat(parts, ignore_index=True).assign(url=urls)
    if chosen:
        points = zip(frame["sweep"], frame["trial_id"], strict=True)
        frame = frame[[point in chosen for point in points]]
    newest = frame[::-1]
    frame = pd.concat([newest[newest["pareto"]], newest[~newest["pareto"]]])
    found = pd.DataFrame({"sweep": frame["sweep"]} if len(sweeps) > 1 else {}, index=frame.index)
    found = found.assign(trial=frame["trial_id"], MLflow=frame["url"])
    found["front"] = frame["pareto"].map({True: "●", False: ""})
    found["state"] = frame["state"]
    names = [objective.name for objective in sweeps[0].objectives]
    for name in names:
        found[_label(name)] = frame.get(name, np.nan)
    for column in frame.columns[frame.columns.str.startswith("params.")]:
        if frame[column].notna().any():
            name = column.removeprefix("params.")
            # The pruning rate asked for may differ from the sparsity measured.
            found[f"{name} asked" if name in names else name] = frame[column]
    found["epochs"] = frame["epochs"].astype(int)
    found["seconds"] = frame["device_seconds"]
    return found.reset_index(drop=True)


def as_column(rows: pd.DataFrame) -> pd.DataFrame:
    """The first row of a ``trials_table`` as name and value, without what is empty or a link."""
    first = rows.drop(columns=["MLflow", "trial"]).iloc[0]
    told = {name: _short(value) for name, value in first.items() if not pd.isna(value)}
    return pd.DataFrame({"name": told.keys(), "value": told.values()})


def volumes_table(comparison: Comparison) -> pd.DataFrame:
    """A row a sweep: sweep, hypervolume, 95% (where known), front, knee."""
    found = comparison.sweeps
    known = found["low"].notna()
    interval = found["low"].map("{:.4f} to ".format) + found["high"].map("{:.4f}".format)
    rows = found[["sweep", "hypervolume"]].assign(**{"95%": interval.where(known, "")})
    return rows.join(found[["front", "knee"]])


def first_choice(sweep: Sweep) -> str:
    """The trial that is shown before one is chosen: the knee, of which the network is kept."""
    middle = knee(sweep.trials, sweep.objectives)
    return "" if middle is None else middle.trial_id


def summary(sweep: Sweep) -> list[tuple[str, str, str]]:
    """What a sweep has come to, as (label, number, note)."""
    states = [trial.state for trial in sweep.trials]
    done = states.count("complete")
    told = [
        ("state", sweep.state, f"{done + states.count('pruned')} of {_asked(sweep)} trials done"),
        ("complete", str(done), f"{states.count('running')} running"),
        ("stopped early", str(states.count("pruned")), f"{states.count('failed')} failed"),
    ]
    complete = [trial for trial in sweep.trials if trial.state == "complete"]
    for each in sweep.objectives if complete else ():
        sign = 1 if each.direction == "max" else -1
        best = max(complete, key=lambda trial: sign * trial.objectives[each.name])
        number = f"{best.objectives[each.name]:.4f}"
        told.append((_label(each.name), number, f"best, {best.trial_id}"))
    volume = hypervolume(sweep.trials, sweep.objectives)
    middle = knee(sweep.trials, sweep.objectives)
    bend = "" if middle is None else f", knee {middle.trial_id}"
    told.append(("hypervolume", f"{volume:.4f}", f"front {len(sweep.front)}{bend}"))
    minutes, seconds = divmod(round(sum(trial.device_seconds for trial in sweep.trials)), 60)
    told.append(("device time", f"{minutes // 60}:{minutes % 60:02}:{seconds:02}", "h:min:s"))
    return told


def run_url(sweep: Sweep, trial: str, ui: str) -> str:
    """Where a browser finds the run of a trial; empty where it is not known.

    Args:
        sweep: of the trial.
        trial: its identity.
        ui: address of the UI that ``rsas ui`` serves, for a sweep in a file of its workspace;
            one on a tracking server is seen there.
    """
    run = sweep.runs.get(trial)
    if not run:
        return ""
    place = urlsplit(sweep.tracking_uri)
    if place.scheme in ("http", "https"):  # its password is nobody's business
        ui = urlunsplit(place._replace(netloc=place.netloc.rpartition("@")[2]))
    return f"{ui.rstrip('/')}/#/runs/{run}" if ui else ""


def on_page(figure: go.Figure, x: str, y: str) -> go.Figure:
    """Without a ground of its own, and in colours that are seen on light and on dark."""
    axis = {"gridcolor": _GRID, "zeroline": False, "linecolor": _GRID, "automargin": True}
    return figure.update_layout(
        template="none",
        dragmode="zoom",
        height=_HEIGHT,
        paper_bgcolor="rgba(0, 0, 0, 0)",
        plot_bgcolor="rgba(0, 0, 0, 0)",
        font={"family": "PT Sans, sans-serif", "color": "#808080", "size": 13},
        xaxis={**axis, "title": {"text": x, "font": {"size": 13}}},
        yaxis={**axis, "title": {"text": y, "font": {"size": 13}}},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "xanchor": "left"},
        margin={"t": 36, "r": 12, "b": 48, "l": 56},
        modebar={"bgcolor": "rgba(0, 0, 0, 0)", "color": "#8b95a3", "activecolor": COLORS[0]},
        hoverlabel={"font": {"color": "white"}, "bgcolor": "#333a44"},
    )


def _add_points(
    figure: go.Figure,
    sweep: Sweep,
    trials: Sequence[TrialRecord],
    chosen: set[Point],
    **style: Any,
) -> None:
    across, up = sweep.objectives[-1].name, sweep.objectives[0].name
    places = [i for i, trial in enumerate(trials) if (sweep.name, trial.trial_id) in chosen]
    figure.add_scatter(
        x=[trial.objectives[across] for trial in trials],
        y=[trial.objectives[up] for trial in trials],
        customdata=[(sweep.name, trial.trial_id) for trial in trials],
        text=[_told(trial, sweep.objectives) for trial in trials],
        hovertemplate="%{text}<extra></extra>",
        selectedpoints=places if chosen else None,
        unselected={"marker": {"opacity": 0.35}},
        **style,
    )


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _names(sweep: Sweep) -> list[str]:
    return [trial.trial_id for trial in sweep.trials]


def _asked(sweep: Sweep) -> int:
    return int(sweep.experiment["budget"]["trials"])


def _told(trial: TrialRecord, objectives: Sequence[Objective]) -> str:
    lines = [f"{_label(each.name)} {trial.objectives[each.name]:.4f}" for each in objectives]
    return "<br>".join([f"<b>{trial.trial_id}</b>", *lines])


def _label(name: str) -> str:
    return name.replace("val_", "validation ").replace("_", " ")
