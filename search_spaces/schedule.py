"""How long and how to explore."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna


def schedule(trial: optuna.Trial) -> dict[str, Any]:
    """Exploration, interval and credit of ``reinforced``, beside the pruning rate."""
    fields = {
        "sparsity": trial.suggest_float("sparsity", 0.5, 0.99),
        "exploration_start": trial.suggest_float("exploration_start", 0.05, 1.0),
        "exploration_stop": trial.suggest_float("exploration_stop", 0.1, 1.0),
        "exploration_draw": trial.suggest_categorical("exploration_draw", ["uniform", "gradient"]),
        "update_interval": trial.suggest_int("update_interval", 10, 1000, log=True),
        "regrow": trial.suggest_categorical("regrow", ["zero", "latent", "gradient"]),
        "credit": trial.suggest_categorical("credit", ["global", "per_weight"]),
        "measure_lr": trial.suggest_float("measure_lr", 1e-3, 1.0, log=True),
    }
    if "gradient" in (fields["exploration_draw"], fields["regrow"]):
        fields["exploration_steps"] = trial.suggest_int("exploration_steps", 1, 100, log=True)
    if fields["regrow"] == "gradient":
        fields["regrow_scale"] = trial.suggest_float("regrow_scale", 0.1, 4.0, log=True)
    if fields["credit"] == "per_weight":
        kinds = ["loss_change", "saliency"]
        fields["attribution"] = trial.suggest_categorical("attribution", kinds)
        fields["credit_steps"] = trial.suggest_int("credit_steps", 1, 100, log=True)
    return fields
