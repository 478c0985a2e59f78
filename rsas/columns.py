"""Names of the columns of a history.

A column has a number of the network (``val_accuracy``), of a layer (``sparsity/fc1``), or of one
among several seeds (``seed3/val_accuracy``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

__all__ = ["METRICS", "Column", "by_seed", "of_seed", "parse", "values_by_seed"]

METRICS = (
    "epoch",
    "train_loss",
    "val_loss",
    "val_accuracy",
    "sparsity",
    "churn",
    "exploration",
    "seconds",
)
"""Columns that every row of rsas's own trainer has. A row also has ``sparsity/LAYER`` columns. A
trial that is trained with several seeds also has ``seedN/NAME`` columns; its other columns are
their means. A loop of the user's own reports columns of its choice."""


class Column(NamedTuple):
    """The parts of a column's name."""

    name: str  # such as val_accuracy
    layer: str = ""  # empty for a number of the whole network
    seed: int | None = None  # None unless the number is of one among several seeds


def of_seed(seed: int, name: str) -> str:
    """Return the name of the column for one among several seeds."""
    return f"seed{seed}/{name}"


def parse(column: str) -> Column:
    """Return the parts of a column's name: ``sparsity/fc1`` -> (sparsity, fc1, None)."""
    first, slash, rest = column.partition("/")
    if slash and first == "sparsity":
        return Column(first, layer=rest)
    number = first.removeprefix("seed")
    if slash and number != first and number.isdigit():
        return Column(rest, seed=int(number))
    return Column(column)


def by_seed(metrics: Mapping[str, float], names: Iterable[str]) -> dict[str, float]:
    """Return the columns that have one of these names for a single seed."""
    selected = set(names)
    parsed = {column: parse(column) for column in metrics}
    return {
        column: metrics[column]
        for column, parts in parsed.items()
        if parts.seed is not None and parts.name in selected
    }


def values_by_seed(metrics: Mapping[str, float], names: Iterable[str]) -> dict[str, list[float]]:
    """Return each name's values, in the order of the seeds, for names that all seeds have."""
    seeds = sorted({parts.seed for parts in map(parse, metrics) if parts.seed is not None})
    return {
        name: [metrics[of_seed(seed, name)] for seed in seeds]
        for name in names
        if seeds and all(of_seed(seed, name) in metrics for seed in seeds)
    }
