"""What samplers and successive halving save: searches by the epochs they take.

``python -m tests.benchmarks.scheduler`` searches the recorded grid of ``tests.benchmarks.curves``;
``--real`` searches a wide space on the digits data and trains, four minutes of a core a seed. A
search asks Optuna as a sweep does. Four trials run at once, an epoch each at a time, until the
search has used as many epochs as 64 (``--trials``) trials take without halving. Only complete
trials count.
"""

import argparse
import dataclasses
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import plotly.graph_objects as go
import torch
from optuna.trial import TrialState
from rich.console import Console
from rich.table import Table

from rsas import data
from rsas.analysis.style import COLORS, themed, to_html
from rsas.errors import NonFiniteLoss
from rsas.pareto import hypervolume
from rsas.records import TrialRecord
from rsas.sweep.experiment import Budget, Experiment, load_experiment
from rsas.sweep.suggest.halving import Halving
from rsas.sweep.suggest.sampler import direction, sampler
from rsas.trainer import Trainer
from tests.benchmarks import curves

ROOT = Path(__file__).parents[2]
TRIALS = 64  # whose epochs every search may use, where nothing else is said
SLOTS = 4
MOST = 20  # times as many trials may begin, as a search may come upon what it knows again and again
GOAL = 0.6  # share of full-budget TPE's epochs
POINTS = 40  # of a search's course, in a figure and in a file

METHODS = {  # name: sampler, and how many of the objectives decide at rungs
    "tpe": ("tpe", 0),
    "tpe + pareto_asha": ("tpe", 2),
    "tpe + asha": ("tpe", 1),
    "random": ("random", 0),
    "random + pareto_asha": ("random", 2),
    "nsga2": ("nsga2", 0),
    "nsga2 + pareto_asha": ("nsga2", 2),
    "gp": ("gp", 0),
    "gp + pareto_asha": ("gp", 2),
}


def wide(trial):
    """The paper's space and what else a user who knows nothing of the data would search."""
    return {
        "sparsity": trial.suggest_float("sparsity", 0.5, 0.99),
        "measure_lr": trial.suggest_float("measure_lr", 1e-3, 1.0, log=True),
        "lr": trial.suggest_float("lr", 1e-4, 1.0, log=True),
        "momentum": trial.suggest_float("momentum", 0.0, 0.99),
        "weight_decay": trial.suggest_float("weight_decay", 1e-6, 0.1, log=True),
        "exploration_start": trial.suggest_float("exploration_start", 0.0, 1.0),
    }


def recorded(name, seed):
    """A search of the recorded grid, and what begins a trial of it."""
    experiment = Experiment(
        name="curves",
        base=curves.BASE,
        space=curves.space,
        objectives=curves.OBJECTIVES,
        budget=Budget(trials=TRIALS),
        sampler=name,
        seed=seed,
    )
    return experiment, curves.Curves().begin


def wide_search(name="tpe", seed=0, epochs=81):
    """The quickstart with a wide space, and enough images to tell its trials apart."""
    quickstart, _ = load_experiment(str(ROOT / "experiments" / "digits_quickstart.py"))
    # On 150 images, which the quickstart has, an accuracy is a multiple of 0.7 points.
    base = quickstart.base.replace(epochs=epochs, device="cpu", val_fraction=0.3)
    return dataclasses.replace(quickstart, base=base, space=wide, sampler=name, seed=seed)


def real(name, seed, epochs):
    """A search that trains."""
    torch.set_num_threads(1)
    experiment = wide_search(name, seed, epochs)
    base = experiment.base
    arrays = data.load(base.dataset)

    def begin(fields):
        trainer = Trainer(base.replace(**fields), arrays)
        while trainer.epoch < base.epochs:
            try:
                row = trainer.run_epoch()
            except NonFiniteLoss:
                return
            yield [row[objective.name] for objective in experiment.objectives]

    return experiment, begin


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
    running, complete, points, course, used, begun = [], {}, [], [], 0, 0
    most = MOST * budget / experiment.base.epochs
    while used < budget:
        while len(running) < SLOTS and begun < most:
            study.sampler = sampler(experiment, begun)
            trial, begun = study.ask(), begun + 1
            fields = experiment.space(trial)
            if (known := complete.get(tuple(fields.values()))) is not None:
                study.tell(trial, known)  # a configuration that was run is not run again
            else:
                running.append((trial, fields, begin(fields), 1))
        if not running:
            break
        trial, fields, training, epoch = running.pop(0)
        used += 1
        values = next(training, None)
        if values is None:  # diverged
            study.tell(trial, state=TrialState.FAIL)
        elif epoch == experiment.base.epochs:
            study.tell(trial, values)
            complete[tuple(fields.values())] = values
            points.append(values)
            course.append((used, volume(points, experiment.objectives)))
        elif halving and epoch in halving.rungs and not keeps(halving, epoch, trial, values):
            study.tell(trial, state=TrialState.PRUNED)
        else:
            running.append((trial, fields, training, epoch + 1))
    return course, begun


def keeps(halving, epoch, trial, values):
    return halving.keeps(epoch, trial.number, values[: len(halving.names)])


def search(job):
    """One search: a row a point of its course, and how many trials it began."""
    method, seed, real_epochs, first, reduction, trials = job
    name, deciding = METHODS[method]
    experiment, begin = real(name, seed, real_epochs) if real_epochs else recorded(name, seed)
    epochs = experiment.base.epochs
    chosen = experiment.objectives[:deciding]
    halving = chosen and Halving(chosen, epochs=epochs, first=first, reduction=reduction)
    budget = trials * epochs
    course, begun = run(begin, experiment, halving, budget)
    at, values = map(np.array, zip((0, 0.0), *course, strict=True))
    rows = {"share": at / budget, "hypervolume": values, "begun": begun}
    found = pd.DataFrame({"method": method, "seed": seed, **rows})
    return found.drop_duplicates("hypervolume")  # gains alone


