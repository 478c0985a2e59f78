"""The final network of a trial, and its configuration according to the sweep's own record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rsas.config import LoopConfig, TrainConfig
from rsas.errors import InputError, reason_of
from rsas.records import TrialRecord, number_of
from rsas.sweep.experiment import load_experiment
from rsas.sweep.files.sweep_dir import SweepDir
from rsas.sweep.files.trial_dir import read_model

if TYPE_CHECKING:  # optuna takes a second to import
    from rsas.export import Network
    from rsas.sweep.study.study import Study

__all__ = ["final_model", "final_network"]

Config = TrainConfig | LoopConfig


def final_model(
    sweep_dir: SweepDir, study: Study, trial: TrialRecord
) -> tuple[Config, dict[str, Any]]:
    """Return the network of a trial, or of the one that it repeats, and its configuration.

    Args:
        sweep_dir: of the sweep.
        study: of the sweep.
        trial: the trial whose network is wanted.

    Returns:
        The configuration according to ``sweep.json`` and the study, and ``Trainer.final_state``.
        The configuration in the model file is compared only: a configuration may name code, and
        the file may come from elsewhere.

    Raises:
        InputError: no model is kept, as the trial is not on the front; the model cannot be read; or
            its configuration is not that of the sweep.
    """
    name, state = _kept(sweep_dir, trial)
    config = _recorded(sweep_dir, study, name)
    try:
        theirs = type(config).from_dict(state["config"]).to_dict()
    except (InputError, KeyError, TypeError, AttributeError):
        raise InputError(f"the final model of {name!r} has no configuration of rsas") from None
    if config.device == "auto" and theirs["device"] == "cpu":  # as a worker without a GPU sets it
        config = config.replace(device="cpu")
    for field, value in config.to_dict().items():
        if theirs[field] != value:
            raise InputError(
                f"the final model of {name!r} names {field}={theirs[field]!r}, but its sweep "
                f"trained {field}={value!r}: it is not the model of this trial"
            )
    return config, state


def final_network(
    sweep_dir: SweepDir, study: Study, trial: TrialRecord, /, **about: Any
) -> Network:
    """Return the network of a trial, built by the code of its sweep.

    The arguments are those of ``final_model``, and JSON values that the network keeps.

    Raises:
        InputError: as ``final_model``; or the network cannot be built.
    """
    from rsas.export import Network
    from rsas.loop import set_up

    config, state = final_model(sweep_dir, study, trial)
    if isinstance(config, TrainConfig):
        return Network.from_state(state, config, **about)
    source = sweep_dir.record["source"]
    loop = load_experiment(source)[0].train
    if loop is None:
        raise InputError(f"{source}: the experiment has no training loop any more")
    try:
        model = set_up(loop, config.replace(device="cpu")).model
    except Exception as error:
        raise InputError(f"{source}: the training loop: {reason_of(error)}") from error
    return Network.from_state(state, config, model, **about)


def _kept(sweep_dir: SweepDir, trial: TrialRecord) -> tuple[str, dict[str, Any]]:
    """Return the identity of the trial that trained the network, and the network's state."""
    try:
        for name in filter(None, (trial.trial_id, trial.same_as)):
            state = read_model(sweep_dir.models, name)
            if state is not None:
                return name, state
        available = ", ".join(sweep_dir.models.names()) or "none"
    except Exception as error:  # torch raises many types of exceptions for damaged files
        reason = f"{error if isinstance(error, OSError) else 'it is damaged'}".splitlines()[0]
        raise InputError(
            f"the final model of {trial.trial_id!r} cannot be read ({reason}); "
            f"'rsas check {sweep_dir.name}' shows the faults"
        ) from None
    raise InputError(
        f"trial {trial.trial_id!r} has no final model: only those of the front are kept: "
        f"{available}"
    )


def _recorded(sweep_dir: SweepDir, study: Study, name: str) -> Config:
    """Return the configuration with which a trial trains the network that is kept."""
    fields = study.fields(number_of(name))
    if fields is None:
        raise InputError(f"sweep {sweep_dir.name!r}: its study lacks the configuration of {name!r}")
    experiment = sweep_dir.record["experiment"]
    seed = {"seed": experiment["seeds"][0]} if experiment["seeds"] else {}
    kind = TrainConfig if experiment["train"] is None else LoopConfig
    return kind.from_dict({**experiment["base"], **fields, **seed})
