"""Reinforced sparse architecture search: exploit the largest measure values, explore the rest."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rsas.options import Attribution, Baseline, Credit, Draw, Regrow, Reward, Shape, Update, option
from rsas.sparse.layers import Layer
from rsas.sparse.measure import GlobalCredit, Learner, PerWeightCredit
from rsas.sparse.methods import PruningMethod, Redraw
from rsas.sparse.schedules import Clock, Every, count_of, interpolate

__all__ = ["ExploringPruning", "NoisePruning", "ReinforcedPruning"]

_Generator = torch.Generator | None


@dataclass(frozen=True, kw_only=True)
class ExploringPruning(PruningMethod):
    """Keep the weights of the largest measure value V, and explore the rest of the budget.

    The longer the training, the less is explored.

    Attributes:
        exploration: shape of the explored share over the training.
        exploration_start: explored share at the start, in [0, 1].
        exploration_end: explored share at the stop, in [0, 1].
        exploration_stop: part of the training, in (0, 1], after which the mask is fixed to
            the best k.
        exploration_draw: explored weights are drawn uniformly, or are those of the largest
            ``gradient`` magnitude, as RigL grows them.
        exploration_steps: steps before each redraw whose gradients are summed up for that redraw,
            at least 1 (RigL's choice). Gradients on which batches disagree cancel out, as in the
            smoothed gradients of sparse momentum (Dettmers & Zettlemoyer 2019).
        update_interval: training steps between redraws.
        regrow: a weight that comes back on starts from its ``latent`` value, the one it had when
            it was switched off (published), from ``zero``, or by the ``gradient``: from
            -regrow_scale * lr * (sum of its gradients in the last ``exploration_steps`` steps),
            at scale 1 where plain SGD would have taken it from zero in these steps.
        regrow_scale: of ``regrow="gradient"``, in [0, 100].
    """

    exploration: Shape = option("exploration")
    exploration_start: float = option("exploration_start")
    exploration_end: float = option("exploration_end")
    exploration_stop: float = option("exploration_stop")
    exploration_draw: Draw = option("exploration_draw")
    exploration_steps: int = option("exploration_steps")
    update_interval: int = option("update_interval")
    regrow: Regrow = option("regrow")
    regrow_scale: float = option("regrow_scale")

    @property
    def clock(self) -> Clock:
        return Every(self.update_interval, self.exploration_stop)

    def explored(self, progress: float) -> float:
        return 1 - self.exploited(progress)

    def exploited(self, progress: float) -> float:
        """Return the share of the budget that goes to the largest V, in [0, 1].

        It is interpolated itself, not as 1 - explored, so that the published
        floor(k * epoch / epochs) has no rounding error.
        """
        if progress == 1.0:
            return 1.0
        start, end = 1 - self.exploration_start, 1 - self.exploration_end
        return interpolate(self.exploration, start, end, progress)

    def schedule(self, layer: Layer, progress: float) -> Redraw | None:
        if not layer.has_gradient:
            return None  # not in use: what would be explored could not train
        best = count_of(layer.keep, self.exploited(progress))
        return Redraw(keep=best, explore=layer.keep - best)

    def keep_score(self, layer: Layer) -> Tensor:
        assert layer.measure is not None
        return layer.measure

    def fill_score(self, layer: Layer) -> Tensor | None:
        return layer.recent_gradient.abs() if self.exploration_draw == "gradient" else None

    @property
    def gather_steps(self) -> int:
        if self.regrow != "gradient" and self.exploration_steps == 1:
            return 0  # the last gradient is there anyway
        return self.exploration_steps

    @property
    def keeps_latent(self) -> bool:
        return self.regrow == "latent"

    @property
    def regrow_steps(self) -> float:
        return self.regrow_scale if self.regrow == "gradient" else 0.0


@dataclass(frozen=True, kw_only=True)
class ReinforcedPruning(ExploringPruning):
    """Reinforced sparse architecture search (RSAS, 2023), repaired.

    Every weight has a measure value V, learned from rewards while the weight is on
    (``rsas.sparse.measure``). ``PublishedPruning`` is the published algorithm.

    Attributes:
        measure_lr: step size of V, in (0, 1].
        measure_update: ``ema``, V += measure_lr * (reward - V) on weights that are on, or
            ``accumulate``, V += measure_lr * reward (published), in which ``measure_lr`` scales
            all values alike and so changes no mask.
        credit: ``global``, one reward a step for all weights that are on, the change of the loss
            (published); or ``per_weight``, a reward for each weight by ``attribution``.
        attribution: the reward of a weight under ``per_weight``: ``loss_change``, -g * dw (Lan et
            al. 2019), or ``saliency``, abs(w * g) (Lee et al. 2019).
        credit_steps: steps before each redraw whose ``per_weight`` rewards count, at least 1.
        reward: ``loss_decrease``, or ``loss_increase`` (published), which turns the sign.
        reward_baseline: ``none``, or ``mean``, which is subtracted from rewards: the mean of all
            earlier ones under ``global`` (Sutton & Barto 2018, section 2.8), the mean over the
            layer's weights that are on under ``per_weight``.
        paired: measure the loss change of ``global`` between before and after the step on the same
            batch, at the price of a second forward pass, instead of between two batches.
    """

    measure_lr: float = option("measure_lr")
    measure_update: Update = option("measure_update")
    credit: Credit = option("credit")
    attribution: Attribution = option("attribution")
    credit_steps: int = option("credit_steps")
    reward: Reward = option("reward")
    reward_baseline: Baseline = option("reward_baseline")
    paired: bool = option("paired")

    def first_measure(self, weight: Tensor, generator: _Generator) -> Tensor:
        # In float32 at least: rewards are small beside the values.
        return torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))

    def learner(self, device: torch.device) -> Learner:
        # Accumulated, V is proportional to the rate, and the rounding by it must not decide.
        rate = 1.0 if self.measure_update == "accumulate" else self.measure_lr
        sign = 1.0 if self.reward == "loss_decrease" else -1.0
        baseline = self.reward_baseline == "mean"
        if self.credit == "per_weight":
            return PerWeightCredit(
                rate=rate,
                update=self.measure_update,
                sign=sign,
                attribution=self.attribution,
                steps=self.credit_steps,
                baseline=baseline,
            )
        return GlobalCredit(
            rate=rate,
            update=self.measure_update,
            sign=sign,
            paired=self.paired,
            baseline=baseline,
            device=device,
        )


@dataclass(frozen=True, kw_only=True)
class NoisePruning(ExploringPruning):
    """Exploit measure values that are drawn once, uniform in [0, 1), and never learned.

    The control for what learning adds: exploit, explore and regrow are those of ``reinforced``.
    A difference from ``reinforced`` is due to V, a difference from ``static`` to redrawing.
    """

    def first_measure(self, weight: Tensor, generator: _Generator) -> Tensor:
        return torch.rand(weight.shape, generator=generator, device=weight.device)
