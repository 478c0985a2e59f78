"""The command that trains configurations with several seeds and compares their results."""

from __future__ import annotations

import csv
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rsas.cli.app import app
from rsas.cli.common import check_output, make_console, numbers
from rsas.cli.options import DataDirOption, FileArgument, SetOption
from rsas.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

    from rsas.config import TrainConfig
    from rsas.sweep.experiment import Experiment

__all__ = ["repeat"]

_LABELLED = re.compile(r"(?:([^=:]+): )?(.*)", re.DOTALL)  # values may have colons, too


@app.command()
def repeat(
    file: FileArgument,
    assignments: SetOption = None,
    others: Annotated[
        list[str] | None,
        typer.Option(
            "--vs",
            metavar="'[LABEL: ]NAME=VALUE ...'",
            help="Another configuration: its label, and its differences from the first one.",
        ),
    ] = None,
    seeds: Annotated[
        str, typer.Option(metavar="0,1,2", help="Train each configuration with these seeds.")
    ] = "0,1,2,3,4",
    sparsities: Annotated[
        str | None,
        typer.Option(metavar="0.8,0.9,0.95", help="Compare at each of these sparsities."),
    ] = None,
    test: Annotated[
        bool,
        typer.Option(
            "--test", help="Report test accuracy; once, for configurations chosen before."
        ),
    ] = False,
    jobs: Annotated[int, typer.Option(help="Trainings at once, which share the CPUs.")] = 1,
    table: Annotated[
        Path | None,
        typer.Option(
            "--csv", help="Add a row per run; runs that are in the file are not repeated."
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Write a picture of all runs and intervals (HTML).")
    ] = None,
    data_dir: DataDirOption = None,
) -> None:
    """Train configurations with several seeds each: means, intervals and paired differences."""
    from rsas.sweep.experiment import load_experiment

    if jobs < 1:
        raise InputError(f"--jobs {jobs}: expected an integer from 1 on")
    experiment, _ = load_experiment(file)
    base = _base(experiment, file).override(assignments or [])
    configs = _configurations(base, others or [])
    levels = {base.sparsity: configs}
    if sparsities is not None:
        levels = _at_each(sparsities, configs, [*(assignments or []), *(others or [])])
    if not test and any(config.val_fraction == 0 for config in configs.values()):
        raise InputError("val_fraction=0: nothing is left to validate on; --test reports test data")
    chosen = numbers("--seeds", seeds, int)
    for option, path in (("--csv", table), ("--plot", plot)):
        if path is not None:
            check_output(option, path)

    import pandas as pd
    from rich.progress import track

    from rsas.seed_study import COLUMNS, comparison, runs_of, train_all

    for level_configs in levels.values():
        _check(level_configs, data_dir, test)
    runs = {level: runs_of(level_configs, chosen) for level, level_configs in levels.items()}
    known = _known(table, test)
    # By key, so that each runs once: a dense network is the same at every sparsity.
    missing = {
        run.key: run for level_runs in runs.values() for run in level_runs if run.key not in known
    }
    console = make_console()
    new = train_all(missing.values(), jobs=jobs, test=test, data_dir=data_dir)
    for row in track(
        new,
        "training",
        total=len(missing),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ):
        known[str(row["run"])] = row
        if table is not None:
            _add(table, COLUMNS, row)
    measure = "test_accuracy" if test else "val_accuracy"
    comparisons = {}
    for level, level_runs in runs.items():
        rows = pd.DataFrame([known[run.key] | {"configuration": run.name} for run in level_runs])
        comparisons[level] = comparison(rows, measure)
        at = f" at a sparsity of {level:g}" if sparsities else ""
        title = f"{experiment.name}{at}: {measure.replace('_', ' ')} in %, {len(chosen)} seeds"
        console.print(_table(comparisons[level], title))
    if plot is not None:
        from rsas.analysis.style import to_html
        from rsas.analysis.training_plots import repeats_figure, tradeoff_figure

        title = f"{experiment.name}, {len(chosen)} seeds"
        if sparsities:
            figure = tradeoff_figure(comparisons, measure, title)
        else:
            figure = repeats_figure(comparisons[base.sparsity], measure, title)
        plot.write_text(to_html(figure), encoding="utf-8")
        console.print(f"picture: {plot}")


def _base(experiment: Experiment, file: str) -> TrainConfig:
    """Return the base configuration of an experiment.

    Raises:
        InputError: the experiment has a training loop of the user's own.
    """
    if experiment.base is None:
        raise InputError(
            f"{file}: rsas repeat trains with rsas's own trainer; 'rsas sweep --seeds' trains a "
            "loop of your own with several seeds"
        )
    return experiment.base


def _configurations(base: TrainConfig, others: list[str]) -> dict[str, TrainConfig]:
    configs: dict[str, TrainConfig] = {base.method: base}
    for text in others:
        label, changes = _LABELLED.fullmatch(text).groups()  # type: ignore[union-attr]
        label = label or changes
        if label in configs:
            raise InputError(f"--vs {text!r}: {label!r} is given twice")
        configs[label] = base.override(changes.split())
    return configs


def _at_each(
    sparsities: str, configs: dict[str, TrainConfig], changes: list[str]
) -> dict[float, dict[str, TrainConfig]]:
    """Return the configurations by sparsity; ``changes`` are texts of ``--set`` and ``--vs``."""
    if any(word.startswith("sparsity=") for text in changes for word in text.split()):
        raise InputError(f"--sparsities {sparsities!r}: not beside sparsity=... in --set or --vs")
    return {
        level: {name: config.replace(sparsity=level) for name, config in configs.items()}
        for level in numbers("--sparsities", sparsities, float)
    }


def _check(configs: dict[str, TrainConfig], data_dir: Path | None, test: bool) -> None:
    """Check that all configurations can be trained, before the first training begins."""
    from rsas import data
    from rsas.build import check

    for name, config in configs.items():
        try:
            arrays = data.load(config.dataset, data_dir)
            check(config, arrays)
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
        if test and arrays.x_test is None:
            raise InputError(f"--test: dataset={config.dataset!r} has no test data")


def _known(path: Path | None, test: bool) -> dict[str, dict[str, Any]]:
    """Return the rows of earlier runs in a CSV file, by the key of the run."""
    import pandas as pd

    from rsas.seed_study import COLUMNS

    if path is None or not path.exists():
        return {}
    try:
        rows = pd.read_csv(path, dtype={"run": str})  # else a key of digits becomes a number
    except (ValueError, UnicodeDecodeError) as error:
        reason = str(error).strip()
        raise InputError(f"--csv {str(path)!r}: cannot be read ({reason})") from None
    if tuple(rows.columns) != COLUMNS:
        raise InputError(f"--csv {str(path)!r}: expected the columns {','.join(COLUMNS)}")
    if test:
        rows = rows[rows["test_accuracy"].notna() | rows["val_accuracy"].isna()]
    return {str(row["run"]): row for row in rows.to_dict("records")}  # type: ignore[misc]


def _add(path: Path, columns: tuple[str, ...], row: dict[str, Any]) -> None:
    is_new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(row)


def _table(comparison: pd.DataFrame, title: str) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    table.add_column("configuration", overflow="fold")
    first = comparison["configuration"].iloc[0]
    for name in ("mean", "95% interval", f"less {first}", "95% interval", "by seed", "s per run"):
        table.add_column(name, justify="right")
    for row in comparison.to_dict("records"):
        table.add_row(
            row["configuration"],
            _percent(row["mean"]) or "diverged",
            _interval(row["low"], row["high"]),
            _percent(row["difference"]),
            _interval(row["difference_low"], row["difference_high"]),
            " ".join(_percent(value) or "diverged" for value in row["values"]),
            f"{row['seconds']:.1f}",
        )
    return table


def _percent(value: float) -> str:
    return "" if math.isnan(value) else f"{100 * value:.2f}"


def _interval(low: float, high: float) -> str:
    return "" if math.isnan(low) else f"{_percent(low)} to {_percent(high)}"
