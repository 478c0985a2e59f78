"""Read a sweep from its workspace, or from MLflow alone.

Each function imports MLflow or torch itself, since these imports take seconds.
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
        sweep: the name of the sweep.
        workspace: the folder of the workspace; by default ``RSAS_WORKSPACE``, or ``runs``.
        tracking_uri: of an MLflow server. If given, the sweep is read from this server alone, and
            no workspace is needed. The sweep then has only values that MLflow has.
        runs: also ask MLflow for the runs of a sweep in a workspace, which takes some seconds.
            The sweep has no runs if MLflow does not answer.

    Raises:
        InputError: the sweep does not exist or cannot be read.
    """
    from rsas.sweep.files.workspace import Workspace
    from rsas.tracking import read_runs, read_sweep

    if tracking_uri is not None:
        return read_sweep(tracking_uri, sweep)
    sweep_dir = Workspace(_folder(workspace)).open(sweep)
    status = sweep_dir.status()
    uri, runs_by_trial = "", {}
    if runs:
        # The server may not answer, or its password may not be known.
        with contextlib.suppress(InputError):
            uri = sweep_dir.tracking_uri()
            runs_by_trial = read_runs(uri, sweep_dir.record["id"])
    return Sweep(
        name=sweep,
        state=status.state,
        experiment=sweep_dir.record["experiment"],
        objectives=sweep_dir.objectives,
        trials=status.trials,
        history=lambda trial: sweep_dir.history(trial).rows,
        runs=runs_by_trial,
        models={
            trial: f"{sweep_dir.models.location}/{trial}" for trial in sweep_dir.models.names()
        },
        tracking_uri=uri,
    )


@dataclass(frozen=True)
class FinalNetwork:
    """The final network of a trial; with several seeds, the network of the first seed."""

    config: dict[str, Any]
    input_shape: tuple[int, ...]  # empty if not known
    masks: dict[str, npt.NDArray[np.bool_]]  # by layer, True where a weight is on
    measures: dict[str, npt.NDArray[np.float64]]  # by layer; empty if none were stored


def sweep_names(workspace: str | os.PathLike[str] | None = None) -> list[str]:
    """Return the names of a workspace's sweeps; the sweep begun or extended last is last.

    The argument is as in ``load_sweep``.
    """
    from rsas.sweep.files.workspace import Workspace

    return Workspace(_folder(workspace)).names()


def load_network(sweep: Sweep, trial: str) -> FinalNetwork | None:
    """Return the final network of a trial; None if the network is not stored.

    Only networks of the front's members are stored.

    Raises:
        InputError: the network cannot be read.
    """
    from rsas.sweep.files.file_store import FileStore
    from rsas.sweep.files.trial_dir import read_model

    originals = {record.trial_id: record.same_as for record in sweep.trials}
    path = sweep.models.get(trial) or sweep.models.get(originals.get(trial, ""))
    if path is None:
        return None
    folder, _, name = path.rpartition("/")
    try:
        state = read_model(FileStore(folder), name)
        if state is None:  # deleted since, because another trial dominates this one
            return None
        return FinalNetwork(
            config=state["config"],
            input_shape=tuple(state["input_shape"] or ()),
            masks={name: mask.numpy() for name, mask in state["masks"].items()},
            measures={k: v.double().numpy() for k, v in state["measures"].items()},
        )
    except Exception as error:  # torch raises many kinds
        reason = reason_of(error)
        raise InputError(f"model of trial {trial!r}: cannot be read ({reason})") from None


def _folder(workspace: str | os.PathLike[str] | None) -> Path:
    return Path(workspace or os.environ.get("RSAS_WORKSPACE", "runs"))