def at_share(course, share):
    """Hypervolume when that share of the epochs was used."""
    return course.loc[course["share"] <= share, "hypervolume"].iloc[-1]


def reached(course, target):
    """Share of the epochs until a hypervolume was reached; infinity if it never was."""
    shares = course.loc[course["hypervolume"] >= target, "share"]
    return shares.min() if len(shares) else np.inf


def median(values):
    """The lower one of two: the mean of a number and infinity says nothing."""
    return np.quantile(values, 0.5, method="inverted_cdf")


def mean_with_interval(values, rng):
    """Mean, and a 95% interval of it by bootstrap."""
    draws = rng.choice(values, (2000, len(values))).mean(axis=1)
    return np.mean(values), *np.quantile(draws, [0.025, 0.975])


def summary(found):
    """A row a method: hypervolumes with intervals, and epochs until full TPE's."""
    rng = np.random.default_rng(0)
    courses = dict(list(found.groupby(["method", "seed"], sort=False)))
    seeds = found["seed"].unique()
    own = {seed: courses["tpe", seed]["hypervolume"].iloc[-1] for seed in seeds}
    common = median(list(own.values()))
    for method in found["method"].unique():
        mine = [courses[method, seed] for seed in seeds]
        row = {"method": method}
        for share in (0.25, 0.5, 1.0):
            row[share] = mean_with_interval([at_share(each, share) for each in mine], rng)
        row["own"] = median([reached(courses[method, s], own[s]) for s in seeds])
        row["common"] = median([reached(each, common) for each in mine])
        row["begun"] = np.median([each["begun"].iloc[0] for each in mine])
        yield row


def figure(found, trials):
    """What searches of the grid lack of its front over the time that trials trained."""
    table = curves.Curves()
    final = zip(table.accuracies[..., -1].flat, table.sparsities.flat, strict=True)
    whole = volume(list(final), curves.OBJECTIVES)
    seconds = trials * curves.BASE.epochs * table.seconds
    rng, shares, shown = np.random.default_rng(0), np.linspace(0, 1, POINTS + 1)[4:], go.Figure()
    colors = dict(zip(("tpe", "random", "nsga2", "gp"), COLORS, strict=False))
    for method, rows in found.groupby("method", sort=False):
        each = [course for _, course in rows.groupby("seed")]
        means, low, high = np.transpose(
            [mean_with_interval([whole - at_share(c, s) for c in each], rng) for s in shares]
        )
        shown.add_scatter(
            x=shares * seconds,
            y=means,
            error_y={"array": high - means, "arrayminus": means - low, "thickness": 0.6},
            name=method,
            mode="lines",
            line={
                "color": colors[method.split()[0]],
                "dash": {"pareto_asha": "dash", "asha": "dot"}.get(method.split()[-1], "solid"),
            },
        )
    shown.update_xaxes(title_text="device-seconds of training")
    told = f"hypervolume lacking, mean of {found['seed'].nunique()} searches"
    shown.update_yaxes(title_text=told, type="log", dtick="D2")
    return themed(shown, "")


def told(share):
    return "not reached" if np.isinf(share) else f"{share:.0%}"


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.scheduler")
    parser.add_argument("--real", action="store_true", help="train instead of looking up")
    parser.add_argument("--epochs", type=int, default=81, help="of a real trial")
    parser.add_argument("--trials", type=int, default=TRIALS, help="whose epochs may be used")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--from-seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=3, help="rung, epochs")
    parser.add_argument("--reduction", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="searches at once")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS)[:7])
    parser.add_argument("--csv", type=Path, help="where the courses are kept")
    parser.add_argument("--html", type=Path, help="where the figure is kept")
    options = parser.parse_args()
    began = time.monotonic()
    methods = list(dict.fromkeys(["tpe", *options.methods]))
    rest = (options.real and options.epochs, options.first, options.reduction, options.trials)
    jobs = [
        (method, seed, *rest)
        for seed in range(options.from_seed, options.from_seed + options.seeds)
        for method in methods
    ]
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        found = pd.concat(pool.map(search, jobs), ignore_index=True)
    if options.csv:
        found.round(6).to_csv(options.csv, index=False)
    if options.html:
        options.html.write_text(to_html(figure(found, options.trials)))
    console = Console(width=150)
    table = Table(
        title=f"{options.seeds} searches each, rungs from {options.first}, x {options.reduction}"
    )
    for name in (
        "search",
        *(f"hypervolume at {share:.0%} of the epochs" for share in (0.25, 0.5, 1)),
        "epochs to full TPE's: of the same seed",
        "median one",
        "trials begun",
    ):
        table.add_column(name)
    for row in summary(found):
        volumes = ["{:.4f} ({:.4f} to {:.4f})".format(*row[s]) for s in (0.25, 0.5, 1.0)]
        shares = [told(row[name]) for name in ("own", "common")]
        table.add_row(row["method"], *volumes, *shares, f"{row['begun']:.0f}")
        if row["method"] == "tpe + pareto_asha":
            share = row["own"]
    console.print(table)
    if "tpe + pareto_asha" in methods:
        verdict = "met" if share <= GOAL else "not met"
        console.print(f"pareto_asha: {told(share)}, goal {GOAL:.0%} of TPE's epochs: {verdict}")
    console.print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
