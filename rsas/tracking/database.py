"""The workspace's own SQLite file of MLflow: whether it is whole, and aside with it if not."""

from __future__ import annotations

import contextlib
import fcntl
import sqlite3
from pathlib import Path

__all__ = ["damage", "set_aside"]

_BESIDE = ("-journal", "-wal", "-shm")  # SQLite's own files beside a database


def damage(path: Path) -> str:
    """Return what is wrong with a SQLite file of MLflow.

    SQLite reads all pages, 0.4 s for 100 MB.

    Returns:
        One line; empty where the file is whole or not there, and where it is locked or may not be
        read, of which nothing is known.
    """
    if not path.exists():
        return ""
    try:
        place = f"{path.absolute().as_uri()}?mode=rw"  # so that a cut transaction is rolled back
        with contextlib.closing(sqlite3.connect(place, uri=True, timeout=1.0)) as database:
            (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
            tables = database.execute("SELECT name FROM sqlite_schema").fetchall()
    except sqlite3.DatabaseError as error:
        is_damage = error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
        return str(error) if is_damage else ""
    if found != "ok":
        return str(found).splitlines()[-1]
    return "" if ("runs",) in tables else "it has no table of runs"


def set_aside(path: Path) -> Path | None:
    """Rename a damaged SQLite file and what lies beside it.

    Returns:
        The new name; None where another process was sooner.
    """
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # or two processes would rename each other's new file
        if not damage(path):
            return None
        number = 0
        while (aside := path.with_name(f"{path.name}.damaged{number or ''}")).exists():
            number += 1
        # First: a journal that is left there would be rolled back into the new file.
        for suffix in _BESIDE:
            with contextlib.suppress(FileNotFoundError):
                path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
        return path.rename(aside)
