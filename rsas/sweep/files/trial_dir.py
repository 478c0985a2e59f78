"""The folder of a trial, named after its identity, with its checkpoints and its history.

A process that resumes the trial finds them by name:

checkpoint-000040.pt    the state of its trainer, of the two newest intervals
history-0001.jsonl      a line per epoch, a file for each start or resume of the trial
error.txt               the last traceback, mode 0600
trial.json              a copy of its record in the study (rsas.sweep.study.study)
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import socket
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rsas.redact import redact
from rsas.sweep.files.file_store import FileStore

if TYPE_CHECKING:  # reading histories must not need torch
    import torch

__all__ = ["History", "Superseded", "TrialDir", "read_model", "write_model"]

Row = dict[str, float]

_KEPT = 2  # a second one, as the newest checkpoint may be damaged
_CHECKPOINT = re.compile(r"checkpoint-(\d+)\.pt")
_HISTORY = re.compile(r"history-(\d+)\.jsonl")


class Superseded(Exception):
    """Another process has taken the trial over; this one must stop."""


@dataclass(frozen=True)
class History:
    """The training of a trial according to its files."""

    rows: list[Row]  # one per epoch, as last computed
    epochs_trained: int  # epochs that were trained twice count twice
    seconds: float  # of training, the sum over epochs_trained


class TrialDir:
    """The folder of one trial; the first write creates the folder.

    A process that trains the trial calls ``begin`` first and gets a number, which its history
    bears. The number is a fence: once a later process has begun, this one may not write. Two
    processes can train the same trial for a while, as workers do not notice at once that their
    driver was killed.
    """

    def __init__(self, storage: FileStore) -> None:
        self._storage = storage
        self._attempt = 0
        self._lines: list[str] = []

    def begin(self) -> None:
        """Take the trial over from the process that trained it before."""
        attempts = [int(match[1]) for match in map(_HISTORY.fullmatch, self._names()) if match]
        self._attempt = max(attempts, default=0) + 1
        self._lines = []
        self._storage.write(_history(self._attempt), b"")

    def append(self, rows: Sequence[Row]) -> None:
        """Add rows to the history, with the process and the node that computed them.

        Raises:
            Superseded: another process has begun the trial since.
            StorageError: the rows could not be written.
        """
        self._check_fence()
        author = {"pid": os.getpid(), "host": socket.gethostname()}
        node = os.environ.get("RAY_NODE_ID")  # set by workers
        author |= {"node": node} if node else {}
        lines = [*self._lines, *(json.dumps({**row, **author}) + "\n" for row in rows)]
        # The whole file is rewritten: object stores cannot append, and no line is ever cut short.
        self._storage.write(_history(self._attempt), "".join(lines).encode())
        self._lines = lines  # after the write: if it fails, the caller passes the rows again

    def save(self, epoch: int, state: dict[str, Any]) -> None:
        """Write a checkpoint; a reader sees the whole file or none.

        Raises:
            Superseded: another process has begun the trial since.
            StorageError: the checkpoint could not be written.
        """
        self._check_fence()
        self._storage.write(f"checkpoint-{epoch:06d}.pt", _to_bytes(state))
        for old in self.checkpoints()[_KEPT:]:
            self._storage.delete(old)

    def load(self, device: torch.device) -> tuple[dict[str, Any] | None, list[str]]:
        """Return the newest checkpoint that can be read, or None, and the names of damaged ones.

        Damaged checkpoints are renamed to ``.damaged``.
        """
        damaged = []
        for name in self.checkpoints():
            try:
                content = self._storage.read(name)
                if content is None:
                    continue
                state = _from_bytes(content, device)
            except OSError:
                raise  # the storage failed; the file may be whole
            except Exception:  # torch raises many types of exceptions for damaged files
                self._set_aside(name)
                damaged.append(name)
            else:
                return state, damaged
        return None, damaged

    def damaged(self) -> list[str]:
        """Return the names of the checkpoints that cannot be read; change nothing."""
        import torch

        damaged = []
        for name in self.checkpoints():
            content = self._storage.read(name)
            if content is None:  # the trial runs, and has replaced the checkpoint by a newer one
                continue
            try:
                _from_bytes(content, torch.device("cpu"))
            except Exception:  # torch raises many types of exceptions
                damaged.append(name)
        return damaged

    def set_aside(self) -> list[str]:
        """Rename the checkpoints that cannot be read to ``.damaged``; return their names."""
        damaged = self.damaged()
        for name in damaged:
            self._set_aside(name)
        return damaged

    def checkpoints(self) -> list[str]:
        """Return the names of the checkpoints, newest first."""
        return sorted(filter(_CHECKPOINT.fullmatch, self._names()), reverse=True)

    def history(self) -> History:
        """Return the rows of all processes that trained the trial."""
        names = sorted(filter(_HISTORY.fullmatch, self._names()))
        rows: dict[float, Row] = {}
        count, seconds = 0, 0.0
        for content in self._storage.read_all(names):
            for line in (content or b"").decode(errors="replace").splitlines():
                row = _row(line)
                if row is None:  # 'rsas check' reports such lines
                    continue
                rows[row["epoch"]] = row
                count += 1
                seconds += row.get("seconds", 0.0)
        return History([rows[epoch] for epoch in sorted(rows)], count, seconds)

    def clear(self) -> None:
        """Remove the checkpoints, after the trial has ended."""
        for name in self.checkpoints():
            self._storage.delete(name)

    def set_error(self, text: str) -> None:
        """Write the traceback of an error, without secrets, to a file of mode 0600."""
        self._storage.private.write("error.txt", redact(text).encode())

    def set_record(self, record: dict[str, Any]) -> None:
        """Write a copy of the trial's record, from which a damaged study can be restored."""
        self._storage.write("trial.json", self.record_bytes(record))

    @staticmethod
    def record_bytes(record: dict[str, Any]) -> bytes:
        """Return the content that ``set_record`` writes, with a checksum that shows changes."""
        return (json.dumps({**record, "crc": _checksum(record)}, indent=1) + "\n").encode()

    @staticmethod
    def record_in(content: bytes | None) -> dict[str, Any] | None:
        """Return the record in the content of a file; None if it is missing or was changed."""
        try:
            record: dict[str, Any] = json.loads(content or b"")
            checksum = record.pop("crc")
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            return None
        return record if checksum == _checksum(record) else None

    def _set_aside(self, checkpoint: str) -> None:
        self._storage.move(checkpoint, checkpoint.replace(".pt", ".damaged"))

    def _names(self) -> list[str]:
        return self._storage.names()

    def _check_fence(self) -> None:
        if self._storage.exists(_history(self._attempt + 1)):
            raise Superseded


