"""What several commands do: consoles, checks of what was given, the front."""

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

_WIDTH_OF_FILES = 120  # of what is not printed on a terminal


def make_console() -> Console:
    """Colours on a terminal, whole lines in a file."""
    from rich.console import Console

    if sys.stdout.isatty():
        return Console(highlight=False)
    return Console(highlight=False, soft_wrap=True, width=_WIDTH_OF_FILES)


def open_workspace(path: Path) -> Workspace:
    """The workspace of an option."""
    from rsas.sweep.files.workspace import Workspace

    return Workspace(path)


def print_front(found: Status, console: Console) -> None:
    """The front of a sweep as a table, its knee and hypervolume."""
    from rsas.pareto import knee
    from rsas.sweep.follow.progress import front_table

    members = found.front
    if not members:
        console.print(f"{found.name}: no trial is complete yet")
        return
    done = found.counts["complete"]
    console.print(front_table(members, found.objectives, f"{found.name}: front of {done} trials"))
    middle = knee(found.trials, found.objectives)
    told = "" if middle is None else f", knee {middle.trial_id}"
    console.print(f"{len(members)} members{told}, hypervolume {found.hypervolume:.4f}")


def given(**options: Any) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def numbers(option: str, text: str, kind: Callable[[str], T]) -> tuple[T, ...]:
    """The numbers in a text such as ``0,1,2``, each once.

    Raises:
        InputError: it is none.
    """
    try:
        found = tuple(kind(part) for part in text.split(","))
        if not all(math.isfinite(number) for number in found):
            raise ValueError
    except ValueError:
        example = "0,1,2" if kind is int else "0.8,0.9"
        raise InputError(f"{option} {text!r}: expected numbers such as {example}") from None
    if len(set(found)) < len(found):
        raise InputError(f"{option} {text!r}: a number is there twice")
    return found


def check_output(option: str, path: Path) -> None:
    """See that a file can be written before the work is done.

    Raises:
        InputError: it cannot.
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
    """This program as the user can type it: by its path where no environment is activated."""
    program = Path(sys.argv[0])
    if program.name != "rsas" or shutil.which("rsas"):
        return "rsas"
    return os.path.relpath(program)


def where(place: Workspace) -> str:
    """The option that finds the workspace again."""
    return "" if place.path == RUNS.absolute() else f" --workspace {place.path}"
