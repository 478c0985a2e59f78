"""One self-contained page on one sweep or several: pictures, tables, and a sentence on each."""

from __future__ import annotations

import html
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from rsas.analysis.compare import Comparison, compare
from rsas.analysis.importance import importance, sampled, without_effect
from rsas.analysis.parallel import parallel_figure
from rsas.analysis.plots import (
    attainment_figure,
    course_figure,
    front_figure,
    fronts_figure,
    importance_figure,
    values_figure,
)
from rsas.analysis.report_template import PAGE
from rsas.analysis.training_plots import churn_figure, layers_figure
from rsas.analysis.trials import Sweep, load_history, load_trials
from rsas.errors import InputError
from rsas.pareto import choose, course, hypervolume, knee, split_seeds
from rsas.records import TrialRecord, clock

__all__ = ["report"]

_CHOICES = ("knee", "most-accurate", "sparsest")
_JUDGED = 200  # trials whose importances are computed within seconds
_SHOWN = 40  # rows of a front that are not folded away


def report(sweeps: Sequence[Sweep]) -> str:
    """A page of HTML that needs no network.

    Args:
        sweeps: at least one; several need the same objectives.

    Raises:
        InputError: a sweep has no complete trial, or they cannot be compared.
    """
    for sweep in sweeps:
        if not sweep.front:
            raise InputError(f"report: sweep {sweep.name!r} has no complete trial yet")
    parts = _Parts()
    if len(sweeps) > 1:
        _add_comparison(parts, sweeps)
    for sweep in sweeps:
        _add_sweep(parts, sweep, is_one=len(sweeps) == 1)
    title = ", ".join(sweep.name for sweep in sweeps)
    return PAGE.substitute(
        title=html.escape(title),
        plotly=get_plotlyjs(),
        figures=json.dumps(parts.figures).replace("</", "<\\/"),
        made=time.strftime("%Y-%m-%d %H:%M"),
        contents="".join(f'<a href="#{key}">{html.escape(name)}</a>' for key, name in parts.links)
        if len(sweeps) > 1
        else "",
        body="".join(parts.html),
    )


class _Parts:
    """What the page is put together of."""

    def __init__(self) -> None:
        self.html: list[str] = []
        self.figures: dict[str, Any] = {}
        self.links: list[tuple[str, str]] = []

    def heading(self, text: str, *, level: int = 2) -> None:
        key = f"s{len(self.links)}"
        if level == 2:
            self.links.append((key, text))
        self.html.append(f'<h{level} id="{key}">{html.escape(text)}</h{level}>')

    def text(self, sentence: str) -> None:
        self.html.append(f"<p>{html.escape(sentence)}</p>")

    def cards(self, values: Sequence[tuple[str, str]]) -> None:
        cells = (
            f"<div><b>{html.escape(value)}</b><span>{html.escape(name)}</span></div>"
            for name, value in values
        )
        self.html.append(f'<div class="cards">{"".join(cells)}</div>')

    def figure(self, figure: go.Figure, *, height: int = 460) -> None:
        key = f"f{len(self.figures)}"
        if figure.layout.height is None:
            figure.update_layout(height=height)
        self.figures[key] = json.loads(figure.to_json())
        self.html.append(
            f'<figure id="{key}" style="min-height:{figure.layout.height}px"></figure>'
        )

    def table(self, frame: pd.DataFrame, *, summary: str = "") -> None:
        """A table; folded away under its summary where there is one."""
        shown = frame.to_html(index=False, border=0, na_rep="", float_format=_short, escape=True)
        inner = f'<div class="table">{shown}</div>'
        if summary:
            inner = f"<details><summary>{html.escape(summary)}</summary>{inner}</details>"
        self.html.append(inner)


def _add_comparison(parts: _Parts, sweeps: Sequence[Sweep]) -> None:
    found = compare(*sweeps)
    up, across = sweeps[0].objectives[0].name, sweeps[0].objectives[-1].name
    parts.heading("Side by side")
    parts.figure(fronts_figure(sweeps), height=540)
    for row in found.differences.to_dict("records"):
        parts.text(_told(row))
    parts.table(found.sweeps)
    parts.heading("Which is better where", level=3)
    parts.table(found.ranges.rename(columns={"low": f"{across} from", "high": "to"}))
    parts.heading(f"Best {up} at {found.word} this {across}", level=3)
    parts.figure(values_figure(found))
    parts.table(values_table(found))
    parts.heading("Hypervolume over trials and time", level=3)
    parts.figure(course_figure(sweeps))


