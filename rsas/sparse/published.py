"""The published algorithm (RSAS, 2023), with all its faults."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rsas.options import BudgetRule, ClockName, Credit, Draw, Regrow, Reward, Shape, Update, option
from rsas.sparse import masks
from rsas.sparse.distributions import kept_published
from rsas.sparse.layers import Layer, Target
from rsas.sparse.measure import Learner
from rsas.sparse.reinforced import ExploringPruning, NoisePruning, ReinforcedPruning
from rsas.sparse.schedules import Clock, Position

__all__ = ["PublishedNoise", "PublishedPruning", "overshooting_mask"]

_Generator = torch.Generator | None


@dataclass(frozen=True)
class EveryInEpoch:
    """At every ``interval``-th step of each epoch, and last at the first step of an epoch.

    The progress is that of the epochs.

    Attributes:
        interval: number of steps, counted within each epoch.
        stop: part of the training, in (0, 1]; the last epoch before the stop has the final redraw.
    """

    interval: int
    stop: float

    def ahead(self, at: Position) -> float:
        final = self._final_epoch(at)
        if at.epoch > final or (at.epoch == final and at.step > 0):
            return math.inf
        # The next redraw is in this epoch, or at the first step of the next one.
        return min(-at.step % self.interval, at.steps_per_epoch - at.step)

    def progress(self, at: Position) -> float:
        return 1.0 if at.epoch == self._final_epoch(at) else at.epoch / at.epochs / self.stop

    def _final_epoch(self, at: Position) -> int:
        # Rounded, as 0.07 * 100 is 7.000000000000001.
        return math.ceil(round(self.stop * at.epochs, 9)) - 1


@dataclass(frozen=True, kw_only=True)
class _PublishedRedraws(ExploringPruning):
    """Redraw masks as the published algorithm does.

    Attributes:
        update_clock: ``training`` counts steps over the whole training; ``epoch`` counts them
            within each epoch, follows the schedule by epochs, and fixes the mask at the first
            step of the last epoch before the stop (published).
        budget: ``exact``, explore only among weights that are not exploited, so that every
            layer always has its k ones; or ``overshoot``, draw k at random from all (published),
            so that the density is about (1-s)(1 + s*p) when the share p is exploited.
    """

    exploration: Shape = option("exploration", "linear")
    exploration_start: float = option("exploration_start", 1.0)
    exploration_stop: float = option("exploration_stop", 1.0)
    exploration_draw: Draw = option("exploration_draw", "uniform")
    exploration_steps: int = option("exploration_steps", 1)
    update_interval: int = option("update_interval", 10)
    regrow: Regrow = option("regrow", "latent")
    regrow_scale: float = option("regrow_scale", 1.0)
    update_clock: ClockName = option("update_clock", "epoch")
    budget: BudgetRule = option("budget", "overshoot")

    @property
    def clock(self) -> Clock:
        if self.update_clock == "epoch":
            return EveryInEpoch(self.update_interval, self.exploration_stop)
        return super().clock

    def keeps(self, planned: int, numel: int, target: Target) -> int:
        if self.budget == "overshoot" and target.distribution == "uniform":
            return kept_published(numel, target.sparsity)
        return planned

    def next_mask(self, layer: Layer, progress: float, *, generator: _Generator = None) -> Tensor:
        """Return the redrawn mask, with up to twice the ones of ``layer.keep`` on ``overshoot``."""
        if self.budget == "exact":
            return super().next_mask(layer, progress, generator=generator)
        share = self.exploited(progress)
        return overshooting_mask(self.keep_score(layer), layer.keep, share, generator=generator)


@dataclass(frozen=True, kw_only=True)
class PublishedPruning(_PublishedRedraws, ReinforcedPruning):
    """Reinforced sparse architecture search as published (RSAS, 2023); its faults are options.

    Each fault is mended by the value that ``ReinforcedPruning`` has for the option.

    Attributes:
        count_first_loss: let the first step's whole loss be its reward (published).
    """

    measure_lr: float = option("measure_lr", 0.01)
    measure_update: Update = option("measure_update", "accumulate")
    credit: Credit = option("credit", "global")
    reward: Reward = option("reward", "loss_increase")
    count_first_loss: bool = option("count_first_loss", True)

    def learner(self, device: torch.device) -> Learner:
        learner = super().learner(device)
        if self.count_first_loss and not learner.is_paired:
            # The published code starts with a previous loss of 0.
            learner.before_step((), torch.zeros((), device=device))
        return learner


@dataclass(frozen=True, kw_only=True)
class PublishedNoise(_PublishedRedraws, NoisePruning):
    """The control for the published algorithm: its redraws by values that are never learned."""


def overshooting_mask(
    measure: Tensor, keep: int, share: float, *, generator: _Generator = None
) -> Tensor:
    """Keep the best of the budget, and draw a whole budget from all weights, as published.

    Args:
        measure: measure values, of the shape of the weight.
        keep: the layer's budget k.
        share: of the budget given to the largest measure values; at 1 nothing is drawn.
        generator: source of the draws, on the device of ``measure``; None is torch's default.
    """
    mask = masks.top_by_position(measure, math.floor(keep * share))
    if share == 1.0:
        return mask
    return mask | masks.draw(torch.ones_like(mask), keep, generator=generator)
