"""One trial as a Ray Tune trainable."""

from __future__ import annotations

import math
import traceback
from pathlib import Path
from typing import Any

import torch
from ray import tune

from rsas.config import TrainConfig
from rsas.data import Arrays
from rsas.errors import InputError, NonFiniteLoss
from rsas.search.checkpoints import TrialFolder
from rsas.search.experiment import Resources
from rsas.trainer import Trainer

__all__ = ["FAILED", "TrialTrainable"]

FAILED = "failed"
"""Key of a result that tells why the trial cannot succeed, however often it is tried."""


class TrialTrainable(tune.Trainable):
    """Trains the configuration Tune hands over, an epoch a step, from its last checkpoint on.

    The configuration has ``trial`` (the identity, which names the folder of its checkpoints)
    and ``train`` (the fields of a TrainConfig). Actors are reused from trial to trial.
    """

    def setup(  # type: ignore[override]
        self,
        config: dict[str, Any],
        *,
        arrays: Arrays,
        trials: Path,
        resources: Resources,
        checkpoint_every: int,
    ) -> None:
        """Called once an actor by Tune.

        Args:
            config: of the first trial.
            arrays: the data set, from Ray's object store.
            trials: the folder with the folders of all trials.
            resources: of the trial: as many threads as CPUs, and the CPU as device where the
                configuration leaves the choice and no GPU is given.
            checkpoint_every: epochs between checkpoints.
        """
        torch.set_num_threads(max(1, math.floor(resources.cpus)))
        self._arrays, self._trials, self._checkpoint_every = arrays, trials, checkpoint_every
        self._has_gpu = resources.gpus > 0
        self._trainer: Trainer | None = None
        self._start(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Called by Tune to run another trial in the same actor."""
        self._start(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train an epoch; returns its row of the history.

        An error that would come again is a result, not an exception, so that Tune does not try
        the trial again.
        """
        try:
            return self._step()
        except (NonFiniteLoss, InputError) as error:
            return {FAILED: str(error), "done": True}
        except Exception:
            self._folder.set_error(traceback.format_exc())
            raise

    def _start(self, config: dict[str, Any]) -> None:
        self._train = TrainConfig.from_dict(config["train"])
        if self._train.device == "auto" and not self._has_gpu:
            self._train = self._train.replace(device="cpu")
        self._folder = TrialFolder(self._trials / config["trial"])
        self._trainer = None

    def _step(self) -> dict[str, Any]:
        if self._trainer is None:
            self._trainer = Trainer(self._train, self._arrays)
            state = self._folder.load(self._trainer.device)
            if state is not None:
                self._trainer.load_state_dict(state)
        trainer, epochs = self._trainer, self._train.epochs
        if trainer.epoch < epochs:
            self._folder.append(trainer.run_epoch())
            if trainer.epoch % self._checkpoint_every == 0 or trainer.epoch == epochs:
                self._folder.save(trainer.epoch, trainer.state_dict())
        return {**trainer.history[-1], "done": trainer.epoch >= epochs}
