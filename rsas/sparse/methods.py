"""The pruning methods: when masks change, and what they become.

A method is a frozen set of options. It says when the masks are redrawn (``exploited``) and what
the next mask of a layer is (``next_mask``); ``rsas.sparse.sparsifier`` does the rest.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor

from rsas.sparse import distributions, masks
from rsas.sparse.schedules import Shape, interpolate

__all__ = ["Position", "ReinforcedPruning", "StaticPruning"]


@dataclass(frozen=True)
class Position:
    """Where in the training a step is, counted from 0."""

    epoch: int
    step: int
    epochs: int
    steps_per_epoch: int


@dataclass(frozen=True, kw_only=True)
class StaticPruning:
    """A random mask, drawn once and kept: the control every other method has to beat.

    A network trained from scratch on a fixed random mask, the same sparsity in every layer
    (Liu et al. 2022, "The Unreasonable Effectiveness of Random Pruning").
    """

    def kept(self, numel: int, sparsity: float) -> int:
        """How many weights of a layer stay on."""
        return distributions.kept(numel, sparsity)

    def exploited(self, at: Position) -> float | None:
        """Share of the next mask taken from the best weights; None where nothing is redrawn."""
        return None


@dataclass(frozen=True, kw_only=True)
class ReinforcedPruning(StaticPruning):
    """Reinforced sparse architecture search (RSAS, 2023), published and repaired.

    Every weight has a measure value V, learned from the changes of the loss while the weight is
    on (``rsas.sparse.measure``). Masks are redrawn during training: the weights with the largest
    V stay (exploit), the rest is drawn at random (explore), the less the longer it trains.
    The defaults repair the published algorithm, which ``reference()`` returns.

    Attributes:
        measure_lr: step size of V, in (0, 1].
        measure_update: ``ema``, V += measure_lr * (reward - V) on weights that are on, or
            ``accumulate``, V += measure_lr * reward (published), in which ``measure_lr`` scales
            all values alike and so changes no mask.
        reward: ``loss_decrease``, or ``loss_increase`` (published).
        count_first_loss: let the first step's whole loss be its reward (published).
        budget: ``exact``, explore only among weights that are not exploited, so that every
            layer always has its k ones; or ``overshoot``, draw k at random from all (published),
            so that the density is about (1-s)(1 + s*p) when the share p is exploited.
        exploration: shape of the explored share over the training.
        exploration_start: explored share at the start, in [0, 1].
        exploration_end: explored share at the stop, in [0, 1].
        exploration_stop: part of the training, in (0, 1], after which the mask is fixed to
            the best k.
        update_interval: training steps between redraws.
        update_clock: ``training`` counts steps over the whole training; ``epoch`` counts them
            within each epoch, follows the schedule by epochs, and fixes the mask at the first
            step of the last epoch before the stop (published).
        regrow: a weight that comes back on starts from its ``latent`` value, the one it had when
            it was switched off (published), or from ``zero``.
    """

    measure_lr: float = 0.1
    measure_update: Literal["ema", "accumulate"] = "ema"
    reward: Literal["loss_decrease", "loss_increase"] = "loss_decrease"
    count_first_loss: bool = False
    budget: Literal["exact", "overshoot"] = "exact"
    exploration: Shape = "cosine"
    exploration_start: float = 0.3
    exploration_end: float = 0.0
    exploration_stop: float = 0.5
    update_interval: int = 100
    update_clock: Literal["training", "epoch"] = "training"
    regrow: Literal["zero", "latent"] = "latent"

    @classmethod
    def reference(cls) -> Self:
        """The published algorithm, with all its faults."""
        return cls(
            measure_lr=0.01,
            measure_update="accumulate",
            reward="loss_increase",
            count_first_loss=True,
            budget="overshoot",
            exploration="linear",
            exploration_start=1.0,
            exploration_end=0.0,
            exploration_stop=1.0,
            update_interval=10,
            update_clock="epoch",
            regrow="latent",
        )

    def options(self) -> dict[str, Any]:
        """The options by name, as ``rsas.TrainConfig`` takes them."""
        return dataclasses.asdict(self)

    def kept(self, numel: int, sparsity: float) -> int:
        """How many weights of a layer the redraws keep on."""
        if self.budget == "overshoot":
            return distributions.kept_published(numel, sparsity)
        return distributions.kept(numel, sparsity)

    def exploited(self, at: Position) -> float | None:
        """Share of the next mask taken from the largest V; None where nothing is redrawn.

        The schedule is kept as the exploited share 1 - explored, so that the published
        floor(k * epoch / epochs) comes out without a rounding error.
        """
        if self.update_clock == "epoch":
            # Rounded, as 0.07 * 100 is 7.000000000000001.
            last = math.ceil(round(self.exploration_stop * at.epochs, 9)) - 1
            if at.epoch == last and at.step == 0:
                return 1.0
            due = at.epoch < last and at.step % self.update_interval == 0
            progress = at.epoch / at.epochs / self.exploration_stop
        else:
            done = at.epoch * at.steps_per_epoch + at.step + 1
            stop = max(1, round(self.exploration_stop * at.epochs * at.steps_per_epoch))
            if done == stop:
                return 1.0
            due = done < stop and done % self.update_interval == 0
            progress = done / stop
        if not due:
            return None
        start, end = 1 - self.exploration_start, 1 - self.exploration_end
        return interpolate(self.exploration, start, end, progress)

    def next_mask(
        self,
        measure: Tensor,
        keep: int,
        exploited: float,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The redrawn mask of a layer.

        Args:
            measure: measure values, of the shape of the weight.
            keep: k, the layer's budget.
            exploited: share of the budget given to the largest measure values.
            generator: source of the draws, on the device of ``measure``.

        Returns:
            Boolean mask: exactly ``keep`` ones under the exact budget; between ``keep`` and
            keep + floor(keep * exploited) under the published one.
        """
        best = math.floor(keep * exploited)
        if self.budget == "exact":
            mask = masks.top(measure, best, generator=generator)
            if best == keep:
                return mask
            return mask | masks.draw(~mask, keep - best, generator=generator)
        mask = masks.top_by_position(measure, best)
        if exploited == 1.0:
            return mask
        everywhere = torch.ones_like(mask)
        return mask | masks.draw(everywhere, keep, generator=generator)
