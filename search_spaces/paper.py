"""The space of the paper."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna


def paper(trial: optuna.Trial) -> dict[str, Any]:
    """Pruning rate x measure-learning-rate."""
    return {
        "sparsity": trial.suggest_float("sparsity", 0.5, 0.99),
        "measure_lr": trial.suggest_float("measure_lr", 1e-3, 1.0, log=True),
    }


def pruning_rate(trial: optuna.Trial) -> dict[str, Any]:
    """Pruning rate alone, for methods in which the measure-learning-rate does not act.

    The published algorithm is one: it only ranks measure values, which that rate scales.
    """
    return {"sparsity": trial.suggest_float("sparsity", 0.5, 0.99)}
