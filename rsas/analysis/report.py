"""Write a self-contained page on one sweep or several: pictures, tables, and short texts."""

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
from rsas.pareto import CHOICES, choose, course, hypervolume, split_seeds
from rsas.records import TrialRecord, clock

__all__ = ["report"]

_JUDGED = 200  # trials; importances from more would take longer than seconds
_SHOWN = 40  # rows; the table of a longer front is folded


def report(sweeps: Sequence[Sweep]) -> str:
    """Return a page of HTML that works offline.

    Args:
        sweeps: at least one; several need the same objectives.

    Raises:
        InputError: a sweep has no complete trial, or the sweeps cannot be compared.
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
    """The parts of the page."""

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
        """Add a table; with a summary, the table is folded under this line."""
        rows = frame.to_html(index=False, border=0, na_rep="", float_format=_short, escape=True)
        inner = f'<div class="table">{rows}</div>'
        if summary:
            inner = f"<details><summary>{html.escape(summary)}</summary>{inner}</details>"
        self.html.append(inner)


def _add_comparison(parts: _Parts, sweeps: Sequence[Sweep]) -> None:
    comparison = compare(*sweeps)
    first, last = sweeps[0].objectives[0].name, sweeps[0].objectives[-1].name
    parts.heading("Side by side")
    parts.figure(fronts_figure(sweeps), height=540)
    for row in comparison.differences.to_dict("records"):
        parts.text(_difference(row))
    parts.table(comparison.sweeps)
    parts.heading("The better sweep by range", level=3)
    parts.table(comparison.ranges.rename(columns={"low": f"{last} from", "high": "to"}))
    parts.heading(f"Best {first} at {comparison.word} this {last}", level=3)
    parts.figure(values_figure(comparison))
    parts.table(values_table(comparison))
    parts.heading("Hypervolume over trials and time", level=3)
    parts.figure(course_figure(sweeps))


def values_table(comparison: Comparison) -> pd.DataFrame:
    """Return a row per threshold, a column per sweep: the value, with its interval if known."""
    last = comparison.objectives[-1].name
    cells = {
        (row["at"], row["sweep"]): _with_interval(row["value"], row["low"], row["high"])
        for row in comparison.values.to_dict("records")
    }
    names = list(dict.fromkeys(comparison.values["sweep"]))
    return pd.DataFrame(
        {last: threshold, **{name: cells[threshold, name] for name in names}}
        for threshold in dict.fromkeys(comparison.values["at"])
    )


def _difference(row: Mapping[Any, Any]) -> str:
    """Return a sentence on the difference between the hypervolumes of two sweeps."""
    if row["hypervolume"] == 0:
        return f"The hypervolumes of {row['sweep']} and {row['against']} are equal."
    word = "larger" if row["hypervolume"] > 0 else "smaller"
    sentence = (
        f"The hypervolume of {row['sweep']} is {abs(row['hypervolume']):.4f} {word} than that of "
        f"{row['against']}"
    )
    if pd.isna(row["low"]):
        return sentence + "; with one seed per trial, the share of chance is unknown."
    effect_of_seeds = (
        "other seeds would hardly reverse the order"
        if row["low"] * row["high"] > 0
        else "other seeds might reverse the order"
    )
    interval = f"95% interval {row['low']:+.4f} to {row['high']:+.4f}"
    return f"{sentence} ({interval}); {effect_of_seeds}."


def _add_sweep(parts: _Parts, sweep: Sweep, *, is_one: bool) -> None:
    chosen = _chosen(sweep)
    parts.heading("The front" if is_one else sweep.name)
    base = sweep.experiment["base"]
    training = (
        f"{base['model']} on {base['dataset']}"
        if "model" in base
        else f"the loop {sweep.experiment['train']}"
    )
    parts.text(
        f"{training}, {base['epochs']} epochs per trial; "
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
        parts.text("The values that the best seed, half of the seeds and all seeds reach.")
        parts.figure(attainment_figure(sweep))
    if is_one:
        parts.heading("Hypervolume over trials and time", level=3)
        parts.figure(course_figure([sweep]))
    _add_importance(parts, sweep)
    history = load_history(sweep, trials=list(chosen))
    if (history["layer"] != "").any():
        parts.heading("Sparsity of the layers", level=3)
        parts.text(
            "Sparsity of each layer; then the share of the mask that each epoch replaced, and, "
            "dotted, the share that the redraws of the epoch explored."
        )
        parts.figure(layers_figure(history, chosen))
        if (history["name"] == "churn").any():
            parts.figure(churn_figure(history, chosen), height=360)
    parts.heading("Cost", level=3)
    parts.table(_cost(sweep))
    steps = course(sweep.trials, sweep.objectives)
    parts.table(steps, summary="The gain of hypervolume by each trial")
    parts.table(load_trials(sweep).drop(columns=["run_id", "checkpoint"]), summary="All trials")
    resolved = json.dumps(sweep.experiment, indent=1)
    parts.html.append(
        "<details><summary>The experiment as resolved</summary>"
        f"<pre>{html.escape(resolved)}</pre></details>"
    )


def _add_importance(parts: _Parts, sweep: Sweep) -> None:
    judged = sampled(sweep.trials, _JUDGED)
    frame = importance(judged, sweep.objectives, sweep.experiment.get("axes"))
    if len(frame):
        parts.heading("Importance of the parameters", level=3)
        count = sum(trial.state == "complete" for trial in sweep.trials)
        if len(judged) < count:
            parts.text(
                f"Importance from {len(judged)} of {count:,} complete trials, drawn at random."
            )
        parts.figure(importance_figure(frame))
        ineffective = without_effect(sweep.trials, sweep.objectives)
        if ineffective:
            parts.text(f"These trials show no effect of {', '.join(ineffective)}.")
    parts.heading("All trials at once", level=3)
    parts.figure(parallel_figure(sweep), height=480)


def _chosen(sweep: Sweep) -> dict[str, str]:
    """Return the members of the front that ``choose`` names -> their names."""
    names: dict[str, list[str]] = {}
    for choice in CHOICES:
        try:
            trial = choose(sweep.trials, sweep.objectives, choice)
        except InputError:  # without sparsity as objective, no trial is the sparsest
            continue
        names.setdefault(trial.trial_id, []).append(choice)
    return {trial: ", ".join(choices) for trial, choices in names.items()}


def _numbers(sweep: Sweep) -> list[tuple[str, str]]:
    states = [trial.state for trial in sweep.trials]
    middle = choose(sweep.trials, sweep.objectives, "knee")
    seconds = sum(trial.device_seconds for trial in sweep.trials)
    return [
        ("trials complete", str(states.count("complete"))),
        ("stopped early", str(states.count("pruned"))),
        ("failed", str(states.count("failed"))),
        ("on the front", str(len(sweep.front))),
        ("hypervolume", f"{hypervolume(sweep.trials, sweep.objectives):.4f}"),
        *((f"{o.name} at the knee", _short(middle.objectives[o.name])) for o in sweep.objectives),
        ("device time", clock(seconds)),
        ("seeds per trial", str(len(split_seeds(sweep.trials, sweep.objectives)))),
    ]


def _trade_off(sweep: Sweep) -> str:
    """Return a sentence on the knee, compared with the best of the first objective."""
    middle = choose(sweep.trials, sweep.objectives, "knee")
    first, last = sweep.objectives[0], sweep.objectives[-1]
    best = max(sweep.front, key=lambda trial: first.sign * trial.objectives[first.name])
    if middle.trial_id == best.trial_id:
        return f"The knee, {middle.trial_id}, is also the best in {first.name}."
    loss = abs(best.objectives[first.name] - middle.objectives[first.name])
    return (
        f"The knee is {middle.trial_id}: {last.name} {_short(middle.objectives[last.name])} "
        f"instead of {_short(best.objectives[last.name])} for {loss:.4f} of {first.name} given up "
        f"({_short(middle.objectives[first.name])} instead of "
        f"{_short(best.objectives[first.name])}, {best.trial_id})."
    )


def _front_table(sweep: Sweep) -> pd.DataFrame:
    frame = load_trials(sweep)
    frame = frame[frame["pareto"]].sort_values(sweep.objectives[-1].name)
    names = _chosen(sweep)
    frame.insert(1, "", [names.get(trial, "") for trial in frame["trial_id"]])
    for objective in sweep.objectives:
        by_seed = frame.filter(regex=f"^seed\\d+/{objective.name}$")
        if len(by_seed.columns) > 1:
            index = frame.columns.get_loc(objective.name)
            assert isinstance(index, int)
            frame.insert(index + 1, f"{objective.name} ±", by_seed.std(axis=1))
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
            "device-seconds per trial": seconds / len(trials) if trials else None,
        }

    labels = {"complete": "complete", "pruned": "stopped early", "failed": "failed"}
    rows = [row(label, [t for t in sweep.trials if t.state == s]) for s, label in labels.items()]
    return pd.DataFrame([*rows, row("all", sweep.trials)])


def _with_interval(value: float, low: float, high: float) -> str:
    if pd.isna(value):
        return "none"
    return _short(value) if pd.isna(low) else f"{_short(value)} ({_short(low)} to {_short(high)})"


def _short(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"
