"""What the dashboards show: figures that points can be chosen in, tables and numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from rsas.analysis.compare import Comparison
from rsas.analysis.plots import front_figure, fronts_figure
from rsas.analysis.style import COLORS, OTHERS
from rsas.analysis.trials import Sweep, load_trials
from rsas.pareto import hypervolume, knee
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
    """``front_figure`` of one sweep, ``fronts_figure`` of several, to choose trials in.

    Args:
        sweeps: at least one, with the same objectives.
        chosen: the trials that stand out; all where none is.
    """
    if len(sweeps) == 1:
        figure = front_figure(sweeps[0].trials, sweeps[0].objectives)
        figure.update_traces(meta=sweeps[0].name)
    else:
        figure = fronts_figure(sweeps)
    marked = set(chosen)
    for trace in figure.data if marked else ():
        trace.selectedpoints = [
            i for i, trial in enumerate(trace.customdata) if (trace.meta, trial) in marked
        ]
        trace.unselected = {"marker": {"opacity": 0.35}}
    return on_page(figure).update_layout(
        dragmode="select", clickmode="event+select", hovermode="closest", margin_t=60
    )


def picked(figure: go.Figure, points: Sequence[Mapping[str, Any]]) -> list[Point]:
    """The trials of points of ``front_panel`` as ``mo.ui.plotly`` tells them, each once."""
    traces = [
        (figure.data[point["curveNumber"]], point["pointIndex"])
        for point in points
        if "curveNumber" in point and "pointIndex" in point
    ]
    return list(dict.fromkeys((trace.meta, trace.customdata[index]) for trace, index in traces))


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
        front, a mark; state; objectives; parameters that any of these trials has; epochs
        trained; and device seconds.
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
    found["epochs trained"] = frame["epochs"].astype(int)
    found["device seconds"] = frame["device_seconds"]
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
    seconds = sum(trial.device_seconds for trial in sweep.trials)
    told.append(("device time", clock(seconds), "h:min:s"))
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


def on_page(figure: go.Figure) -> go.Figure:
    """A figure without a ground of its own, and in colours that are seen on light and on dark."""
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


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _names(sweep: Sweep) -> list[str]:
    return [trial.trial_id for trial in sweep.trials]


def _asked(sweep: Sweep) -> int:
    return int(sweep.experiment["budget"]["trials"])


def _label(name: str) -> str:
    return name.replace("val_", "validation ").replace("_", " ")
