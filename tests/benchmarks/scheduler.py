"""What successive halving saves: searches replayed on learning curves of real trainings.

``python -m tests.benchmarks.scheduler`` replays; ``--train`` makes the table of curves anew (1,024
trainings on the digits data, about ten minutes of one core). A replayed search asks Optuna as a
sweep does, and reads what a trial would have had after each epoch from the configuration in the
table that is nearest to the one suggested. Four trials run at once, an epoch each at a time, until
the search has used as many epochs as 64 trials take without halving. Only complete trials count.
"""

import argparse
import dataclasses
import time
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import torch
from optuna.trial import TrialState
from rich.console import Console
from rich.table import Table
from scipy.stats import qmc

from rsas import data
from rsas.analysis.pareto import hypervolume
from rsas.errors import NonFiniteLoss
from rsas.records import TrialRecord
from rsas.search.book import _direction, _sampler
from rsas.search.experiment import load_experiment
from rsas.search.scheduler import Halving
from rsas.trainer import Trainer

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "experiments" / "results" / "digits_curves.csv.gz"
EPOCHS = 27
TRIALS = 64  # whose epochs every search may use
SLOTS = 4
GOAL = 0.6  # share of full-budget TPE's epochs
RANGES = {  # some learning rates are too small for so few epochs, and some too large
    "sparsity": (0.5, 0.99),
    "measure_lr": (1e-3, 1.0),
    "lr": (1e-4, 3.0),
}
# In the distance of configurations: sparsity, which is an objective itself, counts most.
WEIGHTS = np.array([4.0, 1.0, 1.0])


def space(trial):
    """The paper's space, and the learning rate."""
    return {n: trial.suggest_float(n, *ends, log=n != "sparsity") for n, ends in RANGES.items()}


def search(sampler="tpe", seed=0):
    """The quickstart with this space."""
    quickstart, _ = load_experiment(str(ROOT / "experiments" / "digits_quickstart.py"))
    base = quickstart.base.replace(epochs=EPOCHS, device="cpu")
    return dataclasses.replace(quickstart, base=base, space=space, sampler=sampler, seed=seed)


def to_unit(fields):
    """A configuration as a point of the unit cube."""
    return np.array(
        [
            (fields[name] - low) / (high - low)
            if name == "sparsity"
            else np.log(fields[name] / low) / np.log(high / low)
            for name, (low, high) in RANGES.items()
        ]
    )


def from_unit(point):
    """The configuration at a point of the unit cube."""
    return {
        name: float(
            f"{low + x * (high - low) if name == 'sparsity' else low * (high / low) ** x:.4g}"
        )
        for x, (name, (low, high)) in zip(point, RANGES.items(), strict=True)
    }


def train_table(count):
    """A row for each epoch of each configuration, fewer where the loss diverged."""
    torch.set_num_threads(1)
    experiment = search()
    arrays = data.load(experiment.base.dataset)
    rows = []
    for point in qmc.Sobol(len(RANGES), rng=0).random(count):
        fields = from_unit(point)
        trainer = Trainer(experiment.base.replace(**fields), arrays)
        while trainer.epoch < EPOCHS:
            try:
                row = trainer.run_epoch()
            except NonFiniteLoss:
                break
            measured = {o.name: round(row[o.name], 4) for o in experiment.objectives}
            asked = {f"params.{n}": value for n, value in fields.items()}
            rows.append({**asked, "epoch": trainer.epoch, **measured})
    return pd.DataFrame(rows)


class Curves:
    """The trainings of a table; each search may have each of them once."""

    def __init__(self, path=TABLE):
        groups = pd.read_csv(path).groupby([f"params.{name}" for name in RANGES], sort=False)
        names = [objective.name for objective in search().objectives]
        self.curves = [group[names].to_numpy() for _, group in groups]
        keys = [dict(zip(RANGES, key, strict=True)) for key, _ in groups]
        self._points = np.array([to_unit(fields) for fields in keys]) * WEIGHTS

    def reader(self):
        """A function of a configuration: the curve of the nearest one not taken yet."""
        taken = np.zeros(len(self.curves), dtype=bool)

        def read(fields):
            distance = np.linalg.norm(self._points - to_unit(fields) * WEIGHTS, axis=1)
            nearest = int(np.where(taken, np.inf, distance).argmin())
            taken[nearest] = True
            return self.curves[nearest]

        return read


