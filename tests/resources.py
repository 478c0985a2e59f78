"""Processes that only tests with the marker ``resource`` may start.

``make check`` runs the other tests, so a test that lacks the marker must fail wherever it runs.
"""

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePath

import pytest

RSAS = [sys.executable, "-c", "from rsas.cli import main; main()"]
"""The command ``rsas`` of this environment."""

# Names of programs and of modules behind ``python -m``, and code behind ``python -c``.
_PROGRAMS = {
    *("gcs_server", "raylet", "ray", "ray.scripts.scripts"),
    *("postgres", "initdb", "moto.server", "mlflow", "mlflow.server"),
    *("chromium", "marimo", "playwright"),
}
_CODE = re.compile(
    r"\bray\.init\b|\bmlflow\.server\b"
    r"|rsas\.cli import main; main\(\)\W* (sweep|resume|extend|repeat|doctor|ui|dashboard)\b"
)

_is_guarding = False


def is_resource(command: Sequence[object]) -> bool:
    """Return whether a command starts Ray, a server or a browser."""
    words = [os.fsdecode(word) if isinstance(word, bytes) else str(word) for word in command]
    names = {PurePath(word).name for word in words}
    return bool(names & _PROGRAMS or _CODE.search(" ".join(words)))


@contextmanager
def guard() -> Iterator[None]:
    """Let each attempt to start a resource fail the test."""
    global _is_guarding
    _is_guarding = True
    try:
        yield
    finally:
        _is_guarding = False


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    if not _is_guarding or event != "subprocess.Popen":
        return
    command = arguments[1]
    words = [command] if isinstance(command, str | bytes | os.PathLike) else command
    if is_resource(words):  # type: ignore[arg-type]
        pytest.fail(f"a test without the marker 'resource' starts {words}")


sys.addaudithook(_audit)
