"""Where a sweep comes from: the commit of its code, and what it ran on."""

from __future__ import annotations

import contextlib
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["origin"]

_GIT_SECONDS = 10.0


def origin(source: str) -> dict[str, Any]:
    """What is needed to run a sweep again, as JSON types.

    Args:
        source: of the experiment, ``file.py:function``.

    Returns:
        source; commit, of the repository its file lies in, empty where there is none; dirty,
        whether files differ from the commit; python; platform; and packages, name -> version of
        all that are installed.
    """
    folder = Path(source.rpartition(":")[0]).parent
    commit = _git(folder, "rev-parse", "HEAD")
    return {
        "source": source,
        "commit": commit,
        "dirty": bool(commit and _git(folder, "status", "--porcelain")),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": _packages(),
    }


def _packages() -> dict[str, str]:
    """Name -> version, of all but what a broken installation has left."""
    found = {}
    for each in metadata.distributions():
        # None, or an error where importlib_metadata has put itself in the standard one's place.
        with contextlib.suppress(FileNotFoundError):
            if each.name:
                found[each.name.lower()] = each.version
    return dict(sorted(found.items()))


def _git(folder: Path, *command: str) -> str:
    """What git prints; empty where there is no git or no repository."""
    try:
        done = subprocess.run(  # noqa: S603
            ["git", "-C", str(folder), *command],  # noqa: S607
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
