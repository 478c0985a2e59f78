"""A density for each layer, under the budget that the pruning rate leaves to all."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

    from rsas.sweep.experiment import Space


def layerwise(first: str, second: str, *others: str) -> Space:
    """The space of the pruning rate and a relative density for each pattern of layer names.

    The densities are scaled together to the budget, so only their ratios count: the first one
    stays at 1, and the others range from a hundredth to a hundred times of it.

    Args:
        first: pattern of names, such as ``"conv1"``.
        second: the next one, such as ``"layer1.*"``.
        others: more of them; every layer has to fit one.
    """

    def space(trial: optuna.Trial) -> dict[str, Any]:
        densities = {first: 1.0}
        for pattern in (second, *others):
            axis = "density_" + re.sub(r"[^\w.]", "_", pattern.replace("*", "all"))
            densities[pattern] = trial.suggest_float(axis, 0.01, 100.0, log=True)
        return {
            "sparsity": trial.suggest_float("sparsity", 0.5, 0.99),
            "distribution": "map",
            "layer_densities": densities,
        }

    return space


shallow = layerwise("fc1", "fc2")
"""For networks with one hidden layer."""
