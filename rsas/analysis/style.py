"""Style of all figures: colours, labels, theme; ``to_html`` returns pages that work offline."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import pandas as pd
import plotly.graph_objects as go

__all__ = [
    "COLORS",
    "OTHERS",
    "cycled",
    "interval_bars",
    "label_of",
    "parameter_label",
    "themed",
    "to_html",
]

# The colours of Okabe and Ito: the colour-blind can distinguish them, on light and dark pages.
COLORS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
OTHERS = "#94a3b8"
_LABELS = {
    "val_accuracy": "validation accuracy",
    "test_accuracy": "test accuracy",
    "val_loss": "validation loss",
    "train_loss": "training loss",
    "sparsity": "sparsity (share of weights that are off)",
    "churn": "churn (share of weights on that were off)",
    "seconds": "seconds per epoch",
}


def label_of(name: str) -> str:
    """Return the label of a column of the history on an axis."""
    return _LABELS.get(name, name)


def parameter_label(name: str, objectives: Container[str]) -> str:
    """Return the label of a parameter beside objectives.

    A sparsity that is a parameter may differ from the sparsity that is measured.
    """
    return f"{name} asked" if name in objectives else name


def interval_bars(
    values: pd.Series, low: pd.Series, high: pd.Series, **style: Any
) -> dict[str, Any]:
    """Return error bars from ``low`` to ``high`` at ``values``."""
    return {
        "type": "data",
        "symmetric": False,
        "array": (high - values).clip(lower=0),
        "arrayminus": (values - low).clip(lower=0),
        **style,
    }


def cycled(count: int) -> list[str]:
    """Return ``count`` colours; after the last colour they repeat."""
    return [COLORS[i % len(COLORS)] for i in range(count)]


def themed(figure: go.Figure, title: str) -> go.Figure:
    """Style a figure for a page of its own or a report."""
    return figure.update_layout(
        title=title or None,
        template="plotly_white",
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 1, "xanchor": "right"},
        margin={"t": 80 if title else 40, "l": 60, "r": 30, "b": 50},
    )


def to_html(figure: go.Figure) -> str:
    """Return a page that contains plotly itself, as MLflow's artifact viewer requires."""
    html: str = figure.to_html(include_plotlyjs=True, full_html=True, config={"responsive": True})
    return html
