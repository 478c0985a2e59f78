"""What the pages share: where things are, and how they are laid out."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import marimo as mo
import pandas as pd
import plotly.graph_objects as go

__all__ = [
    "HOW_TO_CHOOSE",
    "columns",
    "heading",
    "mlflow_ui",
    "nothing",
    "part",
    "plain",
    "plot",
    "run_links",
    "table",
    "tiles",
    "told",
    "trials",
]

HOW_TO_CHOOSE = (
    "Click a trial, or draw a box or a lasso around several; a double click takes all again."
)
_PLOT = {
    "displaylogo": False,
    "modeBarButtonsToRemove": ["toImage", "zoomIn2d", "zoomOut2d", "resetScale2d", "autoScale2d"],
    "responsive": True,
}


def nothing() -> mo.Html:
    """What a page of an empty workspace says."""
    told = "**No sweep here yet.** `rsas sweep FILE.py` makes one; then load this page again."
    return mo.callout(mo.md(told), kind="info")


def told(text: str) -> mo.Html:
    """Why there is nothing to see."""
    return mo.callout(text, kind="neutral")


def trials(rows: pd.DataFrame, table: mo.ui.table, *, chosen: bool) -> mo.Html:
    """The table of trials, with links to the runs of those that were chosen."""
    note = f"The {len(rows)} that you chose." if chosen else f"All {len(rows)}, the front first."
    inner = mo.vstack([run_links(rows), table] if chosen else [table])
    return columns(part("Trials", note, inner), kind="one")


def part(title: str, told: str, inner: Any) -> mo.Html:
    """A titled part of a page, for ``columns``."""
    # Not h2: of those marimo makes an outline, which would float beside the page.
    head = f'<div class="rsas-title" role="heading" aria-level="2">{title}</div><p>{told}</p>'
    return mo.vstack([mo.Html(head), inner], gap=0)


def plot(figure: go.Figure, on_change: Callable[[Any], None] | None = None) -> mo.ui.plotly:
    """A figure that tells what is selected in it, if the cell gives it a name."""
    config = {**_PLOT, "displayModeBar": "hover" if on_change else False}
    return mo.ui.plotly(figure, config=config, on_change=on_change)


def mlflow_ui() -> str:
    """Address of the UI of the workspace's own MLflow, as ``rsas ui`` serves it."""
    return os.environ.get("RSAS_MLFLOW_UI", "http://127.0.0.1:5000")


def heading(title: str, told: str, *controls: Any) -> mo.Html:
    """A page's title, what it is for, and what is chosen there."""
    inner = "".join(mo.as_html(each).text for each in controls)
    return mo.Html(
        f'<header class="rsas-heading"><div><p class="rsas-brand">rsas</p><h1>{title}</h1>'
        f'<p>{told}</p></div><div class="rsas-controls">{inner}</div></header>'
    )


def tiles(numbers: Sequence[tuple[str, str, str]]) -> mo.Html:
    """Numbers with a label above and a note below."""
    each = (
        f'<div class="rsas-tile"><dt>{label}</dt><dd>{value}<small>{note}</small></dd></div>'
        for label, value, note in numbers
    )
    return mo.Html(f'<dl class="rsas-tiles">{"".join(each)}</dl>')


def columns(*parts: Any, kind: str = "even") -> mo.Html:
    """Side by side where there is room, else below one another.

    Args:
        *parts: anything marimo shows.
        kind: ``one``, ``even``, ``wide-left`` or ``many``.
    """
    inner = "".join(
        f'<section class="rsas-part">{mo.as_html(part).text}</section>' for part in parts
    )
    return mo.Html(f'<div class="rsas-columns rsas-{kind}">{inner}</div>')


def table(frame: pd.DataFrame) -> mo.ui.table:
    """A table to read, sort and search; the cell must give it a name, or marimo forgets it."""
    floats = frame.select_dtypes("float").columns
    numbers = dict.fromkeys(floats, _number)
    return mo.ui.table(
        frame,
        selection=None,
        page_size=12,
        show_column_summaries=False,
        show_data_types=False,
        format_mapping={**numbers, "MLflow": _link},
    )


def plain(frame: pd.DataFrame) -> mo.Html:
    """A small table to read."""
    shown = frame.to_html(
        index=False, border=0, classes="rsas-table", float_format="{:.4f}".format, na_rep="none"
    )
    return mo.Html(f'<div class="rsas-scroll">{shown}</div>')


def run_links(rows: pd.DataFrame) -> mo.Html:
    """Buttons that open the runs of the trials of a table in MLflow."""
    buttons = "".join(
        f'<a class="rsas-run" href="{url}" target="_blank" rel="noopener">{trial} in MLflow ↗</a>'
        for trial, url in zip(rows["trial"], rows["MLflow"], strict=True)
        if url
    )
    return mo.Html(f'<p class="rsas-runs">{buttons}</p>')


def _number(value: float) -> str:
    if pd.isna(value):
        return ""
    return f"{value:.4f}" if value == 0 or abs(value) >= 0.01 else f"{value:.3g}"


def _link(url: str) -> mo.Html | str:
    return mo.Html(f'<a href="{url}" target="_blank" rel="noopener">open ↗</a>') if url else ""
