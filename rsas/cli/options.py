"""Options and arguments that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "RUNS",
    "AddressOption",
    "CpusOption",
    "DataDirOption",
    "DeviceHoursOption",
    "FileArgument",
    "FromMlflowOption",
    "GpusOption",
    "HoursOption",
    "JsonOption",
    "MetricsOption",
    "NameArgument",
    "NamesArgument",
    "SetOption",
    "StorageOption",
    "TakeOverOption",
    "TrackingOption",
    "TrialsOption",
    "WorkspaceOption",
]

WorkspaceOption = Annotated[
    Path,
    typer.Option(
        "--workspace", envvar="RSAS_WORKSPACE", help="Folder of sweeps and MLflow's files."
    ),
]

DataDirOption = Annotated[
    Path | None,
    typer.Option("--data-dir", envvar="RSAS_DATA_DIR", help="Folder of the data sets."),
]

SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Change a field of the base TrainConfig."),
]

FileArgument = Annotated[
    str, typer.Argument(metavar="FILE.py[:FUNCTION]", help="Defines the experiment.")
]

TrialsOption = Annotated[
    int | None, typer.Option(help="Trials to be complete or stopped early, in all.")
]

HoursOption = Annotated[float | None, typer.Option(help="Hours to run, in all.")]

DeviceHoursOption = Annotated[
    float | None, typer.Option(help="Hours of training times GPUs (else CPUs), in all.")
]

CpusOption = Annotated[float | None, typer.Option(help="CPU cores of a trial.")]

GpusOption = Annotated[
    float | None, typer.Option(help="GPUs of a trial; 0.25 lets four share one.")
]

TrackingOption = Annotated[
    str | None,
    typer.Option(envvar="MLFLOW_TRACKING_URI", help="MLflow server; by default a local file."),
]

AddressOption = Annotated[
    str | None,
    typer.Option(
        metavar="auto|HOST:PORT|ray://HOST:PORT",
        help="A Ray cluster; by default one is started on this machine.",
    ),
]

StorageOption = Annotated[
    str | None,
    typer.Option(
        metavar="DIR|s3://...",
        help="Where trials keep their files, reached by all nodes; by default the workspace.",
    ),
]

TakeOverOption = Annotated[
    bool,
    typer.Option(
        "--take-over", help="Also where another process runs it, which then may write no more."
    ),
]

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of the sweep.")]

NamesArgument = Annotated[list[str], typer.Argument(metavar="NAME...", help="Names of sweeps.")]

FromMlflowOption = Annotated[
    str | None,
    typer.Option(help="Read them from this MLflow server alone, without the workspace."),
]

JsonOption = Annotated[
    bool, typer.Option("--json", help="Print JSON, described in the README of sweeps.")
]

MetricsOption = Annotated[
    int | None,
    typer.Option(
        "--metrics-port",
        metavar="PORT",
        help="Tell Prometheus how it goes, at this port of 127.0.0.1; 0 takes a free one.",
    ),
]

RUNS = Path("runs")
