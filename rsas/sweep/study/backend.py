"""Open the storage of a study, and retry while a database does not answer."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import optuna
from optuna.storages import BaseStorage, JournalStorage

from rsas.errors import Halted, first_line
from rsas.sweep.study.database import open_database
from rsas.sweep.study.journal import Damaged, Journal
from rsas.sweep.study.lease import Lease

__all__ = ["PATIENCE", "open_storage", "patiently"]

PATIENCE = 60.0
"""Seconds for which a database that does not answer is retried."""

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # of the study, not of a space

T = TypeVar("T")


def open_storage(location: Path | str, study: str, lease: Lease | None) -> BaseStorage:
    """Open a journal file, or a database by its URL.

    Args:
        location: the journal file or the URL of the database.
        study: name of the study.
        lease: of this process; each write compares the lease. None to read, and in tests.
    """
    if isinstance(location, Path):
        return JournalStorage(Journal(location, lease))
    return open_database(location, study, lease)


def patiently(action: Callable[[], T], *, runs_space: bool = False) -> T:
    """Run an action; retry for up to ``PATIENCE`` seconds while a database does not answer.

    Args:
        action: may run more than once.
        runs_space: the action also runs the user's search space, which may raise an OSError, too.

    Raises:
        Halted: the database still does not answer, or the study is damaged or not writable.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return action()
        except optuna.exceptions.StorageInternalError as error:
            if time.monotonic() > deadline:
                reason = first_line(error.__cause__ or error)
                raise Halted(f"the study's database does not answer ({reason})") from None
            time.sleep(1.0)
        except Damaged as error:
            raise Halted(
                f"the study is damaged ({error}); 'rsas check NAME --repair' repairs it"
            ) from None
        except OSError as error:
            if runs_space and error.errno not in _DISK_ERRORS:
                raise
            raise Halted(f"the study cannot be written ({error.strerror or error})") from None
