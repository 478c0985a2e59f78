"""Commands that show what a sweep has come to."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rsas.cli.app import app
from rsas.cli.common import (
    check_output,
    make_console,
    numbers,
    open_workspace,
    print_front,
    program,
    where,
)
from rsas.cli.options import (
    RUNS,
    FromMlflowOption,
    JsonOption,
    NameArgument,
    NamesArgument,
    TakeOverOption,
    WorkspaceOption,
)
from rsas.errors import InputError, StorageError
from rsas.records import clock

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console
    from rich.table import Table

    from rsas.analysis import Sweep
    from rsas.sweep.audit.check import Fault
    from rsas.sweep.status import Status

__all__ = ["check", "compare", "pareto", "report", "status"]


_A_WHILE = 5.0  # seconds in which a running sweep writes what it knows


@app.command()
def status(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="By default, all.")] = None,
    workspace: WorkspaceOption = RUNS,
    as_json: JsonOption = False,
) -> None:
    """What runs and what is done."""
    place = open_workspace(workspace)
    found = []
    for sweep_name in [name] if name else place.names():
        try:
            found.append(place.open(sweep_name).status())
        except (InputError, StorageError) as error:
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
            clock(each.device_seconds),
            "" if each.slot_share is None else f"{each.slot_share:.0%}",
        )
    make_console().print(table)


@app.command()
def check(
    name: NameArgument,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be mended.")] = False,
    take_over: TakeOverOption = False,
    workspace: WorkspaceOption = RUNS,
    as_json: JsonOption = False,
) -> None:
    """Compare the study, MLflow and the files of a sweep; exit code 1 where they differ."""
    import dataclasses

    place = open_workspace(workspace)
    folder = place.open(name)
    console = make_console()
    with console.status("comparing the study, MLflow and the storage"):
        from rsas.sweep.audit.check import check as find_faults
        from rsas.sweep.audit.repair import repair as mend

        changes = folder.record.get("changes", [])  # of the sweep's file
        done: list[str] = []
        if repair:
            with folder.locked(take_over=take_over):
                done = mend(folder)
        faults = find_faults(folder)
        # A damaged study cannot say whether the sweep runs.
        if faults and faults[0].where != "study" and folder.status().state == "running":
            # Its mirror and its files are a little behind: what stays so is a fault.
            time.sleep(_A_WHILE)
            faults = [fault for fault in find_faults(folder) if fault in faults]
    if as_json:
        told = [
            {k: v for k, v in dataclasses.asdict(fault).items() if k != "content"}
            for fault in faults
        ]
        found = {"ok": not faults, "repaired": done, "faults": told, "changes": changes}
        print(json.dumps({"name": name, **found}))
    else:
        for change in changes:
            line = f"note: since {change['time']}: {change['what']}"
            console.print(line, style="yellow", markup=False)
        for line in done:
            console.print(f"mended: {line}", markup=False)
        _print_faults(faults, console)
        trials = len(folder.status().trials) if not faults else 0
        if not faults:
            console.print(f"{name}: study, MLflow and storage agree on {trials} trials")
        elif not repair:
            console.print(f"to mend them: {program()} check {name} --repair{where(place)}")
    if faults:
        raise typer.Exit(1)


@app.command()
def pareto(
    name: NameArgument, workspace: WorkspaceOption = RUNS, as_json: JsonOption = False
) -> None:
    """The front of a sweep."""
    found = open_workspace(workspace).open(name).status()
    if as_json:
        print(json.dumps(_pareto_json(found), indent=2))
        return
    print_front(found, make_console())


@app.command()
def compare(
    names: NamesArgument,
    at: Annotated[
        str | None,
        typer.Option(metavar="0.8,0.9", help="Values of the last objective to compare at."),
    ] = None,
    workspace: WorkspaceOption = RUNS,
    tracking_uri: FromMlflowOption = None,
    as_json: JsonOption = False,
) -> None:
    """Which of several sweeps is better, where, and how sure that is."""
    from rsas.analysis import compare as compare_sweeps

    found = compare_sweeps(
        *_sweeps(names, workspace, tracking_uri), at=numbers("--at", at, float) if at else None
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

    console = make_console()
    up, across = found.objectives[0].name, found.objectives[-1].name
    for title, frame in (
        ("sweeps", found.sweeps),
        (f"hypervolume less that of {names[0]}", found.differences.drop(columns="against")),
        (f"best {up} at {found.word} this {across}", values_table(found)),
        (f"which is better over {across}", found.ranges),
    ):
        console.print(_table(title, frame))
    if found.differences["low"].isna().any():
        console.print("no intervals where a sweep has one seed a trial; --seeds 0,1,2 gives more")


@app.command()
def report(
    names: NamesArgument,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File; by default NAME.html.")
    ] = None,
    workspace: WorkspaceOption = RUNS,
    tracking_uri: FromMlflowOption = None,
) -> None:
    """One page with pictures and tables of a sweep, or of several side by side."""
    output = output or Path(f"{names[0]}.html")
    check_output("-o", output)
    console = make_console()
    with console.status("reading and drawing"):
        from rsas.tracking.artifacts import report_page

        page = report_page(_sweeps(names, workspace, tracking_uri))
        output.write_text(page, encoding="utf-8")
    console.print(f"report: {output}", markup=False)


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
    from rsas.pareto import knee

    members = [
        {"trial_id": t.trial_id, "params": t.params, "objectives": t.objectives}
        for t in found.front
    ]
    middle = knee(found.trials, found.objectives)
    return {**_status_json(found), "knee": middle and middle.trial_id, "front": members}


def _print_faults(faults: Sequence[Fault], console: Console) -> None:
    from rich.markup import escape
    from rich.table import Table

    if not faults:
        return
    table = Table(title=f"{len(faults)} faults", title_justify="left", title_style="bold")
    for column in ("kind", "where", "trial", "what"):
        table.add_column(column)
    for fault in faults:
        table.add_row(fault.kind, fault.where, fault.trial_id, escape(fault.what))
    console.print(table)


def _sweeps(names: Sequence[str], workspace: Path, tracking_uri: str | None) -> list[Sweep]:
    from rsas.load import load_sweep

    return [
        load_sweep(name, workspace=workspace, tracking_uri=tracking_uri, runs=False)
        for name in names
    ]


def _table(title: str, frame: pd.DataFrame) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for name, kind in frame.dtypes.items():
        table.add_column(str(name), justify="right" if kind.kind in "fi" else "left")
    for row in frame.itertuples(index=False):
        table.add_row(*(escape(_cell(value)) for value in row))
    return table


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:z.4f}"
    return str(value)
