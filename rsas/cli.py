"""The command line: parses, then imports what the command needs."""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from rsas.errors import Halted, InputError, NonFiniteLoss

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console
    from rich.table import Table

    from rsas.analysis import Sweep
    from rsas.export import Report
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
_NamesArgument = Annotated[list[str], typer.Argument(metavar="NAME...", help="Names of sweeps.")]
_FromMlflowOption = Annotated[
    str | None,
    typer.Option(help="Read them from this MLflow server alone, without the workspace."),
]
_JsonOption = Annotated[
    bool, typer.Option("--json", help="Print JSON, as the README describes it.")
]
_MetricsOption = Annotated[
    int | None,
    typer.Option(
        "--metrics-port",
        metavar="PORT",
        help="Tell Prometheus how it goes, at this port of 127.0.0.1; 0 takes a free one.",
    ),
]
_RUNS = Path("runs")

T = TypeVar("T")
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
        _check_output("--plot", plot)

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
    metrics_port: _MetricsOption = None,
) -> None:
    """Search: run the trials of an experiment and print the front."""
    import dataclasses

    from rsas.search.experiment import load_experiment

    experiment, source = load_experiment(file)
    changes: dict[str, Any] = {"base": experiment.base.override(assignments or [])}
    changes |= _given(sampler=sampler, scheduler=scheduler, seed=seed)
    changes |= _given(seeds=_numbers("--seeds", seeds, int) if seeds else None)
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
            metrics_port=metrics_port,
        )
        _conclude(found, place, console)


@app.command()
def resume(
    name: _NameArgument,
    workspace: _WorkspaceOption = _RUNS,
    address: _AddressOption = None,
    metrics_port: _MetricsOption = None,
) -> None:
    """Go on with a sweep that was interrupted."""
    place = _workspace(workspace)
    record = place.open(name).record
    console = _console()
    with _resumable(place, name, console), _early_ray(address, record):
        with console.status("loading libraries"):
            from rsas.search.sweep import resume as resume_sweep
        found = resume_sweep(
            name, workspace=place, console=console, address=address, metrics_port=metrics_port
        )
        _conclude(found, place, console)


@app.command()
def extend(
    name: _NameArgument,
    trials: _TrialsOption = None,
    hours: _HoursOption = None,
    device_hours: _DeviceHoursOption = None,
    workspace: _WorkspaceOption = _RUNS,
    address: _AddressOption = None,
    metrics_port: _MetricsOption = None,
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
        found = extend_sweep(
            name,
            budget,
            workspace=place,
            console=console,
            address=address,
            metrics_port=metrics_port,
        )
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
def compare(
    names: _NamesArgument,
    at: Annotated[
        str | None,
        typer.Option(metavar="0.8,0.9", help="Values of the last objective to compare at."),
    ] = None,
    workspace: _WorkspaceOption = _RUNS,
    tracking_uri: _FromMlflowOption = None,
    as_json: _JsonOption = False,
) -> None:
    """Which of several sweeps is better, where, and how sure that is."""
    from rsas.analysis import compare as compare_sweeps

    found = compare_sweeps(
        *_sweeps(names, workspace, tracking_uri), at=_numbers("--at", at, float) if at else None
    )
    tables = {
        "sweeps": found.sweeps,
        "differences": found.differences,
        "values": found.values,
        "ranges": found.ranges,
    }
    if as_json:
        told = {name: json.loads(each.to_json(orient="records")) for name, each in tables.items()}
        print(json.dumps(told, indent=2))
        return
    from rsas.analysis.report import values_table

    console = _console()
    up, across = found.objectives[0].name, found.objectives[-1].name
    for title, frame in (
        ("sweeps", found.sweeps),
        (f"hypervolume less that of {names[0]}", found.differences.drop(columns="against")),
        (f"best {up} at least at this {across}", values_table(found)),
        (f"which is better over {across}", found.ranges),
    ):
        console.print(_table(title, frame))
    if found.differences["low"].isna().any():
        console.print("no intervals where a sweep has one seed a trial; --seeds 0,1,2 gives more")


@app.command()
def report(
    names: _NamesArgument,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File; by default NAME.html.")
    ] = None,
    workspace: _WorkspaceOption = _RUNS,
    tracking_uri: _FromMlflowOption = None,
) -> None:
    """One page with pictures and tables of a sweep, or of several side by side."""
    output = output or Path(f"{names[0]}.html")
    _check_output("-o", output)
    console = _console()
    with console.status("reading and drawing"):
        from rsas.analysis.report import report as make_report

        page = make_report(_sweeps(names, workspace, tracking_uri))
        output.write_text(page, encoding="utf-8")
    console.print(f"report: {output}", markup=False)


@app.command()
def export(
    name: _NameArgument,
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
    workspace: _WorkspaceOption = _RUNS,
) -> None:
    """Write the network of a trial as a file for others, and measure it."""
    folder = _workspace(workspace).open(name)
    console = _console()
    with console.status("loading the network"):
        from rsas import export as exports
        from rsas.analysis import choose

        kind = exports.check_format(form)
        found = folder.status()
        chosen = choose(found.trials, found.objectives, trial)
        path = output or Path(f"{name}-{chosen.trial_id}{exports.SUFFIXES[kind]}")
        _check_output("-o", path)
        state = folder.final_model(chosen)
        sys.path += [place for place in folder.record["python_path"] if place not in sys.path]
        about = {"sweep": name, "trial": chosen.trial_id, "objectives": chosen.objectives}
        network = exports.Network.from_state(state, **about)
    with console.status("writing"):
        content = exports.encode(network, kind)
        exports.write_file(path, content)
    told = ", ".join(f"{key} {value:.4f}" for key, value in chosen.objectives.items())
    console.print(f"{name}, {chosen.trial_id} ({told}): {path}", markup=False)
    with console.status("measuring"):
        report = exports.report(network, content, kind)
    _print_report(report, console)


