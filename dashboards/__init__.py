"""marimo apps over the sweeps of a workspace; ``rsas dashboard`` serves them."""

__all__ = ["NAMES"]

NAMES = ("sweep", "compare", "network")
"""Each a file beside this one."""
