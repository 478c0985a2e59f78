"""Commands that run a sweep, and ``doctor``."""

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

    from rsas.sweep.execute.cluster import Connection
    from rsas.sweep.execute.doctor import Finding
    from rsas.sweep.files.workspace import Workspace
    from rsas.sweep.status import Status

__all__ = ["doctor", "extend", "resume", "sweep"]


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
        typer.Option(metavar="0,1,2", help="Seeds of each trial; objectives are their means."),
    ] = None,
    cpus: CpusOption = None,
    gpus: GpusOption = None,
    concurrency: Annotated[
        int | None, typer.Option(help="Trials at once; by default, all that fit.")
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
            metavar="FILE.json|SWEEP", help="Begin with the points of a file or a sweep's front."
        ),
    ] = None,
    known: Annotated[
        str | None,
        typer.Option(metavar="SWEEP", help="Tell the sampler the results of an earlier sweep."),
    ] = None,
    metrics_port: MetricsOption = None,
) -> None:
    """Run the trials of an experiment, and print the front."""
    import dataclasses

    from rsas.sweep.experiment import load_experiment

    defined, source = load_experiment(file)
    experiment = defined
    experiment = experiment.with_config(experiment.config.override(assignments or []))
    changes: dict[str, Any] = given(sampler=sampler, scheduler=scheduler, seed=seed)
    changes |= given(seeds=numbers("--seeds", seeds, int) if seeds else None)
    budget = given(trials=trials, hours=hours, device_hours=device_hours)
    changes["budget"] = dataclasses.replace(experiment.budget, **budget)
    resources = given(cpus=cpus, gpus=gpus, max_concurrent=concurrency)
    changes["resources"] = dataclasses.replace(experiment.resources, **resources)
    experiment = dataclasses.replace(experiment, **changes)
    name = name or f"{experiment.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    sweeps = open_workspace(workspace)
    sweeps.check_writable()
    sweeps.check_free(name)
    points = _points(enqueue, sweeps) if enqueue else []
    console = make_console()
    with _resumable(sweeps, name, console):
        with _early_ray(address, source) as connection:
            with console.status("loading libraries"):
                from rsas.sweep.commands import launch
            status = launch(
                experiment,
                source,
                name=name,
                defined=defined,
                assigned={text.partition("=")[0].strip() for text in assignments or []},
                workspace=sweeps,
                console=console,
                connection=connection,
                data_dir=data_dir,
                tracking_uri=tracking_uri,
                storage=storage,
                study_storage=study_storage,
                enqueued=points,
                known=known,
                metrics_port=metrics_port,
            )
        _conclude(status, sweeps, console)


@app.command()
def resume(
    name: NameArgument,
    workspace: WorkspaceOption = RUNS,
    address: AddressOption = None,
    metrics_port: MetricsOption = None,
    take_over: TakeOverOption = False,
) -> None:
    """Resume a sweep that was interrupted."""
    _resume(name, workspace, address, metrics_port=metrics_port, take_over=take_over)


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
    """Give a sweep a budget of more trials or more time in all, and resume it."""
    budget = given(trials=trials, hours=hours, device_hours=device_hours)
    if not budget:
        raise InputError("extend: expected --trials, --hours or --device-hours")
    options: dict[str, Any] = {"metrics_port": metrics_port, "take_over": take_over}
    _resume(name, workspace, address, budget=budget, **options)


def _resume(name: str, workspace: Path, address: str | None, **options: Any) -> None:
    sweeps = open_workspace(workspace)
    record = sweeps.open(name).record
    console = make_console()
    with _resumable(sweeps, name, console):
        with _early_ray(address or record.get("address"), record["source"]) as connection:
            with console.status("loading libraries"):
                from rsas.sweep.commands import resume as resume_sweep
            status = resume_sweep(
                name, workspace=sweeps, console=console, connection=connection, **options
            )
        _conclude(status, sweeps, console)


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
    """Check on every node whether the cluster can run an experiment; exit code 1 if it cannot."""
    import dataclasses

    from rsas.sweep.experiment import load_experiment

    experiment, source = load_experiment(file)
    resources = dataclasses.replace(experiment.resources, **given(cpus=cpus, gpus=gpus))
    experiment = experiment.with_config(experiment.config.override(assignments or []))
    experiment = dataclasses.replace(experiment, resources=resources)
    console = make_console()
    with _early_ray(address, source) as connection:
        with console.status("loading libraries"):
            from rsas.sweep.commands import diagnose
        with console.status("asking the nodes"):
            findings = diagnose(
                experiment,
                source,
                connection=connection,
                data_dir=data_dir,
                tracking_uri=tracking_uri,
                storage=storage,
            )
    _print_findings(findings, console)
    if any(finding.faults for finding in findings):
        raise typer.Exit(1)


