"""A sweep as records and as tidy tables; ``rsas.load`` reads one."""

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
    """A sweep as it was when it was read."""

    name: str
    state: str  # running, finished, interrupted or failed
    experiment: dict[str, Any]  # as resolved: base configuration, budget, axes of the space, ...
    objectives: tuple[Objective, ...]
    trials: list[TrialRecord]
    history: Callable[[TrialRecord], Rows]  # the rows of a trial; reads them
    runs: dict[str, str] = field(default_factory=dict)  # trial -> its run in MLflow
    models: dict[str, str] = field(default_factory=dict)  # trial -> where its final model is
    tracking_uri: str = ""  # of the MLflow that has its runs

    @property
    def front(self) -> list[TrialRecord]:
        """The complete trials that no other dominates."""
        return front(self.trials, self.objectives)

    def epochs_of(self, trial: TrialRecord) -> int:
        """Epochs of a whole training of a trial."""
        return int(trial.params.get("epochs", self.experiment["base"]["epochs"]))


def split_by(sweep: Sweep, name: str) -> list[Sweep]:
    """A sweep as one for each value of a parameter, or of a field of its base; sorted by value."""
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
        trial_id; state (running, complete, pruned or failed); pareto, whether it is a member of
        the front; the objectives, and ``seedN/OBJECTIVE`` where it was trained with several
        seeds; ``params.NAME``; epochs after which it was complete or stopped; fidelity, their
        share of a whole training, in [0, 1]; device_seconds of training; duration, seconds from
        begin to end by the wall clock, NaN where that was set back between; run_id in MLflow;
        checkpoint, where its final model is, which only members of the front keep; reason of a
        failure; and same_as, the trial it repeats.
    """
    frame = trials_frame(sweep.trials)
    members = {trial.trial_id for trial in sweep.front}
    whole = [sweep.epochs_of(trial) for trial in sweep.trials]
    frame.insert(2, "pareto", [trial in members for trial in frame["trial_id"]])
    place = frame.columns.get_loc("epochs")
    assert isinstance(place, int)
    frame.insert(place + 1, "fidelity", np.minimum(frame["epochs"] / whole, 1.0))
    frame["run_id"] = [sweep.runs.get(trial, "") for trial in frame["trial_id"]]
    frame["checkpoint"] = [sweep.models.get(trial, "") for trial in frame["trial_id"]]
    frame["reason"] = [trial.reason for trial in sweep.trials]
    frame["same_as"] = [trial.same_as for trial in sweep.trials]
    return frame


def load_history(sweep: Sweep, *, trials: Sequence[str] | None = None) -> pd.DataFrame:
    """Return what was measured after each epoch, in long format.

    Args:
        sweep: as ``rsas.load.load_sweep`` returns it.
        trials: identities; by default all.

    Returns:
        trial_id; epoch, from 1; name, such as val_accuracy; layer, empty where the number is of
        the whole network; seed, of one of several, else missing; and value.
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
    """A row a trial, with what the records alone tell; columns as of ``load_trials``."""
    rows = [
        {
            "trial_id": trial.trial_id,
            "state": trial.state,
            **trial.objectives,
            **trial.by_seed,
            # A parameter may have the name of an objective: pruning rate asked for, and held.
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
    """Return the seconds from begin to end; NaN where there are none to be known."""
    if trial.finished is None or trial.finished < trial.started:
        return np.nan
    return trial.finished - trial.started