def values_table(found: Comparison) -> pd.DataFrame:
    """A row a place, a column a sweep: the value, with its interval where there is one."""
    across = found.objectives[-1].name
    cells = {
        (row["at"], row["sweep"]): _with_interval(row["value"], row["low"], row["high"])
        for row in found.values.to_dict("records")
    }
    names = list(dict.fromkeys(found.values["sweep"]))
    return pd.DataFrame(
        {across: place, **{name: cells[place, name] for name in names}}
        for place in dict.fromkeys(found.values["at"])
    )


def _told(row: Mapping[Any, Any]) -> str:
    if row["hypervolume"] == 0:
        return f"The hypervolumes of {row['sweep']} and {row['against']} are equal."
    word = "larger" if row["hypervolume"] > 0 else "smaller"
    sentence = (
        f"The hypervolume of {row['sweep']} is {abs(row['hypervolume']):.4f} {word} than that of "
        f"{row['against']}"
    )
    if pd.isna(row["low"]):
        return sentence + "; with one seed a trial, nobody knows how much of that is chance."
    sure = (
        "which other seeds would hardly turn round"
        if row["low"] * row["high"] > 0
        else ("so other seeds might turn it round")
    )
    return sentence + f" (95% interval {row['low']:+.4f} to {row['high']:+.4f}), {sure}."


def _add_sweep(parts: _Parts, sweep: Sweep, *, is_one: bool) -> None:
    chosen = _chosen(sweep)
    parts.heading("The front" if is_one else sweep.name)
    base = sweep.experiment["base"]
    parts.text(
        f"{base['model']} on {base['dataset']}, {base['epochs']} epochs a trial; "
        f"{sweep.experiment.get('sampler', '')} over "
        f"{', '.join(sweep.experiment.get('axes', {})) or sweep.experiment['space']}."
    )
    parts.cards(_numbers(sweep))
    if is_one:
        parts.figure(front_figure(sweep.trials, sweep.objectives), height=540)
    parts.text(_trade_off(sweep))
    members = _front_table(sweep)
    parts.table(members, summary=f"All {len(members)} members" if len(members) > _SHOWN else "")
    if len(sweep.objectives) > 1 and len(split_seeds(sweep.trials, sweep.objectives)) > 1:
        parts.heading("Over seeds", level=3)
        parts.text("What the best of the seeds reaches, half of them, and all of them.")
        parts.figure(attainment_figure(sweep))
    if is_one:
        parts.heading("Hypervolume over trials and time", level=3)
        parts.figure(course_figure([sweep]))
    _add_what_mattered(parts, sweep)
    history = load_history(sweep, trials=list(chosen))
    if (history["layer"] != "").any():
        parts.heading("Where the weights went", level=3)
        parts.text(
            "Sparsity of each layer; then the share of the mask that each epoch replaced, and, "
            "dotted, the share that its redraws explored."
        )
        parts.figure(layers_figure(history, chosen))
        if (history["name"] == "churn").any():
            parts.figure(churn_figure(history, chosen), height=360)
    parts.heading("Cost", level=3)
    parts.table(_cost(sweep))
    steps = course(sweep.trials, sweep.objectives)
    parts.table(steps, summary="What each trial added to the hypervolume")
    parts.table(load_trials(sweep).drop(columns=["run_id", "checkpoint"]), summary="All trials")
    resolved = json.dumps(sweep.experiment, indent=1)
    parts.html.append(
        "<details><summary>The experiment as resolved</summary>"
        f"<pre>{html.escape(resolved)}</pre></details>"
    )


def _add_what_mattered(parts: _Parts, sweep: Sweep) -> None:
    judged = sampled(sweep.trials, _JUDGED)
    frame = importance(judged, sweep.objectives, sweep.experiment.get("axes"))
    if len(frame):
        parts.heading("What mattered", level=3)
        count = sum(trial.state == "complete" for trial in sweep.trials)
        if len(judged) < count:
            parts.text(
                f"Importance from {len(judged)} of {count:,} complete trials, drawn at random."
            )
        parts.figure(importance_figure(frame))
        idle = without_effect(sweep.trials, sweep.objectives)
        if idle:
            parts.text(f"No effect can be seen of {', '.join(idle)}, with as many trials as these.")
    parts.heading("All trials at once", level=3)
    parts.figure(parallel_figure(sweep), height=480)


