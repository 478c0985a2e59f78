"""One trial as a Ray Tune trainable."""

from __future__ import annotations

import contextlib
import math
import os
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import ray
import torch
from ray import tune

from rsas.config import TrainConfig
from rsas.data import Arrays
from rsas.errors import InputError, StorageError, reason_of
from rsas.multi_seed import Replicates
from rsas.sweep.experiment import Resources
from rsas.sweep.files.file_store import Storage
from rsas.sweep.files.trial_dir import Superseded, TrialFolder, write_model
from rsas.trainer import Trainer

__all__ = ["FAILED", "HALTED", "NOTES", "ROWS", "TrialTrainable"]

# Keys of a result.
ROWS = "rows"
"""The rows of the history since the last result; the last one is the trial's state."""
FAILED = "failed"
"""Why the trial failed for good, beside the rows."""
HALTED = "halted"
"""Why the sweep cannot go on, such as a full disk; the trial is not to blame."""
NOTES = "notes"
"""Lines for the user."""

_STEP_SECONDS = 1.0  # of training a result, so that short epochs do not wait for the driver


class TrialTrainable(tune.Trainable):
    """Trains the configuration Tune hands over, from its last checkpoint on.

    A step trains epochs for a second at least, and not beyond the next rung. The
    configuration has ``trial`` (the identity, which names the folder of its checkpoints) and
    ``train`` (the fields of a TrainConfig). Actors are reused from trial to trial.
    """

    def setup(  # type: ignore[override]
        self,
        config: dict[str, Any],
        *,
        arrays: Arrays,
        place: str,
        resources: Resources,
        checkpoint_every: int,
        rungs: Sequence[int],
        retries: int,
        seeds: Sequence[int] = (),
    ) -> None:
        """Called once an actor by Tune.

        Args:
            config: of the first trial.
            arrays: the data set, from Ray's object store.
            place: of the sweep's files on the storage.
            resources: of the trial: as many threads as CPUs, and the CPU as device where the
                configuration leaves the choice and no GPU is given.
            checkpoint_every: epochs between checkpoints.
            rungs: epochs after which the driver decides whether the trial goes on.
            retries: how often a trial goes on from its checkpoint after an error.
            seeds: with which a trial is trained; none: with the one of its configuration.
        """
        torch.set_num_threads(max(1, math.floor(resources.cpus)))
        self._reset_torch = _settings_of_torch()
        os.environ["RAY_NODE_ID"] = _node_id()
        storage = Storage(place)
        self._trials, self._models = storage / "trials", storage / "models"
        self._arrays, self._checkpoint_every, self._rungs = arrays, checkpoint_every, rungs
        self._retries, self._seeds = retries, seeds
        self._has_gpu = resources.gpus > 0
        self._trainer: Trainer | Replicates | None
        self._start(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Called by Tune to run another trial in the same actor."""
        self._reset_torch()  # or the settings that a model made would act on the next one
        self._start(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train for a while; returns what is new.

        An error is no exception for Tune: the trial goes on from its checkpoint in this process,
        or has failed when it did so too often. Only where the process itself is spoilt, or gone,
        does Tune begin another one.
        """
        self._rows: list[dict[str, float]] = []
        self._notes: list[str] = []
        found: dict[str, Any] = {"done": False}
        try:
            found = {"done": self._train_on()}
        except StorageError as error:
            found = {HALTED: str(error), "done": True}
        except Superseded:
            found = {HALTED: "another process has taken over its trials", "done": True}
        except torch.AcceleratorError:  # the device is lost to this process
            self._trainer = None  # within an epoch: cleanup() may not save it
            with contextlib.suppress(StorageError):
                self._folder.set_error(traceback.format_exc())
            raise
        except Exception as error:
            cause = error.__cause__
            if cause is not None and hasattr(cause, "ray_terminate_msg"):  # of Ray, after SIGTERM
                raise cause from None
            self._failures += 1
            self._trainer = None
            with contextlib.suppress(StorageError):  # the next step meets it again, and tells
                self._folder.set_error(traceback.format_exc())
            if self._failures > self._retries or isinstance(error, InputError):
                found = {FAILED: reason_of(error), "done": True}
            else:
                self._notes.append(f"{reason_of(error)}; goes on from its checkpoint")
        return {ROWS: self._rows, NOTES: self._notes, **found}

    def cleanup(self) -> None:
        """Called by Tune when the actor ends: keep what an interrupted trial has."""
        trainer = self._trainer
        if trainer is not None and self._saved < trainer.epoch < trainer.config.epochs:
            with contextlib.suppress(StorageError, Superseded):
                self._save(trainer)

    def _start(self, config: dict[str, Any]) -> None:
        self._train = TrainConfig.from_dict(config["train"])
        if self._train.device == "auto" and not self._has_gpu:
            self._train = self._train.replace(device="cpu")
        self._trial = config["trial"]
        self._folder = TrialFolder(self._trials / self._trial)
        self._trainer = None
        self._failures = 0

    def _train_on(self) -> bool:
        """Train for a step's time; returns whether the trial is done."""
        if self._trainer is None:
            self._trainer = self._restore_trainer()
        trainer, epochs = self._trainer, self._train.epochs
        deadline = time.monotonic() + _STEP_SECONDS
        written = 0
        try:
            while trainer.epoch < epochs:
                self._rows.append(trainer.run_epoch())
                if trainer.epoch % self._checkpoint_every == 0 or trainer.epoch == epochs:
                    self._folder.append(self._rows[written:])
                    written = len(self._rows)
                    self._save(trainer)
                if trainer.epoch in self._rungs or time.monotonic() > deadline:
                    break
        finally:
            if written < len(self._rows):
                self._trainer = None  # or cleanup() could save it ahead of the history
                self._folder.append(self._rows[written:])
                self._trainer = trainer
        if trainer.epoch < epochs:
            return False
        write_model(self._models, self._trial, trainer.final_state())
        self._rows = self._rows or trainer.history[-1:]
        return True

    def _restore_trainer(self) -> Trainer | Replicates:
        """A trainer in the state of the last checkpoint."""
        trainer = (
            Replicates(self._train, self._seeds, self._arrays)
            if self._seeds
            else Trainer(self._train, self._arrays)
        )
        self._folder.begin()
        state, damaged = self._folder.load(trainer.device)
        if state is not None:
            trainer.load_state_dict(state)
        self._saved = trainer.epoch
        if damaged:
            whence = f"epoch {trainer.epoch}" if state else "its beginning, as there is no other"
            self._notes.append(
                f"{', '.join(damaged)} damaged, kept aside as .damaged; goes on from {whence}"
            )
        return trainer

    def _save(self, trainer: Trainer | Replicates) -> None:
        self._folder.save(trainer.epoch, trainer.state_dict())
        self._saved = trainer.epoch


def _settings_of_torch() -> Callable[[], None]:
    """Return a function that gives torch's global settings the values that they have now.

    The default device becomes the one of a new process. There is no other way to unset it.
    """
    is_strict = torch.are_deterministic_algorithms_enabled()
    only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
    settings: list[Callable[[], object]] = [
        partial(torch.set_default_dtype, torch.get_default_dtype()),
        partial(torch.set_default_device, None),
        partial(torch.set_grad_enabled, torch.is_grad_enabled()),
        partial(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision()),
        partial(torch.use_deterministic_algorithms, is_strict, warn_only=only_warns),
    ]

    def reset() -> None:
        for setting in settings:
            setting()

    return reset


def _node_id() -> str:
    return str(ray.get_runtime_context().get_node_id()) if ray.is_initialized() else ""
