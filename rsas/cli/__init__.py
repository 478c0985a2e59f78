"""The command line. Each command imports the libraries it needs after the options are parsed."""

from rsas.cli import run, train, repeat, look, networks, serve  # noqa: F401, I001  # in the order of the help
from rsas.cli.app import main

__all__ = ["main"]
