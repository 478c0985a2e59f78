"""Functions of the user's own, by name: models, experiments; and how rsas calls them."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from rsas.errors import InputError, reason_of

__all__ = ["load_function", "users_code"]


@contextlib.contextmanager
def users_code() -> Iterator[None]:
    """Call a user's code within this context; an exit that it asks for is an error like any other.

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
        raise RuntimeError(f"it called sys.exit({error.code!r})") from error
    except BaseException as error:
        raise RuntimeError(f"it raised {reason_of(error)}") from error


def load_function(spec: str, what: str) -> Callable[..., Any]:
    """The function named by ``module:function`` or ``path/to/file.py:function``.

    The current folder, and the folder of the file, are searched for modules.

    Args:
        spec: the name.
        what: what the function is, to begin an error message with, such as ``"model"``.

    Raises:
        InputError: the file, module or function is not there, or importing it failed.
    """
    place, _, name = spec.rpartition(":")
    path = Path(place)
    is_file = place.endswith(".py")
    if is_file and not os.path.isfile(place):  # False, too, for a name that is too long
        raise InputError(f"{what} {spec!r}: there is no file {place!r}")
    for folder in [Path.cwd()] + [path.resolve().parent] * is_file:
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
    try:
        with users_code():
            module = _import_file(path) if is_file else importlib.import_module(place)
    except InputError as error:  # raised by the file's own use of rsas
        raise InputError(f"{what} {spec!r}: {error}") from error
    except Exception as error:
        reason = reason_of(error)
        raise InputError(f"{what} {spec!r}: cannot import {place!r} ({reason})") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise InputError(f"{what} {spec!r}: {place!r} has no function {name!r}")
    return function  # type: ignore[no-any-return]


def _import_file(path: Path) -> ModuleType:
    name = f"rsas_userfile_{path.stem}"  # may not hide a module of the file's name
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
