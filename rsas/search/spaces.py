"""Search spaces tried on throw-away studies, before a sweep begins."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution

from rsas.config import TrainConfig
from rsas.errors import InputError
from rsas.pruning import acting, idle
from rsas.search.experiment import Experiment, name_of

__all__ = ["check_space", "idle_axes"]

_TRIES = 16


def check_space(experiment: Experiment) -> dict[str, Any]:
    """See that the space sets fields that a sweep can search.

    Returns:
        The fields it set, those of all tries together.

    Raises:
        InputError: it raises, or sets an unknown field or a value that is not valid, or one
            that every trial of a sweep must share.
    """
    name = f"space {name_of(experiment.space)!r}"
    study = _study(experiment)
    found: dict[str, Any] = {}
    for _ in range(_TRIES):
        trial = study.ask()
        try:
            fields = experiment.space(trial)
            experiment.base.replace(**fields)
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
        except Exception as error:
            raise InputError(f"{name}: {type(error).__name__}: {error}") from error
        shared = {"dataset", "val_fraction", "split_seed"} & fields.keys()
        if shared:
            raise InputError(f"{name}: {shared.pop()!r} is the same for all trials of a sweep")
        for parameter in trial.params:
            if not re.fullmatch(r"[\w .:/-]{1,250}", parameter):  # MLflow takes no others
                raise InputError(f"{name}: parameter {parameter!r}: expected letters and digits")
        found |= fields
    return found


def idle_axes(experiment: Experiment) -> list[str]:
    """Axes of the space that cannot act, always or in some of its configurations.

    Each axis of some random configurations is moved while the others stay; where that changes no
    field that acts (``rsas.pruning.acting``), the axis does nothing there.

    Returns:
        A line for each such axis: its name, where it does nothing, and why.
    """
    study = _study(experiment)
    tried: dict[str, int] = defaultdict(int)
    reasons: dict[str, list[str]] = defaultdict(list)
    for _ in range(_TRIES):
        trial = study.ask()
        config = _config(experiment, trial)
        if config is None:
            continue
        for axis, moved in _moved(experiment, study, trial):
            tried[axis] += 1
            if acting(config) == acting(moved):
                reasons[axis].append(idle(config).get(axis, "no field that acts depends on it"))
    return [
        f"{axis} does nothing{_where(len(found), tried[axis])}: {'; '.join(dict.fromkeys(found))}"
        for axis, found in reasons.items()
    ]


def _where(found: int, tried: int) -> str:
    return "" if found == tried else f" in {found} of {tried} configurations tried"


def _moved(
    experiment: Experiment, study: optuna.Study, trial: optuna.Trial
) -> Iterator[tuple[str, TrainConfig]]:
    """The configurations with one axis at another value, where there is one."""
    for axis, distribution in trial.distributions.items():
        value = _another(distribution, trial.params[axis])
        if value is None:
            continue
        study.enqueue_trial({**trial.params, axis: value})
        moved = _config(experiment, study.ask())
        if moved is not None:
            yield axis, moved


def _another(distribution: BaseDistribution, value: Any) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        values = list(distribution.choices)
    else:
        values = [distribution.low, distribution.high]  # type: ignore[attr-defined]
    return next((other for other in values if other != value), None)


def _config(experiment: Experiment, trial: optuna.Trial) -> TrainConfig | None:
    try:
        return experiment.base.replace(**experiment.space(trial))
    except Exception:  # of the user's; such a trial fails in the sweep, with its reason
        return None


def _study(experiment: Experiment) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=experiment.seed))
