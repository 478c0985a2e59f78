"""The forward passes of a training run: outputs, losses, and the evaluation of a split."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rsas import data
from rsas.config import TrainConfig
from rsas.userfile import users_code

__all__ = ["Passes"]

_EVALUATION_BATCH = 256


class Passes:
    """The forward passes of a model, in the precision of its configuration.

    Args:
        config: the configuration of the run.
        model: on its device.
        device: of the model.
    """

    def __init__(self, config: TrainConfig, model: nn.Module, device: torch.device) -> None:
        self._config, self._model, self._device = config, model, device

    def outputs(self, inputs: Tensor) -> Tensor:
        """Return the model's outputs as float32, computed in the configuration's precision."""
        reduced = self._config.precision == "bfloat16"
        with torch.autocast(self._device.type, torch.bfloat16, enabled=reduced):
            outputs: Tensor = self._model(inputs)
        return outputs.float()

    def loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the training loss of a batch, a mean over its inputs."""
        smoothing = self._config.label_smoothing
        return F.cross_entropy(self.outputs(inputs), labels, label_smoothing=smoothing)

    def repeatable(self, inputs: Tensor, labels: Tensor) -> Callable[[], Tensor]:
        """Return a function that repeats the next loss of a batch, with the same dropout.

        The function restores the statistics of BatchNorm and the state of torch's generators.
        """
        rng = torch.get_rng_state()
        is_cuda = self._device.type == "cuda"
        cuda_rng = torch.cuda.get_rng_state(self._device) if is_cuda else None

        def again() -> Tensor:
            buffers = [buffer.clone() for buffer in self._model.buffers()]
            with torch.random.fork_rng([self._device] if is_cuda else []):
                torch.set_rng_state(rng)
                if cuda_rng is not None:
                    torch.cuda.set_rng_state(cuda_rng, self._device)
                loss = self.loss(inputs, labels)
            for buffer, before in zip(self._model.buffers(), buffers, strict=True):
                buffer.copy_(before)
            return loss

        return again

    @torch.inference_mode()
    @users_code()
    def evaluate(self, x: Tensor, y: Tensor) -> tuple[float, float]:
        """Return mean cross-entropy and accuracy in [0, 1], in eval mode without gradients.

        Both are NaN without inputs.

        Args:
            x: inputs as in ``rsas.data.Splits``, shape (N, ...).
            y: labels, shape (N,).
        """
        if len(y) == 0:
            return float("nan"), float("nan")
        self._model.eval()
        size = max(_EVALUATION_BATCH, self._config.batch_size)
        loss = torch.zeros((), device=self._device)
        correct = torch.zeros((), device=self._device, dtype=torch.long)
        for images, labels in zip(x.split(size), y.split(size), strict=True):
            outputs = self.outputs(data.to_input(images, self._config))
            loss += F.cross_entropy(outputs, labels, reduction="sum")
            correct += (outputs.argmax(1) == labels).sum()
        return loss.item() / len(y), correct.item() / len(y)
