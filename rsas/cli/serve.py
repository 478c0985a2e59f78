"""Commands that open a page in the browser."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rsas.cli.app import app
from rsas.cli.common import (
    open_workspace,
    program,
)
from rsas.cli.options import (
    RUNS,
    WorkspaceOption,
)
from rsas.errors import InputError

if TYPE_CHECKING:
    from rsas.sweep.files.workspace import Workspace

__all__ = ["dashboard", "ui"]


@app.command()
def ui(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="With --optuna: the sweep, by default the last."),
    ] = None,
    optuna: Annotated[
        bool, typer.Option("--optuna", help="Open Optuna's dashboard of a sweep instead.")
    ] = False,
    workspace: WorkspaceOption = RUNS,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(help="Port to listen on; by default 5000, with --optuna 8080.")
    ] = None,
) -> None:
    """Open the MLflow UI of a workspace, or Optuna's dashboard of a sweep; Ctrl-C ends it."""
    place = open_workspace(workspace)
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
    from rsas.tracking import damage
    from rsas.uris import sqlite_uri

    if reason := damage(database):
        raise InputError(
            f"{database} is damaged ({reason}); {program()} check NAME --repair makes it again"
        )
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", sqlite_uri(database)]
    command += ["--host", host, "--port", str(port), "--workers", "1"]
    everywhere = host in ("0.0.0.0", "::")  # noqa: S104  # MLflow's default has private addresses
    if not everywhere and "MLFLOW_SERVER_ALLOWED_HOSTS" not in os.environ:
        command += ["--allowed-hosts", _mlflow_hosts(host)]
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
    workspace: WorkspaceOption = RUNS,
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
    place = open_workspace(workspace)
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


def _mlflow_hosts(host: str) -> str:
    """Return the Host headers that MLflow answers to when it listens on one address.

    Its own default has ``10.*`` and ``192.168.*``, which names such as ``10.elsewhere.example``
    match, too.
    """
    names = ["localhost", "127.0.0.1", "[::1]", f"[{host}]" if ":" in host else host]
    patterns = [f"{name.replace('[', '[[]')}:*" for name in names]  # as fnmatch reads them
    return ",".join([*names, *patterns])


def _optuna_ui(place: Workspace, name: str | None, host: str, port: int) -> None:
    names = place.names()
    if name is None and not names:
        raise InputError(f"workspace {str(place.path)!r} holds no sweep yet")
    study = place.open(name or names[-1]).study()
    from rsas.sweep.follow.optuna_dashboard import serve

    def say(line: str) -> None:
        _warn_of(host, f"whoever reaches {host}:{port} can read all of the study")
        print(line, flush=True)

    serve(study, host, port, say)


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
