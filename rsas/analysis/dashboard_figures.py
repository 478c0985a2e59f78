"""Figures, tables and numbers of the dashboards; points of figures can be selected."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from rsas.analysis.compare import Comparison
from rsas.analysis.plots import front_figure, fronts_figure
from rsas.analysis.style import COLORS, OTHERS, parameter_label
from rsas.analysis.trials import Sweep, load_trials
from rsas.pareto import hypervolume, knee_id
from rsas.records import clock

__all__ = [
    "as_column",
    "first_choice",
    "front_panel",
    "on_page",
    "picked",
    "run_url",
    "summary",
    "trials_table",
    "volumes_table",
]

Point = tuple[str, str]  # sweep, trial

_GRID = "rgba(128, 128, 128, 0.22)"
_HEIGHT = 340


def front_panel(sweeps: Sequence[Sweep], chosen: Iterable[Point] = ()) -> go.Figure:
    """Return a figure in which trials can be selected.

    Args:
        sweeps: at least one, with the same objectives. One sweep gives its ``front_figure``;
            several give their ``fronts_figure``.
        chosen: the trials that are highlighted; without any, all trials look alike.
    """
    if len(sweeps) == 1:
        figure = front_figure(sweeps[0].trials, sweeps[0].objectives)
        figure.update_traces(meta=sweeps[0].name)
    else:
        figure = fronts_figure(sweeps)
    selected = set(chosen)
    for trace in figure.data if selected else ():
        trace.selectedpoints = [
            i for i, trial in enumerate(trace.customdata) if (trace.meta, trial) in selected
        ]
        trace.unselected = {"marker": {"opacity": 0.35}}
    return on_page(figure).update_layout(
        dragmode="select", clickmode="event+select", hovermode="closest", margin_t=60
    )


def picked(figure: go.Figure, points: Sequence[Mapping[str, Any]]) -> list[Point]:
    """Return the trials of selected points of ``front_panel``, each once.

    Args:
        figure: as ``front_panel`` returned it.
        points: as ``mo.ui.plotly`` reports them.
    """
    traces = [
        (figure.data[point["curveNumber"]], point["pointIndex"])
        for point in points
        if "curveNumber" in point and "pointIndex" in point
    ]
    return list(dict.fromkeys((trace.meta, trace.customdata[index]) for trace, index in traces))


def trials_table(
    sweeps: Sequence[Sweep], chosen: Iterable[Point] = (), *, ui: str = ""
) -> pd.DataFrame:
    """Return a table with a row per trial: the fronts first, then the others, newest first.

    Args:
        sweeps: at least one, with the same objectives.
        chosen: trials of these sweeps; if there are any, the table has only these.
        ui: address of MLflow's UI.

    Returns:
        sweep, if there are several; trial; MLflow, the address of its run if that is known;
        front, a mark; state; objectives; parameters that any of these trials has; epochs
        trained; and device seconds.
    """
    chosen = set(chosen)
    parts = [load_trials(sweep).assign(sweep=sweep.name) for sweep in sweeps]
    urls = [run_url(sweep, trial.trial_id, ui) for sweep in sweeps for trial in sweep.trials]
    frame = pd.concat(parts, ignore_index=True).assign(url=urls)
    if chosen:
        points = zip(frame["sweep"], frame["trial_id"], strict=True)
        frame = frame[[point in chosen for point in points]]
    newest = frame[::-1]
    frame = pd.concat([newest[newest["pareto"]], newest[~newest["pareto"]]])
    table = pd.DataFrame({"sweep": frame["sweep"]} if len(sweeps) > 1 else {}, index=frame.index)
    table = table.assign(trial=frame["trial_id"], MLflow=frame["url"])
    table["front"] = frame["pareto"].map({True: "●", False: ""})
    table["state"] = frame["state"]
    names = [objective.name for objective in sweeps[0].objectives]
    for name in names:
        table[_label(name)] = frame.get(name, np.nan)
    for column in frame.columns[frame.columns.str.startswith("params.")]:
        if frame[column].notna().any():
            table[parameter_label(column.removeprefix("params."), names)] = frame[column]
    table["epochs trained"] = frame["epochs"].astype(int)
    table["device seconds"] = frame["device_seconds"]
    return table.reset_index(drop=True)


def as_column(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the first row of a ``trials_table`` as name and value, without links and gaps."""
    first = rows.drop(columns=["MLflow", "trial"]).iloc[0]
    texts = {
        name: f"{value:.4g}" if isinstance(value, float) else str(value)
        for name, value in first.items()
        if not pd.isna(value)
    }
    return pd.DataFrame({"name": texts.keys(), "value": texts.values()})


