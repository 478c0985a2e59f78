"""The ``rsas`` command: the application of all subcommands, and its entry point."""

from __future__ import annotations

import os
import sys
import traceback

import typer

from rsas.errors import Halted, InputError, NonFiniteLoss, StorageError
from rsas.redact import redact

__all__ = ["app", "main", "tell"]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Search the sparsity-accuracy trade-off of reinforced sparse networks.",
)


def main() -> None:
    """Run the ``rsas`` command."""
    _open_streams()
    try:
        _check_folder()
        try:
            app()
        finally:
            sys.stdout.flush()  # at exit, Python would do so with a traceback
    except (InputError, StorageError) as error:
        tell(error)
        sys.exit(2)
    except (Halted, NonFiniteLoss) as error:
        tell(error)
        sys.exit(1)
    except Exception as error:
        if isinstance(error, OSError) and _is_output_lost():
            tell(InputError(f"the output cannot be written ({error.strerror})"))
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for the rest of Python's output
            sys.exit(2)
        # A defect. Python itself would print the traceback with its secrets.
        print(redact(traceback.format_exc()), end="", file=sys.stderr)
        sys.exit(1)


def tell(error: Exception) -> None:
    """Print an error in one line, without secrets."""
    print(redact(f"rsas: error: {error}"), file=sys.stderr)


def _open_streams() -> None:
    """Make output possible if a stream is closed, or its encoding lacks some characters."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed, as by 'rsas status >&-'
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # until the end
            setattr(sys, name, stream)
        stream.reconfigure(errors="replace")


def _check_folder() -> None:
    try:
        os.getcwd()
    except FileNotFoundError:
        raise InputError("the current folder was deleted; change to one that exists") from None


def _is_output_lost() -> bool:
    """Return whether the printed output cannot be written, as on a full disk."""
    try:
        print(flush=True)
    except OSError:
        return True
    return False
