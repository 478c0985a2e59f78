"""Load the user's own functions by name, such as models and experiments, and run their code."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from rsas.errors import InputError, reason_of

__all__ = ["load_function", "search_in", "users_code"]


@contextlib.contextmanager
def users_code() -> Iterator[None]:
    """Run a user's code in this context, which turns an exit of the code into an ordinary error.

    Ctrl-C stays an interrupt.

    Raises:
        RuntimeError: the code called ``sys.exit()``, or raised another exception that is not an
            ``Exception``.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt):
        raise
    except SystemExit as error:
        raise RuntimeError(f"the code called sys.exit({error.code!r})") from error
    except BaseException as error:
        raise RuntimeError(f"the code raised {reason_of(error)}") from error


def search_in(folders: Iterable[str]) -> None:
    """Let Python search these folders for modules, after those that Python searches already."""
    sys.path += [folder for folder in dict.fromkeys(folders) if folder not in sys.path]


def load_function(spec: str, what: str) -> Callable[..., Any]:
    """Return the function named by ``module:function`` or ``path/to/file.py:function``.

    Python then searches the current folder and the folder of the file for modules.

    Args:
        spec: the name.
        what: the kind of function, which begins an error message, such as ``"model"``.

    Raises:
        InputError: the file, module or function does not exist, or its import failed.
    """
    source, _, name = spec.rpartition(":")
    path = Path(source)
    is_file = source.endswith(".py")
    if is_file and not os.path.isfile(source):  # isfile is also False for a name that is too long
        raise InputError(f"{what} {spec!r}: there is no file {source!r}")
    search_in(map(str, [Path.cwd()] + [path.resolve().parent] * is_file))
    try:
        with users_code():
            module = _import_file(path) if is_file else importlib.import_module(source)
    except InputError as error:  # raised by the file's own use of rsas
        raise InputError(f"{what} {spec!r}: {error}") from error
    except Exception as error:
        reason = reason_of(error)
        raise InputError(f"{what} {spec!r}: cannot import {source!r} ({reason})") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise InputError(f"{what} {spec!r}: {source!r} has no function {name!r}")
    return function  # type: ignore[no-any-return]


def _import_file(path: Path) -> ModuleType:
    name = f"rsas_userfile_{path.stem}"  # must not hide a module with the file's name
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up their module there
    spec.loader.exec_module(module)
    return module