def _chosen(sweep: Sweep) -> dict[str, str]:
    """The members people ask for -> what they are called."""
    names: dict[str, list[str]] = {}
    for choice in _CHOICES:
        try:
            trial = choose(sweep.trials, sweep.objectives, choice)
        except InputError:  # a sweep without sparsity as objective has no sparsest
            continue
        names.setdefault(trial.trial_id, []).append(choice)
    return {trial: ", ".join(called) for trial, called in names.items()}


def _numbers(sweep: Sweep) -> list[tuple[str, str]]:
    states = [trial.state for trial in sweep.trials]
    middle = knee(sweep.trials, sweep.objectives)
    assert middle is not None  # report() has seen to it
    seconds = sum(trial.device_seconds for trial in sweep.trials)
    return [
        ("trials complete", str(states.count("complete"))),
        ("stopped early", str(states.count("pruned"))),
        ("failed", str(states.count("failed"))),
        ("on the front", str(len(sweep.front))),
        ("hypervolume", f"{hypervolume(sweep.trials, sweep.objectives):.4f}"),
        *((f"{o.name} at the knee", _short(middle.objectives[o.name])) for o in sweep.objectives),
        ("device time", clock(seconds)),
        ("seeds a trial", str(len(split_seeds(sweep.trials, sweep.objectives)))),
    ]


def _trade_off(sweep: Sweep) -> str:
    """The knee in words, against the best of the first objective."""
    middle = choose(sweep.trials, sweep.objectives, "knee")
    up, across = sweep.objectives[0], sweep.objectives[-1]
    sign = 1 if up.direction == "max" else -1
    best = max(sweep.front, key=lambda trial: sign * trial.objectives[up.name])
    if middle.trial_id == best.trial_id:
        return f"The knee, {middle.trial_id}, is also the best in {up.name}."
    given = abs(best.objectives[up.name] - middle.objectives[up.name])
    return (
        f"The knee is {middle.trial_id}: {across.name} {_short(middle.objectives[across.name])} "
        f"instead of {_short(best.objectives[across.name])} for {given:.4f} of {up.name} given up "
        f"({_short(middle.objectives[up.name])} instead of {_short(best.objectives[up.name])}, "
        f"{best.trial_id})."
    )


def _front_table(sweep: Sweep) -> pd.DataFrame:
    frame = load_trials(sweep)
    frame = frame[frame["pareto"]].sort_values(sweep.objectives[-1].name)
    names = _chosen(sweep)
    frame.insert(1, "", [names.get(trial, "") for trial in frame["trial_id"]])
    for objective in sweep.objectives:
        by_seed = frame.filter(regex=f"^seed\\d+/{objective.name}$")
        if len(by_seed.columns) > 1:
            place = frame.columns.get_loc(objective.name)
            assert isinstance(place, int)
            frame.insert(place + 1, f"{objective.name} ±", by_seed.std(axis=1))
            frame = frame.drop(columns=by_seed.columns)
    unused = ["state", "pareto", "fidelity", "run_id", "checkpoint", "reason", "same_as"]
    return frame.drop(columns=unused).dropna(axis=1, how="all")


def _cost(sweep: Sweep) -> pd.DataFrame:
    def row(name: str, trials: Sequence[TrialRecord]) -> dict[str, Any]:
        seconds = sum(trial.device_seconds for trial in trials)
        return {
            "trials": name,
            "count": len(trials),
            "device time": clock(seconds),
            "device-seconds a trial": seconds / len(trials) if trials else None,
        }

    states = {"complete": "complete", "pruned": "stopped early", "failed": "failed"}
    rows = [row(told, [t for t in sweep.trials if t.state == s]) for s, told in states.items()]
    return pd.DataFrame([*rows, row("all", sweep.trials)])


def _with_interval(value: float, low: float, high: float) -> str:
    if pd.isna(value):
        return "none"
    return _short(value) if pd.isna(low) else f"{_short(value)} ({_short(low)} to {_short(high)})"


def _short(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"
