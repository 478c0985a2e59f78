"""The definition of a sweep.

Imports neither ray nor optuna, so that ``rsas train`` can read experiments without them.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from rsas.columns import METRICS, Column, parse
from rsas.config import LoopConfig, Pruning, TrainConfig
from rsas.errors import InputError, reason_of
from rsas.fields import range_of, validate
from rsas.records import Objective
from rsas.userfile import load_function, users_code

__all__ = [
    "Budget",
    "Experiment",
    "Loop",
    "Objective",
    "Resources",
    "Space",
    "as_published",
    "load_experiment",
]

_FINEST = 0.0001  # of a CPU or GPU; Ray treats smaller shares as zero

Space = Callable[[Any], dict[str, Any]]
"""A search space: asks an ``optuna.Trial`` for values, and returns fields by name.

The fields are those of TrainConfig. With a training loop of the user's own, they are those of
Pruning, ``epochs``, ``seed``, ``device``, and all other names are parameters of the loop.
"""


Loop = Callable[[Any], None]
"""A training loop of the user's own, which gets a ``rsas.Run``."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The limits of a sweep; the sweep ends at the limit that is reached first.

    Attributes:
        trials: number of trials that end as complete, or stopped early by a scheduler.
        device_hours: hours of training of all trials together, times the GPUs of a trial, or its
            CPUs if a trial has no GPU; None for no limit.
        hours: hours that the sweep has run, without its interruptions; None for no limit.
        failures: number of failed trials after which the sweep gives up.
        overtime: seconds in which trials may finish their epoch after a limit of time is reached.
            Twice the time of the slowest epoch so far counts instead if that is longer. Processes
            of trials that take longer are ended.
    """

    trials: int = field(default=64, metadata=range_of(1, 10**6))
    device_hours: float | None = field(default=None, metadata=range_of(0, 1e9, open_low=True))
    hours: float | None = field(default=None, metadata=range_of(0, 1e9, open_low=True))
    failures: int = field(default=8, metadata=range_of(1, 10**6))
    overtime: float = field(default=60.0, metadata=range_of(0, 1e9))

    def __post_init__(self) -> None:
        validate(self)

    def exhausted(self, hours: float, device_seconds: float) -> str:
        """Return the limit of time that is reached, such as ``2 hours``; empty if none is reached.

        Args:
            hours: for which the sweep has run, without its interruptions.
            device_seconds: of training, sum over all trials.
        """
        if self.hours is not None and hours >= self.hours:
            return f"{self.hours:g} hours"
        if self.device_hours is not None and device_seconds >= 3600 * self.device_hours:
            return f"{self.device_hours:g} device-hours"
        return ""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """The resources of one trial.

    Attributes:
        cpus: CPU cores; a trial computes with the same number of threads, at least one.
        gpus: GPUs. Any share up to 1 is allowed; with 0.25, four trials share one GPU.
        max_concurrent: trials at once; by default as many as fit the cluster at the time.
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
        """GPUs, or CPUs if a trial has no GPU; device-seconds count these."""
        return self.gpus or self.cpus


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A search over training runs, by rsas's own trainer or by a training loop of the user's own.

    Attributes:
        name: letters, digits, ``_``, ``-`` and ``.``; also the name of the MLflow experiment.
        base: for rsas's own trainer, the configuration whose fields the space changes.
        train: in place of ``base``, a function of a ``rsas.Run`` that trains one network.
        epochs: for ``train``, the epochs of the training, at least 1.
        pruning: for ``train``, method, sparsity and options; the space changes its fields.
        params: for ``train``, JSON values of ``run.params`` that the space does not return.
        space: the search space.
        objectives: the metrics to optimise, at least one. With ``train``, any name that the loop
            reports.
        budget: the limits of the sweep.
        resources: the resources of one trial.
        sampler: Optuna's sampler: tpe, nsga2, gp (Gaussian process) or random.
        scheduler: none; asha, asynchronous successive halving on the first objective; or
            pareto_asha, on all objectives (``rsas.sweep.suggest.halving``).
        grace_period: epochs of the first rung, before which the scheduler stops no trial.
        reduction_factor: factor between the epochs of successive rungs; one trial in
            ``reduction_factor`` continues at each rung.
        seed: of the sampler; with one trial at a time, the suggestions depend only on this seed.
        seeds: seeds with which each trial is trained, in place of ``base.seed``. Objectives are
            means over the seeds, and the model of the first seed is kept. Empty: ``base.seed``.
        checkpoint_every: epochs between checkpoints of a trial; the last epoch always has one.
        retries: number of times that a trial resumes from its checkpoint after an error, before
            the trial counts as failed.

    Raises:
        InputError: a value is not valid.
    """

    name: str
    space: Space
    objectives: tuple[Objective, ...]
    base: TrainConfig | None = None
    train: Loop | None = None
    epochs: int | None = None
    pruning: Pruning | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
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
        kinds: dict[str, type] = {"budget": Budget, "resources": Resources}
        if self.train is None:
            kinds["base"] = TrainConfig
        for name, kind in kinds.items():
            if not isinstance(getattr(self, name), kind):
                raise InputError(f"{name}={getattr(self, name)!r}: expected a {kind.__name__}")
        self._check_training()
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
        for name in names:
            self._check_objective(name)

    @cached_property
    def config(self) -> TrainConfig | LoopConfig:
        """The configuration whose fields the space changes."""
        if self.base is not None:
            return self.base
        pruning = (self.pruning or Pruning()).to_dict()
        return LoopConfig.from_dict({**pruning, **self.params, "epochs": self.epochs})

    def with_config(self, config: TrainConfig | LoopConfig) -> Experiment:
        """Return a copy with another ``config``, of the same kind."""
        return dataclasses.replace(self, **_fields_of(config))

    def _check_training(self) -> None:
        """Check the fields that belong to ``base`` or to ``train``."""
        if self.train is None:
            for name in ("epochs", "pruning", "params"):
                if getattr(self, name):
                    raise InputError(
                        f"{name}={getattr(self, name)!r}: belongs to train=; base, a TrainConfig, "
                        "has fields of its own for this"
                    )
            return
        if self.base is not None:
            raise InputError("base, train: expected one of them, not both")
        if not callable(self.train):
            raise InputError(f"train={self.train!r}: expected a function of a rsas.Run")
        if self.epochs is None:
            raise InputError("epochs=None: train= needs the number of epochs, such as epochs=20")
        if self.pruning is not None and not isinstance(self.pruning, Pruning):
            raise InputError(f"pruning={self.pruning!r}: expected a Pruning")
        _ = self.config  # raises for invalid values

    def _check_objective(self, name: str) -> None:
        if self.base is None:
            if not re.fullmatch(r"[\w .:/-]{1,250}", name) or parse(name) != Column(name):
                raise InputError(f"objective {name!r}: expected letters and digits")
        elif name not in METRICS:
            raise InputError(f"objective {name!r}: expected one of {', '.join(METRICS)}")
        elif self.base.val_fraction == 0 and name.startswith("val_"):
            raise InputError("val_fraction=0.0: objectives are measured on a validation split")

    def to_dict(self) -> dict[str, Any]:
        """Return the experiment as JSON types, with the names of functions in place of code."""
        return {
            "name": self.name,
            "base": self.config.to_dict(),
            "train": None if self.train is None else name_of(self.train),
            "space": name_of(self.space),
            "objectives": [dataclasses.asdict(objective) for objective in self.objectives],
            "budget": dataclasses.asdict(self.budget),
            "resources": dataclasses.asdict(self.resources),
            **{name: getattr(self, name) for name in _PLAIN_FIELDS},
            "seeds": list(self.seeds),
        }

    @classmethod
    def from_dict(
        cls, values: dict[str, Any], space: Space, train: Loop | None = None
    ) -> Experiment:
        """Return the experiment of a ``to_dict()``, with the code of its functions.

        Raises:
            InputError: a value is not valid, or ``train`` is missing.
        """
        kind = TrainConfig if values["train"] is None else LoopConfig
        if (train is None) != (values["train"] is None):
            raise InputError(f"train={values['train']!r}: not the training of this experiment")
        return cls(
            name=values["name"],
            **_fields_of(kind.from_dict(values["base"])),
            train=train,
            space=space,
            objectives=tuple(Objective(**objective) for objective in values["objectives"]),
            budget=Budget(**values["budget"]),
            resources=Resources(**values["resources"]),
            **{name: values[name] for name in _PLAIN_FIELDS},
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
    """Return the same preset trained by the published algorithm, including its faults.

    Args:
        experiment: the preset.
        space: replaces the preset's space; the published measure-learning-rate has no effect.
    """
    import rsas  # the method imports torch, which reading an experiment does not need

    fields = dataclasses.asdict(rsas.PublishedPruning())
    published = experiment.with_config(experiment.config.replace(**fields))
    return dataclasses.replace(published, name=f"{experiment.name}_published", space=space)


def name_of(function: Callable[..., Any]) -> str:
    """Return ``module:function`` of a space or a training loop, for display."""
    named: Any = function if hasattr(function, "__qualname__") else type(function)  # a partial
    return f"{named.__module__}:{named.__qualname__}"


def _fields_of(config: TrainConfig | LoopConfig) -> dict[str, Any]:
    """Return the fields of an experiment with this configuration."""
    if isinstance(config, TrainConfig):
        return {"base": config}
    values = config.to_dict()
    pruning = {f.name: values.pop(f.name) for f in dataclasses.fields(Pruning)}
    return {"pruning": Pruning(**pruning), "epochs": values.pop("epochs"), "params": values}


def check_name(name: str) -> None:
    """Check a name that becomes a folder: letters, digits, ``_ - .``, no leading ``-`` or dot.

    Raises:
        InputError: the name does not have this form, or has more than 100 characters.
    """
    if not re.fullmatch(r"\w[\w.-]{0,99}", name, re.ASCII):
        raise InputError(f"name {name!r}: expected up to 100 letters, digits, '_', '-' or '.'")


def load_experiment(spec: str) -> tuple[Experiment, str]:
    """Return the experiment that a file defines, and the absolute name that loads it again.

    Args:
        spec: ``file.py``, whose function ``experiment`` is called, or ``file.py:function``.

    Raises:
        InputError: the file or the function does not exist, or the function does not return an
            Experiment.
    """
    file, colon, function = spec.rpartition(":")
    if not colon or function.endswith(".py") or os.sep in function:
        file, function = spec, "experiment"
    if not file.endswith(".py"):
        raise InputError(f"experiment {spec!r}: expected file.py or file.py:function")
    source = f"{Path(file).resolve()}:{function}"
    make = load_function(f"{file}:{function}", "experiment")
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
