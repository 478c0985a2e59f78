"""The options of pruning with their defaults and ranges, for TrainConfig and ``rsas.sparse``.

This module does not import torch, so that a configuration is read without delay.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from rsas.fields import range_of

__all__ = ["Options", "option"]

Distribution = Literal["uniform", "erk", "map"]
Update = Literal["ema", "accumulate"]
Credit = Literal["global", "per_weight"]
Attribution = Literal["loss_change", "saliency"]
Reward = Literal["loss_decrease", "loss_increase"]
Baseline = Literal["none", "mean"]
FirstMask = Literal["random", "magnitude", "snip"]
Shape = Literal["linear", "cosine", "constant"]
Draw = Literal["uniform", "gradient"]
Regrow = Literal["zero", "latent", "gradient"]
BudgetRule = Literal["exact", "overshoot"]
ClockName = Literal["training", "epoch"]

_COUNT = range_of(1, 10**9)
_SHARE = range_of(0, 1)
_ABOVE_0 = range_of(0, 1, open_low=True)


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of all methods; the classes in ``rsas.sparse`` describe them."""

    distribution: Distribution = "uniform"
    """How the weights that stay are divided among layers (rsas.sparse.layers.Target)."""
    include: tuple[str, ...] = ("*",)
    """Patterns of the names of layers to prune."""
    exclude: tuple[str, ...] = ()
    """Patterns of the names of layers that stay dense, among those included."""
    update_interval: int = field(default=50, metadata=_COUNT)
    """Training steps between redraws of the masks."""
    first_mask: FirstMask = "random"
    """The mask that training begins with (rsas.sparse.PruningMethod)."""
    # set, rigl, gmp
    update_stop: float = field(default=0.75, metadata=_ABOVE_0)
    drop_fraction: float = field(default=0.3, metadata=_SHARE)
    grow_steps: int = field(default=1, metadata=_COUNT)
    # reinforced
    measure_lr: float = field(default=0.3, metadata=_ABOVE_0)
    measure_update: Update = "ema"
    credit: Credit = "per_weight"
    attribution: Attribution = "saliency"
    credit_steps: int = field(default=1, metadata=_COUNT)
    reward: Reward = "loss_decrease"
    reward_baseline: Baseline = "none"
    paired: bool = False
    # reinforced and noise
    exploration: Shape = "cosine"
    exploration_start: float = field(default=0.6, metadata=_SHARE)
    exploration_end: float = field(default=0.0, metadata=_SHARE)
    exploration_stop: float = field(default=0.75, metadata=_ABOVE_0)
    exploration_draw: Draw = "gradient"
    exploration_steps: int = field(default=50, metadata=_COUNT)
    regrow: Regrow = "gradient"
    regrow_scale: float = field(default=2.0, metadata=range_of(0, 100))
    # the published algorithm (rsas.sparse.published)
    update_clock: ClockName = "training"
    budget: BudgetRule = "exact"
    count_first_loss: bool = False


def option(name: str, default: Any = None) -> Any:
    """Return the dataclass field of an option, as ``Options`` declares it.

    Args:
        name: of the option.
        default: in place of the declared one, where it is given.
    """
    declared = Options.__dataclass_fields__[name]
    value = declared.default if default is None else default
    return field(default=value, metadata=declared.metadata)
