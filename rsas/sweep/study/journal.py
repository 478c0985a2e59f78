"""The file of a study: a line an operation, in the format of Optuna's journals.

Each line has its number as ``n``, from 0, and a checksum. So a reader sees what Optuna's own file
does not show:

- A line with a number that was there before is skipped. It comes from a process that lost the lease
  in the middle of a write, or from a copy of the file at its end.
- A line without a number is skipped. Another program wrote it.
- A number that is too large, or a wrong checksum, is damage: lines are missing or changed.

The lease (``rsas.sweep.study.lease``) is an attribute of the study, so its place among the lines is
the moment from which its former owner may write no more.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from optuna.storages.journal import BaseJournalBackend, JournalFileOpenLock

from rsas.errors import Halted
from rsas.sweep.study.lease import Lease, is_alive

__all__ = ["Damaged", "Journal", "whole_lines"]

_CHECK = b',"crc":'
_LEASE = "rsas:lease"
_UNREADABLE = (ValueError, AttributeError, RecursionError)  # by json, or no object
_SET_STUDY_ATTRIBUTE = 2  # op_code in the format of the file

Line = dict[str, Any]


class Damaged(ValueError):
    """A journal has lines that cannot be read, or lacks some; the message names the place."""


class Journal(BaseJournalBackend):
    """Reads and appends lines; each write compares the lease first.

    The file need not exist. Writes are exclusive by a lock file, which needs no lock of the file
    system (open with O_EXCL, NFS from version 3 on).

    Args:
        path: of the file.
        lease: of this process: reads and writes fail with ``LeaseLost`` where another process has
            it. With None, none is compared.
    """

    def __init__(self, path: Path, lease: Lease | None = None) -> None:
        self._path, self._mine = path, lease
        self._lock = JournalFileOpenLock(str(path))
        self._thread_lock = threading.RLock()  # a write reads, too
        self._inode = 0
        self._size = 0  # of the file when it was read
        self._end = 0  # of the lines that were read
        self._number = 0  # of the next line
        self._unread: list[Line] = []  # by Optuna
        self._given = 0  # how many lines Optuna has read
        self._lease: Lease | None = None

    def read_logs(self, log_number_from: int) -> list[Line]:
        """Return the lines from a number on; called by Optuna.

        Raises:
            Damaged: a line cannot be read, or lines are missing.
        """
        with self._thread_lock:
            if log_number_from != self._given:  # another reader: from the beginning
                self._end = self._number = self._given = 0
                self._unread = []
            self._read_on()
            found = self._unread[log_number_from - self._given :]
            self._given += len(self._unread)
            self._unread = []
            return found

    def append_logs(self, logs: list[Line]) -> None:
        """Write lines; called by Optuna.

        Raises:
            LeaseLost: another process has taken the study over.
            Halted: the file is gone, or another process wrote meanwhile.
            OSError: the file cannot be written; nothing of the lines is left there.
        """
        with self._exclusive():
            if self._mine is not None and self._lease != self._mine:  # released, or never noted
                raise self._mine.lost_to(self._lease)
            self._append(logs)

    def lease(self) -> Lease | None:
        """Return the lease that was noted last, also in a damaged file."""
        with contextlib.suppress(Damaged), self._thread_lock:
            self._read_on()
            return self._lease
        found: Lease | None = None
        for line in _content(self._path).splitlines():
            if _LEASE.encode() in line:
                with contextlib.suppress(*_UNREADABLE, LookupError, TypeError):
                    noted = _lease_of(json.loads(line))
                    if noted is not None and (found is None or noted.epoch >= found.epoch):
                        found = noted
        return found

    def put(self, lease: Lease, over: Lease | None) -> None:
        """Replace the lease ``over``; in a damaged file, ``rsas.sweep.audit.rebuild`` does.

        Raises:
            LeaseLost: another process was sooner.
        """
        if over is not None and is_alive(over.owner) is False:
            Path(f"{self._path}.lock").unlink(missing_ok=True)  # or Optuna waits for 30 seconds
        attribute = {_LEASE: lease.to_dict()}
        line = {
            "op_code": _SET_STUDY_ATTRIBUTE,
            "worker_id": "rsas",
            "study_id": 0,
            "user_attr": attribute,
        }
        with contextlib.suppress(Damaged), self._exclusive():
            if self._lease != over:
                raise lease.lost_to(self._lease)
            self._append([line])

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Be the only one that writes, and know all lines."""
        with self._thread_lock:
            _check_writable(self._path.parent)  # or the wait for a lock that was left never ends
            self._lock.acquire()
            try:
                self._read_on()
                yield
            finally:
                with contextlib.suppress(RuntimeError):  # taken away after 30 seconds without life
                    self._lock.release()

    def _append(self, logs: list[Line]) -> None:
        lines = [_to_line({**log, "n": self._number + i}) for i, log in enumerate(logs)]
        rest = memoryview(b"".join(lines))
        # Not buffered, or the rest would be written when the file is closed after an error.
        with self._path.open("ab", buffering=0) as file:
            if os.fstat(file.fileno()).st_size != self._size:  # this process was stopped for long
                raise Halted(f"another process writes {self._path}, too; this process ends")
            # Behind the last whole line is what a process left that was killed in a write.
            if self._size > self._end:
                os.truncate(file.fileno(), self._end)
            try:
                while rest:
                    rest = rest[file.write(rest) :]
                os.fsync(file.fileno())
            except OSError:  # half a line would be glued to the next one
                with contextlib.suppress(OSError):
                    os.truncate(file.fileno(), self._end)
                raise

    def _read_on(self) -> None:
        """Read the lines that were written since the last time."""
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            if self._end:
                raise _gone(self._path) from None
            self._size = 0
            return
        with file:
            stat = os.fstat(file.fileno())
            if self._end and (stat.st_ino != self._inode or stat.st_size < self._end):
                raise _gone(self._path)
            self._inode, self._size = stat.st_ino, stat.st_size
            file.seek(self._end)
            for line, log in _lines(file, self._number, self._end, self._path):
                self._end += len(line)
                if log is None:
                    continue
                self._number += 1
                self._unread.append(log)
                self._lease = _lease_of(log) or self._lease
        mine, now = self._mine, self._lease
        if mine is not None and now is not None and now.epoch > mine.epoch:
            raise mine.lost_to(now)


