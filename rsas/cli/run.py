"""Commands that train: one network, or a sweep."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rsas.cli.app import app, tell
from rsas.cli.common import (
    check_output,
    given,
    make_console,
    numbers,
    open_workspace,
    print_front,
    program,
    where,
)
from rsas.cli.options import (
    RUNS,
    AddressOption,
    CpusOption,
    DataDirOption,
    DeviceHoursOption,
    FileArgument,
    GpusOption,
    HoursOption,
    MetricsOption,
    NameArgument,
    SetOption,
    StorageOption,
    TakeOverOption,
    TrackingOption,
    TrialsOption,
    WorkspaceOption,
)
from rsas.errors import Halted, InputError, LeaseLost, StorageError

if TYPE_CHECKING:
    from rich.console import Console

    from rsas.sweep.execute.doctor import Finding
    from rsas.sweep.files.workspace import Workspace
    from rsas.sweep.status import Status

__all__ = ["doctor", "extend", "resume", "sweep", "train"]


@app.command()
def train(
    file: FileArgument,
    assignments: SetOption = None,
    data_dir: DataDirOption = None,
    plot: Annotated[
        Path | None, typer.Option(help="Write a picture of accuracy over epochs (HTML).")
    ] = None,
) -> None:
    """Train the base configuration of an experiment once, without Ray."""
    from rsas.sweep.experiment import load_experiment

    experiment, _ = load_experiment(file)
    config = experiment.base.override(assignments or [])
    if plot is not None:
        check_output("--plot", plot)

    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    import rsas

    console = make_console()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("epochs, {task.fields[told]}"),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task(experiment.name, total=config.epochs, told="starting")

        def on_epoch(row: dict[str, float]) -> None:
            told = f"val_accuracy {row['val_accuracy']:.4f}, sparsity {row['sparsity']:.4f}"
            progress.update(task, advance=1, told=told)

        run = rsas.train(config, data_dir=data_dir, on_epoch=on_epoch)
    from rich.table import Table

    last = run.history.iloc[-1]
    table = Table(title=f"{experiment.name}, {config.method}", title_justify="left")
    for name in ("epochs", "sparsity", "train_loss", "val_loss", "val_accuracy", "test_accuracy"):
        table.add_column(name.replace("_", " "), justify="right")
    table.add_column("seconds", justify="right")
    test = "none" if run.test_accuracy is None else f"{run.test_accuracy:.4f}"
    numbers = [
        f"{last[name]:.4f}" for name in ("sparsity", "train_loss", "val_loss", "val_accuracy")
    ]
    table.add_row(f"{len(run.history)}", *numbers, test, f"{run.history['seconds'].sum():.1f}")
    console.print(table)
    if plot is not None:
        from rsas.analysis.style import to_html
        from rsas.analysis.training_plots import accuracy_figure

        plot.write_text(to_html(accuracy_figure(run.history, experiment.name)), encoding="utf-8")
        console.print(f"picture: {plot}")


@app.command()
def sweep(
    file: FileArgument,
    name: Annotated[
        str | None, typer.Option(help="New name; by default one with the time.")
    ] = None,
    trials: TrialsOption = None,
    hours: HoursOption = None,
    device_hours: DeviceHoursOption = None,
    sampler: Annotated[str | None, typer.Option(help="tpe, nsga2, gp or random.")] = None,
    scheduler: Annotated[str | None, typer.Option(help="none, asha or pareto_asha.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the sampler.")] = None,
    seeds: Annotated[
        str | None,
        typer.Option(metavar="0,1,2", help="Train each trial with these; objectives are means."),
    ] = None,
    cpus: CpusOption = None,
    gpus: GpusOption = None,
    concurrency: Annotated[
        int | None, typer.Option(help="Trials at once; by default as many as fit.")
    ] = None,
    assignments: SetOption = None,
    data_dir: DataDirOption = None,
    workspace: WorkspaceOption = RUNS,
    tracking_uri: TrackingOption = None,
    address: AddressOption = None,
    storage: StorageOption = None,
    study_storage: Annotated[
        str | None,
        typer.Option(
            envvar="RSAS_STUDY_STORAGE", help="Database of the study; by default a local file."
        ),
    ] = None,
    enqueue: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.json|SWEEP", help="Begin with these points, or a sweep's front."
        ),
    ] = None,
    known: Annotated[
        str | None,
        typer.Option(metavar="SWEEP", help="Tell the sampler the results of an earlier sweep."),
    ] = None,
    metrics_port: MetricsOption = None,
) -> None:
    """Search: run the trials of an experiment and print the front."""
    import dataclasses

    from rsas.sweep.experiment import load_experiment

    defined, source = load_experiment(file)
    experiment = defined
    changes: dict[str, Any] = {"base": experiment.base.override(assignments or [])}
    changes |= given(sampler=sampler, scheduler=scheduler, seed=seed)
    changes |= given(seeds=numbers("--seeds", seeds, int) if seeds else None)
    budget = given(trials=trials, hours=hours, device_hours=device_hours)
    changes["budget"] = dataclasses.replace(experiment.budget, **budget)
    resources = given(cpus=cpus, gpus=gpus, max_concurrent=concurrency)
    changes["resources"] = dataclasses.replace(experiment.resources, **resources)
    experiment = dataclasses.replace(experiment, **changes)
    name = name or f"{experiment.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    place = open_workspace(workspace)
    place.check_writable()
    place.check_free(name)
    points = _points(enqueue, place) if enqueue else []
    console = make_console()
    with _resumable(place, name, console), _early_ray(address, source):
        with console.status("loading libraries"):
            from rsas.sweep.commands import launch
        found = launch(
            experiment,
            source,
            name=name,
            defined=defined,
            assigned={text.partition("=")[0].strip() for text in assignments or []},
            workspace=place,
            console=console,
            data_dir=data_dir,
            tracking_uri=tracking_uri,
            address=address,
            storage=storage,
            study_storage=study_storage,
            enqueued=points,
            known=known,
            metrics_port=metrics_port,
        )
        _conclude(found, place, console)


@app.command()
def resume(
    name: NameArgument,
    workspace: WorkspaceOption = RUNS,
    address: AddressOption = None,
    metrics_port: MetricsOption = None,
    take_over: TakeOverOption = False,
) -> None:
    """Go on with a sweep that was interrupted."""
    place = open_workspace(workspace)
    record = place.open(name).record
    console = make_console()
    with _resumable(place, name, console), _early_ray(address, record):
        with console.status("loading libraries"):
            from rsas.sweep.commands import resume as resume_sweep
        found = resume_sweep(
            name,
            workspace=place,
            console=console,
            address=address,
            metrics_port=metrics_port,
            take_over=take_over,
        )
        _conclude(found, place, console)


@app.command()
def extend(
    name: NameArgument,
    trials: TrialsOption = None,
    hours: HoursOption = None,
    device_hours: DeviceHoursOption = None,
    workspace: WorkspaceOption = RUNS,
    address: AddressOption = None,
    metrics_port: MetricsOption = None,
    take_over: TakeOverOption = False,
) -> None:
    """Give a sweep more trials, or more time, in all, and go on with it."""
    budget = given(trials=trials, hours=hours, device_hours=device_hours)
    if not budget:
        raise InputError("extend: expected --trials, --hours or --device-hours")
    place = open_workspace(workspace)
    record = place.open(name).record
    console = make_console()
    with _resumable(place, name, console), _early_ray(address, record):
        with console.status("loading libraries"):
            from rsas.sweep.commands import extend as extend_sweep
        found = extend_sweep(
            name,
            budget,
            workspace=place,
            console=console,
            address=address,
            metrics_port=metrics_port,
            take_over=take_over,
        )
        _conclude(found, place, console)


@app.command()
def doctor(
    file: FileArgument,
    assignments: SetOption = None,
    cpus: CpusOption = None,
    gpus: GpusOption = None,
    data_dir: DataDirOption = None,
    tracking_uri: TrackingOption = None,
    address: AddressOption = None,
    storage: StorageOption = None,
) -> None:
    """Can this cluster run this experiment? Asks every node; exit code 1 where one cannot."""
    import dataclasses

    from rsas.sweep.experiment import load_experiment

    experiment, source = load_experiment(file)
    resources = dataclasses.replace(experiment.resources, **given(cpus=cpus, gpus=gpus))
    experiment = dataclasses.replace(
        experiment, base=experiment.base.override(assignments or []), resources=resources
    )
    console = make_console()
    with _early_ray(address, source):
        with console.status("loading libraries"):
            from rsas.sweep.commands import diagnose
        with console.status("asking the nodes"):
            findings = diagnose(
                experiment,
                source,
                data_dir=data_dir,
                tracking_uri=tracking_uri,
                address=address,
                storage=storage,
            )
    _print_findings(findings, console)
    if any(found.faults for found in findings):
        raise typer.Exit(1)


def _print_findings(findings: Sequence[Finding], console: Console) -> None:
    """A table with a row a node, and below it what to do about each fault."""
    from rich.table import Table

    checks = list(dict.fromkeys(k for found in findings for k in (*found.results, *found.faults)))
    table = Table()
    for column in ("node", *checks):
        table.add_column(column)
    todo: list[str] = []
    for found in findings:
        row = []
        for check in checks:
            if check in found.faults:
                todo.append(f"{found.node}, {check}: {found.faults[check]}")
                row.append(f"[red]fault {len(todo)}[/]")
            else:
                row.append(f"[green]{found.results.get(check, '')}[/]")
        table.add_row(found.node, *row)
    console.print(table)
    for number, line in enumerate(todo, 1):
        console.print(f"{number}. {line}", markup=False)
    console.print("everything is as a sweep needs it" if not todo else f"{len(todo)} faults")


def _conclude(found: Status, place: Workspace, console: Console) -> None:
    """The front and where to look, or how to go on; the exit code that goes with it."""
    print_front(found, console)
    if found.spent:
        console.print(f"its {found.spent} are used up; {program()} extend {found.name} gives more")
    if found.state == "finished":
        if found.mirrored:
            console.print(f"all trials and the front in MLflow: {program()} ui{where(place)}")
        console.print(f"the front again: {program()} pareto {found.name}{where(place)}")
    elif found.state == "failed":
        reasons = [trial.reason for trial in found.trials if trial.state == "failed"]
        told = f"gave up: {len(reasons)} trials failed, the last one with: {reasons[-1]}"
        console.print(told, markup=False)
        raise typer.Exit(1)
    else:
        raise KeyboardInterrupt


@contextlib.contextmanager
def _resumable(place: Workspace, name: str, console: Console) -> Iterator[None]:
    """After Ctrl-C, however early, or when it had to stop, say how to go on."""
    try:
        yield
    except LeaseLost:  # another process goes on
        raise
    except (KeyboardInterrupt, Halted):
        if name in place.names():
            console.print(f"interrupted; to go on: {program()} resume {name}{where(place)}")
        raise


@contextlib.contextmanager
def _early_ray(address: str | None, sweep: Any) -> Iterator[None]:
    """Ray comes up while libraries are imported; ``sweep`` is a source or a record."""
    from rsas.sweep.execute import cluster

    if isinstance(sweep, dict):
        address, sweep = address or sweep.get("address"), sweep["source"]
    with cluster.early(address, sweep):
        try:
            yield
        except (InputError, StorageError) as error:  # told before Ray, which must be up to be ended
            tell(error)
            raise typer.Exit(2) from None


def _points(place: str, workspace: Workspace) -> list[dict[str, Any]]:
    """Values of parameters from a file, or of the members of a sweep's front."""
    if place in workspace.names():
        return [trial.params for trial in workspace.open(place).status().front]
    try:
        found = json.loads(Path(place).read_text("utf-8"))
        if isinstance(found, dict):  # as 'rsas pareto --json' prints it
            found = [member["params"] for member in found["front"]]
        if not all(isinstance(point, dict) for point in found):
            raise ValueError
    except OSError as error:
        known = ", ".join(workspace.names()) or "none"
        raise InputError(
            f"--enqueue {place!r}: neither a sweep (there is: {known}) nor a file that can be "
            f"read ({error.strerror})"
        ) from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(
            f'--enqueue {place!r}: expected a JSON list such as [{{"sparsity": 0.9}}], or what '
            "'rsas pareto SWEEP --json' prints"
        ) from None
    return list(found)
