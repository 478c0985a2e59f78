"""What a sweep is. Imports neither ray nor optuna, so that ``rsas train`` can read experiments."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rsas.config import TrainConfig
from rsas.errors import InputError, reason_of
from rsas.fields import range_of, validate
from rsas.records import Objective
from rsas.userfile import load_function, users_code

__all__ = [
    "Budget",
    "Experiment",
    "Objective",
    "Resources",
    "Space",
    "as_published",
    "load_experiment",
]

_FINEST = 0.0001  # of a CPU or GPU; Ray takes less for nothing

Space = Callable[[Any], dict[str, Any]]
"""A search space: asks an ``optuna.Trial`` for values, returns TrainConfig fields."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """When a sweep is done: at whichever comes first.

    Attributes:
        trials: trials that are to be complete, or stopped early by a scheduler.
        device_hours: hours of training of all trials together, times the GPUs of a trial, or
            its CPUs where it has no GPU; None for no limit.
        hours: hours that the sweep has run, its interruptions not counted; None for no limit.
        failures: failed trials after which the sweep gives up.
        overtime: seconds in which trials may end their epoch after a limit of time; twice the
            slowest epoch so far where that is longer. Processes that do not are ended.
    """

    trials: int = field(default=64, metadata=range_of(1, 10**6))
    device_hours: float | None = field(default=None, metadata=range_of(0, 1e9, open_low=True))
    hours: float | None = field(default=None, metadata=range_of(0, 1e9, open_low=True))
    failures: int = field(default=8, metadata=range_of(1, 10**6))
    overtime: float = field(default=60.0, metadata=range_of(0, 1e9))

    def __post_init__(self) -> None:
        validate(self)

    def exhausted(self, hours: float, device_seconds: float) -> str:
        """Return the limit of time that is reached, such as ``2 hours``; empty where none is.

        Args:
            hours: that the sweep has run.
            device_seconds: of training, of all trials together.
        """
        if self.hours is not None and hours >= self.hours:
            return f"{self.hours:g} hours"
        if self.device_hours is not None and device_seconds >= 3600 * self.device_hours:
            return f"{self.device_hours:g} device-hours"
        return ""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one trial gets.

    Attributes:
        cpus: CPU cores; a trial computes with as many threads, at least one.
        gpus: GPUs, up to 1 any share of one: 0.25 lets four trials share it.
        max_concurrent: trials at once; by default as many as fit the cluster as it is.
    """

    cpus: float = field(default=1.0, metadata=range_of(0, 1024, open_low=True))
    gpus: float = field(default=0.0, metadata=range_of(0, 64))
    max_concurrent: int | None = field(default=None, metadata=range_of(1, 10**6))

    def __post_init__(self) -> None:
        validate(self)
        for name in ("cpus", "gpus"):
            if 0 < getattr(self, name) < _FINEST:
                raise InputError(f"{name}={getattr(self, name)!r}: expected at least {_FINEST:f}")
        if self.gpus > 1 and not self.gpus.is_integer():
            raise InputError(f"gpus={self.gpus:g}: expected a share of one GPU, or whole ones")

    @property
    def devices(self) -> float:
        """GPUs, or CPUs where there is no GPU: what device-seconds count."""
        return self.gpus or self.cpus


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A search over training runs.

    Attributes:
        name: letters, digits, ``_``, ``-`` and ``.``; the MLflow experiment's name, too.
        base: the configuration whose fields the space changes.
        space: the search space.
        objectives: what is optimised, at least one.
        budget: when the sweep is done.
        resources: what one trial gets.
        sampler: of Optuna: tpe, nsga2, gp (Gaussian process) or random.
        scheduler: none; asha, asynchronous successive halving on the first objective; or
            pareto_asha, on all of them (``rsas.sweep.suggest.halving``).
        grace_period: epochs of the first rung, before which the scheduler stops no trial.
        reduction_factor: each rung has so many times the epochs of the one before, and keeps
            one trial in so many.
        seed: of the sampler; with one trial at a time the suggestions depend on it alone.
        seeds: with which each trial is trained, in place of ``base.seed``; objectives are means
            over them, and the model that is kept is that of the first. Empty: ``base.seed`` alone.
        checkpoint_every: epochs between checkpoints of a trial; the last epoch has one always.
        retries: how often a trial goes on from its checkpoint after an error before it failed.

    Raises:
        InputError: a value is not valid.
    """

    name: str
    base: TrainConfig
    space: Space
    objectives: tuple[Objective, ...]
    budget: Budget = Budget()
    resources: Resources = Resources()
    sampler: Literal["tpe", "nsga2", "gp", "random"] = "tpe"
    scheduler: Literal["none", "asha", "pareto_asha"] = "none"
    grace_period: int = field(default=3, metadata=range_of(1, 10**6))
    reduction_factor: int = field(default=3, metadata=range_of(2, 100))
    seed: int = field(default=0, metadata=range_of(0, 2**32 - 1))
    seeds: tuple[int, ...] = ()
    checkpoint_every: int = field(default=1, metadata=range_of(1, 10**6))
    retries: int = field(default=2, metadata=range_of(0, 100))

    def __post_init__(self) -> None:
        kinds = {"base": TrainConfig, "budget": Budget, "resources": Resources}
        for name, kind in kinds.items():
            if not isinstance(getattr(self, name), kind):
                raise InputError(f"{name}={getattr(self, name)!r}: expected a {kind.__name__}")
        if not callable(self.space):
            raise InputError(f"space={self.space!r}: expected a function of a trial")
        if not all(isinstance(objective, Objective) for objective in self.objectives):
            raise InputError("objectives: expected a tuple of Objective")
        check_name(self.name)
        validate(self, _PLAIN_FIELDS)
        if len(set(self.seeds)) < len(self.seeds) or not all(0 <= s < 2**32 for s in self.seeds):
            raise InputError(f"seeds={self.seeds}: expected integers in [0, 2**32), each once")
        names = [objective.name for objective in self.objectives]
        if not names or len(set(names)) < len(names):
            raise InputError(f"objectives={names}: expected at least one, each once")
        if self.base.val_fraction == 0 and any(name.startswith("val_") for name in names):
            raise InputError("val_fraction=0.0: objectives are measured on a validation split")

    def to_dict(self) -> dict[str, Any]:
        """Everything but the space's code, which is named, as JSON types."""
        return {
            "name": self.name,
            "base": self.base.to_dict(),
            "space": name_of(self.space),
            "objectives": [dataclasses.asdict(objective) for objective in self.objectives],
            "budget": dataclasses.asdict(self.budget),
            "resources": dataclasses.asdict(self.resources),
            **{name: getattr(self, name) for name in _PLAIN_FIELDS},
            "seeds": list(self.seeds),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any], space: Space) -> Experiment:
        """The experiment of a ``to_dict()``, with the code of its space."""
        return cls(
            name=values["name"],
            base=TrainConfig.from_dict(values["base"]),
            space=space,
            objectives=tuple(Objective(**objective) for objective in values["objectives"]),
            budget=Budget(**values["budget"]),
            resources=Resources(**values["resources"]),
            # Sweeps of earlier versions lack what has come since.
            **{name: values[name] for name in _PLAIN_FIELDS if name in values},
        )


