"""Train configurations with several seeds each, and compare them."""

from __future__ import annotations

import functools
import math
import multiprocessing
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from scipy import stats

from rsas import data
from rsas.config import TrainConfig
from rsas.errors import NonFiniteLoss
from rsas.pruning import effective_key
from rsas.trainer import Trainer

__all__ = ["COLUMNS", "Run", "comparison", "mean_interval", "runs_of", "train_all"]

COLUMNS = ("configuration", "seed", "sparsity", "val_accuracy", "test_accuracy", "seconds", "run")
"""Columns of a table with a row per run; numbers have 6 decimals. Accuracies are in [0, 1], and NaN
if a run diverged. The test accuracy is also NaN if the run was not tested. ``run`` is the same for
rows of the same training."""

_LEVEL = 0.95


@dataclass(frozen=True)
class Run:
    """One training to do.

    Attributes:
        name: of the configuration.
        config: with the seed of this run.
    """

    name: str
    config: TrainConfig

    @property
    def key(self) -> str:
        """Text that is the same for two runs that are the same training."""
        return effective_key(self.config)


def runs_of(configs: Mapping[str, TrainConfig], seeds: Sequence[int]) -> list[Run]:
    """Return the runs of all configurations with the first seed, then with the second, ..."""
    return [
        Run(name, config.replace(seed=seed)) for seed in seeds for name, config in configs.items()
    ]


def train_all(
    runs: Iterable[Run],
    *,
    jobs: int = 1,
    test: bool = False,
    data_dir: Path | None = None,
) -> Iterator[dict[str, object]]:
    """Do the runs in ``jobs`` processes, and yield a row of ``COLUMNS`` as each run ends.

    Args:
        runs: the trainings to do.
        jobs: number of processes, at least 1, which share the machine's CPUs. With 1, this
            process trains.
        test: also evaluate on the test split.
        data_dir: folder of the data sets; by default ``RSAS_DATA_DIR``.

    Raises:
        InputError: a configuration does not fit the data or this machine.
    """
    if jobs == 1:
        for run in runs:
            yield _row(run, test, data_dir)
        return
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with ProcessPoolExecutor(
        jobs,
        # A forked process can use neither CUDA nor the threads of its parent.
        multiprocessing.get_context("spawn"),
        initializer=torch.set_num_threads,
        initargs=(threads,),
    ) as pool:
        try:
            for done in as_completed([pool.submit(_row, run, test, data_dir) for run in runs]):
                yield done.result()
        finally:
            pool.shutdown(cancel_futures=True)


def comparison(rows: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Return a measure of each configuration, and its difference from the first configuration.

    Args:
        rows: with the columns ``configuration``, ``seed``, ``seconds`` and the measure's; all
            configurations with the same seeds.
        measure: name of a column.

    Returns:
        A row per configuration, in their order: configuration; mean, low, high (95% interval);
        difference (the mean over seeds of the difference from the first configuration, NaN for
        the first), difference_low, difference_high; seconds (mean per run); values (by seed). The
        numbers are NaN if a run diverged.
    """
    by_name: dict[str, Any] = {
        str(name): group.set_index("seed")[measure].sort_index()
        for name, group in rows.groupby("configuration", sort=False)
    }
    first = next(iter(by_name.values()))
    seconds = rows.groupby("configuration")["seconds"].mean()
    compared = []
    for name, values in by_name.items():
        mean, low, high = mean_interval(values)
        paired = [] if values is first else values - first
        difference, difference_low, difference_high = mean_interval(paired)
        compared.append(
            {
                "configuration": name,
                "mean": mean,
                "low": low,
                "high": high,
                "difference": difference,
                "difference_low": difference_low,
                "difference_high": difference_high,
                "seconds": seconds[name],
                "values": values.tolist(),
            }
        )
    return pd.DataFrame(compared)


def mean_interval(values: npt.ArrayLike) -> tuple[float, float, float]:
    """Return the mean and its 95% interval by Student's t.

    The mean of no value is NaN, and so are the bounds of fewer than two values.
    """
    sample = np.asarray(values, dtype=np.float64)
    if len(sample) == 0:
        return math.nan, math.nan, math.nan
    mean = float(sample.mean())
    if len(sample) == 1:
        return mean, math.nan, math.nan
    half = float(stats.sem(sample) * stats.t.ppf((1 + _LEVEL) / 2, len(sample) - 1))
    return mean, mean - half, mean + half


def _row(run: Run, test: bool, data_dir: Path | None) -> dict[str, object]:
    trainer = Trainer(run.config, _arrays(run.config.dataset, data_dir))
    row: dict[str, object] = dict.fromkeys(COLUMNS, math.nan)
    row |= {"configuration": run.name, "seed": run.config.seed, "run": run.key}
    try:
        while trainer.epoch < run.config.epochs:
            last = trainer.run_epoch()
            row |= {name: last[name] for name in ("sparsity", "val_accuracy")}
    except NonFiniteLoss:
        row["val_accuracy"] = math.nan
    else:
        accuracy = trainer.finish().test_accuracy if test else None
        row["test_accuracy"] = math.nan if accuracy is None else accuracy
    row["seconds"] = sum(epoch["seconds"] for epoch in trainer.history)
    # Rounded here, so that a row read from a file equals the row that was written.
    return {k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()}


@functools.lru_cache(maxsize=1)
def _arrays(dataset: str, data_dir: Path | None) -> data.Arrays:
    return data.load(dataset, data_dir)
