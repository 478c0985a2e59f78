"""The command that trains one network, without Ray."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rsas.cli.app import app
from rsas.cli.common import check_output, make_console
from rsas.cli.options import DataDirOption, FileArgument, SetOption

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from rsas.sweep.experiment import Experiment

__all__ = ["train"]

OnEpoch = Callable[[dict[str, float]], None]


@app.command()
def train(
    file: FileArgument,
    assignments: SetOption = None,
    data_dir: DataDirOption = None,
    plot: Annotated[
        Path | None, typer.Option(help="Write a picture of the training over epochs (HTML).")
    ] = None,
) -> None:
    """Train the base configuration of an experiment, or its own loop, once, without Ray."""
    from rsas.sweep.experiment import load_experiment

    experiment, _ = load_experiment(file)
    experiment = experiment.with_config(experiment.config.override(assignments or []))
    if plot is not None:
        check_output("--plot", plot)
    console = make_console()
    if experiment.base is None:
        names = [objective.name for objective in experiment.objectives]
        history = _train_loop(experiment, assignments or [], console)
        columns = {name: history[name].iloc[-1] for name in dict.fromkeys(["sparsity", *names])}
    else:
        names = ["val_accuracy"]
        history, columns = _train_network(experiment, data_dir, console)
    _print_last(experiment, history, columns, console)
    if plot is not None:
        from rsas.analysis.style import to_html
        from rsas.analysis.training_plots import history_figure

        plot.write_text(to_html(history_figure(history, experiment.name, names)), encoding="utf-8")
        console.print(f"picture: {plot}")


def _train_network(
    experiment: Experiment, data_dir: Path | None, console: Console
) -> tuple[pd.DataFrame, dict[str, float | None]]:
    """Train the base configuration; return its history, and the values to print."""
    import rsas

    assert experiment.base is not None
    with _progress(experiment, ["val_accuracy", "sparsity"], console) as on_epoch:
        run = rsas.train(experiment.base, data_dir=data_dir, on_epoch=on_epoch)
    last = run.history.iloc[-1]
    columns = {name: last[name] for name in ("sparsity", "train_loss", "val_loss", "val_accuracy")}
    return run.history, {**columns, "test_accuracy": run.test_accuracy}


def _train_loop(
    experiment: Experiment, assignments: Sequence[str], console: Console
) -> pd.DataFrame:
    """Run a loop once, with parameters that the space suggests; return its history."""
    from rsas.config import LoopConfig
    from rsas.loop import run_loop
    from rsas.sweep.suggest.space import sample

    config = sample(experiment).override(assignments)
    assert experiment.train is not None and isinstance(config, LoopConfig)
    params = ", ".join(f"{name}={value}" for name, value in config.params.items())
    console.print(f"sparsity={config.sparsity:.4g}, {params}".removesuffix(", "), markup=False)
    objectives = [objective.name for objective in experiment.objectives]
    with _progress(experiment, objectives, console) as on_epoch:
        return run_loop(experiment.train, config, objectives=objectives, on_epoch=on_epoch).history


@contextlib.contextmanager
def _progress(experiment: Experiment, names: Sequence[str], console: Console) -> Iterator[OnEpoch]:
    """Show a bar of the epochs, with the last values of these columns."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("epochs, {task.fields[metrics]}"),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task(
            experiment.name, total=experiment.config.epochs, metrics="starting"
        )

        def on_epoch(row: dict[str, float]) -> None:
            metrics = ", ".join(f"{name} {row[name]:.4f}" for name in names)
            progress.update(task, advance=1, metrics=metrics)

        yield on_epoch


def _print_last(
    experiment: Experiment,
    history: pd.DataFrame,
    columns: dict[str, float | None],
    console: Console,
) -> None:
    """Print the values after the last epoch."""
    from rich.table import Table

    table = Table(title=f"{experiment.name}, {experiment.config.method}", title_justify="left")
    for name in ("epochs", *columns, "seconds"):
        table.add_column(name.replace("_", " "), justify="right")
    cells = ["none" if value is None else f"{value:.4f}" for value in columns.values()]
    table.add_row(f"{len(history)}", *cells, f"{history['seconds'].sum():.1f}")
    console.print(table)
