"""The training of a sweep's trials: rsas's own trainer on one data set, or a loop of the user's."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from rsas import build, data
from rsas.config import LoopConfig, TrainConfig
from rsas.errors import InputError, reason_of
from rsas.loop import set_up
from rsas.loop_trainer import LoopTrainer
from rsas.sweep.experiment import Experiment, load_experiment
from rsas.trainer import Trainer

__all__ = ["LoopTask", "Task", "TrainerTask", "task_of"]


@dataclass(frozen=True)
class TrainerTask:
    """Trials that rsas's own trainer trains.

    Attributes:
        name: of the data set.
        arrays: the data set, which all trials of a node share.
    """

    name: str
    arrays: data.Arrays

    def config_of(self, values: dict[str, Any]) -> TrainConfig:
        """Return the configuration of a trial."""
        return TrainConfig.from_dict(values)

    def trainer_of(self, config: Any) -> Trainer:
        """Return the trainer of a trial."""
        return Trainer(config, self.arrays)

    def check(self, config: Any) -> None:
        """Check that data, model and device of a configuration fit together.

        Raises:
            InputError: they do not.
        """
        build.check(config, self.arrays)

    def describe(self) -> dict[str, Any] | None:
        """Return the data set as JSON types."""
        return data.describe(self.name, self.arrays)


@dataclass(frozen=True)
class LoopTask:
    """Trials that a training loop of the user's own trains.

    Attributes:
        source: the name by which the loop's experiment is loaded in each process.
        objectives: columns that each row of a trial needs.
    """

    source: str
    objectives: tuple[str, ...]

    def config_of(self, values: dict[str, Any]) -> LoopConfig:
        """Return the configuration of a trial."""
        return LoopConfig.from_dict(values)

    def trainer_of(self, config: Any) -> LoopTrainer:
        """Return the trainer of a trial."""
        loop = load_experiment(self.source)[0].train
        if loop is None:
            raise InputError(f"{self.source}: the experiment has no training loop any more")
        return LoopTrainer(loop, config, self.objectives)

    def check(self, config: Any) -> None:
        """Run the loop up to its first epoch.

        Raises:
            InputError: the loop fails, or does not use its run as ``rsas.Run`` describes.
        """
        loop = load_experiment(self.source)[0].train
        assert loop is not None
        try:
            set_up(loop, config)
        except Exception as error:
            raise InputError(f"{self.source}: the training loop: {reason_of(error)}") from error

    def describe(self) -> dict[str, Any] | None:
        """Return None, as rsas does not know the loop's data."""
        return None


Task = TrainerTask | LoopTask


def task_of(experiment: Experiment, source: str, data_dir: str | os.PathLike[str] | None) -> Task:
    """Return the training of an experiment's trials, with its data.

    Args:
        experiment: the experiment.
        source: the name by which its code is loaded again.
        data_dir: folder of the data sets; by default ``RSAS_DATA_DIR``.

    Raises:
        InputError: the data set cannot be read.
    """
    if experiment.base is None:
        return LoopTask(source, tuple(objective.name for objective in experiment.objectives))
    name = experiment.base.dataset
    return TrainerTask(name, data.load(name, data_dir))
