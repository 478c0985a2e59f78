"""What all figures share: colours, labels, theme; ``to_html`` makes pages that need no network."""

from __future__ import annotations

import plotly.graph_objects as go

__all__ = ["COLORS", "OTHERS", "cycled", "label_of", "themed", "to_html"]

# Okabe and Ito's colours, which the colour-blind can tell apart, and which show on light and dark.
COLORS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
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


def cycled(count: int) -> list[str]:
    """So many colours, again from the first where there are more."""
    return [COLORS[i % len(COLORS)] for i in range(count)]


def themed(figure: go.Figure, title: str) -> go.Figure:
    """How every figure looks on a page of its own or of a report."""
    return figure.update_layout(
        title=title or None,
        template="plotly_white",
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 1, "xanchor": "right"},
        margin={"t": 80 if title else 40, "l": 60, "r": 30, "b": 50},
    )


def to_html(figure: go.Figure) -> str:
    """A page with everything inside, as MLflow's artifact viewer needs it."""
    html: str = figure.to_html(include_plotlyjs=True, full_html=True, config={"responsive": True})
    return html