@app.command()
def register(
    name: _NameArgument,
    model: Annotated[
        str | None, typer.Option("--as", metavar="MODEL", help="By default the sweep's name.")
    ] = None,
    workspace: _WorkspaceOption = _RUNS,
) -> None:
    """Register the knee, the most accurate and the sparsest network of a sweep in MLflow."""
    console = _console()
    with console.status("asking MLflow"):
        from rsas import tracking
        from rsas.analysis import choose, load_sweep

        sweep = load_sweep(name, workspace=workspace)
        logged = tracking.read_models(sweep.tracking_uri, sweep.runs)
        models = {}
        for alias in ("knee", "most-accurate", "sparsest"):
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
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="With --optuna: the sweep, by default the last."),
    ] = None,
    optuna: Annotated[
        bool, typer.Option("--optuna", help="Open Optuna's dashboard of a sweep instead.")
    ] = False,
    workspace: _WorkspaceOption = _RUNS,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(help="Port to listen on; by default 5000, with --optuna 8080.")
    ] = None,
) -> None:
    """Open the MLflow UI of a workspace, or Optuna's dashboard of a sweep; Ctrl-C ends it."""
    place = _workspace(workspace)
    if optuna:
        _optuna_ui(place, name, host, 8080 if port is None else port)
        return
    if name is not None:
        raise InputError(f"ui {name}: MLflow's UI has all sweeps; --optuna shows one of them")
    port = 5000 if port is None else port
    database = place.path / "mlflow.db"
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


def _optuna_ui(place: Workspace, name: str | None, host: str, port: int) -> None:
    names = place.names()
    if name is None and not names:
        raise InputError(f"workspace {str(place.path)!r} holds no sweep yet")
    book = place.open(name or names[-1]).book()
    from rsas.search.dashboard import serve

    def say(line: str) -> None:
        _warn_of(host, f"whoever reaches {host}:{port} can read all of the study")
        print(line, flush=True)

    serve(book, host, port, say)


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
    from rsas.analysis.pareto import knee

    members = [
        {"trial_id": t.trial_id, "params": t.params, "objectives": t.objectives}
        for t in found.front
    ]
    middle = knee(found.trials, found.objectives)
    return {**_status_json(found), "knee": middle and middle.trial_id, "front": members}


def _print_front(found: Status, console: Console) -> None:
    from rsas.analysis.pareto import knee
    from rsas.search.display import front_table

    members = found.front
    if not members:
        console.print(f"{found.name}: no trial is complete yet")
        return
    done = found.counts["complete"]
    console.print(front_table(members, found.objectives, f"{found.name}: front of {done} trials"))
    middle = knee(found.trials, found.objectives)
    told = "" if middle is None else f", knee {middle.trial_id}"
    console.print(f"{len(members)} members{told}, hypervolume {found.hypervolume:.4f}")


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


def _print_report(report: Report, console: Console) -> None:
    """Sizes, times, and what they come to."""
    from rich.table import Table

    counts = report.counts
    sizes = Table()
    for column in ("", "dense", "exported", "share"):
        sizes.add_column(column, justify="right" if column else "left")
    for what, dense, sparse in (
        ("file, bytes", report.dense_bytes, report.file_bytes),
        ("Conv and Linear weights, not zero", counts.weights, counts.nonzeros),
        ("FLOPs of one input", counts.flops_dense, counts.flops_sparse),
    ):
        if dense is not None and sparse is not None:
            share = sparse / dense if dense else 1.0
            sizes.add_row(what, f"{dense:,}", f"{sparse:,}", f"{share:.4f}")
    console.print(sizes)
    if report.executions:
        first = report.executions[0]
        title = f"median latency in ms, CPU, {report.threads} threads (scipy: 1)"
        times = Table(title=title, title_justify="left")
        times.add_column("computed by")
        for batch in first.seconds:
            times.add_column(f"batch {batch}", justify="right")
            times.add_column("x dense torch", justify="right")
        for each in report.executions:
            cells = [
                cell
                for batch, seconds in each.seconds.items()
                for cell in (f"{1000 * seconds:.3f}", f"{seconds / first.seconds[batch]:.2f}")
            ]
            times.add_row(each.name, *cells)
        console.print(times)
    for line in (*report.verdicts, *report.notes):
        console.print(line, markup=False)


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


def _numbers(option: str, text: str, kind: Callable[[str], T]) -> tuple[T, ...]:
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        example = "0,1,2" if kind is int else "0.8,0.9"
        raise InputError(f"{option} {text!r}: expected numbers such as {example}") from None


def _sweeps(names: Sequence[str], workspace: Path, tracking_uri: str | None) -> list[Sweep]:
    from rsas.analysis import load_sweep

    return [
        load_sweep(name, workspace=workspace, tracking_uri=tracking_uri, runs=False)
        for name in names
    ]


def _check_output(option: str, path: Path) -> None:
    """See that a file can be written before the work is done.

    Raises:
        InputError: it cannot.
    """
    folder = path.absolute().parent
    if not folder.is_dir():
        raise InputError(f"{option} {str(path)!r}: there is no folder {str(path.parent)!r}")
    if path.is_dir() or not os.access(path if path.exists() else folder, os.W_OK):
        raise InputError(f"{option} {str(path)!r}: cannot write there")


def _table(title: str, frame: pd.DataFrame) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for name, kind in frame.dtypes.items():
        table.add_column(str(name), justify="right" if kind.kind in "fi" else "left")
    for row in frame.itertuples(index=False):
        table.add_row(*(_cell(value) for value in row))
    return table


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:z.4f}"
    return str(value)


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
