"""Learning curves of a whole grid of configurations, to try searches on in no time.

``python -m tests.benchmarks.curves`` trains all of them, 27 epochs each on a part of FashionMNIST
(in RSAS_DATA_DIR), and keeps the validation accuracies in ``experiments/results``: 20 minutes on
two cores. A search on the grid then reads its trials' curves from that file (``Curves``).
"""

import argparse
import dataclasses
import itertools
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from rsas import TrainConfig, Trainer, data
from rsas.errors import NonFiniteLoss
from rsas.records import Objective

FILE = Path(__file__).parents[2] / "experiments" / "results" / "fashion_mnist_curves.npz"
GRID = {
    "sparsity": (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99),
    "measure_lr": (0.01, 0.1, 0.3, 1.0),
    "lr": (0.001, 0.01, 0.03, 0.1, 0.3, 1.0),
    "momentum": (0.0, 0.9, 0.98),
    "exploration_start": (0.0, 0.3, 0.8),
}
BASE = TrainConfig(
    dataset="fashion_mnist",
    hidden=(100,),
    epochs=27,
    batch_size=100,
    update_interval=10,
    val_fraction=2 / 3,
    device="cpu",
)
IMAGES = 9000  # of the training set, of which so two thirds validate
OBJECTIVES = (
    Objective("val_accuracy", "max", worst=0.1),
    Objective("sparsity", "max", worst=0.0),
)


def space(trial):
    """The grid as levels, which every sampler can order."""
    return {
        name: levels[trial.suggest_int(name, 0, len(levels) - 1)] for name, levels in GRID.items()
    }


class Curves:
    """What the file holds.

    Attributes:
        accuracies: after each epoch, NaN once the training diverged; shape (*grid, epochs).
        sparsities: as measured at the end, shape of the grid.
        seconds: of an epoch, the median.
    """

    def __init__(self, file=FILE):
        with np.load(file) as kept:
            self.accuracies = kept["accuracies"].astype(np.float64) / 6000
            self.accuracies[kept["accuracies"] == 0xFFFF] = np.nan
            self.sparsities, self.seconds = kept["sparsities"], float(kept["seconds"])

    def begin(self, fields):
        """An iterator of what a configuration has after each epoch."""
        place = tuple(GRID[name].index(fields[name]) for name in GRID)
        for accuracy in self.accuracies[place]:
            if np.isnan(accuracy):
                return
            yield [float(accuracy), float(self.sparsities[place])]


def train(fields, seed=0):
    """(accuracies, sparsity, seconds of an epoch) of a configuration."""
    trainer = Trainer(BASE.replace(seed=seed, **fields), arrays())
    try:
        while trainer.epoch < BASE.epochs:
            trainer.run_epoch()
    except NonFiniteLoss:
        pass
    accuracies = np.full(BASE.epochs, np.nan)
    accuracies[: trainer.epoch] = [row["val_accuracy"] for row in trainer.history]
    seconds = np.median([row["seconds"] for row in trainer.history] or [np.nan])
    return accuracies, trainer.history[-1]["sparsity"] if trainer.history else 0.0, seconds


_ARRAYS = []


def arrays():
    """The part of the data, read once a process."""
    if not _ARRAYS:
        torch.set_num_threads(1)
        whole = data.load(BASE.dataset)
        part = whole.x_train[:IMAGES], whole.y_train[:IMAGES]
        _ARRAYS.append(
            dataclasses.replace(whole, x_train=part[0], y_train=part[1], x_test=None, y_test=None)
        )
    return _ARRAYS[0]


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.curves")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    shape = tuple(map(len, GRID.values()))
    rows = [dict(zip(GRID, values, strict=True)) for values in itertools.product(*GRID.values())]
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        found = list(track(pool.map(train, rows, chunksize=8), "training", total=len(rows)))
    accuracies, sparsities, seconds = map(np.array, zip(*found, strict=True))
    counts = np.where(np.isnan(accuracies), 0xFFFF, np.round(accuracies * 6000))
    np.savez_compressed(
        FILE,
        accuracies=counts.astype(np.uint16).reshape(*shape, BASE.epochs),
        sparsities=sparsities.reshape(shape),
        seconds=np.nanmedian(seconds),
    )


if __name__ == "__main__":
    main()