def volume(points, objectives):
    """Hypervolume of complete trials with these values."""
    names = [objective.name for objective in objectives]
    trials = [
        TrialRecord("", "complete", {}, dict(zip(names, point, strict=True)), 0.0, 0.0)
        for point in points
    ]
    return hypervolume(trials, objectives)


def replay(read, experiment, halving, budget):
    """Run a search until it has used so many epochs.

    Returns:
        (epochs used, hypervolume) after each complete trial; and how many were begun.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(directions=[_direction(o) for o in experiment.objectives])
    running, points, course, used, begun = [], [], [], 0, 0
    while used < budget:
        while len(running) < SLOTS:
            study.sampler = _sampler(experiment, begun)
            trial, begun = study.ask(), begun + 1
            running.append((trial, read(experiment.space(trial)), 0))
        trial, curve, epoch = running.pop(0)
        used, epoch = used + 1, epoch + 1
        if epoch > len(curve):  # diverged
            study.tell(trial, state=TrialState.FAIL)
        elif epoch == EPOCHS:
            study.tell(trial, curve[-1].tolist())
            points.append(curve[-1])
            course.append((used, volume(points, experiment.objectives)))
        elif halving and epoch in halving.rungs and not keeps(halving, epoch, trial, curve):
            study.tell(trial, state=TrialState.PRUNED)
        else:
            running.append((trial, curve, epoch))
    return course, begun


def keeps(halving, epoch, trial, curve):
    return halving.keeps(epoch, trial.number, curve[epoch - 1, : len(halving.names)].tolist())


def reached(course, target):
    """Epochs until a hypervolume was reached; infinity if it never was."""
    return next((used for used, value in course if value >= target), float("inf"))


def compare(curves, seeds, first, reduction):
    """Rows (method, hypervolumes, shares of full TPE's epochs, trials begun)."""
    budget = TRIALS * EPOCHS
    objectives = search().objectives

    def halving(chosen):
        return Halving(chosen, epochs=EPOCHS, first=first, reduction=reduction)

    methods = {
        "TPE": ("tpe", lambda: None),
        "random": ("random", lambda: None),
        "NSGA-II": ("nsga2", lambda: None),
        "TPE, asha": ("tpe", lambda: halving(objectives[:1])),
        "TPE, pareto_asha": ("tpe", lambda: halving(objectives)),
    }
    rows, targets = [], {}
    for name, (sampler, scheduler) in methods.items():
        volumes, shares, begun = [], [], []
        for seed in seeds:
            experiment = search(sampler, seed)
            course, count = replay(curves.reader(), experiment, scheduler(), budget)
            targets.setdefault(seed, course[-1][1])  # full TPE comes first
            volumes.append(course[-1][1])
            shares.append(reached(course, targets[seed]) / budget)
            begun.append(count)
        rows.append((name, volumes, shares, begun))
    return rows


def quartiles(values):
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75], method="inverted_cdf")
    return f"{middle:.4f} ({low:.4f} to {high:.4f})"


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.scheduler")
    parser.add_argument("--train", action="store_true", help="make the table of curves anew")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--from-seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=search().grace_period)
    parser.add_argument("--reduction", type=int, default=search().reduction_factor)
    options = parser.parse_args()
    if options.train:
        train_table(1024).to_csv(TABLE, index=False, compression={"method": "gzip", "mtime": 0})
    began = time.monotonic()
    curves = Curves()
    seeds = range(options.from_seed, options.from_seed + options.seeds)
    rows = compare(curves, seeds, options.first, options.reduction)
    title = f"{len(seeds)} seeds, rungs {options.first} x {options.reduction}^n of {EPOCHS} epochs"
    table = Table(title=title, title_justify="left")
    table.add_column("search")
    table.add_column("hypervolume: median (quartiles)")
    table.add_column("epochs to full TPE's, share: median (quartiles)")
    table.add_column("trials begun", justify="right")
    for name, volumes, shares, begun in rows:
        table.add_row(name, quartiles(volumes), quartiles(shares), f"{np.median(begun):.0f}")
    console = Console()
    console.print(table)
    share = float(np.median(rows[-1][2]))
    verdict = "met" if share <= GOAL else "not met"
    console.print(
        f"pareto_asha reaches full TPE's hypervolume with {share:.0%} of its epochs (median); "
        f"goal {GOAL:.0%}: {verdict}. {time.monotonic() - began:.0f} s"
    )


if __name__ == "__main__":
    main()
