"""Convert Optuna's trials to records, and to JSON from which a study can be rebuilt."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import distribution_to_json, json_to_distribution
from optuna.trial import FrozenTrial, TrialState

from rsas.records import Objective, State, TrialRecord, trial_id

__all__ = [
    "BY_SEED",
    "DEVICE_SECONDS",
    "EPOCHS",
    "FIELDS",
    "KEY",
    "KNOWN",
    "REASON",
    "RUNG",
    "SAME_AS",
    "STATES",
    "from_dict",
    "to_dict",
    "to_record",
]

STATES: dict[TrialState, State] = {
    TrialState.RUNNING: "running",
    TrialState.WAITING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}

# Names of the user attributes of trials.
REASON = "rsas:reason"
KEY = "rsas:key"
SAME_AS = "rsas:same_as"
FIELDS = "rsas:fields"
RUNG = "rsas:rung:"
EPOCHS = "rsas:epochs"
DEVICE_SECONDS = "rsas:device_seconds"
BY_SEED = "rsas:by_seed"
KNOWN = "rsas:known"


def to_record(trial: FrozenTrial, objectives: Sequence[Objective]) -> TrialRecord:
    """Return the record of a trial; only a complete trial has objectives."""
    names = [objective.name for objective in objectives]
    attributes = trial.user_attrs
    return TrialRecord(
        trial_id=trial_id(trial.number),
        state=STATES[trial.state],
        params=dict(trial.params),
        objectives=(
            dict(zip(names, trial.values, strict=True))
            if trial.state is TrialState.COMPLETE
            else {}
        ),
        started=_timestamp(trial.datetime_start) or 0.0,
        finished=_timestamp(trial.datetime_complete),
        reason=attributes.get(REASON, "") if trial.state is TrialState.FAIL else "",
        same_as=attributes.get(SAME_AS, ""),
        epochs=attributes.get(EPOCHS, 0.0),
        device_seconds=attributes.get(DEVICE_SECONDS, 0.0),
        by_seed=attributes.get(BY_SEED, {}),
    )


def to_dict(trial: FrozenTrial) -> dict[str, Any]:
    """Return all data of a trial, as JSON types."""
    return {
        "number": trial.number,
        "state": trial.state.name,
        "params": trial.params,
        "distributions": {k: distribution_to_json(v) for k, v in trial.distributions.items()},
        "values": trial.values,
        "user_attrs": trial.user_attrs,
        "system_attrs": trial.system_attrs,
        "started": _timestamp(trial.datetime_start),
        "finished": _timestamp(trial.datetime_complete),
    }


def from_dict(values: Mapping[str, Any], objectives: int) -> FrozenTrial:
    """Return the trial of a ``to_dict``; all keys but ``state`` may be missing."""
    state = TrialState[values["state"]]
    distributions = values.get("distributions", {})
    trial = optuna.trial.create_trial(
        state=state,
        params=values.get("params", {}),
        distributions={k: json_to_distribution(v) for k, v in distributions.items()},
        values=values.get("values") if state is TrialState.COMPLETE else None,
        user_attrs=values.get("user_attrs", {}),
        system_attrs=values.get("system_attrs", {}),
    )
    now = datetime.datetime.now()
    started, finished = values.get("started"), values.get("finished")
    trial.datetime_start = datetime.datetime.fromtimestamp(started) if started else now
    if state.is_finished():
        trial.datetime_complete = datetime.datetime.fromtimestamp(finished) if finished else now
    return trial


def _timestamp(moment: datetime.datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()
