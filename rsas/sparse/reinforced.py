"""Reinforced sparse architecture search: exploit what measure values praise, explore the rest."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import torch
from torch import Tensor

from rsas.fields import range_of
from rsas.sparse import masks
from rsas.sparse.distributions import kept_published
from rsas.sparse.layers import Layer, Target
from rsas.sparse.measure import Attribution, GlobalCredit, Learner, PerWeightCredit
from rsas.sparse.methods import (
    Position,
    PruningMethod,
    largest_gradients,
    progress_at,
    steps_ahead,
)
from rsas.sparse.schedules import Shape, count_of, interpolate

__all__ = ["NoisePruning", "ReinforcedPruning", "overshooting_mask"]

_Generator = torch.Generator | None


@dataclass(frozen=True, kw_only=True)
class ReinforcedPruning(PruningMethod):
    """Reinforced sparse architecture search (RSAS, 2023), published and repaired.

    Every weight has a measure value V, learned from rewards while the weight is on
    (``rsas.sparse.measure``). Masks are redrawn during training: the weights with the largest
    V stay (exploit), the rest is drawn anew (explore), the less the longer it trains.
    The defaults repair the published algorithm, which ``reference()`` returns.

    Attributes:
        measure_lr: step size of V, in (0, 1].
        measure_update: ``ema``, V += measure_lr * (reward - V) on weights that are on, or
            ``accumulate``, V += measure_lr * reward (published), in which ``measure_lr`` scales
            all values alike and so changes no mask.
        credit: ``global``, one reward a step for all weights that are on, the change of the loss
            (published); or ``per_weight``, to each its own by ``attribution``.
        attribution: the reward of a weight under ``per_weight``: ``loss_change``, -g * dw (Lan et
            al. 2019), or ``saliency``, abs(w * g) (Lee et al. 2019).
        credit_steps: steps before each redraw whose ``per_weight`` rewards count, at least 1.
        reward: ``loss_decrease``, or ``loss_increase`` (published), which turns the sign.
        reward_baseline: ``none``, or ``mean``, which is subtracted from rewards: the mean of all
            earlier ones under ``global`` (Sutton & Barto 2018, section 2.8), the mean over the
            layer's weights that are on under ``per_weight``.
        paired: measure the loss change of ``global`` between before and after the step on the same
            batch, at the price of a second forward pass, instead of between two batches.
        count_first_loss: let the first step's whole loss be its reward (published).
        budget: ``exact``, explore only among weights that are not exploited, so that every
            layer always has its k ones; or ``overshoot``, draw k at random from all (published),
            so that the density is about (1-s)(1 + s*p) when the share p is exploited.
        exploration: shape of the explored share over the training.
        exploration_start: explored share at the start, in [0, 1].
        exploration_end: explored share at the stop, in [0, 1].
        exploration_stop: part of the training, in (0, 1], after which the mask is fixed to
            the best k.
        exploration_draw: explored weights are drawn uniformly, or are those of the largest
            ``gradient`` magnitude, as RigL grows them.
        exploration_steps: steps before each redraw whose gradients are summed up for that, at
            least 1 (RigL's choice). What batches do not agree on cancels out, as in the smoothed
            gradients of sparse momentum (Dettmers & Zettlemoyer 2019).
        update_interval: training steps between redraws.
        update_clock: ``training`` counts steps over the whole training; ``epoch`` counts them
            within each epoch, follows the schedule by epochs, and fixes the mask at the first
            step of the last epoch before the stop (published).
        regrow: a weight that comes back on starts from its ``latent`` value, the one it had when
            it was switched off (published), from ``zero``, or by the ``gradient``: from
            -regrow_scale * lr * (sum of its gradients in the last ``exploration_steps`` steps),
            at scale 1 where plain SGD would have taken it from zero in these steps.
        regrow_scale: of ``regrow="gradient"``, in [0, 100].
    """

    measure_lr: float = field(default=0.3, metadata=range_of(0, 1, open_low=True))
    measure_update: Literal["ema", "accumulate"] = "ema"
    credit: Literal["global", "per_weight"] = "per_weight"
    attribution: Attribution = "saliency"
    credit_steps: int = field(default=1, metadata=range_of(1, 10**9))
    reward: Literal["loss_decrease", "loss_increase"] = "loss_decrease"
    reward_baseline: Literal["none", "mean"] = "none"
    paired: bool = False
    count_first_loss: bool = False
    budget: Literal["exact", "overshoot"] = "exact"
    exploration: Shape = "cosine"
    exploration_start: float = field(default=0.6, metadata=range_of(0, 1))
    exploration_end: float = field(default=0.0, metadata=range_of(0, 1))
    exploration_stop: float = field(default=0.75, metadata=range_of(0, 1, open_low=True))
    exploration_draw: Literal["uniform", "gradient"] = "gradient"
    exploration_steps: int = field(default=50, metadata=range_of(1, 10**9))
    update_interval: int = field(default=50, metadata=range_of(1, 10**9))
    update_clock: Literal["training", "epoch"] = "training"
    regrow: Literal["zero", "latent", "gradient"] = "gradient"
    regrow_scale: float = field(default=2.0, metadata=range_of(0, 100))

    @classmethod
    def reference(cls) -> Self:
        """The published algorithm, with all its faults."""
        return cls(
            measure_lr=0.01,
            measure_update="accumulate",
            credit="global",
            reward="loss_increase",
            count_first_loss=True,
            budget="overshoot",
            exploration="linear",
            exploration_start=1.0,
            exploration_end=0.0,
            exploration_stop=1.0,
            exploration_draw="uniform",
            exploration_steps=1,
            update_interval=10,
            update_clock="epoch",
            regrow="latent",
            regrow_scale=1.0,
        )

    def options(self) -> dict[str, Any]:
        """The options by name, as ``rsas.TrainConfig`` takes them."""
        return dataclasses.asdict(self)

    @property
    def keeps_latent(self) -> bool:
        """Whether weights that are off keep their value."""
        return self.regrow == "latent"

    @property
    def is_paired(self) -> bool:
        """Whether a reward compares the loss before and after a step."""
        return self.paired and self.credit == "global"

    def keeps(self, planned: int, numel: int, target: Target) -> int:
        """As planned, but rounded down in the published algorithm."""
        if self.budget == "overshoot" and target.distribution == "uniform":
            return kept_published(numel, target.sparsity)
        return planned

    def first_measure(self, weight: Tensor, generator: _Generator) -> Tensor | None:
        """Zero for every weight, in float32 at least: rewards are small beside the values."""
        return torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))

    def learner(self, device: torch.device) -> Learner | None:
        """What measure values are learned by."""
        sign = 1.0 if self.reward == "loss_increase" else -1.0
        baseline = self.reward_baseline == "mean"
        # Accumulated, V is proportional to the rate, but for the rounding, which must not decide.
        rate = 1.0 if self.measure_update == "accumulate" else self.measure_lr
        if self.credit == "per_weight":
            return PerWeightCredit(
                rate=rate,
                update=self.measure_update,
                sign=-sign,  # both attributions are of a falling loss
                attribution=self.attribution,
                baseline=baseline,
            )
        return GlobalCredit(
            rate=rate,
            update=self.measure_update,
            sign=sign,
            paired=self.paired,
            count_first_loss=self.count_first_loss,
            baseline=baseline,
            device=device,
        )

    def learns(self, at: Position) -> bool:
        """Whether rewards of a step count for a redraw to come."""
        ahead = self._steps_ahead(at)
        return ahead is not None and (self.credit == "global" or ahead < self.credit_steps)

    def gathers(self, at: Position) -> bool:
        """Whether the gradient of a step is to be summed up for the next redraw."""
        if self.regrow != "gradient" and self.exploration_steps == 1:
            return False  # the last gradient is there anyway
        ahead = self._steps_ahead(at)
        return ahead is not None and ahead < self.exploration_steps

    @property
    def regrow_steps(self) -> float:
        """Multiple of the gathered SGD steps that a weight which comes back on starts from."""
        return self.regrow_scale if self.regrow == "gradient" else 0.0

    def schedule(self, at: Position) -> float | None:
        """Share of the next mask taken from the largest V; None where nothing is redrawn.

        The schedule is kept as the exploited share 1 - explored, so that the published
        floor(k * epoch / epochs) comes out without a rounding error.
        """
        progress: float | None
        if self.update_clock == "epoch":
            final = self._final_epoch(at)
            if at.epoch == final and at.step == 0:
                return 1.0
            due = at.epoch < final and at.step % self.update_interval == 0
            progress = at.epoch / at.epochs / self.exploration_stop if due else None
        else:
            progress = progress_at(at, self.update_interval, self.exploration_stop)
            if progress == 1.0:
                return 1.0
        if progress is None:
            return None
        start, end = 1 - self.exploration_start, 1 - self.exploration_end
        return interpolate(self.exploration, start, end, progress)

    def explores(self, share: float) -> float:
        """What is not exploited; ``overshoot`` draws a whole budget beside it."""
        return 1 - share

    def next_mask(self, layer: Layer, share: float, *, generator: _Generator = None) -> Tensor:
        """The mask with ``share`` of its budget exploited.

        It has exactly ``layer.keep`` ones under the exact budget; between ``keep`` and
        keep + floor(keep * share) under the published one.
        """
        assert layer.measure is not None
        if self.budget == "overshoot":
            return overshooting_mask(layer.measure, layer.keep, share, generator=generator)
        if not layer.has_gradient:
            return layer.mask  # not in use: what would be explored could not train
        best = count_of(layer.keep, share)
        mask = masks.top(layer.measure, best, generator=generator)
        if best == layer.keep:
            return mask
        if self.exploration_draw == "gradient":
            return mask | largest_gradients(layer, ~mask, layer.keep - best, generator)
        return mask | masks.draw(~mask, layer.keep - best, generator=generator)

    def _steps_ahead(self, at: Position) -> int | None:
        """Steps from this one to the next redraw, 0 where it is due now; None after the last."""
        if self.update_clock == "epoch":
            final = self._final_epoch(at)
            if at.epoch > final or (at.epoch == final and at.step > 0):
                return None
            # The next redraw is in this epoch, or at the first step of the next one.
            return min(-at.step % self.update_interval, at.steps_per_epoch - at.step)
        return steps_ahead(at, self.update_interval, self.exploration_stop)

    def _final_epoch(self, at: Position) -> int:
        """The epoch, counted from 0, whose first step fixes the mask under the epoch clock."""
        # Rounded, as 0.07 * 100 is 7.000000000000001.
        return math.ceil(round(self.exploration_stop * at.epochs, 9)) - 1


@dataclass(frozen=True, kw_only=True)
class NoisePruning(ReinforcedPruning):
    """``reinforced`` with measure values drawn once at random and never learned.

    The control for what learning adds: exploit, explore and regrow are the same. What differs
    from ``reinforced`` is owed to V, what differs from ``static`` to redrawing as such.
    """

    def first_measure(self, weight: Tensor, generator: _Generator) -> Tensor | None:
        """Uniform in [0, 1)."""
        return torch.rand(weight.shape, generator=generator, device=weight.device)

    def learner(self, device: torch.device) -> Learner | None:
        """None: nothing is learned."""
        return None

    def learns(self, at: Position) -> bool:
        """Never."""
        return False

    @property
    def is_paired(self) -> bool:
        """Never."""
        return False


def overshooting_mask(
    measure: Tensor, keep: int, share: float, *, generator: _Generator = None
) -> Tensor:
    """The published redraw: the best of the budget, and a whole budget drawn from all weights.

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
