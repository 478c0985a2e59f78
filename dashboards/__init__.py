"""marimo apps over the sweeps of a workspace; ``rsas dashboard`` serves them."""

__all__ = ["NAMES"]

NAMES = ("sweep", "compare", "network")
"""Names of the apps; each app is a file in this folder."""
