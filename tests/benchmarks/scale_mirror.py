"""How long MLflow's mirror of a large sweep takes to be made, and to be compared with the study.

``python -m tests.benchmarks.scale_mirror --trials 2000`` makes a finished sweep without training,
logs all of it to an empty SQLite file as a resume does, and checks it.
"""

import argparse
import math
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from rsas.columns import METRICS
from rsas.records import trial_id
from rsas.sweep.audit.check import check
from rsas.sweep.experiment import load_experiment
from rsas.sweep.files.retention import Retention
from rsas.sweep.files.trial_dir import write_model
from rsas.sweep.mirror import tracker_of
from rsas.sweep.study.frozen import from_dict, to_dict
from tests import made
from tests.faults.harness import Place


def finished(place: Path, trials: int, epochs: int):
    """A finished sweep whose front grows with the square root of its trials."""
    experiment, source = load_experiment(Place(place).source)
    folder, study = made.make(place / "runs", "large", experiment, source)
    first = study.begin()
    study.config(first)  # which runs the space
    template = to_dict(study.optuna_study.trials[first])
    study.fail(first, "an example of what the sampler gives")
    for number in range(1, trials):
        sparsity = (number * 0.6180339887) % 1
        accuracy = math.sqrt(1 - sparsity**2) - 1 / (1 + number % 50)
        rows = made.rows(epochs, accuracy, sparsity)
        rows = [{**dict.fromkeys(METRICS, row["epoch"] / epochs), **row} for row in rows]
        made.train(folder, number, rows)
        ended = {
            "state": "COMPLETE",
            "values": [rows[-1]["val_accuracy"], sparsity],
            "user_attrs": {"rsas:epochs": float(epochs), "rsas:device_seconds": 1.0},
            "started": 1.7e9 + number,
            "finished": 1.7e9 + number + 1,
        }
        study.optuna_study.add_trial(from_dict(template | ended, 2))
    status = folder.status()
    for trial in status.front:
        write_model(folder.models, trial.trial_id, {"weights": torch.zeros(3)})
    assert trial_id(trials - 1) == status.trials[-1].trial_id
    Retention(folder.storage, study, folder.objectives, print).close(status.trials)
    return folder, study


def measure(trials: int, epochs: int) -> dict[str, float]:
    """Seconds of a catch-up of all trials, of one with nothing to do, and of a check."""
    seconds = {}
    with tempfile.TemporaryDirectory(prefix="rsas-bench-") as place:
        folder, study = finished(Path(place), trials, epochs)
        for name in ("log all", "log nothing"):
            said = []
            began = time.monotonic()
            assert tracker_of(folder, study, say=said.append).close("finished"), said
            seconds[name] = time.monotonic() - began
        began = time.monotonic()
        faults = check(folder)
        seconds["check"] = time.monotonic() - began
        assert faults == [], faults[:3]
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, nargs="+", default=[500, 5000])
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()
    table = Table(title="seconds")
    for column in ("trials", "log all", "log nothing", "check"):
        table.add_column(column, justify="right")
    for trials in options.trials:
        found = measure(trials, options.epochs)
        table.add_row(f"{trials}", *(f"{value:.1f}" for value in found.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
