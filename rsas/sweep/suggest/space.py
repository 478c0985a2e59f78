"""Run a search space: for a trial of a sweep, and for checks on temporary studies before that."""

from __future__ import annotations

import dataclasses
import json
import re
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, distribution_to_json
from optuna.trial import BaseTrial

from rsas.config import LoopConfig, TrainConfig
from rsas.errors import InputError, reason_of
from rsas.pruning import effective_fields, unused_fields
from rsas.sweep.experiment import Experiment, name_of
from rsas.userfile import users_code

__all__ = ["axes", "check_points", "check_space", "run_space", "sample", "unused_axes"]

_TRIES = 16


def run_space(
    experiment: Experiment, trial: BaseTrial
) -> tuple[TrainConfig | LoopConfig, dict[str, Any]]:
    """Return the configuration of a trial, and the fields that the space sets, as JSON types.

    Raises:
        Exception: any error of the space; InputError if its fields are not valid.
    """
    with users_code():
        fields = experiment.space(trial)
    config = experiment.config.replace(**fields)
    values = config.to_dict()
    return config, {name: values[name] for name in fields}


def check_space(experiment: Experiment) -> dict[str, Any]:
    """Check that the space sets fields that a sweep can search.

    Returns:
        The fields that the space set in all tries together.

    Raises:
        InputError: the space raises an error, sets an unknown field or an invalid value, or sets a
            field that all trials of a sweep must share. Or the space sets another value when it
            runs a second time for the same trial.
    """
    name = f"space {name_of(experiment.space)!r}"
    study = _study(experiment)
    all_fields: dict[str, Any] = {}
    for _ in range(_TRIES):
        trial = study.ask()
        try:
            fields = _ask_twice(experiment, trial)
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
        except Exception as error:
            raise InputError(f"{name}: {reason_of(error)}") from error
        shared = {"dataset", "val_fraction", "split_seed"} & fields.keys()
        if experiment.seeds and "seed" in fields:
            raise InputError(f"{name}: 'seed' is set by seeds={experiment.seeds}")
        if shared:
            raise InputError(f"{name}: {shared.pop()!r} is the same for all trials of a sweep")
        for parameter in trial.params:
            if not re.fullmatch(r"[\w .:/-]{1,250}", parameter):  # MLflow refuses other names
                raise InputError(f"{name}: parameter {parameter!r}: expected letters and digits")
        all_fields |= fields
    return all_fields


def check_points(experiment: Experiment, points: Sequence[Mapping[str, Any]]) -> None:
    """Check that the space can take these values of its parameters.

    A point may leave parameters out; the sampler draws those.

    Raises:
        InputError: the space does not ask for a parameter, or a value is not in the range.
    """
    study = _study(experiment)
    for index, point in enumerate(points):
        where = f"point {index} to enqueue"
        study.enqueue_trial(dict(point))
        trial = study.ask()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna warns of values that are refused below
            _config(experiment, trial)
        # If Optuna cannot even compare a value, suggest_float raises an error, and the trial lacks
        # that parameter. A trial without the point then gives its range.
        free = study.ask()
        _config(experiment, free)
        for name, value in point.items():
            distribution = trial.distributions.get(name) or free.distributions.get(name)
            if distribution is None:
                asked = ", ".join(trial.distributions)
                raise InputError(f"{where}: the space asks for {asked}, not for {name!r}")
            try:
                fits = distribution._contains(distribution.to_internal_repr(value))
            except (ValueError, TypeError):
                fits = False
            if not fits:
                raise InputError(f"{where}: {name}={value!r}: expected a value of {distribution}")


def sample(experiment: Experiment) -> TrainConfig | LoopConfig:
    """Return a configuration for a check before the first trial.

    A loop of the user's own needs its parameters, so its configuration is one that the space
    suggests at random. For rsas's own trainer, it is the base.

    Raises:
        Exception: any error of the space; InputError if its fields are not valid.
    """
    if experiment.base is not None:
        return experiment.base
    return run_space(experiment, _study(experiment).ask())[0]


