"""Commands that export and register the networks of a sweep."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rsas.cli.app import app
from rsas.cli.common import check_output, make_console, open_workspace
from rsas.cli.options import RUNS, NameArgument, WorkspaceOption
from rsas.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from rsas.export import Report

__all__ = ["export", "register"]


@app.command()
def export(
    name: NameArgument,
    trial: Annotated[
        str, typer.Option(metavar="ID|knee|most-accurate|sparsest", help="Whose network.")
    ] = "knee",
    form: Annotated[
        str, typer.Option("--format", metavar="safetensors|onnx|sparse", help="Of the file.")
    ] = "safetensors",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File; by default NAME-TRIAL with a suffix."),
    ] = None,
    workspace: WorkspaceOption = RUNS,
) -> None:
    """Export the network of a trial to a file, and measure its size and latency."""
    sweep_dir = open_workspace(workspace).open(name)
    console = make_console()
    with console.status("loading the network"):
        from rsas import export as exports
        from rsas.analysis import choose
        from rsas.sweep.files.final_model import final_network
        from rsas.userfile import search_in

        kind = exports.check_format(form)
        status = sweep_dir.status()
        chosen = choose(status.trials, status.objectives, trial)
        path = output or Path(f"{name}-{chosen.trial_id}{exports.SUFFIXES[kind]}")
        check_output("-o", path)
        search_in(sweep_dir.record["python_path"])
        source = {"sweep": name, "trial": chosen.trial_id, "objectives": chosen.objectives}
        network = final_network(sweep_dir, sweep_dir.study(), chosen, **source)
    with console.status("writing"):
        content = exports.encode(network, kind)
        exports.write_file(path, content)
    values = ", ".join(f"{key} {value:.4f}" for key, value in chosen.objectives.items())
    console.print(f"{name}, {chosen.trial_id} ({values}): {path}", markup=False)
    with console.status("measuring"):
        report = exports.report(network, content, kind)
    _print_report(report, console)


@app.command()
def register(
    name: NameArgument,
    model: Annotated[
        str | None, typer.Option("--as", metavar="MODEL", help="By default the sweep's name.")
    ] = None,
    workspace: WorkspaceOption = RUNS,
) -> None:
    """Register the knee, the most accurate and the sparsest network of a sweep in MLflow."""
    console = make_console()
    with console.status("asking MLflow"):
        from rsas import tracking
        from rsas.load import load_sweep
        from rsas.pareto import CHOICES, choose

        sweep = load_sweep(name, workspace=workspace)
        logged = tracking.read_models(sweep.tracking_uri, sweep.runs)
        models = {}
        for alias in CHOICES:
            trial = choose(sweep.trials, sweep.objectives, alias).trial_id
            if trial not in logged:
                raise InputError(
                    f"the network of {trial}, the {alias} trial of {name!r}, is not in MLflow; "
                    f"'rsas resume {name}' logs those of a finished sweep"
                )
            models[alias] = logged[trial]
        versions = tracking.register(sweep.tracking_uri, model or name, models)
    for alias, version in versions.items():
        console.print(f"models:/{model or name}@{alias}: version {version}", markup=False)


def _print_report(report: Report, console: Console) -> None:
    """Print the sizes, the latencies, and the verdicts on them."""
    from rich.table import Table

    counts = report.counts
    sizes = Table()
    for column in ("", "dense", "exported", "share"):
        sizes.add_column(column, justify="right" if column else "left")
    for quantity, dense, sparse in (
        ("file, bytes", report.dense_bytes, report.file_bytes),
        ("prunable weights, not zero", counts.weights, counts.nonzeros),
        ("FLOPs of one input", counts.flops_dense, counts.flops_sparse),
    ):
        if dense is not None and sparse is not None:
            share = sparse / dense if dense else 1.0
            sizes.add_row(quantity, f"{dense:,}", f"{sparse:,}", f"{share:.4f}")
    console.print(sizes)
    if report.executions:
        first = report.executions[0]
        title = f"median latency in ms, CPU, {report.threads} threads (scipy: 1)"
        times = Table(title=title, title_justify="left")
        times.add_column("computed by")
        for batch in first.seconds:
            times.add_column(f"batch {batch}", justify="right")
            times.add_column("x dense torch", justify="right")
        for execution in report.executions:
            cells = [
                cell
                for batch, seconds in execution.seconds.items()
                for cell in (f"{1000 * seconds:.3f}", f"{seconds / first.seconds[batch]:.2f}")
            ]
            times.add_row(execution.name, *cells)
        console.print(times)
    for line in (*report.verdicts, *report.notes):
        console.print(line, markup=False)
