"""The ``rsas`` command: what its parts share, and its entry point."""

from __future__ import annotations

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
    """Entry point of the ``rsas`` command."""
    try:
        app()
    except (InputError, StorageError) as error:
        tell(error)
        sys.exit(2)
    except (Halted, NonFiniteLoss) as error:
        tell(error)
        sys.exit(1)
    except Exception:  # a defect: Python would print the traceback with the secrets in it
        print(redact(traceback.format_exc()), end="", file=sys.stderr)
        sys.exit(1)


def tell(error: Exception) -> None:
    """Print one line for the user, secrets hidden."""
    print(redact(f"rsas: error: {error}"), file=sys.stderr)