def axes(experiment: Experiment) -> dict[str, Any]:
    """Return the parameters that the space asks for, in the configurations tried.

    Returns:
        Name -> distribution, as JSON types in Optuna's form (``optuna.distributions``).
    """
    # The seed is fixed: with the experiment's seed, the same space could show a rare branch under
    # one seed and not under another.
    study = _study(dataclasses.replace(experiment, seed=0))
    distributions: dict[str, Any] = {}
    for _ in range(_TRIES):
        trial = study.ask()
        _config(experiment, trial)
        distributions |= {
            name: json.loads(distribution_to_json(distribution))
            for name, distribution in trial.distributions.items()
        }
    return distributions


def unused_axes(experiment: Experiment) -> list[str]:
    """Return the axes of the space without effect, always or in some of its configurations.

    In random configurations, each axis is moved while the other axes stay. If no effective
    field (``rsas.pruning``) changes, the axis has no effect in that configuration.

    Returns:
        A message for each such axis: its name, in how many configurations, and the reason.
    """
    study = _study(experiment)
    tried: dict[str, int] = defaultdict(int)
    reasons: dict[str, list[str]] = defaultdict(list)
    for _ in range(_TRIES):
        trial = study.ask()
        config = _config(experiment, trial)
        if config is None:
            continue
        for axis in trial.distributions:
            moved = _moved(experiment, study, trial, axis)
            tried[axis] += bool(moved)
            if moved and all(
                effective_fields(other) == effective_fields(config) for other in moved
            ):
                reasons[axis].append(
                    unused_fields(config).get(axis, "no effective field depends on it")
                )
    return [
        f"{axis} does nothing{_where(len(causes), tried[axis])}: {'; '.join(dict.fromkeys(causes))}"
        for axis, causes in reasons.items()
    ]


def _ask_twice(experiment: Experiment, trial: optuna.Trial) -> dict[str, Any]:
    """Return the fields that the space sets, after a second run has set the same fields.

    Raises:
        InputError: the second run sets other fields, or asks for other ranges.
    """
    _, fields = run_space(experiment, trial)
    asked = dict(trial.distributions)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuntimeWarning)
        _, again = run_space(experiment, trial)
    differing = [
        f"{name}={fields.get(name)!r}, then {again.get(name)!r}"
        for name in fields | again
        if name not in fields or name not in again or fields[name] != again[name]
    ]
    # Optuna keeps the first range of a parameter, and warns if a later range differs.
    if any("Inconsistent parameter values" in str(warning.message) for warning in caught):
        differing.append("another range of a parameter")
    if trial.distributions != asked:
        differing.append("another parameter")
    if differing:
        raise InputError(
            f"asked twice for one trial, it gives {differing[0]}; all that is random must come "
            "from the trial (trial.suggest_...)"
        )
    return fields


def _where(unused_count: int, tried: int) -> str:
    return "" if unused_count == tried else f" in {unused_count} of {tried} configurations tried"


def _moved(
    experiment: Experiment, study: optuna.Study, trial: optuna.Trial, axis: str
) -> list[TrainConfig | LoopConfig]:
    """Return the configurations with the axis at the ends of its range, or at its other choices."""
    distribution = trial.distributions[axis]
    if isinstance(distribution, CategoricalDistribution):
        values = list(distribution.choices)
    else:
        values = [distribution.low, distribution.high]  # type: ignore[attr-defined]
    configs = []
    for value in values:
        if value != trial.params[axis]:
            study.enqueue_trial({**trial.params, axis: value})
            configs.append(_config(experiment, study.ask()))
    return [config for config in configs if config is not None]


def _config(experiment: Experiment, trial: optuna.Trial) -> TrainConfig | LoopConfig | None:
    try:
        return run_space(experiment, trial)[0]
    except Exception:  # an error of the user's space; in the sweep, such a trial fails
        return None


def _study(experiment: Experiment) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=experiment.seed))
