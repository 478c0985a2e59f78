"""The measure value: what a weight's presence in the mask was worth, learned from rewards."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from torch import Tensor

from rsas.errors import InputError
from rsas.options import Attribution, Update
from rsas.sparse.layers import Layer
from rsas.sparse.ranks import mean_of_ranks

__all__ = ["GlobalCredit", "Learner", "PerWeightCredit"]


class Learner(Protocol):
    """Learns the measure values of layers, in place."""

    steps: float
    """Number of steps before each redraw that are observed; infinite for all steps."""
    is_paired: bool
    """Whether ``after_step`` needs ``loss_again``."""

    def before_step(self, layers: Iterable[Layer], loss: Tensor) -> None:
        """Observe a step before the optimizer's step; the loss is a detached scalar."""

    def after_step(self, layers: Iterable[Layer], loss_again: Callable[[], Tensor] | None) -> None:
        """Observe a step after the optimizer's step, with the weights masked.

        ``loss_again`` computes the loss of the same batch with the weights as they are now.
        """

    def settle(self, layers: Iterable[Layer]) -> None:
        """Bring the measure values up to date before a redraw."""

    def state_dict(self) -> dict[str, Any]:
        """Return what ``load_state_dict`` needs to continue, beside the measure values."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict()``."""


class GlobalCredit:
    """One reward a step for all weights that are on: the change of the training loss.

    The reward is the change since the step before or, paired, between the losses before and
    after the step on the same batch. The masks stay as they are until the next redraw, so the
    update of the measure values V after n steps with rewards r_1..r_n has a closed form:

    - accumulate: V += a * (r_1 + ... + r_n), the published update; the sum telescopes to the
      last loss minus the first. V is linear in the rate a, so its ranking does not depend on it.
    - ema: V <- (1-a)^n V + sum_j a (1-a)^(n-j) r_j, the constant-step-size bandit estimate
      V += a (r - V) (Sutton & Barto 2018, eq. 2.5) applied n times.

    A step only notes its loss, on its device, so it computes nothing and waits for nothing.
    Processes that train one model together average their losses before each redraw.

    Args:
        rate: the measure-learning-rate a, in (0, 1].
        update: how V follows the rewards.
        sign: 1 where a falling loss is good, -1 where a rising one is (published).
        paired: compare the losses before and after a step, not those of two steps. Unpaired, the
            first step has no reward.
        baseline: subtract the mean of all earlier rewards (Sutton & Barto 2018, section 2.8).
    """

    def __init__(
        self,
        *,
        rate: float,
        update: Update,
        sign: float,
        paired: bool,
        baseline: bool,
        device: torch.device,
    ) -> None:
        self._rate, self._update, self._sign = rate, update, sign
        self.steps, self.is_paired = math.inf, paired
        self._baseline = baseline
        # Losses since the last redraw; unpaired, the last one before it comes first.
        self._losses: list[Tensor] = []
        self._rewards = 0  # before the last redraw
        self._mean = torch.zeros((), dtype=torch.float64, device=device)  # of those

    def before_step(self, layers: Iterable[Layer], loss: Tensor) -> None:
        """Note the loss of a step, a detached scalar."""
        self._losses.append(loss)

    def after_step(self, layers: Iterable[Layer], loss_again: Callable[[], Tensor] | None) -> None:
        """Note the loss of the same batch after the step, where rewards are paired."""
        if self.is_paired:
            if loss_again is None:
                raise InputError(
                    "paired=True: Sparsifier.step needs loss_again at every step, a function that "
                    "returns the loss of the same batch"
                )
            self._losses.append(loss_again())

    def settle(self, layers: Iterable[Layer]) -> None:
        """Update the measure values of the weights that are on, before a redraw."""
        if not self._losses:
            return
        losses = mean_of_ranks(torch.stack(self._losses).double())
        falls = losses[::2] - losses[1::2] if self.is_paired else -losses.diff()
        self._losses = [] if self.is_paired else self._losses[-1:]
        rewards = self._against_baseline(self._sign * falls)
        steps = len(rewards)
        kept = 1.0
        if self._update == "ema":
            kept = (1 - self._rate) ** steps
            ages = torch.arange(steps - 1, -1, -1, dtype=rewards.dtype, device=rewards.device)
            rewards = rewards * (1 - self._rate) ** ages
        gained = self._rate * rewards.sum()
        for layer in layers:
            measure = _measure(layer)
            change = measure * (kept - 1) + gained.to(measure.dtype)
            measure += change.mul_(layer.factor)

    def state_dict(self) -> dict[str, Any]:
        """Return what ``load_state_dict`` needs to continue."""
        losses = torch.stack(self._losses) if self._losses else None
        return {"losses": losses, "rewards": self._rewards, "mean": self._mean}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict()``."""
        device = self._mean.device
        self._losses = [] if state["losses"] is None else list(state["losses"].to(device).unbind())
        self._rewards, self._mean = state["rewards"], state["mean"].to(device)

    def _against_baseline(self, rewards: Tensor) -> Tensor:
        """Subtract from each reward the mean of all earlier ones; the very first one becomes 0."""
        if not self._baseline or not len(rewards):
            return rewards
        number = self._rewards + torch.arange(len(rewards), device=rewards.device)
        sums = self._rewards * self._mean + rewards.cumsum(0)
        earlier = torch.where(number > 0, (sums - rewards) / number.clamp(min=1), rewards)
        self._rewards += len(rewards)
        self._mean = sums[-1] / self._rewards
        return rewards - earlier


class PerWeightCredit:
    """A reward of its own for each weight that is on, from its gradient g.

    - loss_change: -g * dw, the first-order share of the weight in the fall of the loss at a
      step that moves it by dw (Loss Change Allocation, Lan et al. 2019, but with the gradient
      of the step's batch alone). Their sum over weights and steps is the fall of the loss, to
      first order.
    - saliency: abs(w * g), what the loss would change by without the weight, to first order
      (the connection sensitivity of SNIP, Lee et al. 2019, here during training).

    V += a (r - V) on weights that are on, or V += a r, at each step observed. Weights that are
    off are zero before and after a step, so their reward is zero. No copy of a weight is kept:
    -g * dw is added as g * w before the step and taken off as g * w after it.

    Args:
        rate: the measure-learning-rate a, in (0, 1].
        update: ``ema`` or ``accumulate``, as for global credit.
        sign: 1 where a falling loss is good, -1 where a rising one is.
        attribution: which reward.
        steps: number of steps before each redraw that are observed, at least 1.
        baseline: subtract from each reward the mean over the weights of the layer that are on.
    """

    def __init__(
        self,
        *,
        rate: float,
        update: Update,
        sign: float,
        attribution: Attribution,
        steps: float,
        baseline: bool,
    ) -> None:
        self.steps, self.is_paired = steps, False
        self._rate, self._update, self._baseline = rate, update, baseline
        self._scale = sign * rate
        self._attribution = attribution

    def before_step(self, layers: Iterable[Layer], loss: Tensor) -> None:
        """Observe a step before the optimizer's step."""
        for layer in layers:
            measure = _measure(layer)
            if self._update == "ema":
                measure.sub_(measure * layer.factor, alpha=self._rate)
            reward = _weight_times_gradient(layer)
            self._add(
                layer,
                reward.abs_() if self._attribution == "saliency" else reward,
                self._scale,
            )

    def after_step(self, layers: Iterable[Layer], loss_again: Callable[[], Tensor] | None) -> None:
        """Observe a step after the optimizer's step, with the weights masked."""
        if self._attribution == "loss_change":
            for layer in layers:
                self._add(layer, _weight_times_gradient(layer), -self._scale)

    def settle(self, layers: Iterable[Layer]) -> None:
        """Do nothing: measure values follow at each step."""

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the measure values are the whole state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict()``."""

    def _add(self, layer: Layer, reward: Tensor, scale: float) -> None:
        if self._baseline:
            mean = reward.sum() / layer.mask.sum().clamp(min=1)
            reward -= layer.factor * mean
        _measure(layer).add_(reward, alpha=scale)


def _weight_times_gradient(layer: Layer) -> Tensor:
    # In the precision of the measure: -g * dw is a small difference of such products.
    return layer.weight.to(_measure(layer).dtype) * layer.gradient


def _measure(layer: Layer) -> Tensor:
    assert layer.measure is not None
    return layer.measure
