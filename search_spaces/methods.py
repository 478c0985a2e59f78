"""Which method, with the options each of them has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

METHODS = ("reinforced", "noise", "static", "set", "rigl", "gmp", "small_dense")


def methods(trial: optuna.Trial) -> dict[str, Any]:
    """The method as a parameter; its options are asked for only where they act."""
    return _options(trial, trial.suggest_categorical("method", METHODS))


def set_alone(trial: optuna.Trial) -> dict[str, Any]:
    """What SET has to be tuned by, for a fair comparison."""
    return _options(trial, "set")


def rigl_alone(trial: optuna.Trial) -> dict[str, Any]:
    """What RigL has to be tuned by."""
    return _options(trial, "rigl")


def gmp_alone(trial: optuna.Trial) -> dict[str, Any]:
    """What gradual magnitude pruning has to be tuned by."""
    return _options(trial, "gmp")


def _options(trial: optuna.Trial, method: str) -> dict[str, Any]:
    fields = {"method": method, "sparsity": trial.suggest_float("sparsity", 0.5, 0.99)}
    if method != "small_dense":
        fields["distribution"] = trial.suggest_categorical("distribution", ["uniform", "erk"])
    if method in ("set", "rigl"):
        fields["drop_fraction"] = trial.suggest_float("drop_fraction", 0.05, 0.5)
    if method in ("set", "rigl", "gmp"):
        fields["update_interval"] = trial.suggest_int("update_interval", 10, 1000, log=True)
        fields["update_stop"] = trial.suggest_float("update_stop", 0.3, 1.0)
    if method in ("reinforced", "noise"):
        fields["exploration_start"] = trial.suggest_float("exploration_start", 0.05, 1.0)
        fields["exploration_stop"] = trial.suggest_float("exploration_stop", 0.3, 1.0)
    if method == "rigl":
        fields["grow_steps"] = trial.suggest_int("grow_steps", 1, 100, log=True)
    if method == "reinforced":
        fields["measure_lr"] = trial.suggest_float("measure_lr", 1e-3, 1.0, log=True)
    return fields
