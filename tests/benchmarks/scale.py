"""What commands cost on a big sweep: ``python -m tests.benchmarks.scale --trials 5000``.

The sweep is written to disk as a driver would leave it, with made-up results and without Ray.
Each command runs in a process of its own. There are neither final models nor runs in MLflow, so
``check`` reports them as missing; its time is that of the study and the histories.
"""

import argparse
import dataclasses
import datetime
import os
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import optuna
from optuna.trial import TrialState
from rich.console import Console
from rich.table import Table

from rsas.records import trial_id
from rsas.sweep.experiment import load_experiment
from rsas.sweep.files.trial_dir import TrialDir
from rsas.sweep.study import frozen
from tests import made
from tests.resources import RSAS

ROOT = Path(__file__).parents[2]
QUICKSTART = f"{ROOT / 'experiments' / 'digits_quickstart.py'}:by_method"
EPOCHS = 12
LAYERS = ("conv1", "conv2", "conv3", "conv4", "fc1", "fc2")
COMMANDS = {  # name -> arguments, and the limit in seconds
    "status": (["status", "a"], 5.0),
    "pareto": (["pareto", "a"], 5.0),
    "compare": (["compare", "a", "b"], 10.0),
    "report": (["report", "a"], 30.0),
    "check": (["check", "a"], 60.0),
}


def rows_of(fields, accuracy, epochs, seeds):
    """The history of a trial, an epoch a row, with the sparsity of each layer."""
    for epoch in range(1, epochs + 1):
        means = {
            "train_loss": 2.3 * (1 - accuracy) + 1 / epoch,
            "val_loss": 2.5 * (1 - accuracy) + 1 / epoch,
            "val_accuracy": accuracy * (1 - 0.5 / epoch),
            "sparsity": fields["sparsity"],
            "churn": 0.3 / epoch,
            "exploration": 0.5 / epoch,
            "seconds": 1.5,
        }
        layers = {f"sparsity/{n}": fields["sparsity"] ** (1 + i) for i, n in enumerate(LAYERS)}
        own = {
            f"seed{s}/{name}": means[name] + (0.01 * s if name == "val_accuracy" else 0.0)
            for s in range(seeds)
            for name in ("val_accuracy", "sparsity")
        }
        yield {"epoch": epoch, **means, **layers, **own}


def drawn(experiment, count, seed, seeds):
    """(Optuna's trial, rows) of each trial: 85% complete, 10% stopped early, 5% failed."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    rng = np.random.default_rng(seed)
    began = datetime.datetime(2026, 1, 1)
    names = [objective.name for objective in experiment.objectives]
    for number in range(count):
        asked = study.ask()
        fields = experiment.space(asked)
        accuracy = 0.95 - 0.5 * fields["sparsity"] ** 8 - 0.1 * rng.random() ** 2
        state = rng.choice(["COMPLETE", "PRUNED", "FAIL"], p=[0.85, 0.1, 0.05])
        epochs = {"COMPLETE": EPOCHS, "PRUNED": EPOCHS // 4, "FAIL": 0}[state]
        rows = list(rows_of(fields, accuracy, epochs, seeds))
        attributes = {frozen.EPOCHS: epochs, frozen.DEVICE_SECONDS: 1.5 * epochs}
        if state == "FAIL":
            attributes[frozen.REASON] = "out of memory"
        elif seeds and state == "COMPLETE":
            attributes[frozen.BY_SEED] = {k: v for k, v in rows[-1].items() if "seed" in k}
        trial = optuna.trial.create_trial(
            state=TrialState[state],
            params=asked.params,
            distributions=asked.distributions,
            values=[rows[-1][name] for name in names] if state == "COMPLETE" else None,
            user_attrs=attributes,
        )
        trial.number = number
        trial.datetime_start = began + datetime.timedelta(seconds=10 * number)
        trial.datetime_complete = trial.datetime_start + datetime.timedelta(seconds=20)
        yield trial, rows


def write(workspace, name, trials, *, seed=0, seeds=0):
    """A finished sweep of so many trials; ``seeds`` 0 trains each of them once."""
    experiment, source = load_experiment(QUICKSTART)
    experiment = dataclasses.replace(
        experiment,
        base=experiment.base.replace(epochs=EPOCHS),
        budget=dataclasses.replace(experiment.budget, trials=round(0.9 * trials)),
        seeds=tuple(range(seeds)),
    )
    sweep, study = made.make(workspace, name, experiment, source)
    for trial, rows in drawn(experiment, trials, seed, seeds):
        study.optuna_study.add_trial(trial)
        if rows:
            made.train(sweep, trial.number, rows)
        record = {**frozen.to_dict(trial), "known": [], "sweep": sweep.record["id"]}
        TrialDir(sweep.trials / trial_id(trial.number)).set_record(record)
    return sweep


def timed(workspace, arguments):
    """Seconds that a command takes in a process of its own."""
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    began = time.perf_counter()
    subprocess.run(
        [*RSAS, *arguments, "--workspace", str(workspace)],
        env=environment,
        cwd=workspace,
        check=arguments[0] != "check",  # which exits with 1, as it finds what is missing
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - began


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.scale", description=__doc__)
    parser.add_argument("--trials", type=int, default=5000, help="of each of two sweeps")
    parser.add_argument("--seeds", type=int, default=0, help="of each trial; 0 for one alone")
    parser.add_argument("--commands", nargs="*", choices=COMMANDS, default=list(COMMANDS))
    parser.add_argument("--keep", type=Path, help="a folder for the sweeps and the page")
    options = parser.parse_args()
    title = f"sweeps of {options.trials} trials on {os.cpu_count()} cores"
    table = Table(title=title, title_justify="left")
    for name in ("command", "seconds", "limit"):
        table.add_column(name, justify="left" if name == "command" else "right")
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        for seed, name in enumerate("ab"):
            if not (folder / name).exists():
                write(folder, name, options.trials, seed=seed, seeds=options.seeds)
        for name in options.commands:
            arguments, limit = COMMANDS[name]
            table.add_row(name, f"{timed(folder, arguments):.1f}", f"{limit:.0f}")
        page = folder / "a.html"
        if page.exists():
            table.add_row("size of the page, MB", f"{page.stat().st_size / 1e6:.1f}", "15")
    Console().print(table)


if __name__ == "__main__":
    main()
