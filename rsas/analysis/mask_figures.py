"""One network in pictures: its masks, its layers over the epochs, and its measure values."""

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

_CELLS = 192  # on each side of a picture; more are not told apart
_SCALE = [[0.0, "rgba(128, 128, 128, 0.10)"], [1.0, COLORS[0]]]
_BINS = 60


def as_picture(mask: Mask, cells: int = _CELLS) -> Floats:
    """A mask in two dimensions, in which large ones are shares of blocks.

    A row an output. A convolution's kernels, of shape (out, in, height, width), stand side by
    side as they are, so that the picture has the shape (out * height, in * width).

    Args:
        mask: at least one dimension.
        cells: at most so many on each side.

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
    """Weights that are on, by pixel, summed over channels; shape (height, width).

    Args:
        mask: of a layer.
        input_shape: of the network: channels, height, width.

    Returns:
        None where the layer does not see the pixels themselves.
    """
    if mask.ndim != 2 or len(input_shape) != 3 or mask.shape[1] != math.prod(input_shape):
        return None
    counts: Floats = mask.sum(axis=0, dtype=np.float64).reshape(input_shape).sum(axis=0)
    return counts


def mask_panel(picture: Floats, told: str, *, square: bool = False) -> go.Figure:
    """A mask, or the inputs in use, as a picture.

    Args:
        picture: as ``as_picture`` or ``inputs_in_use`` return it.
        told: what a cell is, such as ``share on``.
        square: cells are as high as wide.
    """
    figure = go.Figure()
    figure.add_heatmap(
        z=picture.astype(np.float32),
        zmin=0,
        zmax=max(float(picture.max(initial=0.0)), 1e-9),
        colorscale=_SCALE,
        showscale=False,
        hovertemplate=f"row %{{y}}, column %{{x}}: {told} %{{z:.3g}}<extra></extra>",
    )
    on_page(figure)
    hidden: dict[str, Any] = {"showticklabels": False, "showgrid": False, "ticks": ""}
    figure.update_xaxes(**hidden, constrain="domain")
    figure.update_yaxes(**hidden, autorange="reversed", constrain="domain")
    if square:
        figure.update_yaxes(scaleanchor="x")
    return figure.update_layout(height=280, margin={"t": 8, "r": 8, "b": 8, "l": 8})


def layers_table(masks: dict[str, Mask]) -> pd.DataFrame:
    """A row a layer: layer, shape, weights, on, density in [0, 1], and outputs without a weight."""
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
    """Numbers over epochs; ``density`` has a curve a layer.

    Args:
        history: of one trial, as ``load_history`` returns it.
        names: of what is drawn, as in the history.
        y: what stands at the axis.
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
    """Histograms of the measure values of a layer, of weights that are on and off.

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
    # Most weights share few values; a linear axis would show those alone.
    figure.update_yaxes(title_text="weights", type="log", dtick=1)
    return figure.update_layout(height=280, barmode="overlay", bargap=0)
