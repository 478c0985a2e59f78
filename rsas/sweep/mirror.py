"""The mirror of a sweep in MLflow: the study and the files as the tracker reads them."""

from __future__ import annotations

from typing import Any

import numpy as np

from rsas import tracking
from rsas.errors import InputError
from rsas.records import TrialRecord
from rsas.sweep.files.final_model import final_network
from rsas.sweep.files.sweep_dir import SweepDir
from rsas.sweep.study.study import Study

__all__ = ["tracker_of"]


def tracker_of(
    sweep_dir: SweepDir,
    study: Study,
    *,
    say: tracking.Say,
    progress: tracking.Progress = lambda done, total: None,
) -> tracking.Tracker:
    """Return the tracker that mirrors a sweep in MLflow, and start the tracker's thread."""
    record = sweep_dir.record["experiment"]
    is_local = sweep_dir.record["tracking_uri"] is None
    source = tracking.Source(
        uri=sweep_dir.tracking_uri(),
        trials=lambda: study.trials(sweep_dir.objectives),
        rows=lambda trial: sweep_dir.history(trial).rows,
        sweep=sweep_dir.name,
        sweep_id=sweep_dir.record["id"],
        experiment=record["name"],
        artifacts=(sweep_dir.workspace / "artifacts").as_uri() if is_local else None,
        objectives=sweep_dir.objectives,
        record=record,
        check=study.check_lease,
        progress=progress,
        provenance=sweep_dir.record["provenance"],
        models=lambda trial: _network(sweep_dir, study, trial),
    )
    return tracking.Tracker(source, say)


def _network(sweep_dir: SweepDir, study: Study, trial: TrialRecord) -> tuple[Any, Any]:
    """Return the final network of a trial, and a batch of two inputs of zeros."""
    network = final_network(sweep_dir, study, trial)
    if network.input_shape is None:
        raise InputError(f"the network of {trial.trial_id} does not take one float tensor")
    return network.model, np.zeros((2, *network.input_shape), dtype=np.float32)
