"""Names of the columns of a history: a number of the network, of a layer, or of one seed.

``val_accuracy``; ``sparsity/fc1`` of a layer; ``seed3/val_accuracy`` of one of several seeds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

__all__ = ["METRICS", "Column", "by_seed", "metrics_of", "of_seed", "parse", "values_by_seed"]

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
"""Columns every row of a history has; ``sparsity/LAYER`` columns come beside them, and, of a trial
that is trained with several seeds, ``seedN/NAME`` columns, of which the others are means."""


class Column(NamedTuple):
    """What a column holds."""

    name: str  # such as val_accuracy
    layer: str = ""  # empty where the number is of the whole network
    seed: int | None = None  # of one of several


def of_seed(seed: int, name: str) -> str:
    """Return the column of a name for one of several seeds."""
    return f"seed{seed}/{name}"


def parse(column: str) -> Column:
    """Return what a column holds: ``sparsity/fc1`` -> (sparsity, fc1, None)."""
    first, slash, rest = column.partition("/")
    if slash and first == "sparsity":
        return Column(first, layer=rest)
    number = first.removeprefix("seed")
    if slash and number != first and number.isdigit():
        return Column(rest, seed=int(number))
    return Column(column)


def metrics_of(result: Mapping[str, Any]) -> dict[str, float]:
    """Return the columns of the history in a result that has others beside them."""
    return {
        column: float(value) for column, value in result.items() if parse(column).name in METRICS
    }


def by_seed(metrics: Mapping[str, float], names: Iterable[str]) -> dict[str, float]:
    """Return the columns that hold one of these names for a single seed."""
    wanted = set(names)
    parsed = {column: parse(column) for column in metrics}
    return {
        column: metrics[column]
        for column, found in parsed.items()
        if found.seed is not None and found.name in wanted
    }


def values_by_seed(metrics: Mapping[str, float], names: Iterable[str]) -> dict[str, list[float]]:
    """Return the values of each seed, in the order of the seeds, of those names that have them."""
    seeds = sorted({found.seed for found in map(parse, metrics) if found.seed is not None})
    return {
        name: [metrics[of_seed(seed, name)] for seed in seeds]
        for name in names
        if seeds and all(of_seed(seed, name) in metrics for seed in seeds)
    }
