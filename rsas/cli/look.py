"""Commands that show, check and compare sweeps."""

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
    from rich.table import Table

    from rsas.analysis import Sweep
    from rsas.sweep.status import Status

__all__ = ["check", "compare", "pareto", "report", "status"]


_A_WHILE = 5.0  # seconds within which a running sweep updates its mirror and its files


@app.command()
def status(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="By default, all.")] = None,
    workspace: WorkspaceOption = RUNS,
    as_json: JsonOption = False,
) -> None:
    """Show the state and the trial counts of sweeps."""
    sweeps = open_workspace(workspace)
    statuses = []
    for sweep_name in [name] if name else sweeps.names():
        try:
            statuses.append(sweeps.open(sweep_name).status())
        except (InputError, StorageError) as error:
            if name:
                raise
            print(f"rsas: {error}", file=sys.stderr)  # the other sweeps are shown all the same
    if as_json:
        records = [_status_json(status) for status in statuses]
        print(json.dumps(records[0] if name else {"sweeps": records}, indent=2))
        return
    if not statuses and not name:
        print(f"no sweeps in {sweeps.path}")
        return
    from rich.table import Table

    table = Table()
    table.add_column("sweep")
    table.add_column("state")
    columns = ("complete", "running", "stopped", "failed", "front", "hypervolume")
    for column in (*columns, "device time", "slots busy"):
        table.add_column(column, justify="right")
    for status in statuses:
        counts = status.counts
        table.add_row(
            status.name,
            status.state,
            f"{counts['complete']} of {counts['asked']}",
            f"{counts['running']}",
            f"{counts['pruned']}",
            f"{counts['failed']}",
            f"{len(status.front)}",
            f"{status.hypervolume:.4f}",
            clock(status.device_seconds),
            "" if status.slot_share is None else f"{status.slot_share:.0%}",
        )
    make_console().print(table)


@app.command()
def check(
    name: NameArgument,
    repair: Annotated[
        bool, typer.Option("--repair", help="Repair the faults, if possible.")
    ] = False,
    take_over: TakeOverOption = False,
    workspace: WorkspaceOption = RUNS,
    as_json: JsonOption = False,
) -> None:
    """Compare the study, MLflow and the files of a sweep; exit code 1 if they differ."""
    import dataclasses

    sweeps = open_workspace(workspace)
    sweep_dir = sweeps.open(name)
    console = make_console()
    with console.status("comparing the study, MLflow and the storage"):
        from rsas.sweep.audit.check import check as find_faults
        from rsas.sweep.audit.repair import repair as repair_faults

        changes = sweep_dir.record.get("changes", [])  # of the experiment's file
        done: list[str] = []
        if repair:
            with sweep_dir.locked(take_over=take_over):
                done = repair_faults(sweep_dir)
        faults = find_faults(sweep_dir)
        # A damaged study cannot say whether the sweep runs.
        if faults and faults[0].where != "study" and sweep_dir.status().state == "running":
            # The mirror and the files of a running sweep lag behind: lasting differences count.
            time.sleep(_A_WHILE)
            faults = [fault for fault in find_faults(sweep_dir) if fault in faults]
    if as_json:
        records = [
            {k: v for k, v in dataclasses.asdict(fault).items() if k != "content"}
            for fault in faults
        ]
        result = {"ok": not faults, "repaired": done, "faults": records, "changes": changes}
        print(json.dumps({"name": name, **result}))
    else:
        for change in changes:
            line = f"note: since {change['time']}: {change['what']}"
            console.print(line, style="yellow", markup=False)
        for line in done:
            console.print(f"repaired: {line}", markup=False)
        if not faults:
            trials = len(sweep_dir.status().trials)
            console.print(f"{name}: study, MLflow and storage agree on {trials} trials")
            return
        import pandas as pd

        columns = ["kind", "where", "trial", "what"]
        rows = [(fault.kind, fault.where, fault.trial_id, fault.what) for fault in faults]
        console.print(_table(f"{len(faults)} faults", pd.DataFrame(rows, columns=columns)))
        if not repair:
            console.print(f"to repair them: {program()} check {name} --repair{where(sweeps)}")
    if faults:
        raise typer.Exit(1)


@app.command()
def pareto(
    name: NameArgument, workspace: WorkspaceOption = RUNS, as_json: JsonOption = False
) -> None:
    """Show the front of a sweep."""
    status = open_workspace(workspace).open(name).status()
    if as_json:
        print(json.dumps(_pareto_json(status), indent=2))
        return
    print_front(status, make_console())


@app.command()
def compare(
    names: NamesArgument,
    at: Annotated[
        str | None,
        typer.Option(metavar="0.8,0.9", help="Values of the last objective at which to compare."),
    ] = None,
    workspace: WorkspaceOption = RUNS,
    tracking_uri: FromMlflowOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare sweeps: which one is better, in which range, and with what confidence."""
    from rsas.analysis import compare as compare_sweeps

    comparison = compare_sweeps(
        *_sweeps(names, workspace, tracking_uri), at=numbers("--at", at, float) if at else None
    )
    if as_json:
        records = {
            name: json.loads(getattr(comparison, name).to_json(orient="records"))
            for name in ("sweeps", "differences", "values", "ranges")
        }
        print(json.dumps(records, indent=2))
        return
    from rsas.analysis.report import values_table

    console = make_console()
    first, last = comparison.objectives[0].name, comparison.objectives[-1].name
    differences = comparison.differences
    for title, frame in (
        ("sweeps", comparison.sweeps),
        (f"hypervolume less that of {names[0]}", differences.drop(columns="against")),
        (f"best {first} at {comparison.word} this {last}", values_table(comparison)),
        (f"which is better over {last}", comparison.ranges),
    ):
        console.print(_table(title, frame))
    if differences["low"].isna().any():
        console.print("no intervals for a sweep with one seed per trial; --seeds 0,1,2 gives more")


@app.command()
def report(
    names: NamesArgument,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File; by default NAME.html.")
    ] = None,
    workspace: WorkspaceOption = RUNS,
    tracking_uri: FromMlflowOption = None,
) -> None:
    """Write a page with figures and tables of a sweep, or of several side by side."""
    output = output or Path(f"{names[0]}.html")
    check_output("-o", output)
    console = make_console()
    with console.status("reading and drawing"):
        from rsas.tracking.artifacts import report_page

        page = report_page(_sweeps(names, workspace, tracking_uri))
        output.write_text(page, encoding="utf-8")
    console.print(f"report: {output}", markup=False)


def _status_json(status: Status) -> dict[str, Any]:
    return {
        "name": status.name,
        "state": status.state,
        "counts": status.counts,
        "front_size": len(status.front),
        "hypervolume": status.hypervolume,
        "device_seconds": status.device_seconds,
        "slot_share": status.slot_share,
    }


def _pareto_json(status: Status) -> dict[str, Any]:
    from rsas.pareto import knee_id

    members = [
        {"trial_id": t.trial_id, "params": t.params, "objectives": t.objectives}
        for t in status.front
    ]
    knee = knee_id(status.trials, status.objectives) or None
    return {**_status_json(status), "knee": knee, "front": members}


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
