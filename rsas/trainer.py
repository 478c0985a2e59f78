"""Train one network, without Ray, Optuna or MLflow."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_

from rsas import build, data, small_dense
from rsas.averaging import Average
from rsas.config import TrainConfig
from rsas.errors import NonFiniteLoss
from rsas.lr import rate
from rsas.passes import Passes
from rsas.pruning import method_of, target_of
from rsas.sparse import Sparsifier, prunable
from rsas.states import DefaultGenerators
from rsas.userfile import users_code

__all__ = ["EpochTrainer", "Row", "RunResult", "Trainer", "train"]

Row = dict[str, float]
"""A row of the history: column -> value."""


class EpochTrainer(Protocol):
    """A training run that its caller continues epoch by epoch."""

    @property
    def device(self) -> torch.device:
        """Device to which a checkpoint is read."""

    @property
    def epoch(self) -> int:
        """Number of epochs trained."""

    @property
    def history(self) -> list[Row]:
        """The rows of all epochs so far."""

    def run_epoch(self) -> Row:
        """Train one epoch; return its row."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state between two epochs: plain types and tensors."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore ``state_dict()`` of a run of the same configuration."""

    def final_state(self) -> dict[str, Any]:
        """Return the network alone, after the last epoch."""

    def close(self) -> None:
        """Release what the run holds; the run is over."""


@dataclass(frozen=True)
class RunResult:
    """A finished run."""

    config: TrainConfig
    history: pd.DataFrame  # a row per epoch, columns as Trainer.run_epoch returns
    model: nn.Module  # with torch.nn.utils.prune masks, in eval mode
    # In [0, 1], measured once after training; None without a test split.
    test_accuracy: float | None
    input_shape: tuple[int, ...]  # of one input of the model
    num_classes: int


class Trainer:
    """One training run, epoch by epoch; a pure function of its configuration and data.

    Args:
        config: the configuration to train.
        arrays: the data set; by default ``rsas.data.load(config.dataset)``.

    Raises:
        InputError: the configuration does not fit the data or this machine.
    """

    def __init__(self, config: TrainConfig, arrays: data.Arrays | None = None) -> None:
        arrays = data.load(config.dataset) if arrays is None else arrays
        self.config = config
        self.device = build.resolve_device(config.device)
        self._data = data.split(arrays, config, self.device)
        self._input_shape, self._num_classes = arrays.input_shape, arrays.num_classes
        # There are three streams of random numbers, so that drawing masks does not change the
        # batches. Sparsity 0 then equals dense training bit for bit. Initialisation and dropout
        # use the default generators, which the run replaces by its own while the run computes.
        # Each stream has a seed of its own. Masks drawn with the seed of the weights would switch
        # off all large positive weights, and the network would be dead.
        default, batches, draws = np.random.SeedSequence(config.seed).generate_state(3).tolist()
        self._batches = torch.Generator(self.device).manual_seed(batches)
        self._draws = torch.Generator(self.device).manual_seed(draws)
        self._defaults = DefaultGenerators(default, self.device)
        self.history: list[Row] = []
        self._full_sizes = (
            small_dense.layer_sizes(config, arrays.input_shape, arrays.num_classes)
            if config.method == "small_dense"
            else None
        )
        with self._defaults.active():
            self.model = build.build_model(config, arrays, self.device)
        self._passes = Passes(config, self.model, self.device)
        self._optimizer = build.optimizer_of(config, self.model)
        if config.first_mask == "snip":
            self._first_gradients()
        self._sparsifier = Sparsifier(
            self.model,
            self._optimizer,
            method_of(config),
            target_of(config),
            generator=self._draws,
            epochs=config.epochs,
            steps_per_epoch=self._steps_per_epoch(),
        )
        self._average: Average | None = None
        if config.average != "none":
            steps = config.epochs * self._steps_per_epoch()
            self._average = Average(config, self.model, steps)

    @property
    def epoch(self) -> int:
        """Number of epochs trained."""
        return len(self.history)

    @property
    def _network(self) -> nn.Module:
        """The network that is evaluated and kept: the average, once there is one."""
        if self._average is None or not self._average.has_begun:
            return self.model
        return self._average.model

    def run_epoch(self) -> Row:
        """Train one epoch and evaluate on the validation split.

        Returns:
            A row with these columns, all shares in [0, 1]:

            - epoch, counted from 1;
            - train_loss, the mean over the epoch's images. A last batch of one image is left out,
              because BatchNorm has no statistics of one image;
            - val_loss and val_accuracy, which are NaN without a validation split;
            - sparsity, the measured share of the weights of ``prunable`` that are off, or that a
              small_dense network lacks; and sparsity/LAYER for each layer;
            - churn, the share of the weights now on that were off before the epoch;
            - exploration, the share of the budget that a redraw explores, a mean over the epoch's
              redraws. The published method draws a whole budget besides;
            - seconds.

        Raises:
            NonFiniteLoss: the training or validation loss became NaN or infinite.
        """
        start = time.perf_counter()
        masks = self._sparsifier.masks()
        with self._defaults.active():
            train_loss = self._train_epoch()
        val_loss, val_accuracy = self.evaluate(self._data.x_val, self._data.y_val)
        if len(self._data.y_val) and not math.isfinite(val_loss):
            raise NonFiniteLoss(
                f"the validation loss became {val_loss} after epoch {self.epoch + 1}; try a "
                f"smaller lr than {self.config.lr:g}"
            )
        overall, by_layer = self._sparsity()
        row: Row = {
            "epoch": self.epoch + 1,
            "train_loss": train_loss,
            "val_loss": val_loss,
            "val_accuracy": val_accuracy,
            "sparsity": overall,
            **{f"sparsity/{name}": value for name, value in by_layer.items()},
            "churn": self._sparsifier.churn(masks),
            "exploration": self._sparsifier.exploration(),
            "seconds": time.perf_counter() - start,
        }
        self.history.append(row)
        return row

    def evaluate(self, x: Tensor, y: Tensor) -> tuple[float, float]:
        """Return what ``Passes.evaluate`` returns of the network, or of its average."""
        passes = Passes(self.config, self._network, self.device)
        return passes.evaluate(x, y)

    def finish(self) -> RunResult:
        """Return the result of the run.

        Evaluate the model on the test split, and convert the masks to those of
        ``torch.nn.utils.prune``.
        """
        test_accuracy = None
        if self._data.x_test is not None and self._data.y_test is not None:
            _, test_accuracy = self.evaluate(self._data.x_test, self._data.y_test)
        if self._average is not None and self._average.has_begun:
            self._average.copy_to(self.model)
        self._sparsifier.attach()
        self.model.eval()
        history = pd.DataFrame(self.history, columns=None if self.history else ["epoch"])
        history = history.astype({"epoch": int})
        shapes = self._input_shape, self._num_classes
        return RunResult(self.config, history, self.model, test_accuracy, *shapes)

    def state_dict(self) -> dict[str, Any]:
        """Return the state from which training resumes bit for bit: plain types and tensors."""
        average = {} if self._average is None else {"average": self._average.state_dict()}
        return {
            "model": self.model.state_dict(),
            **average,
            "optimizer": self._optimizer.state_dict(),
            "sparsifier": self._sparsifier.state_dict(),
            "history": self.history,
            "rng": {
                "batches": self._batches.get_state(),
                "draws": self._draws.get_state(),
                "defaults": self._defaults.state_dict(),
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore ``state_dict()`` of a trainer with the same configuration and data."""
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._sparsifier.load_state_dict(state["sparsifier"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        self.history = list(state["history"])
        # Generators take their state from the CPU only, but a checkpoint may be on the GPU.
        rng = state["rng"]
        self._batches.set_state(rng["batches"].cpu())
        self._draws.set_state(rng["draws"].cpu())
        self._defaults.load_state_dict(rng["defaults"])

    def final_state(self) -> dict[str, Any]:
        """Return the network alone, to be stored: plain types and tensors.

        Returns:
            config (``TrainConfig.to_dict()``), epoch, input_shape, num_classes, model (the model's
            ``state_dict()``, zero where weights are off), masks (layer -> bool tensor) and
            measures (layer -> float tensor of measure values; empty for methods without them).
        """
        layers = self._sparsifier.state_dict()["layers"]
        return {
            "config": self.config.to_dict(),
            "epoch": self.epoch,
            "input_shape": list(self._input_shape),
            "num_classes": self._num_classes,
            "model": self._network.state_dict(),
            "masks": {name: layer["mask"] for name, layer in layers.items()},
            "measures": {
                name: layer["measure"]
                for name, layer in layers.items()
                if layer["measure"] is not None
            },
        }

    def close(self) -> None:
        """Do nothing: this run holds only memory."""

    @users_code()
    def _first_gradients(self) -> None:
        """Leave the gradients of the first batch of the training, and no other trace."""
        batches = torch.Generator(self.device)
        batches.set_state(self._batches.get_state())
        order = torch.randperm(len(self._data.y_train), generator=batches, device=self.device)
        rows = order[: self._batch_sizes()[0]]
        inputs = data.to_input(self._data.x_train[rows], self.config, batches)
        generators = self._defaults.state_dict()
        buffers = [buffer.clone() for buffer in self.model.buffers()]
        self.model.train()
        with self._defaults.active():
            self._passes.loss(inputs, self._data.y_train[rows]).backward()
        self._defaults.load_state_dict(generators)
        for buffer, before in zip(self.model.buffers(), buffers, strict=True):
            buffer.copy_(before)

    def _sparsity(self) -> tuple[float, dict[str, float]]:
        if self._full_sizes is None:
            return self._sparsifier.sparsity()
        full = self._full_sizes
        sizes = {layer.name: layer.weight.numel() for layer in prunable(self.model)}
        by_layer = {name: 1 - sizes[name] / full[name] for name in full}
        return 1 - sum(sizes.values()) / sum(full.values()), by_layer

    @users_code()  # passes of the model, forward and backward
    def _train_epoch(self) -> float:
        config, y = self.config, self._data.y_train
        self.model.train()
        order = torch.randperm(len(y), generator=self._batches, device=self.device)
        sizes = self._batch_sizes()
        batches = order[: sum(sizes)].split(sizes)
        count = self._steps_per_epoch()
        # Losses stay on the device until the epoch is over, so that no step waits for a copy.
        losses = torch.empty(count, device=self.device)
        for step in range(count):
            start = step * config.accumulate
            rows = batches[start : start + config.accumulate]
            losses[step], again = self._backward(rows)
            if config.clip_norm:
                norm = self._sparsifier.gradient_norm()
                clip_grads_with_norm_(self.model.parameters(), config.clip_norm, norm)
            self._sparsifier.observe(losses[step])
            lr = rate(config, self.epoch * count + step, config.epochs * count)
            for group in self._optimizer.param_groups:
                group["lr"] = lr
            self._optimizer.step()
            self._sparsifier.step(loss_again=again)
            if self._average is not None:
                self._average.update(self.model, self._sparsifier)
        losses = losses.cpu()
        if not losses.isfinite().all():
            step = int((~losses.isfinite()).nonzero()[0])
            raise NonFiniteLoss(
                f"the training loss became {losses[step].item()} in epoch {self.epoch + 1}, "
                f"step {step + 1} of {count}; try a smaller lr than {config.lr:g}"
            )
        weights = torch.tensor(sizes, dtype=losses.dtype).split(config.accumulate)
        seen = torch.stack([part.sum() for part in weights])
        return float((losses * seen).sum() / seen.sum())

    def _backward(self, batches: Sequence[Tensor]) -> tuple[Tensor, Callable[[], Tensor] | None]:
        """Leave the gradients of one step of the optimizer: of the mean over all its images.

        Args:
            batches: numbers of the images, by batch.

        Returns:
            The loss without gradients; and, for methods that need it, what computes it again.
        """
        self._optimizer.zero_grad(set_to_none=True)
        total = sum(len(rows) for rows in batches)
        loss = torch.zeros((), device=self.device)
        repeats: list[tuple[float, Callable[[], Tensor]]] = []
        for rows in batches:
            share = len(rows) / total
            inputs = data.to_input(self._data.x_train[rows], self.config, self._batches)
            labels = self._data.y_train[rows]
            if self._sparsifier.is_paired:
                repeats.append((share, self._passes.repeatable(inputs, labels)))
            part = self._passes.loss(inputs, labels) * share
            part.backward()
            loss += part.detach()
        if not repeats:
            return loss, None
        return loss, lambda: torch.stack([again() * share for share, again in repeats]).sum()

    def _steps_per_epoch(self) -> int:
        return math.ceil(len(self._batch_sizes()) / self.config.accumulate)

    def _batch_sizes(self) -> list[int]:
        """Return the sizes of an epoch's batches."""
        size = self.config.batch_size
        whole, rest = divmod(len(self._data.y_train), size)
        # BatchNorm has no statistics of one image, so a last batch of one image is left out.
        has_last = rest > 1 or (rest == 1 and whole == 0)
        return [size] * whole + [rest] * has_last


def train(
    config: TrainConfig,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    on_epoch: Callable[[Row], None] | None = None,
) -> RunResult:
    """Train one network from beginning to end.

    Args:
        config: the configuration to train.
        data_dir: folder of the data sets; by default ``RSAS_DATA_DIR``.
        on_epoch: called with each row of the history.

    Raises:
        InputError: the configuration does not fit the data or this machine.
        NonFiniteLoss: the training or validation loss became NaN or infinite.
    """
    trainer = Trainer(config, data.load(config.dataset, data_dir))
    while trainer.epoch < config.epochs:
        row = trainer.run_epoch()
        if on_epoch is not None:
            on_epoch(row)
    return trainer.finish()