def _print_findings(findings: Sequence[Finding], console: Console) -> None:
    """Print a table with a row per node, and below it a remedy for each fault."""
    from rich.table import Table

    checks = list(dict.fromkeys(key for f in findings for key in (*f.results, *f.faults)))
    table = Table()
    for column in ("node", *checks):
        table.add_column(column)
    faults: list[str] = []
    for finding in findings:
        row = []
        for check in checks:
            if check in finding.faults:
                faults.append(f"{finding.node}, {check}: {finding.faults[check]}")
                row.append(f"[red]fault {len(faults)}[/]")
            else:
                row.append(f"[green]{finding.results.get(check, '')}[/]")
        table.add_row(finding.node, *row)
    console.print(table)
    for number, line in enumerate(faults, 1):
        console.print(f"{number}. {line}", markup=False)
    console.print(f"{len(faults)} faults" if faults else "no faults: the cluster can run a sweep")


def _conclude(status: Status, workspace: Workspace, console: Console) -> None:
    """Print the front and the next commands; raise for the exit code of a sweep not finished."""
    print_front(status, console)
    if status.spent:
        extend_command = f"{program()} extend {status.name}"
        console.print(f"its {status.spent} are used up; {extend_command} gives more")
    if status.state == "finished":
        if status.mirrored:
            console.print(f"all trials and the front in MLflow: {program()} ui{where(workspace)}")
        console.print(f"the front again: {program()} pareto {status.name}{where(workspace)}")
    elif status.state == "failed":
        reasons = [trial.reason for trial in status.trials if trial.state == "failed"]
        message = f"gave up: {len(reasons)} trials failed, the last one with: {reasons[-1]}"
        console.print(message, markup=False)
        raise typer.Exit(1)
    else:
        raise KeyboardInterrupt


@contextlib.contextmanager
def _resumable(workspace: Workspace, name: str, console: Console) -> Iterator[None]:
    """Print the command that resumes the sweep, after a halt or Ctrl-C, however early."""
    try:
        yield
    except LeaseLost:  # another process runs the sweep
        raise
    except (KeyboardInterrupt, Halted):
        if name in workspace.names():
            console.print(f"interrupted; to resume: {program()} resume {name}{where(workspace)}")
        raise


@contextlib.contextmanager
def _early_ray(address: str | None, source: str) -> Iterator[Connection]:
    """Start Ray while libraries are imported."""
    from rsas.sweep.execute.cluster import Connection

    with Connection(address, source) as connection:
        try:
            yield connection
        except (InputError, StorageError) as error:  # printed before the wait for Ray's shutdown
            tell(error)
            raise typer.Exit(2) from None


def _points(source: str, workspace: Workspace) -> list[dict[str, Any]]:
    """Return the parameters of the front of a sweep, or those in a JSON file."""
    if source in workspace.names():
        return [trial.params for trial in workspace.open(source).status().front]
    try:
        points = json.loads(Path(source).read_text("utf-8"))
        if isinstance(points, dict):  # output of 'rsas pareto --json'
            points = [member["params"] for member in points["front"]]
        if not all(isinstance(point, dict) for point in points):
            raise ValueError
    except OSError as error:
        known = ", ".join(workspace.names()) or "none"
        raise InputError(
            f"--enqueue {source!r}: neither a sweep (existing: {known}) nor a file that can be "
            f"read ({error.strerror})"
        ) from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(
            f'--enqueue {source!r}: expected a JSON list such as [{{"sparsity": 0.9}}], or the '
            "output of 'rsas pareto SWEEP --json'"
        ) from None
    return list(points)