def whole_lines(path: Path) -> list[bytes]:
    """Return the lines of a journal before the first damage; empty where there is no file."""
    found: list[bytes] = []
    with contextlib.suppress(FileNotFoundError, Damaged), path.open("rb") as file:
        found += (line for line, log in _lines(file, 0, 0, path) if log is not None)
    return found


def _lines(
    file: IO[bytes], number: int, place: int, path: Path
) -> Iterator[tuple[bytes, Line | None]]:
    """Yield whole lines and their contents, None for those to be skipped.

    Args:
        file: at the beginning of a line.
        number: of the next line.
        place: in bytes, of the next line, for messages.
        path: of the file, for messages.

    Raises:
        Damaged: a line cannot be read, or lines are missing.
    """
    for line in file:
        if not line.endswith(b"\n"):  # it is being written, or its process was killed
            return
        text, mark, check = line.rpartition(_CHECK)
        try:
            log = json.loads(line)
            found = log.get("n")
            # Other programs write neither a number nor a checksum.
            is_whole = int(check[:-2]) == zlib.crc32(text) if mark else found is None
        except _UNREADABLE:
            is_whole = False
        if not is_whole:
            raise Damaged(f"{path.name}: the line at byte {place} is damaged")
        if mark and found > number:
            raise Damaged(f"{path.name}: lines {number} to {found - 1} are missing")
        if mark and found == number:
            yield line, log
            number += 1
        else:
            yield line, None
        place += len(line)


def _to_line(log: Line) -> bytes:
    """Return a line with its checksum (CRC-32 of all before it), which makes damage visible."""
    text = json.dumps(log, separators=(",", ":"))[:-1].encode()
    return text + _CHECK + b"%d}\n" % zlib.crc32(text)


def _lease_of(log: Line) -> Lease | None:
    values = log.get("user_attr", {}).get(_LEASE) if "study_id" in log else None
    return None if values is None else Lease.from_dict(values)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _check_writable(folder: Path) -> None:
    """See that a lock file can be made and removed.

    Raises:
        OSError: it cannot.
    """
    if not os.access(folder, os.W_OK):
        is_read_only = os.statvfs(folder).f_flag & os.ST_RDONLY
        code = errno.EROFS if is_read_only else errno.EACCES
        raise OSError(code, os.strerror(code), str(folder))


def _gone(path: Path) -> Halted:
    return Halted(
        f"{path} was deleted or replaced while it was in use; 'rsas resume' makes it again from "
        "the records of the trials"
    )
