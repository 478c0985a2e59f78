"""What successive halving saves: real searches on the digits data, by the epochs they take.

``python -m tests.benchmarks.scheduler``; about four minutes of a core a seed. A search asks Optuna
as a sweep does, and trains. Four trials run at once, an epoch each at a time, until the search has
used as many epochs as 64 trials take without halving. Only complete trials count.
"""

import argparse
import dataclasses
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import optuna
import torch
from optuna.trial import TrialState
from rich.console import Console
from rich.table import Table

from rsas import data
from rsas.analysis.pareto import hypervolume
from rsas.errors import NonFiniteLoss
from rsas.records import TrialRecord
from rsas.search.experiment import load_experiment
from rsas.search.scheduler import Halving
from rsas.search.study import direction, sampler
from rsas.trainer import Trainer

ROOT = Path(__file__).parents[2]
EPOCHS = 81
TRIALS = 64  # whose epochs every search may use
SLOTS = 4
GOAL = 0.6  # share of full-budget TPE's epochs


def space(trial):
    """The paper's space and what else a user who knows nothing of the data would search."""
    return {
        "sparsity": trial.suggest_float("sparsity", 0.5, 0.99),
        "measure_lr": trial.suggest_float("measure_lr", 1e-3, 1.0, log=True),
        "lr": trial.suggest_float("lr", 1e-4, 1.0, log=True),
        "momentum": trial.suggest_float("momentum", 0.0, 0.99),
        "weight_decay": trial.suggest_float("weight_decay", 1e-6, 0.1, log=True),
        "exploration_start": trial.suggest_float("exploration_start", 0.0, 1.0),
    }


def search(name="tpe", seed=0):
    """The quickstart with this space."""
    quickstart, _ = load_experiment(str(ROOT / "experiments" / "digits_quickstart.py"))
    base = quickstart.base.replace(epochs=EPOCHS, device="cpu")
    return dataclasses.replace(quickstart, base=base, space=space, sampler=name, seed=seed)


def trainings(experiment, arrays):
    """A function of a trial's fields: an iterator of what it has after each epoch."""

    def begin(fields):
        trainer = Trainer(experiment.base.replace(**fields), arrays)
        while trainer.epoch < experiment.base.epochs:
            try:
                row = trainer.run_epoch()
            except NonFiniteLoss:
                return
            yield [row[objective.name] for objective in experiment.objectives]

    return begin


def volume(points, objectives):
    """Hypervolume of complete trials with these values."""
    names = [objective.name for objective in objectives]
    trials = [
        TrialRecord("", "complete", {}, dict(zip(names, point, strict=True)), 0.0, 0.0)
        for point in points
    ]
    return hypervolume(trials, objectives)


def run(begin, experiment, halving, budget):
    """Run a search until it has used so many epochs.

    Returns:
        (epochs used, hypervolume) after each complete trial; and how many were begun.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(directions=[direction(o) for o in experiment.objectives])
    running, points, course, used, begun = [], [], [], 0, 0
    while used < budget:
        while len(running) < SLOTS:
            study.sampler = sampler(experiment, begun)
            trial, begun = study.ask(), begun + 1
            running.append((trial, begin(experiment.space(trial)), 1))
        trial, training, epoch = running.pop(0)
        used += 1
        values = next(training, None)
        if values is None:  # diverged
            study.tell(trial, state=TrialState.FAIL)
        elif epoch == experiment.base.epochs:
            study.tell(trial, values)
            points.append(values)
            course.append((used, volume(points, experiment.objectives)))
        elif halving and epoch in halving.rungs and not keeps(halving, epoch, trial, values):
            study.tell(trial, state=TrialState.PRUNED)
        else:
            running.append((trial, training, epoch + 1))
    return course, begun


def keeps(halving, epoch, trial, values):
    return halving.keeps(epoch, trial.number, values[: len(halving.names)])


def reached(course, target):
    """Epochs until a hypervolume was reached; infinity if it never was."""
    return next((used for used, value in course if value >= target), float("inf"))


METHODS = {  # name: sampler, and how many of the objectives decide at rungs
    "TPE": ("tpe", 0),
    "random": ("random", 0),
    "NSGA-II": ("nsga2", 0),
    "TPE, asha": ("tpe", 1),
    "TPE, pareto_asha": ("tpe", 2),
}


def compare(seed, first, reduction):
    """Method -> (hypervolume, share of full TPE's epochs until its hypervolume, trials begun)."""
    torch.set_num_threads(1)
    budget = TRIALS * EPOCHS
    found, target = {}, None
    for name, (asked, deciding) in METHODS.items():
        experiment = search(asked, seed)
        chosen = experiment.objectives[:deciding]
        halving = chosen and Halving(chosen, epochs=EPOCHS, first=first, reduction=reduction)
        begin = trainings(experiment, data.load(experiment.base.dataset))
        course, begun = run(begin, experiment, halving, budget)
        target = course[-1][1] if target is None else target  # full TPE comes first
        found[name] = course[-1][1], reached(course, target) / budget, begun
    return found


def quartiles(values):
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75], method="inverted_cdf")
    return f"{middle:.4f} ({low:.4f} to {high:.4f})"


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.scheduler")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--from-seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=search().grace_period)
    parser.add_argument("--reduction", type=int, default=search().reduction_factor)
    parser.add_argument("--jobs", type=int, default=2, help="seeds at once")
    options = parser.parse_args()
    began = time.monotonic()
    seeds = range(options.from_seed, options.from_seed + options.seeds)
    rungs = [options.first] * len(seeds), [options.reduction] * len(seeds)
    console, found = Console(), []
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        for seed, each in zip(seeds, pool.map(compare, seeds, *rungs), strict=True):
            found.append(each)
            shares = ", ".join(f"{name} {share:.2f}" for name, (_, share, _) in each.items())
            console.print(f"seed {seed}: {shares}", soft_wrap=True)
    title = f"{len(seeds)} seeds, rungs {options.first} x {options.reduction}^n of {EPOCHS} epochs"
    table = Table(title=title, title_justify="left")
    table.add_column("search")
    table.add_column("hypervolume: median (quartiles)")
    table.add_column("epochs to full TPE's, share: median (quartiles)")
    table.add_column("trials begun", justify="right")
    for name in METHODS:
        volumes, shares, begun = zip(*(each[name] for each in found), strict=True)
        table.add_row(name, quartiles(volumes), quartiles(shares), f"{np.median(begun):.0f}")
    console.print(table)
    share = float(np.median([each["TPE, pareto_asha"][1] for each in found]))
    verdict = "met" if share <= GOAL else "not met"
    console.print(
        f"pareto_asha reaches full TPE's hypervolume with {share:.0%} of its epochs (median); "
        f"goal {GOAL:.0%}: {verdict}. {time.monotonic() - began:.0f} s"
    )


if __name__ == "__main__":
    main()
