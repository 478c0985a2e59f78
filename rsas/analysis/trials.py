"""A sweep, read from its workspace or from MLflow alone, as records and as tidy tables.

The only module of the analysis that knows where sweeps are kept; it imports what it needs to
read one when it reads one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from rsas.analysis.pareto import front
from rsas.errors import InputError, reason_of
from rsas.records import Objective, TrialRecord

__all__ = [
    "Network",
    "Sweep",
    "load_history",
    "load_network",
    "load_sweep",
    "load_trials",
    "split_by",
    "sweep_names",
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


def load_sweep(
    sweep: str,
    *,
    workspace: str | os.PathLike[str] | None = None,
    tracking_uri: str | None = None,
    runs: bool = True,
) -> Sweep:
    """Read a sweep.

    Args:
        sweep: its name.
        workspace: its folder; by default ``RSAS_WORKSPACE``, or ``runs``.
        tracking_uri: of an MLflow server; given, the sweep is read from there alone. It then has
            what MLflow has, and nothing of the workspace is needed.
        runs: also ask MLflow for the runs of a sweep in a workspace, which takes some seconds;
            where MLflow does not answer there are none.

    Raises:
        InputError: there is no such sweep, or it cannot be read.
    """
    if tracking_uri is not None:
        return _from_mlflow(sweep, tracking_uri)
    return _from_workspace(sweep, _place(workspace), runs)


@dataclass(frozen=True)
class Network:
    """The final network of a trial, of the first seed where there are several."""

    config: dict[str, Any]
    input_shape: tuple[int, ...]
    masks: dict[str, npt.NDArray[np.bool_]]  # by layer, True where a weight is on
    measures: dict[str, npt.NDArray[np.float64]]  # by layer; empty where none were kept


def sweep_names(workspace: str | os.PathLike[str] | None = None) -> list[str]:
    """The sweeps of a workspace, as of ``load_sweep``; the one begun or extended last is last."""
    from rsas.search.workspace import Workspace

    return Workspace(_place(workspace)).names()


def load_network(sweep: Sweep, trial: str) -> Network | None:
    """The final network of a trial; None where it is not kept: only those of the front are.

    Raises:
        InputError: it cannot be read.
    """
    from rsas.search.checkpoints import read_model
    from rsas.search.storage import Storage

    same = {each.trial_id: each.same_as for each in sweep.trials}
    kept = sweep.models.get(trial) or sweep.models.get(same.get(trial, ""))
    if kept is None:
        return None
    place, _, name = kept.rpartition("/")
    try:
        state = read_model(Storage(place), name)
        if state is None:  # another trial has taken its place in the front
            return None
        return Network(
            config=state["config"],
            input_shape=tuple(state["input_shape"]),
            masks={name: mask.numpy() for name, mask in state["masks"].items()},
            measures={k: v.double().numpy() for k, v in state["measures"].items()},
        )
    except Exception as error:  # torch raises many kinds
        reason = reason_of(error)
        raise InputError(f"model of trial {trial!r}: cannot be read ({reason})") from None


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


def load_trials(
    sweep: str | Sweep,
    *,
    workspace: str | os.PathLike[str] | None = None,
    tracking_uri: str | None = None,
) -> pd.DataFrame:
    """A row a trial of a sweep; arguments and errors as of ``load_sweep``.

    Returns:
        trial_id; state (running, complete, pruned or failed); pareto, whether it is a member of
        the front; the objectives, and ``seedN/OBJECTIVE`` where it was trained with several
        seeds; ``params.NAME``; epochs after which it was complete or stopped; fidelity, their
        share of a whole training, in [0, 1]; device_seconds of training; duration, seconds from
        begin to end by the wall clock, NaN where that was set back between; run_id in MLflow;
        checkpoint, where its final model is, which only members of the front keep; reason of a
        failure; and same_as, the trial it repeats.
    """
    if isinstance(sweep, str):
        sweep = load_sweep(sweep, workspace=workspace, tracking_uri=tracking_uri)
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


def load_history(
    sweep: str | Sweep,
    *,
    trials: Sequence[str] | None = None,
    workspace: str | os.PathLike[str] | None = None,
    tracking_uri: str | None = None,
) -> pd.DataFrame:
    """What was measured after each epoch, in long format.

    Args:
        sweep: its name, or as ``load_sweep`` returned it.
        trials: identities; by default all.
        workspace: as of ``load_sweep``.
        tracking_uri: as of ``load_sweep``.

    Returns:
        trial_id; epoch, from 1; name, such as val_accuracy; layer, empty where the number is of
        the whole network; seed, of one of several, else missing; and value.
    """
    if isinstance(sweep, str):
        sweep = load_sweep(sweep, workspace=workspace, tracking_uri=tracking_uri, runs=False)
    rows = [
        (trial.trial_id, int(row["epoch"]), *_parts(name), value)
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


def _place(workspace: str | os.PathLike[str] | None) -> Path:
    return Path(workspace or os.environ.get("RSAS_WORKSPACE", "runs"))


def _parts(name: str) -> tuple[str, str, int | None]:
    """``sparsity/fc1`` -> (sparsity, fc1, None); ``seed2/val_loss`` -> (val_loss, "", 2)."""
    first, slash, rest = name.partition("/")
    if slash and first == "sparsity":
        return first, rest, None
    if slash and first.startswith("seed"):
        return rest, "", int(first.removeprefix("seed"))
    return name, "", None


def _from_workspace(name: str, place: Path, runs: bool) -> Sweep:
    from rsas.search.workspace import Workspace
    from rsas.tracking import read_runs

    folder = Workspace(place).open(name)
    status = folder.status()
    uri, found = "", {}
    if runs:
        with contextlib.suppress(InputError):  # the server is away, or its password not known
            uri = folder.tracking_uri()
            found = read_runs(uri, folder.record["id"])
    return Sweep(
        name=name,
        state=status.state,
        experiment=folder.record["experiment"],
        objectives=folder.objectives,
        trials=status.trials,
        history=lambda trial: folder.history(trial).rows,
        runs=found,
        models={trial: f"{folder.models.place}/{trial}" for trial in folder.models.names()},
        tracking_uri=uri,
    )


def _from_mlflow(name: str, uri: str) -> Sweep:
    from rsas.tracking import read_history, read_sweep

    found = read_sweep(uri, name)
    return Sweep(
        name=name,
        state=found.state,
        experiment=found.experiment,
        objectives=tuple(Objective(**each) for each in found.experiment["objectives"]),
        trials=found.trials,
        history=lambda trial: read_history(uri, found.runs[trial.trial_id]),
        runs=found.runs,
        models=found.models,
        tracking_uri=uri,
    )
