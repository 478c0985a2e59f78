"""A sweep as records and as tidy tables; ``rsas.load`` reads sweeps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from rsas.columns import parse
from rsas.pareto import front
from rsas.records import Objective, TrialRecord

__all__ = [
    "Sweep",
    "load_history",
    "load_trials",
    "split_by",
    "trials_frame",
]

Rows = Sequence[Mapping[str, float]]


@dataclass(frozen=True)
class Sweep:
    """A sweep as it was when ``rsas.load`` read it."""

    name: str
    state: str  # running, finished, interrupted or failed
    experiment: dict[str, Any]  # as resolved: base configuration, budget, axes of the space, ...
    objectives: tuple[Objective, ...]
    trials: list[TrialRecord]
    history: Callable[[TrialRecord], Rows]  # reads the rows of a trial
    runs: dict[str, str] = field(default_factory=dict)  # trial -> its run in MLflow
    models: dict[str, str] = field(default_factory=dict)  # trial -> path or URI of its final model
    tracking_uri: str = ""  # of the MLflow server or file that has the runs

    @property
    def front(self) -> list[TrialRecord]:
        """Complete trials that no other trial dominates."""
        return front(self.trials, self.objectives)

    def epochs_of(self, trial: TrialRecord) -> int:
        """Return the number of epochs of a trial's whole training."""
        return int(trial.params.get("epochs", self.experiment["base"]["epochs"]))


def split_by(sweep: Sweep, name: str) -> list[Sweep]:
    """Split a sweep into one for each value of a parameter, sorted by value.

    Trials without this parameter have the value of the base configuration.
    """
    base = sweep.experiment["base"].get(name)
    groups: dict[str, list[TrialRecord]] = {}
    for trial in sweep.trials:
        groups.setdefault(str(trial.params.get(name, base)), []).append(trial)
    return [
        dataclasses.replace(sweep, name=f"{sweep.name} {value}", trials=trials)
        for value, trials in sorted(groups.items())
    ]


def load_trials(sweep: Sweep) -> pd.DataFrame:
    """Return a row for each trial of a sweep.

    Returns:
        These columns:

        - trial_id; state (running, complete, pruned or failed);
        - pareto, whether the trial is a member of the front;
        - the objectives, and ``seedN/OBJECTIVE`` for trials that were trained with several seeds;
        - ``params.NAME``;
        - epochs trained; fidelity, their share of a whole training, in [0, 1];
        - device_seconds of training;
        - duration, seconds from begin to end by the wall clock; NaN before the end, and if the
          clock was set back;
        - run_id in MLflow;
        - checkpoint, the path or URI of the final model, which only members of the front have;
        - reason of a failure;
        - same_as, the trial that this one repeats.
    """
    frame = trials_frame(sweep.trials)
    members = {trial.trial_id for trial in sweep.front}
    whole = [sweep.epochs_of(trial) for trial in sweep.trials]
    frame.insert(2, "pareto", [trial in members for trial in frame["trial_id"]])
    index = frame.columns.get_loc("epochs")
    assert isinstance(index, int)
    frame.insert(index + 1, "fidelity", np.minimum(frame["epochs"] / whole, 1.0))
    frame["run_id"] = [sweep.runs.get(trial, "") for trial in frame["trial_id"]]
    frame["checkpoint"] = [sweep.models.get(trial, "") for trial in frame["trial_id"]]
    frame["reason"] = [trial.reason for trial in sweep.trials]
    frame["same_as"] = [trial.same_as for trial in sweep.trials]
    return frame


def load_history(sweep: Sweep, *, trials: Sequence[str] | None = None) -> pd.DataFrame:
    """Return the history of trials in long format: a row per epoch and measured value.

    Args:
        sweep: as ``rsas.load.load_sweep`` returns it.
        trials: each a ``trial_id``; by default all.

    Returns:
        trial_id; epoch, from 1; name, such as val_accuracy; layer, empty for a value of the whole
        network; seed, missing unless the value is of one among several seeds; and value.
    """
    rows = [
        (trial.trial_id, int(row["epoch"]), *parse(name), value)
        for trial in sweep.trials
        if trials is None or trial.trial_id in trials
        for row in sweep.history(trial)
        for name, value in row.items()
        if name != "epoch"
    ]
    frame = pd.DataFrame(rows, columns=["trial_id", "epoch", "name", "layer", "seed", "value"])
    return frame.astype({"seed": "Int64"})


def trials_frame(trials: Sequence[TrialRecord]) -> pd.DataFrame:
    """Return a row per trial, with those columns of ``load_trials`` that need only the records."""
    rows = [
        {
            "trial_id": trial.trial_id,
            "state": trial.state,
            **trial.objectives,
            **trial.by_seed,
            # A parameter may have the name of an objective, such as sparsity.
            **{f"params.{name}": value for name, value in trial.params.items()},
            "epochs": trial.epochs,
            "device_seconds": trial.device_seconds,
            "duration": _duration(trial),
        }
        for trial in trials
    ]
    always = ["trial_id", "state", "epochs", "device_seconds", "duration"]
    return pd.DataFrame(rows, columns=None if rows else always)


def _duration(trial: TrialRecord) -> float:
    """Return the seconds from begin to end; NaN before the end, and if the clock was set back."""
    if trial.finished is None or trial.finished < trial.started:
        return np.nan
    return trial.finished - trial.started
