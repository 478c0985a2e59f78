"""Train trials, one after the other, in a process of their own. Needs no Ray."""

from __future__ import annotations

import contextlib
import math
import time
import traceback
from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import partial
from typing import Any

import torch

from rsas.errors import InputError, StorageError, reason_of
from rsas.multi_seed import MultiSeedTrainer
from rsas.sweep.execute.task import Task
from rsas.sweep.experiment import Resources
from rsas.sweep.files.file_store import FileStore
from rsas.sweep.files.trial_dir import Superseded, TrialDir, write_model
from rsas.trainer import EpochTrainer

__all__ = ["NOTES", "OUTCOME", "REASON", "ROWS", "Outcome", "TrialWorker"]

# Keys of a result.
ROWS = "rows"
"""The rows of the history since the last result; the last row is the trial's state."""
NOTES = "notes"
"""Messages for the user."""
OUTCOME = "outcome"
"""An ``Outcome``."""
REASON = "reason"
"""The reason for which the trial failed, or for which the sweep cannot go on."""


class Outcome(StrEnum):
    """The state of a trial after a step."""

    RUNNING = "running"
    COMPLETE = "complete"
    FAILED = "failed"  # without a further retry
    HALTED = "halted"  # the sweep cannot go on, as on a full disk; not an error of the trial


_STEP_SECONDS = 1.0  # of training per result, so that short epochs do not wait for the driver


class TrialWorker:
    """A worker that trains trials, one after the other, each from its last checkpoint on.

    A step trains epochs for at least a second, but not beyond the next rung.

    Args:
        trial: the first trial, a dict with two keys. ``trial`` is the identity, which names the
            folder of its checkpoints; ``train`` holds the fields of its configuration.
        task: the training of all trials.
        place: path or URI of the sweep's files on the storage.
        resources: of the trial. It gets as many threads as CPUs. With ``device="auto"`` and no GPU
            it trains on the CPU.
        checkpoint_every: epochs between checkpoints.
        rungs: epochs after which the driver decides whether the trial goes on.
        retries: how often a trial resumes from its checkpoint after an error.
        seeds: with which a trial is trained; if empty, the seed of its configuration.
    """

    def __init__(
        self,
        trial: dict[str, Any],
        *,
        task: Task,
        place: str,
        resources: Resources,
        checkpoint_every: int,
        rungs: Sequence[int],
        retries: int,
        seeds: Sequence[int] = (),
    ) -> None:
        torch.set_num_threads(max(1, math.floor(resources.cpus)))
        self._reset_torch = _settings_of_torch()
        storage = FileStore(place)
        self._trials, self._models = storage / "trials", storage / "models"
        self._task, self._checkpoint_every, self._rungs = task, checkpoint_every, rungs
        self._retries, self._seeds = retries, seeds
        self._has_gpu = resources.gpus > 0
        self._trainer: EpochTrainer | None = None
        self._begin(trial)

    def begin(self, trial: dict[str, Any]) -> None:
        """Switch to another trial."""
        self._close_trainer()
        self._reset_torch()  # a model may have changed settings, which would affect the next one
        self._begin(trial)

    def step(self) -> dict[str, Any]:
        """Train for a while; return the result, a dict with the keys of this module.

        An error is part of the result. The trial resumes from its checkpoint in this process, or
        fails once its retries are used up. An exception leaves this method only if the process
        cannot be used further. Then another process must resume the trial.
        """
        self._rows: list[dict[str, float]] = []
        self._notes: list[str] = []
        outcome, reason = Outcome.RUNNING, ""
        try:
            if self._train_on():
                outcome = Outcome.COMPLETE
        except StorageError as error:
            outcome, reason = Outcome.HALTED, str(error)
        except Superseded:
            outcome, reason = Outcome.HALTED, "another process has taken over its trials"
        except torch.AcceleratorError:  # the device is lost to this process
            with contextlib.suppress(StorageError):
                self._folder.set_error(traceback.format_exc())
            raise
        except Exception as error:
            cause = error.__cause__
            if cause is not None and hasattr(cause, "ray_terminate_msg"):  # by Ray, after SIGTERM
                raise cause from None
            self._failures += 1
            self._close_trainer()
            with contextlib.suppress(StorageError):  # recurs in the next step, which reports it
                self._folder.set_error(traceback.format_exc())
            if self._failures > self._retries or isinstance(error, InputError):
                outcome, reason = Outcome.FAILED, reason_of(error)
            else:
                self._notes.append(f"{reason_of(error)}; resumes from its checkpoint")
        return {ROWS: self._rows, NOTES: self._notes, OUTCOME: outcome.value, REASON: reason}

    def close(self) -> None:
        """Save the state of an interrupted trial."""
        trainer = self._trainer
        if trainer is not None and self._saved < trainer.epoch < self._train.epochs:
            with contextlib.suppress(StorageError, Superseded):
                self._save(trainer)
        self._close_trainer()

    def _close_trainer(self) -> None:
        trainer, self._trainer = self._trainer, None
        if trainer is not None:
            trainer.close()

    def _begin(self, trial: dict[str, Any]) -> None:
        self._train = self._task.config_of(trial["train"])
        if self._train.device == "auto" and not self._has_gpu:
            self._train = self._train.replace(device="cpu")
        self._trial = trial["trial"]
        self._folder = TrialDir(self._trials / self._trial)
        self._failures = 0

    def _train_on(self) -> bool:
        """Train for a step's time; return whether the trial is complete."""
        if self._trainer is None:
            self._trainer = self._restore_trainer()
        trainer, epochs = self._trainer, self._train.epochs
        deadline = time.monotonic() + _STEP_SECONDS
        written = 0
        try:
            while trainer.epoch < epochs:
                self._trainer = None  # within an epoch, close() must not save its state
                self._rows.append(trainer.run_epoch())
                self._trainer = trainer
                if trainer.epoch % self._checkpoint_every == 0 or trainer.epoch == epochs:
                    self._folder.append(self._rows[written:])
                    written = len(self._rows)
                    self._save(trainer)
                if trainer.epoch in self._rungs or time.monotonic() > deadline:
                    break
        finally:
            if written < len(self._rows):
                resumable, self._trainer = self._trainer, None  # until the history has the rows
                self._folder.append(self._rows[written:])
                self._trainer = resumable
        if trainer.epoch < epochs:
            return False
        write_model(self._models, self._trial, trainer.final_state())
        self._rows = self._rows or trainer.history[-1:]
        return True

    def _restore_trainer(self) -> EpochTrainer:
        """Return a trainer in the state of the last checkpoint."""
        trainer: EpochTrainer = (
            MultiSeedTrainer(self._of_seed, self._seeds)
            if self._seeds
            else self._task.trainer_of(self._train)
        )
        self._folder.begin()
        state, damaged = self._folder.load(trainer.device)
        if state is not None:
            trainer.load_state_dict(state)
        self._saved = trainer.epoch
        if damaged:
            names = ", ".join(damaged)
            action = (
                f"resumes from epoch {trainer.epoch}"
                if state
                else "restarts, as no other checkpoint exists"
            )
            self._notes.append(f"{names} damaged, kept aside as .damaged; {action}")
        return trainer

    def _of_seed(self, seed: int) -> EpochTrainer:
        return self._task.trainer_of(self._train.replace(seed=seed))

    def _save(self, trainer: EpochTrainer) -> None:
        self._folder.save(trainer.epoch, trainer.state_dict())
        self._saved = trainer.epoch


def _settings_of_torch() -> Callable[[], None]:
    """Return a function that resets torch's global settings to their present values.

    The default device becomes that of a new process, as torch offers no other way to unset it.
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
