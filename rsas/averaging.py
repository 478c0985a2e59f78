"""The average of a network's weights over the steps of its training, with its masks on."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from rsas.config import TrainConfig
from rsas.errors import InputError, reason_of
from rsas.sparse import Sparsifier

__all__ = ["Average"]


class Average:
    """An average of the weights of a model, kept beside them: one more copy of the model.

    - ``ema``: the exponential moving average, whose decay after n steps is the smaller one of
      ``average_decay`` and (1 + n) / (10 + n), so that it forgets the first weights early (as
      TensorFlow's ``ExponentialMovingAverage``).
    - ``last``: the mean over the steps of the last ``average_part`` of the training (Izmailov et
      al. 2018, SWA).

    Weights that are off are zero in the average, too, from the step at which they are switched
    off. The statistics of BatchNorm, and all other buffers of floats, are averaged like weights;
    other buffers are copied.

    Args:
        config: ``average`` is not ``none``.
        model: of which the average begins.
        steps: of the whole training.

    Raises:
        InputError: the model cannot be copied.

    Attributes:
        model: the averaged model.
    """

    def __init__(self, config: TrainConfig, model: nn.Module, steps: int) -> None:
        self._config = config
        try:
            self.model = copy.deepcopy(model)
        except Exception as error:
            raise InputError(
                f"average={config.average!r}: copying the model failed ({reason_of(error)})"
            ) from error
        self._waits = 0  # steps before the average begins
        if config.average == "last":
            self._waits = steps - max(1, round(config.average_part * steps))
        self._seen = 0

    @property
    def has_begun(self) -> bool:
        """Whether at least one step is in the average."""
        return self._seen > self._waits

    @torch.no_grad()
    def update(self, model: nn.Module, sparsifier: Sparsifier) -> None:
        """Take the weights of the model after a step of the optimizer and of the sparsifier."""
        self._seen += 1
        if not self.has_begun:
            return
        before = self._seen - self._waits - 1  # steps in the average
        share = 1 / (before + 1)
        if self._config.average == "ema" and before > 0:
            share = 1 - min(self._config.average_decay, (1 + before) / (10 + before))
        for mean, value in zip(_tensors(self.model), _tensors(model), strict=True):
            if before == 0 or not mean.is_floating_point():
                mean.copy_(value)
            else:
                mean.lerp_(value, share)
        sparsifier.apply_to(self.model)

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Replace the weights and buffers of the model by their averages."""
        for mean, value in zip(_tensors(self.model), _tensors(model), strict=True):
            value.copy_(mean)

    def state_dict(self) -> dict[str, Any]:
        """Return the averages and the number of steps: plain types and tensors."""
        return {"model": self.model.state_dict(), "seen": self._seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore ``state_dict()`` of an average of the same configuration."""
        self.model.load_state_dict(state["model"])
        self._seen = state["seen"]


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    return chain(model.parameters(), model.buffers())