_AUTHOR = ("pid", "host", "node")


def _row(line: str) -> Row | None:
    """Return the row in a line of a history; None if the line is damaged or was edited."""
    try:
        values = {k: v for k, v in json.loads(line).items() if k not in _AUTHOR}
        if not all(isinstance(value, (int, float)) for value in values.values()):
            return None
        row = {name: float(value) for name, value in values.items()}
        is_epoch = row["epoch"] >= 1 and row["epoch"].is_integer()
    except (ValueError, LookupError, AttributeError, OverflowError, RecursionError):
        return None
    return row if is_epoch and 0 <= row.get("seconds", 0.0) < math.inf else None


def write_model(models: FileStore, trial: str, state: dict[str, Any]) -> None:
    """Write the final model of a trial to a folder of its own."""
    models.write(f"{trial}/model.pt", _to_bytes(state))


def read_model(models: FileStore, trial: str) -> dict[str, Any] | None:
    """Return the state that ``write_model`` has written, on the CPU; None if there is none.

    Raises:
        Exception: of many types, by zipfile or torch, if the file is damaged.
    """
    import torch

    content = models.read(f"{trial}/model.pt")
    return None if content is None else _from_bytes(content, torch.device("cpu"))


def _checksum(record: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(record).encode())


def _history(attempt: int) -> str:
    return f"history-{attempt:04d}.jsonl"


def _to_bytes(state: dict[str, Any]) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def _from_bytes(content: bytes, device: torch.device) -> dict[str, Any]:
    import torch

    # torch.save does not compress. torch.load would unpack a compressed file, to any size.
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        if sum(member.file_size for member in file.infolist()) > len(content):
            raise ValueError("it unpacks to more than its size")
        if (damaged := file.testzip()) is not None:  # torch.load compares no checksums
            raise ValueError(f"{damaged} is damaged")
    # With weights_only, torch executes no code of the file.
    state: dict[str, Any] = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    return state
