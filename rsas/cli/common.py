"""Functions of several commands: consoles, checks of options, the table of a front."""

from __future__ import annotations

import math
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rsas.cli.options import RUNS
from rsas.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from rsas.sweep.files.workspace import Workspace
    from rsas.sweep.status import Status

__all__ = [
    "check_output",
    "given",
    "make_console",
    "numbers",
    "open_workspace",
    "print_front",
    "program",
    "where",
]

T = TypeVar("T", int, float)

_WIDTH_OF_FILES = 120  # columns of output that does not go to a terminal


def make_console() -> Console:
    """Return a console, with colours on a terminal and unwrapped lines in a file."""
    from rich.console import Console

    if sys.stdout.isatty():
        return Console(highlight=False)
    return Console(highlight=False, soft_wrap=True, width=_WIDTH_OF_FILES)


def open_workspace(path: Path) -> Workspace:
    """Return the workspace of a path."""
    from rsas.sweep.files.workspace import Workspace

    return Workspace(path)


def print_front(status: Status, console: Console) -> None:
    """Print the front of a sweep as a table, its knee and its hypervolume."""
    from rsas.pareto import knee_id
    from rsas.sweep.follow.progress import front_table

    members = status.front
    if not members:
        console.print(f"{status.name}: no trial is complete yet")
        return
    title = f"{status.name}: front of {status.counts['complete']} trials"
    console.print(front_table(members, status.objectives, title))
    knee = knee_id(members, status.objectives)
    console.print(f"{len(members)} members, knee {knee}, hypervolume {status.hypervolume:.4f}")


def given(**options: Any) -> dict[str, Any]:
    """Return the options that the user gave, those that are not None."""
    return {name: value for name, value in options.items() if value is not None}


def numbers(option: str, text: str, kind: Callable[[str], T]) -> tuple[T, ...]:
    """Return the numbers in a text such as ``0,1,2``.

    Args:
        option: its name, for the message.
        text: the numbers, separated by commas.
        kind: ``int`` or ``float``.

    Raises:
        InputError: a part of the text is not a finite number, or a number occurs twice.
    """
    try:
        values = tuple(kind(part) for part in text.split(","))
        if not all(math.isfinite(value) for value in values):
            raise ValueError
    except ValueError:
        example = "0,1,2" if kind is int else "0.8,0.9"
        raise InputError(f"{option} {text!r}: expected numbers such as {example}") from None
    if len(set(values)) < len(values):
        raise InputError(f"{option} {text!r}: a number is given twice")
    return values


def check_output(option: str, path: Path) -> None:
    """Check that an output file can be written, before the work begins.

    Raises:
        InputError: the file cannot be written.
    """
    folder = path.absolute().parent
    if not os.path.isdir(folder):  # False, too, for a name that is too long
        raise InputError(f"{option} {str(path)!r}: there is no folder {str(path.parent)!r}")
    try:
        is_writable = os.access(path if path.exists() else folder, os.W_OK)
    except OSError as error:
        raise InputError(f"{option} {str(path)!r}: {error.strerror}") from None
    if os.path.isdir(path) or not is_writable:
        raise InputError(f"{option} {str(path)!r}: cannot write there")


def program() -> str:
    """Return this program as the user can type it: its path if no environment is activated."""
    path = Path(sys.argv[0])
    if path.name != "rsas" or shutil.which("rsas"):
        return "rsas"
    return os.path.relpath(path)


def where(workspace: Workspace) -> str:
    """Return the option that selects the workspace; empty for the default one."""
    return "" if workspace.path == RUNS.absolute() else f" --workspace {workspace.path}"
