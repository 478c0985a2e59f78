"""The command line: parses, then imports what the command needs."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rsas.errors import Halted, InputError, NonFiniteLoss

if TYPE_CHECKING:
    from rich.console import Console

    from rsas.search.check import Fault
    from rsas.search.doctor import Finding
    from rsas.search.workspace import Status, Workspace

__all__ = ["main"]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Search the sparsity-accuracy trade-off of reinforced sparse networks.",
)

_WorkspaceOption = Annotated[
    Path,
    typer.Option(
        "--workspace", envvar="RSAS_WORKSPACE", help="Folder of sweeps and MLflow's files."
    ),
]
_DataDirOption = Annotated[
    Path | None,
    typer.Option("--data-dir", envvar="RSAS_DATA_DIR", help="Folder of the data sets."),
]
_SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Change a field of the base TrainConfig."),
]
_FileArgument = Annotated[
    str, typer.Argument(metavar="FILE.py[:FUNCTION]", help="Defines the experiment.")
]
_TrialsOption = Annotated[
    int | None, typer.Option(help="Trials to be complete or stopped early, in all.")
]
_HoursOption = Annotated[float | None, typer.Option(help="Hours to run, in all.")]
_DeviceHoursOption = Annotated[
    float | None, typer.Option(help="Hours of training times GPUs (else CPUs), in all.")
]
_CpusOption = Annotated[float | None, typer.Option(help="CPU cores of a trial.")]
_GpusOption = Annotated[
    float | None, typer.Option(help="GPUs of a trial; 0.25 lets four share one.")
]
_TrackingOption = Annotated[
    str | None,
    typer.Option(envvar="MLFLOW_TRACKING_URI", help="MLflow server; by default a local file."),
]
_AddressOption = Annotated[
    str | None,
    typer.Option(
        metavar="auto|HOST:PORT|ray://HOST:PORT",
        help="A Ray cluster; by default one is started on this machine.",
    ),
]
_StorageOption = Annotated[
    str | None,
    typer.Option(
        metavar="DIR|s3://...",
        help="Where trials keep their files, reached by all nodes; by default the workspace.",
    ),
]
_NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of the sweep.")]
_JsonOption = Annotated[
    bool, typer.Option("--json", help="Print JSON, as the README describes it.")
]
_RUNS = Path("runs")
_WIDTH_OF_FILES = 120  # of what is not printed on a terminal


@app.command()
def train(
    file: _FileArgument,
    assignments: _SetOption = None,
    data_dir: _DataDirOption = None,
    plot: Annotated[
        Path | None, typer.Option(help="Write a picture of accuracy over epochs (HTML).")
    ] = None,
) -> None:
    """Train the base configuration of an experiment once, without Ray."""
    from rsas.search.experiment import load_experiment

    experiment, _ = load_experiment(file)
    config = experiment.base.override(assignments or [])
    if plot is not None:
        if not plot.absolute().parent.is_dir():
            raise InputError(f"--plot {str(plot)!r}: there is no folder {str(plot.parent)!r}")
        if plot.is_dir() or not os.access(
            plot if plot.exists() else plot.absolute().parent, os.W_OK
        ):
            raise InputError(f"--plot {str(plot)!r}: cannot write there")

    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    import rsas

    console = _console()
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
        from rsas.analysis.plots import accuracy_figure, to_html

        plot.write_text(to_html(accuracy_figure(run.history, experiment.name)), encoding="utf-8")
        console.print(f"picture: {plot}")


@app.command()
def sweep(
    file: _FileArgument,
    name: Annotated[
        str | None, typer.Option(help="New name; by default one with the time.")
    ] = None,
    trials: _TrialsOption = None,
    hours: _HoursOption = None,
    device_hours: _DeviceHoursOption = None,
    sampler: Annotated[str | None, typer.Option(help="tpe, nsga2, gp or random.")] = None,
    scheduler: Annotated[str | None, typer.Option(help="none, asha or pareto_asha.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the sampler.")] = None,
    seeds: Annotated[
        str | None,
        typer.Option(metavar="0,1,2", help="Train each trial with these; objectives are means."),
    ] = None,
    cpus: _CpusOption = None,
    gpus: _GpusOption = None,
    concurrency: Annotated[
        int | None, typer.Option(help="Trials at once; by default as many as fit.")
    ] = None,
    assignments: _SetOption = None,
    data_dir: _DataDirOption = None,
    workspace: _WorkspaceOption = _RUNS,
    tracking_uri: _TrackingOption = None,
    address: _AddressOption = None,
    storage: _StorageOption = None,
    study_storage: Annotated[
        str | None,
        typer.Option(
            envvar="RSAS_STUDY_STORAGE", help="Database of the book; by default a local file."
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
) -> None:
    """Search: run the trials of an experiment and print the front."""
    import dataclasses

    from rsas.search.experiment import load_experiment

    experiment, source = load_experiment(file)
    changes: dict[str, Any] = {"base": experiment.base.override(assignments or [])}
    changes |= _given(sampler=sampler, scheduler=scheduler, seed=seed)
    changes |= _given(seeds=seeds and _integers("--seeds", seeds))
    budget = _given(trials=trials, hours=hours, device_hours=device_hours)
    changes["budget"] = dataclasses.replace(experiment.budget, **budget)
    resources = _given(cpus=cpus, gpus=gpus, max_concurrent=concurrency)
    changes["resources"] = dataclasses.replace(experiment.resources, **resources)
    experiment = dataclasses.replace(experiment, **changes)
    name = name or f"{experiment.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    place = _workspace(workspace)
    place.check_writable()
    place.check_free(name)
    points = _points(enqueue, place) if enqueue else []
    console = _console()
    with _resumable(place, name, console), _early_ray(address, source):
        with console.status("loading libraries"):
            from rsas.search.sweep import launch
        found = launch(
            experiment,
            source,
            name=name,
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
        )
        _conclude(found, place, console)


@app.command()
def resume(
    name: _NameArgument, workspace: _WorkspaceOption = _RUNS, address: _AddressOption = None
) -> None:
    """Go on with a sweep that was interrupted."""
    place = _workspace(workspace)
    record = place.open(name).record
    console = _console()
    with _resumable(place, name, console), _early_ray(address, record):
        with console.status("loading libraries"):
            from rsas.search.sweep import resume as resume_sweep
        found = resume_sweep(name, workspace=place, console=console, address=address)
        _conclude(found, place, console)


@app.command()
def extend(
    name: _NameArgument,
    trials: _TrialsOption = None,
    hours: _HoursOption = None,
    device_hours: _DeviceHoursOption = None,
    workspace: _WorkspaceOption = _RUNS,
    address: _AddressOption = None,
) -> None:
    """Give a sweep more trials, or more time, in all, and go on with it."""
    budget = _given(trials=trials, hours=hours, device_hours=device_hours)
    if not budget:
        raise InputError("extend: expected --trials, --hours or --device-hours")
    place = _workspace(workspace)
    record = place.open(name).record
    console = _console()
    with _resumable(place, name, console), _early_ray(address, record):
        with console.status("loading libraries"):
            from rsas.search.sweep import extend as extend_sweep
        found = extend_sweep(name, budget, workspace=place, console=console, address=address)
        _conclude(found, place, console)


@app.command()
def status(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="By default, all.")] = None,
    workspace: _WorkspaceOption = _RUNS,
    as_json: _JsonOption = False,
) -> None:
    """What runs and what is done."""
    place = _workspace(workspace)
    found = []
    for sweep_name in [name] if name else place.names():
        try:
            found.append(place.open(sweep_name).status())
        except InputError as error:
            if name:
                raise
            print(f"rsas: {error}", file=sys.stderr)  # the others are told all the same
    if as_json:
        told = [_status_json(each) for each in found]
        print(json.dumps(told[0] if name else {"sweeps": told}, indent=2))
        return
    if not found and not name:
        print(f"no sweeps in {place.path}")
        return
    from rich.table import Table

    table = Table()
    table.add_column("sweep")
    table.add_column("state")
    columns = ("complete", "running", "stopped", "failed", "front", "hypervolume")
    for column in (*columns, "device time", "slots busy"):
        table.add_column(column, justify="right")
    for each in found:
        counts = each.counts
        table.add_row(
            each.name,
            each.state,
            f"{counts['complete']} of {counts['asked']}",
            f"{counts['running']}",
            f"{counts['pruned']}",
            f"{counts['failed']}",
            f"{len(each.front)}",
            f"{each.hypervolume:.4f}",
            _clock(each.device_seconds),
            "" if each.slot_share is None else f"{each.slot_share:.0%}",
        )
    _console().print(table)


@app.command()
def check(
    name: _NameArgument,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be mended.")] = False,
    workspace: _WorkspaceOption = _RUNS,
    as_json: _JsonOption = False,
) -> None:
    """Compare the books of a sweep; exit code 1 where they do not agree."""
    import dataclasses

    place = _workspace(workspace)
    folder = place.open(name)
    console = _console()
    with console.status("comparing the study, MLflow and the storage"):
        from rsas.search import repair as repairs

        done: list[str] = []
        if repair:
            with folder.locked():
                done = repairs.repair(folder, place)
        faults = repairs.check(folder, place)
    if as_json:
        told = [
            {k: v for k, v in dataclasses.asdict(fault).items() if k != "content"}
            for fault in faults
        ]
        print(json.dumps({"name": name, "ok": not faults, "repaired": done, "faults": told}))
    else:
        for line in done:
            console.print(f"mended: {line}", markup=False)
        _print_faults(faults, console)
        trials = len(folder.status().trials) if not faults else 0
        if not faults:
            console.print(f"{name}: study, MLflow and storage agree on {trials} trials")
        elif not repair:
            console.print(f"to mend them: {_rsas()} check {name} --repair{_where(place)}")
    if faults:
        raise typer.Exit(1)


@app.command()
def pareto(
    name: _NameArgument, workspace: _WorkspaceOption = _RUNS, as_json: _JsonOption = False
) -> None:
    """The front of a sweep."""
    found = _workspace(workspace).open(name).status()
    if as_json:
        print(json.dumps(_pareto_json(found), indent=2))
        return
    _print_front(found, _console())


@app.command()
def doctor(
    file: _FileArgument,
    assignments: _SetOption = None,
    cpus: _CpusOption = None,
    gpus: _GpusOption = None,
    data_dir: _DataDirOption = None,
    tracking_uri: _TrackingOption = None,
    address: _AddressOption = None,
    storage: _StorageOption = None,
) -> None:
    """Can this cluster run this experiment? Asks every node; exit code 1 where one cannot."""
    import dataclasses

    from rsas.search.experiment import load_experiment

    experiment, source = load_experiment(file)
    resources = dataclasses.replace(experiment.resources, **_given(cpus=cpus, gpus=gpus))
    experiment = dataclasses.replace(
        experiment, base=experiment.base.override(assignments or []), resources=resources
    )
    console = _console()
    with _early_ray(address, source):
        with console.status("loading libraries"):
            from rsas.search.sweep import diagnose
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


@app.command()
def ui(
    workspace: _WorkspaceOption = _RUNS,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 5000,
) -> None:
    """Open the MLflow UI of a workspace; Ctrl-C ends it."""
    database = _workspace(workspace).path / "mlflow.db"
    if not database.is_file():
        raise InputError(
            f"workspace {str(database.parent)!r} holds no mlflow.db: no sweep was run here, or "
            "its runs are on a tracking server"
        )
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", f"sqlite:///{database}"]
    command += ["--host", host, "--port", str(port), "--workers", "1"]
    _warn_of(host, f"whoever reaches {host}:{port} can read and change all runs")
    print(f"MLflow's UI comes up at http://{host}:{port} in some seconds; runs are under", end=" ")
    print("'Model training', the switch at its top left", flush=True)
    os.execv(sys.executable, command)  # noqa: S606


@app.command()
def dashboard(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[sweep|compare|network]", help="By default, all of them."),
    ] = None,
    workspace: _WorkspaceOption = _RUNS,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 2718,
    ui: Annotated[
        str, typer.Option(envvar="RSAS_MLFLOW_UI", help="Where 'rsas ui' is, for links to runs.")
    ] = "http://127.0.0.1:5000",
) -> None:
    """Open the dashboards of a workspace; Ctrl-C ends them."""
    import dashboards

    if name is not None and name not in dashboards.NAMES:
        raise InputError(f"dashboard {name!r}: expected {', '.join(dashboards.NAMES)}")
    place = _workspace(workspace)
    place.names()  # a place that cannot be read is told here, not on a page
    _check_port(host, port)
    folder = Path(dashboards.__file__).parent
    command = [sys.executable, "-m", "marimo", "--log-level", "ERROR", "run"]
    command += [str(folder / f"{each}.py") for each in ([name] if name else dashboards.NAMES)]
    command += ["--headless", "--token-password-file", "-", "--host", host, "--port", str(port)]
    os.environ |= {"RSAS_WORKSPACE": str(place.path), "RSAS_MLFLOW_UI": ui}
    _warn_of(host, f"whoever reaches {host}:{port} and has the token can read all sweeps")
    # marimo's own token is a hash of the page, which PYTHONHASHSEED makes the same each time. By
    # stdin, as others see arguments; and marimo asks no question on Ctrl-C when that is a pipe.
    token = secrets.token_urlsafe(16)
    reading, writing = os.pipe()
    os.write(writing, token.encode())
    os.close(writing)
    os.dup2(reading, 0)
    print(f"the dashboards come up at http://{host}:{port}?access_token={token}", end=" ")
    print("in some seconds", flush=True)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # marimo would greet; errors go to stderr
    os.execv(sys.executable, command)  # noqa: S606


def main() -> None:
    """Entry point of the ``rsas`` command."""
    try:
        app()
    except InputError as error:
        _tell(error)
        sys.exit(2)
    except (Halted, NonFiniteLoss) as error:
        _tell(error)
        sys.exit(1)


def _tell(error: Exception) -> None:
    print(f"rsas: error: {error}", file=sys.stderr)


def _console() -> Console:
    from rich.console import Console

    if sys.stdout.isatty():
        return Console(highlight=False)
    return Console(highlight=False, soft_wrap=True, width=_WIDTH_OF_FILES)


def _workspace(path: Path) -> Workspace:
    from rsas.search.workspace import Workspace

    return Workspace(path)


def _status_json(found: Status) -> dict[str, Any]:
    return {
        "name": found.name,
        "state": found.state,
        "counts": found.counts,
        "front_size": len(found.front),
        "hypervolume": found.hypervolume,
        "device_seconds": found.device_seconds,
        "slot_share": found.slot_share,
    }


def _pareto_json(found: Status) -> dict[str, Any]:
    members = [
        {"trial_id": t.trial_id, "params": t.params, "objectives": t.objectives}
        for t in found.front
    ]
    return {**_status_json(found), "front": members}


def _print_front(found: Status, console: Console) -> None:
    from rsas.search.display import front_table

    members = found.front
    if not members:
        console.print(f"{found.name}: no trial is complete yet")
        return
    done = found.counts["complete"]
    console.print(front_table(members, found.objectives, f"{found.name}: front of {done} trials"))
    console.print(f"{len(members)} members, hypervolume {found.hypervolume:.4f}")


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


def _print_faults(faults: Sequence[Fault], console: Console) -> None:
    from rich.table import Table

    if not faults:
        return
    table = Table(title=f"{len(faults)} faults", title_justify="left", title_style="bold")
    for column in ("kind", "where", "trial", "what"):
        table.add_column(column)
    for fault in faults:
        table.add_row(fault.kind, fault.where, fault.trial_id, fault.what)
    console.print(table)


def _conclude(found: Status, place: Workspace, console: Console) -> None:
    """The front and where to look, or how to go on; the exit code that goes with it."""
    _print_front(found, console)
    if found.spent:
        console.print(f"its {found.spent} are used up; {_rsas()} extend {found.name} gives more")
    if found.state == "finished":
        console.print(f"all trials and the front in MLflow: {_rsas()} ui{_where(place)}")
        console.print(f"the front again: {_rsas()} pareto {found.name}{_where(place)}")
    elif found.state == "failed":
        reasons = [trial.reason for trial in found.trials if trial.state == "failed"]
        console.print(f"gave up: {len(reasons)} trials failed, the last one with: {reasons[-1]}")
        raise typer.Exit(1)
    else:
        raise KeyboardInterrupt


@contextlib.contextmanager
def _resumable(place: Workspace, name: str, console: Console) -> Iterator[None]:
    """After Ctrl-C, however early, or when it had to stop, say how to go on."""
    try:
        yield
    except (KeyboardInterrupt, Halted):
        if name in place.names():
            console.print(f"interrupted; to go on: {_rsas()} resume {name}{_where(place)}")
        raise


@contextlib.contextmanager
def _early_ray(address: str | None, sweep: Any) -> Iterator[None]:
    """Ray comes up while libraries are imported; ``sweep`` is a source or a record."""
    from rsas.search import cluster

    if isinstance(sweep, dict):
        address, sweep = address or sweep.get("address"), sweep["source"]
    with cluster.early(address, sweep):
        try:
            yield
        except InputError as error:  # told before Ray, which must be up to be ended
            _tell(error)
            raise typer.Exit(2) from None


def _given(**options: Any) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def _integers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{option} {text!r}: expected integers such as 0,1,2") from None


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
    except (ValueError, KeyError, TypeError):
        raise InputError(
            f'--enqueue {place!r}: expected a JSON list such as [{{"sparsity": 0.9}}], or what '
            "'rsas pareto SWEEP --json' prints"
        ) from None
    return list(found)


def _warn_of(host: str, what: str) -> None:
    if host not in ("127.0.0.1", "localhost", "::1"):
        print(f"rsas: warning: {what}", file=sys.stderr)


def _check_port(host: str, port: int) -> None:
    """See that a server can listen there."""
    import socket

    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(address)
    except OSError as error:
        raise InputError(
            f"cannot listen on {host}:{port} ({error.strerror}); give another --port or --host"
        ) from None


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def _rsas() -> str:
    """This program as the user can type it: by its path where no environment is activated."""
    program = Path(sys.argv[0])
    if program.name != "rsas" or shutil.which("rsas"):
        return "rsas"
    return os.path.relpath(program)


def _where(place: Workspace) -> str:
    """The option that finds the workspace again."""
    return "" if place.path == _RUNS.absolute() else f" --workspace {place.path}"
