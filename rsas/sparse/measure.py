"""The measure value: what a weight's presence in the mask was worth, learned from rewards."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

__all__ = ["RewardWindow"]


class RewardWindow:
    """Rewards since the last redraw of the masks, folded into two scalars.

    The reward of a step is the change of the training loss since the step before. It is one
    number for all weights that are on, and the masks stay as they are until the next redraw, so
    the update of the measure values V after n steps with rewards r_1..r_n has a closed form:

    - accumulate: V += a * (r_1 + ... + r_n), the published update; the sum telescopes to the
      last loss minus the first. V is linear in the rate a, so its ranking does not depend on it.
    - ema: V <- (1-a)^n V + sum_j a (1-a)^(n-j) r_j, the constant-step-size bandit estimate
      V += a (r - V) (Sutton & Barto 2018, eq. 2.5) applied n times.

    Losses stay on their device: no step waits for it.

    Args:
        rate: the measure-learning-rate a, in (0, 1].
        update: how V follows the rewards.
        reward: sign of the loss change that counts as good; ``loss_increase`` is published.
        count_first_loss: the first step's reward is its whole loss, as in the published code
            (which starts with a previous loss of 0); otherwise the first step has no reward.
    """

    def __init__(
        self,
        *,
        rate: float,
        update: Literal["ema", "accumulate"],
        reward: Literal["loss_decrease", "loss_increase"],
        count_first_loss: bool,
        device: torch.device,
    ) -> None:
        self._rate = rate
        self._update = update
        self._sign = 1.0 if reward == "loss_increase" else -1.0
        self._steps = 0
        self._folded = torch.zeros((), dtype=torch.float64, device=device)
        self._previous: Tensor | None = torch.zeros_like(self._folded) if count_first_loss else None

    def observe(self, loss: Tensor) -> None:
        """Take the loss of one step (a detached scalar)."""
        loss = loss.double()
        if self._previous is not None:
            reward = self._sign * (loss - self._previous)
            if self._update == "ema":
                self._folded += self._rate * (reward - self._folded)
            else:
                self._folded += self._rate * reward
            self._steps += 1
        self._previous = loss

    def apply(self, measure: Tensor, mask: Tensor) -> None:
        """Update the measure values of the weights that were on during this window, in place."""
        kept = (1 - self._rate) ** self._steps if self._update == "ema" else 1.0
        updated = measure * kept + self._folded.to(measure.dtype)
        measure.copy_(torch.where(mask, updated, measure))

    def reset(self) -> None:
        """Begin the next window; the last loss is remembered."""
        self._steps = 0
        self._folded = torch.zeros_like(self._folded)

    def state_dict(self) -> dict[str, Any]:
        """What ``load_state_dict`` needs to go on."""
        return {"steps": self._steps, "folded": self._folded, "previous": self._previous}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state_dict()``."""
        self._steps = state["steps"]
        self._folded = state["folded"]
        self._previous = state["previous"]