_PLAIN_FIELDS = (
    "sampler",
    "scheduler",
    "grace_period",
    "reduction_factor",
    "seed",
    "seeds",
    "checkpoint_every",
    "retries",
)


def as_published(experiment: Experiment, space: Space) -> Experiment:
    """The same preset trained by the published algorithm, faults included.

    Args:
        experiment: the preset.
        space: what is searched instead; the published measure-learning-rate does not act.
    """
    import rsas  # the method imports torch, which is not needed to read an experiment

    return dataclasses.replace(
        experiment,
        name=f"{experiment.name}_published",
        base=experiment.base.replace(**dataclasses.asdict(rsas.PublishedPruning())),
        space=space,
    )


def name_of(space: Space) -> str:
    """``module:function`` of a space, to be read by people."""
    named: Any = space if hasattr(space, "__qualname__") else type(space)  # such as a partial
    return f"{named.__module__}:{named.__qualname__}"


def check_name(name: str) -> None:
    """Names are used for folders: letters, digits, ``_ - .``, not beginning with a dot.

    Raises:
        InputError: it is not such a name.
    """
    if not re.fullmatch(r"\w[\w.-]{0,99}", name, re.ASCII):
        raise InputError(f"name {name!r}: expected up to 100 letters, digits, '_', '-' or '.'")


def load_experiment(spec: str) -> tuple[Experiment, str]:
    """The experiment a file defines, and the absolute name by which it is found again.

    Args:
        spec: ``file.py``, whose function ``experiment`` is called, or ``file.py:function``.

    Raises:
        InputError: there is no such file or function, or it does not return an Experiment.
    """
    place, colon, function = spec.rpartition(":")
    if not colon or function.endswith(".py") or os.sep in function:
        place, function = spec, "experiment"
    if not place.endswith(".py"):
        raise InputError(f"experiment {spec!r}: expected file.py or file.py:function")
    source = f"{Path(place).resolve()}:{function}"
    make = load_function(f"{place}:{function}", "experiment")
    try:
        with users_code():
            experiment = make()
    except InputError as error:
        raise InputError(f"experiment {spec!r}: {error}") from error
    except Exception as error:
        reason = reason_of(error)
        raise InputError(f"experiment {spec!r}: calling {function}() failed ({reason})") from error
    if not isinstance(experiment, Experiment):
        kind = type(experiment).__name__
        raise InputError(f"experiment {spec!r}: {function}() returned {kind}, not an Experiment")
    return experiment, source
