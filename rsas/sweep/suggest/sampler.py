"""Optuna's samplers, each with a seed for one trial."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import optuna
from optuna.study import StudyDirection

from rsas.records import Objective
from rsas.sweep.experiment import Experiment

__all__ = ["direction", "sampler"]

_SAMPLERS: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed),
    "nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=16),
    "gp": lambda seed: optuna.samplers.GPSampler(seed=seed),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
}


def sampler(experiment: Experiment, number: int) -> optuna.samplers.BaseSampler:
    """Return the sampler that an experiment asks for, with a seed for one trial."""
    state = np.random.SeedSequence([experiment.seed, number]).generate_state(1)
    return _SAMPLERS[experiment.sampler](int(state[0]))


def direction(objective: Objective) -> StudyDirection:
    """Return the direction of an objective as Optuna's enum."""
    return StudyDirection.MAXIMIZE if objective.direction == "max" else StudyDirection.MINIMIZE
