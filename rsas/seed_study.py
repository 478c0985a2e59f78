"""Configurations trained with several seeds each, and how they differ."""

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
from rsas.pruning import acting_key
from rsas.trainer import Trainer

__all__ = ["COLUMNS", "Run", "comparison", "mean_interval", "runs_of", "train_all"]

COLUMNS = ("configuration", "seed", "sparsity", "val_accuracy", "test_accuracy", "seconds", "run")
"""Of a row a run, to 6 decimals. Accuracies are in [0, 1], NaN where a run diverged; so is the test
accuracy where it was not asked for. ``run`` is the same for rows of the same training."""

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
        """The same for two runs that are the same training."""
        return acting_key(self.config)


def runs_of(configs: Mapping[str, TrainConfig], seeds: Sequence[int]) -> list[Run]:
    """All configurations with the first seed, then with the second, ..."""
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
    """Train them, so many at once, and give a row of ``COLUMNS`` as each one ends.

    Args:
        runs: what to train.
        jobs: processes, at least 1, which share the machine's CPUs; with 1 there is no other one.
        test: evaluate on the test split, too.
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
        # A process that was forked cannot use CUDA, nor the threads of its parent.
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
    """What each configuration has, and by how much that differs from the first one.

    Args:
        rows: with the columns ``configuration``, ``seed``, ``seconds`` and the measure's; all
            configurations with the same seeds.
        measure: name of a column.

    Returns:
        A row a configuration, in their order: configuration; mean, low, high (95% interval);
        difference (mean of what each seed has more, NaN for the first), difference_low,
        difference_high; seconds (mean of a run); values (by seed). NaN where a run diverged.
    """
    by_name: dict[str, Any] = {
        str(name): group.set_index("seed")[measure].sort_index()
        for name, group in rows.groupby("configuration", sort=False)
    }
    first = next(iter(by_name.values()))
    seconds = rows.groupby("configuration")["seconds"].mean()
    found = []
    for name, values in by_name.items():
        mean, low, high = mean_interval(values)
        paired = [] if values is first else values - first
        difference, difference_low, difference_high = mean_interval(paired)
        found.append(
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
    return pd.DataFrame(found)


def mean_interval(values: npt.ArrayLike) -> tuple[float, float, float]:
    """Mean and its 95% interval by Student's t; NaN where there are too few values for them."""
    found = np.asarray(values, dtype=np.float64)
    if len(found) == 0:
        return math.nan, math.nan, math.nan
    mean = float(found.mean())
    if len(found) == 1:
        return mean, math.nan, math.nan
    half = float(stats.sem(found) * stats.t.ppf((1 + _LEVEL) / 2, len(found) - 1))
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
        found = trainer.finish().test_accuracy if test else None
        row["test_accuracy"] = math.nan if found is None else found
    row["seconds"] = sum(each["seconds"] for each in trainer.history)
    # Rounded here, so that a row that was read from a file is the one that was written.
    return {k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()}


@functools.lru_cache(maxsize=1)
def _arrays(dataset: str, data_dir: Path | None) -> data.Arrays:
    return data.load(dataset, data_dir)
