"""The parts that the pages share: texts, layout, tables and links."""

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
    "message",
    "mlflow_ui",
    "nothing",
    "part",
    "plain",
    "plot",
    "run_links",
    "table",
    "tiles",
    "trials",
]

HOW_TO_CHOOSE = (
    "Click a trial, or draw a box or a lasso around several; a double click selects all again."
)
_PLOT = {
    "displaylogo": False,
    "modeBarButtonsToRemove": ["toImage", "zoomIn2d", "zoomOut2d", "resetScale2d", "autoScale2d"],
    "responsive": True,
}


def nothing() -> mo.Html:
    """Return the message on a page of an empty workspace."""
    message = "**No sweep here yet.** Start one by `rsas sweep FILE.py`; then reload this page."
    return mo.callout(mo.md(message), kind="info")


def message(text: str) -> mo.Html:
    """Return a text that explains why the page is empty."""
    return mo.callout(text, kind="neutral")


def trials(rows: pd.DataFrame, table: mo.ui.table, *, chosen: bool) -> mo.Html:
    """Return the table of trials, with links to the runs of the chosen ones."""
    note = f"The {len(rows)} that you chose." if chosen else f"All {len(rows)}, the front first."
    inner = mo.vstack([run_links(rows), table] if chosen else [table])
    return columns(part("Trials", note, inner), kind="one")


def part(title: str, text: str, inner: Any) -> mo.Html:
    """Return a part of a page with a title, for ``columns``."""
    # Not h2, because marimo collects these in an outline that floats beside the page.
    head = f'<div class="rsas-title" role="heading" aria-level="2">{title}</div><p>{text}</p>'
    return mo.vstack([mo.Html(head), inner], gap=0)


def plot(figure: go.Figure, on_change: Callable[[Any], None] | None = None) -> mo.ui.plotly:
    """Return a figure that reports the selected points, if the cell gives the figure a name."""
    config = {**_PLOT, "displayModeBar": "hover" if on_change else False}
    return mo.ui.plotly(figure, config=config, on_change=on_change)


def mlflow_ui() -> str:
    """Return the address at which ``rsas ui`` serves the workspace's own MLflow."""
    return os.environ.get("RSAS_MLFLOW_UI", "http://127.0.0.1:5000")


def heading(title: str, text: str, *controls: Any) -> mo.Html:
    """Return the head of a page: its title, a text, and its controls."""
    inner = "".join(mo.as_html(control).text for control in controls)
    return mo.Html(
        f'<header class="rsas-heading"><div><p class="rsas-brand">rsas</p><h1>{title}</h1>'
        f'<p>{text}</p></div><div class="rsas-controls">{inner}</div></header>'
    )


def tiles(numbers: Sequence[tuple[str, str, str]]) -> mo.Html:
    """Return numbers with a label above and a note below."""
    inner = "".join(
        f'<div class="rsas-tile"><dt>{label}</dt><dd>{value}<small>{note}</small></dd></div>'
        for label, value, note in numbers
    )
    return mo.Html(f'<dl class="rsas-tiles">{inner}</dl>')


def columns(*parts: Any, kind: str = "even") -> mo.Html:
    """Return the parts side by side if the page is wide enough, else below one another.

    Args:
        *parts: anything that marimo can show.
        kind: ``one``, ``even``, ``wide-left`` or ``many``.
    """
    inner = "".join(
        f'<section class="rsas-part">{mo.as_html(part).text}</section>' for part in parts
    )
    return mo.Html(f'<div class="rsas-columns rsas-{kind}">{inner}</div>')


def table(frame: pd.DataFrame) -> mo.ui.table:
    """Return a table to read, sort and search.

    The cell must give the table a name, or marimo drops the table.
    """
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
    """Return a small table without controls."""
    rows = frame.to_html(
        index=False, border=0, classes="rsas-table", float_format="{:.4f}".format, na_rep="none"
    )
    return mo.Html(f'<div class="rsas-scroll">{rows}</div>')


def run_links(rows: pd.DataFrame) -> mo.Html:
    """Return buttons that open the runs of a table's trials in MLflow."""
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
