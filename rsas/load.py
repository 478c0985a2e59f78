"""Read a sweep from its workspace, or from MLflow alone.

What a read needs is imported by it, so that MLflow and torch cost their seconds only then.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rsas.analysis.trials import Sweep
from rsas.errors import InputError, reason_of
from rsas.records import Objective

__all__ = ["FinalNetwork", "load_network", "load_sweep", "sweep_names"]


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
class FinalNetwork:
    """The final network of a trial, of the first seed where there are several."""

    config: dict[str, Any]
    input_shape: tuple[int, ...]
    masks: dict[str, npt.NDArray[np.bool_]]  # by layer, True where a weight is on
    measures: dict[str, npt.NDArray[np.float64]]  # by layer; empty where none were kept


def sweep_names(workspace: str | os.PathLike[str] | None = None) -> list[str]:
    """The sweeps of a workspace, as of ``load_sweep``; the one begun or extended last is last."""
    from rsas.sweep.files.workspace import Workspace

    return Workspace(_place(workspace)).names()


def load_network(sweep: Sweep, trial: str) -> FinalNetwork | None:
    """The final network of a trial; None where it is not kept: only those of the front are.

    Raises:
        InputError: it cannot be read.
    """
    from rsas.sweep.files.file_store import FileStore
    from rsas.sweep.files.trial_dir import read_model

    same = {each.trial_id: each.same_as for each in sweep.trials}
    kept = sweep.models.get(trial) or sweep.models.get(same.get(trial, ""))
    if kept is None:
        return None
    place, _, name = kept.rpartition("/")
    try:
        state = read_model(FileStore(place), name)
        if state is None:  # another trial has taken its place in the front
            return None
        return FinalNetwork(
            config=state["config"],
            input_shape=tuple(state["input_shape"]),
            masks={name: mask.numpy() for name, mask in state["masks"].items()},
            measures={k: v.double().numpy() for k, v in state["measures"].items()},
        )
    except Exception as error:  # torch raises many kinds
        reason = reason_of(error)
        raise InputError(f"model of trial {trial!r}: cannot be read ({reason})") from None


def _place(workspace: str | os.PathLike[str] | None) -> Path:
    return Path(workspace or os.environ.get("RSAS_WORKSPACE", "runs"))


def _from_workspace(name: str, place: Path, runs: bool) -> Sweep:
    from rsas.sweep.files.workspace import Workspace
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
