"""Draw one network: its masks, its layers over the epochs, and its measure values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import plotly.graph_objects as go

from rsas.analysis.dashboard_figures import on_page
from rsas.analysis.style import COLORS, OTHERS

__all__ = [
    "as_picture",
    "curves_panel",
    "inputs_in_use",
    "layers_table",
    "mask_panel",
    "measure_panel",
]

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

_CELLS = 192  # on each side of a picture; more cells would be too small to see
_SCALE = [[0.0, "rgba(128, 128, 128, 0.10)"], [1.0, COLORS[0]]]
_BINS = 60


def as_picture(mask: Mask, cells: int = _CELLS) -> Floats:
    """Return a mask as a picture in two dimensions.

    Each output is a row. A convolution's kernels, of shape (out, in, height, width), are side by
    side, so that the picture has the shape (out * height, in * width). In the picture of a large
    mask a cell is the share of a block of weights.

    Args:
        mask: at least one dimension.
        cells: the greatest number of cells on each side.

    Returns:
        Shares of weights that are on, in [0, 1].
    """
    if mask.ndim == 4:
        out, into, height, width = mask.shape
        flat = mask.transpose(0, 2, 1, 3).reshape(out * height, into * width)
    else:
        flat = mask.reshape(mask.shape[0], -1)
    rows, columns = (math.ceil(size / cells) for size in flat.shape)
    starts = [
        np.arange(0, size, step) for size, step in zip(flat.shape, (rows, columns), strict=True)
    ]
    sums = np.add.reduceat(np.add.reduceat(flat.astype(np.float64), starts[0]), starts[1], axis=1)
    sizes = np.outer(*(np.diff([*s, n]) for s, n in zip(starts, flat.shape, strict=True)))
    shares: Floats = sums / sizes
    return shares


def inputs_in_use(mask: Mask, input_shape: Sequence[int]) -> Floats | None:
    """Return the number of weights that are on, by pixel, summed over channels.

    Args:
        mask: of a layer.
        input_shape: of the network: channels, height, width.

    Returns:
        Shape (height, width); None if the layer's inputs are not the pixels.
    """
    if mask.ndim != 2 or len(input_shape) != 3 or mask.shape[1] != math.prod(input_shape):
        return None
    counts: Floats = mask.sum(axis=0, dtype=np.float64).reshape(input_shape).sum(axis=0)
    return counts


def mask_panel(picture: Floats, label: str, *, square: bool = False) -> go.Figure:
    """Draw a mask, or the inputs in use.

    Args:
        picture: as ``as_picture`` or ``inputs_in_use`` return it.
        label: the meaning of a cell's value, such as ``share on``.
        square: cells are as high as wide.
    """
    figure = go.Figure()
    figure.add_heatmap(
        z=picture.astype(np.float32),
        zmin=0,
        zmax=max(float(picture.max(initial=0.0)), 1e-9),
        colorscale=_SCALE,
        showscale=False,
        hovertemplate=f"row %{{y}}, column %{{x}}: {label} %{{z:.3g}}<extra></extra>",
    )
    on_page(figure)
    hidden: dict[str, Any] = {"showticklabels": False, "showgrid": False, "ticks": ""}
    figure.update_xaxes(**hidden, constrain="domain")
    figure.update_yaxes(**hidden, autorange="reversed", constrain="domain")
    if square:
        figure.update_yaxes(scaleanchor="x")
    return figure.update_layout(height=280, margin={"t": 8, "r": 8, "b": 8, "l": 8})


def layers_table(masks: dict[str, Mask]) -> pd.DataFrame:
    """Return a table with a row per layer.

    Returns:
        layer; shape; weights; on, the number of weights that are on; density in [0, 1]; and
        outputs cut off, the number of outputs without a weight that is on.
    """
    return pd.DataFrame(
        {
            "layer": name,
            "shape": " x ".join(map(str, mask.shape)),
            "weights": mask.size,
            "on": int(mask.sum()),
            "density": float(mask.mean()),
            "outputs cut off": int((~mask.reshape(mask.shape[0], -1).any(axis=1)).sum()),
        }
        for name, mask in masks.items()
    )


def curves_panel(history: pd.DataFrame, names: Sequence[str], y: str) -> go.Figure:
    """Draw columns of a history over the epochs; ``density`` has a curve per layer.

    Args:
        history: of one trial, as ``load_history`` returns it.
        names: names in the history, or ``density``, which is 1 - sparsity.
        y: label of the y axis.
    """
    figure = go.Figure()
    rows = history[history["seed"].isna()]
    number = 0
    for name in names:
        source = rows[rows["name"] == ("sparsity" if name == "density" else name)]
        for layer, part in source.groupby("layer", sort=False):
            whole = layer == ""
            figure.add_scatter(
                x=part["epoch"],
                y=1 - part["value"] if name == "density" else part["value"],
                name=str(layer) or ("all" if name == "density" else name.replace("_", " ")),
                mode="lines",
                line={
                    "color": OTHERS if whole and name == "density" else COLORS[number],
                    "width": 2,
                    "dash": "dot" if whole and name == "density" else "solid",
                },
                hovertemplate="epoch %{x}: %{y:.4f}<extra>%{fullData.name}</extra>",
            )
            number = (number + 1) % len(COLORS)
    on_page(figure)
    figure.update_xaxes(title_text="epoch")
    if not figure.data:
        figure.add_annotation(
            text="not recorded", showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper"
        )
    figure.update_yaxes(title_text=y, rangemode="tozero")
    return figure.update_layout(height=280, showlegend=len(figure.data) > 1)


def measure_panel(measure: Floats, mask: Mask) -> go.Figure:
    """Draw histograms of a layer's measure values, for weights that are on and off.

    Args:
        measure: of the shape of ``mask``.
        mask: True where a weight is on.
    """
    edges = np.histogram_bin_edges(measure, bins=_BINS)
    figure = go.Figure()
    for name, values, color in (
        ("off", measure[~mask], OTHERS),
        ("on", measure[mask], COLORS[0]),
    ):
        figure.add_bar(
            x=(edges[:-1] + edges[1:]) / 2,
            y=np.histogram(values, edges)[0],
            width=np.diff(edges),
            name=f"{name} ({len(values)})",
            marker={"color": color, "opacity": 0.75, "line": {"width": 0}},
            hovertemplate="%{x:.3g}: %{y} weights<extra></extra>",
        )
    on_page(figure)
    figure.update_xaxes(title_text="measure value")
    # Most weights share few values, and a linear axis would show only these.
    figure.update_yaxes(title_text="weights", type="log", dtick=1)
    return figure.update_layout(height=280, barmode="overlay", bargap=0)