def volumes_table(comparison: Comparison) -> pd.DataFrame:
    """Return a table with a row per sweep: sweep, hypervolume, 95% (if known), front, knee."""
    sweeps = comparison.sweeps
    known = sweeps["low"].notna()
    interval = sweeps["low"].map("{:.4f} to ".format) + sweeps["high"].map("{:.4f}".format)
    rows = sweeps[["sweep", "hypervolume"]].assign(**{"95%": interval.where(known, "")})
    return rows.join(sweeps[["front", "knee"]])


def first_choice(sweep: Sweep) -> str:
    """Return the trial that is shown at first: the knee, since its network is stored.

    Without complete trials the text is empty.
    """
    return knee_id(sweep.trials, sweep.objectives)


def summary(sweep: Sweep) -> list[tuple[str, str, str]]:
    """Return the main numbers of a sweep, each as (label, number, note)."""
    states = [trial.state for trial in sweep.trials]
    done = states.count("complete")
    budget = sweep.experiment["budget"]["trials"]
    tiles = [
        ("state", sweep.state, f"{done + states.count('pruned')} of {budget} trials done"),
        ("complete", str(done), f"{states.count('running')} running"),
        ("stopped early", str(states.count("pruned")), f"{states.count('failed')} failed"),
    ]
    complete = [trial for trial in sweep.trials if trial.state == "complete"]
    for objective in sweep.objectives if complete else ():
        best = max(complete, key=lambda trial: objective.sign * trial.objectives[objective.name])
        number = f"{best.objectives[objective.name]:.4f}"
        tiles.append((_label(objective.name), number, f"best, {best.trial_id}"))
    volume = hypervolume(sweep.trials, sweep.objectives)
    bend = f", knee {first_choice(sweep)}" if complete else ""
    tiles.append(("hypervolume", f"{volume:.4f}", f"front {len(sweep.front)}{bend}"))
    seconds = sum(trial.device_seconds for trial in sweep.trials)
    tiles.append(("device time", clock(seconds), "h:min:s"))
    return tiles


def run_url(sweep: Sweep, trial: str, ui: str) -> str:
    """Return the address of a trial's run for a browser; empty if the address is not known.

    Args:
        sweep: of the trial.
        trial: the ``trial_id``.
        ui: address of the UI that ``rsas ui`` serves, for a mirror in a file of the workspace. A
            mirror on a tracking server has the server's own address.
    """
    run = sweep.runs.get(trial)
    if not run:
        return ""
    server = urlsplit(sweep.tracking_uri)
    if server.scheme in ("http", "https"):  # without the user and the password in the address
        ui = urlunsplit(server._replace(netloc=server.netloc.rpartition("@")[2]))
    return f"{ui.rstrip('/')}/#/runs/{run}" if ui else ""


def on_page(figure: go.Figure) -> go.Figure:
    """Style a figure for a page, light or dark: without a background of its own."""
    axis = {"gridcolor": _GRID, "zeroline": False, "linecolor": _GRID, "automargin": True}
    figure.update_xaxes(**axis, title_font_size=13)
    figure.update_yaxes(**axis, title_font_size=13)
    return figure.update_layout(
        template="none",
        dragmode="zoom",
        height=_HEIGHT,
        paper_bgcolor="rgba(0, 0, 0, 0)",
        plot_bgcolor="rgba(0, 0, 0, 0)",
        font={"family": "PT Sans, sans-serif", "color": "#808080", "size": 13},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "xanchor": "left"},
        margin={"t": 36, "r": 12, "b": 48, "l": 56},
        modebar={"bgcolor": "rgba(0, 0, 0, 0)", "color": OTHERS, "activecolor": COLORS[0]},
        hoverlabel={"font": {"color": "white"}, "bgcolor": "#333a44"},
    )


def _label(name: str) -> str:
    return name.replace("val_", "validation ").replace("_", " ")
