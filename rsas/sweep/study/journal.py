"""The file of a study: one line per operation, in the format of Optuna's journals.

Each line has its number as ``n``, from 0, and a checksum. So a reader detects faults that Optuna's
own file hides:

- A line whose number occurred before is skipped. A process wrote that line after losing the lease
  in the middle of a write, or the line was copied to the end of the file.
- A line without a number is skipped: another program wrote that line.
- A number that is too large, or a wrong checksum, is damage: lines are missing or changed.

The lease (``rsas.sweep.study.lease``) is an attribute of the study, so one line sets each lease.
After that line, the former owner can write no more.
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
_UNREADABLE = (ValueError, AttributeError, RecursionError)  # not JSON, or not a JSON object
_SET_STUDY_ATTRIBUTE = 2  # op_code in the format of the file

Line = dict[str, Any]


class Damaged(ValueError):
    """A journal has unreadable lines or lacks lines; the message names the position."""


class Journal(BaseJournalBackend):
    """Optuna's backend that reads and appends lines; each write compares the lease first.

    The file need not exist. A lock file makes writes exclusive without a lock of the file system
    (open with O_EXCL, NFS from version 3 on).

    Args:
        path: of the file.
        lease: of this process; reads and writes fail with ``LeaseLost`` if another process has
            taken the lease over. With None, no lease is compared.
    """

    def __init__(self, path: Path, lease: Lease | None = None) -> None:
        self._path, self._mine = path, lease
        self._lock = JournalFileOpenLock(str(path))
        self._thread_lock = threading.RLock()  # reentrant, because a write also reads
        self._inode = 0
        self._size = 0  # bytes of the file at the last read
        self._end = 0  # byte at which the lines that were read end
        self._number = 0  # of the next line
        self._unread: list[Line] = []  # lines that Optuna has not read yet
        self._given = 0  # number of lines that Optuna has read
        self._lease: Lease | None = None

    def read_logs(self, log_number_from: int) -> list[Line]:
        """Return the lines from a number on; called by Optuna.

        Raises:
            Damaged: a line cannot be read, or lines are missing.
        """
        with self._thread_lock:
            if log_number_from != self._given:  # a new reader needs the file from its beginning
                self._end = self._number = self._given = 0
                self._unread = []
            self._read_on()
            logs = self._unread[log_number_from - self._given :]
            self._given += len(self._unread)
            self._unread = []
            return logs

    def append_logs(self, logs: list[Line]) -> None:
        """Write lines; called by Optuna.

        Raises:
            LeaseLost: another process has taken the study over.
            Halted: the file was deleted or replaced, or another process wrote at the same time.
            OSError: the file cannot be written; the file then has no part of the lines.
        """
        with self._exclusive():
            # A newer lease raises in the read; here the lease was released or is not in the file.
            if self._mine is not None and self._lease != self._mine:
                raise self._mine.lost_to(self._lease)
            self._append(logs)

    def lease(self) -> Lease | None:
        """Return the newest lease, also in a damaged file; None if the file has no lease."""
        with contextlib.suppress(Damaged), self._thread_lock:
            self._read_on()
            return self._lease
        newest: Lease | None = None
        for line in _content(self._path).splitlines():
            if _LEASE.encode() in line:
                with contextlib.suppress(*_UNREADABLE, LookupError, TypeError):
                    lease = _lease_of(json.loads(line))
                    if lease is not None and (newest is None or lease.epoch >= newest.epoch):
                        newest = lease
        return newest

    def put(self, lease: Lease, over: Lease | None) -> None:
        """Replace the lease ``over``.

        A damaged file is left as it is; ``rsas.sweep.audit.rebuild`` sets the lease there.

        Raises:
            LeaseLost: another process has replaced the lease first.
        """
        if over is not None and is_alive(over.owner) is False:
            # The lock file of a dead owner would make Optuna wait for 30 seconds.
            Path(f"{self._path}.lock").unlink(missing_ok=True)
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
        """Exclude all other writers, and read all lines that they have written."""
        with self._thread_lock:
            _check_writable(self._path.parent)  # an abandoned lock there would block forever
            self._lock.acquire()
            try:
                self._read_on()
                yield
            finally:
                # Another process removes the lock file after 30 seconds without progress.
                with contextlib.suppress(RuntimeError):
                    self._lock.release()

    def _append(self, logs: list[Line]) -> None:
        lines = [_to_line({**log, "n": self._number + i}) for i, log in enumerate(logs)]
        rest = memoryview(b"".join(lines))
        # Unbuffered: a buffer would still write its rest when the file is closed after an error.
        with self._path.open("ab", buffering=0) as file:
            # If this process was stopped for long, another one may have taken the lock.
            if os.fstat(file.fileno()).st_size != self._size:
                raise Halted(f"another process writes {self._path}, too; this process ends")
            # A process that was killed in a write leaves part of a line at the end of the file.
            if self._size > self._end:
                os.truncate(file.fileno(), self._end)
            try:
                while rest:
                    rest = rest[file.write(rest) :]
                os.fsync(file.fileno())
            except OSError:  # half a line would merge with the next one
                with contextlib.suppress(OSError):
                    os.truncate(file.fileno(), self._end)
                raise

    def _read_on(self) -> None:
        """Read the lines that were written since the last read."""
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
    """Return the lines of a journal before the first damage; empty if the file does not exist."""
    lines: list[bytes] = []
    with contextlib.suppress(FileNotFoundError, Damaged), path.open("rb") as file:
        lines += (line for line, log in _lines(file, 0, 0, path) if log is not None)
    return lines


def _lines(
    file: IO[bytes], number: int, position: int, path: Path
) -> Iterator[tuple[bytes, Line | None]]:
    """Yield whole lines and their contents; the content of a skipped line is None.

    Args:
        file: at the beginning of a line.
        number: of the next line.
        position: of the next line in bytes, for messages.
        path: of the file, for messages.

    Raises:
        Damaged: a line cannot be read, or lines are missing.
    """
    for line in file:
        if not line.endswith(b"\n"):  # the line is being written, or its writer was killed
            return
        text, has_check, check = line.rpartition(_CHECK)
        try:
            log = json.loads(line)
            own_number = log.get("n")
            # Other programs write neither a number nor a checksum.
            is_whole = int(check[:-2]) == zlib.crc32(text) if has_check else own_number is None
        except _UNREADABLE:
            is_whole = False
        if not is_whole:
            raise Damaged(f"{path.name}: the line at byte {position} is damaged")
        if has_check and own_number > number:
            raise Damaged(f"{path.name}: lines {number} to {own_number - 1} are missing")
        if has_check and own_number == number:
            yield line, log
            number += 1
        else:
            yield line, None
        position += len(line)


def _to_line(log: Line) -> bytes:
    """Return a line with its checksum, the CRC-32 of all bytes before the checksum."""
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
    """Check that a lock file can be created and removed.

    Raises:
        OSError: the folder is not writable.
    """
    if not os.access(folder, os.W_OK):
        is_read_only = os.statvfs(folder).f_flag & os.ST_RDONLY
        code = errno.EROFS if is_read_only else errno.EACCES
        raise OSError(code, os.strerror(code), str(folder))


def _gone(path: Path) -> Halted:
    return Halted(
        f"{path} was deleted or replaced while it was in use; 'rsas resume' rebuilds it from "
        "the records of the trials"
    )
