"""The provenance of a sweep: the commit of its code, and its platform and packages."""

from __future__ import annotations

import contextlib
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["provenance_of"]

_GIT_SECONDS = 10.0


def provenance_of(source: str) -> dict[str, Any]:
    """Return the facts that are needed to run a sweep again, as JSON types.

    Args:
        source: of the experiment, ``file.py:function``.

    Returns:
        The keys are ``source``; ``commit``, of the repository that has the file, empty without a
        repository; ``dirty``, whether files differ from the commit; ``python``; ``platform``; and
        ``packages``, name -> version of all installed packages.
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
    """Return name -> version of all packages, without the remains of broken installations."""
    versions = {}
    for package in metadata.distributions():
        # The name of such remains is None. importlib_metadata, if loaded, replaces the standard
        # module's finder and raises an error instead.
        with contextlib.suppress(FileNotFoundError):
            if package.name:
                versions[package.name.lower()] = package.version
    return dict(sorted(versions.items()))


def _git(folder: Path, *command: str) -> str:
    """Return the output of a git command; empty without git or without a repository."""
    try:
        result = subprocess.run(  # noqa: S603
            ["git", "-C", str(folder), *command],  # noqa: S607
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return result.stdout.strip()
