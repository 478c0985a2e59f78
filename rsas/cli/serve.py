"""Commands that serve pages for the browser."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rsas.cli.app import app
from rsas.cli.common import open_workspace, program
from rsas.cli.options import RUNS, WorkspaceOption
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
    """Serve the MLflow UI of a workspace, or Optuna's dashboard of a sweep, until Ctrl-C."""
    sweeps = open_workspace(workspace)
    if optuna:
        _optuna_ui(sweeps, name, host, 8080 if port is None else port)
        return
    if name is not None:
        raise InputError(f"ui {name}: MLflow's UI has all sweeps; --optuna shows one of them")
    port = 5000 if port is None else port
    database = sweeps.path / "mlflow.db"
    if not database.is_file():
        raise InputError(
            f"workspace {str(database.parent)!r} holds no mlflow.db: no sweep was run here, or "
            "its runs are on a tracking server"
        )
    from rsas.tracking import damage
    from rsas.uris import sqlite_uri

    if reason := damage(database):
        raise InputError(
            f"{database} is damaged ({reason}); {program()} check NAME --repair restores it"
        )
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", sqlite_uri(database)]
    command += ["--host", host, "--port", str(port), "--workers", "1"]
    # For all addresses, MLflow's default, which has private addresses, is right.
    is_everywhere = host in ("0.0.0.0", "::")  # noqa: S104
    if not is_everywhere and "MLFLOW_SERVER_ALLOWED_HOSTS" not in os.environ:
        command += ["--allowed-hosts", _mlflow_hosts(host)]
    _warn_of(host, f"all who can reach {host}:{port} can read and change all runs")
    print(f"MLflow's UI starts at http://{host}:{port} in some seconds; runs are under", end=" ")
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
    """Serve the dashboards of a workspace, until Ctrl-C."""
    import dashboards

    if name is not None and name not in dashboards.NAMES:
        raise InputError(f"dashboard {name!r}: expected {', '.join(dashboards.NAMES)}")
    sweeps = open_workspace(workspace)
    sweeps.names()  # raises for a folder that cannot be read, before a page would
    _check_port(host, port)
    folder = Path(dashboards.__file__).parent
    command = [sys.executable, "-m", "marimo", "--log-level", "ERROR", "run"]
    names = [name] if name else dashboards.NAMES
    command += [str(folder / f"{page}.py") for page in names]
    command += ["--headless", "--token-password-file", "-", "--host", host, "--port", str(port)]
    os.environ |= {"RSAS_WORKSPACE": str(sweeps.path), "RSAS_MLFLOW_UI": ui}
    _warn_of(host, f"all who can reach {host}:{port} and have the token can read all sweeps")
    # marimo's own token is a hash of the page, which PYTHONHASHSEED makes the same each time. Other
    # users see arguments, so stdin carries the token. If stdin is a pipe, marimo asks no question
    # on Ctrl-C.
    token = secrets.token_urlsafe(16)
    reading, writing = os.pipe()
    os.write(writing, token.encode())
    os.close(writing)
    os.dup2(reading, 0)
    print(f"the dashboards start at http://{host}:{port}?access_token={token}", end=" ")
    print("in some seconds", flush=True)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # hides marimo's greeting; errors go to stderr
    os.execv(sys.executable, command)  # noqa: S606


def _mlflow_hosts(host: str) -> str:
    """Return the Host headers that MLflow accepts when it listens on one address.

    MLflow's default has ``10.*`` and ``192.168.*``, which match names such as
    ``10.elsewhere.example``, too.
    """
    names = ["localhost", "127.0.0.1", "[::1]", f"[{host}]" if ":" in host else host]
    patterns = [f"{name.replace('[', '[[]')}:*" for name in names]  # as fnmatch reads them
    return ",".join([*names, *patterns])


def _optuna_ui(workspace: Workspace, name: str | None, host: str, port: int) -> None:
    names = workspace.names()
    if name is None and not names:
        raise InputError(f"workspace {str(workspace.path)!r} holds no sweep yet")
    study = workspace.open(name or names[-1]).study()
    from rsas.sweep.follow.optuna_dashboard import serve

    def say(line: str) -> None:
        _warn_of(host, f"all who can reach {host}:{port} can read all of the study")
        print(line, flush=True)

    serve(study, host, port, say)


def _warn_of(host: str, message: str) -> None:
    if host not in ("127.0.0.1", "localhost", "::1"):
        print(f"rsas: warning: {message}", file=sys.stderr)


def _check_port(host: str, port: int) -> None:
    """Check that a server can listen on an address.

    Raises:
        InputError: the address is not available.
    """
    import socket

    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = addresses[0]
        with socket.socket(family, kind, protocol) as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(address)
    except OSError as error:
        raise InputError(
            f"cannot listen on {host}:{port} ({error.strerror}); give another --port or --host"
        ) from None
