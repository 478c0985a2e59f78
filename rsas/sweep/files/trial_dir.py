"""Where a trial keeps its checkpoints and history: a folder named after its identity.

Whoever runs the trial, this process or the next one, finds them there by name:

checkpoint-000040.pt    the state of its trainer, of the two newest intervals
history-0001.jsonl      a line an epoch, a file each time the trial was begun or gone on with
error.txt               the last traceback, mode 0600
trial.json              what the study has of it (rsas.sweep.study.study)
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

if TYPE_CHECKING:  # histories are read without torch
    import torch

__all__ = ["History", "Superseded", "TrialDir", "read_model", "write_model"]

Row = dict[str, float]

_KEPT = 2  # the newest checkpoint may be damaged
_CHECKPOINT = re.compile(r"checkpoint-(\d+)\.pt")
_HISTORY = re.compile(r"history-(\d+)\.jsonl")


class Superseded(Exception):
    """Another process has taken the trial over; this one is to stop."""


@dataclass(frozen=True)
class History:
    """What a trial's files tell of its training."""

    rows: list[Row]  # one an epoch, as last computed
    epochs_trained: int  # those trained twice count twice
    seconds: float  # that they took, all together


class TrialDir:
    """The folder of one trial; it is made when something is written.

    A process that trains the trial calls ``begin`` first. The number it gets marks its history,
    and is the fence: when a later one has begun, this one may write no more. Two processes can
    be at it for a while when a driver was killed and its workers do not know yet.
    """

    def __init__(self, storage: FileStore) -> None:
        self._storage = storage
        self._attempt = 0
        self._lines: list[str] = []

    def begin(self) -> None:
        """Take the trial over from whoever trained it before."""
        attempts = [int(found[1]) for found in map(_HISTORY.fullmatch, self._names()) if found]
        self._attempt = max(attempts, default=0) + 1
        self._lines = []
        self._storage.write(_history(self._attempt), b"")

    def append(self, rows: Sequence[Row]) -> None:
        """Add rows to the history, and who computed them.

        Raises:
            Superseded: another process has begun the trial since.
            StorageError: they could not be written.
        """
        self._check_fence()
        author = {"pid": os.getpid(), "host": socket.gethostname()}
        node = os.environ.get("RAY_NODE_ID")  # set by workers
        author |= {"node": node} if node else {}
        lines = [*self._lines, *(json.dumps({**row, **author}) + "\n" for row in rows)]
        # Written anew each time: object stores cannot append, and no line is ever half there.
        self._storage.write(_history(self._attempt), "".join(lines).encode())
        self._lines = lines  # only now: who could not write them gives them again

    def save(self, epoch: int, state: dict[str, Any]) -> None:
        """Write a checkpoint; a reader sees the whole file or none.

        Raises:
            Superseded: another process has begun the trial since.
            StorageError: it could not be written.
        """
        self._check_fence()
        self._storage.write(f"checkpoint-{epoch:06d}.pt", _to_bytes(state))
        for old in self.checkpoints()[_KEPT:]:
            self._storage.delete(old)

    def load(self, device: torch.device) -> tuple[dict[str, Any] | None, list[str]]:
        """The newest checkpoint that can be read, or None; and the names of damaged ones.

        Those are kept aside as ``.damaged``.
        """
        damaged = []
        for name in self.checkpoints():
            try:
                content = self._storage.read(name)
                if content is None:
                    continue
                state = _from_bytes(content, device)
            except OSError:
                raise  # of the storage, not of what is in it
            except Exception:  # torch raises many kinds for damaged files
                self._set_aside(name)
                damaged.append(name)
            else:
                return state, damaged
        return None, damaged

    def damaged(self) -> list[str]:
        """Names of the checkpoints that cannot be read; nothing is changed."""
        import torch

        found = []
        for name in self.checkpoints():
            content = self._storage.read(name)
            if content is None:  # the trial goes on, and it has given way to a newer one
                continue
            try:
                _from_bytes(content, torch.device("cpu"))
            except Exception:  # torch raises many kinds
                found.append(name)
        return found

    def set_aside(self) -> list[str]:
        """Rename the checkpoints that cannot be read to ``.damaged``; return their names."""
        found = self.damaged()
        for name in found:
            self._set_aside(name)
        return found

    def checkpoints(self) -> list[str]:
        """Names of the checkpoints, newest first."""
        return sorted(filter(_CHECKPOINT.fullmatch, self._names()), reverse=True)

    def history(self) -> History:
        """All rows of all processes that trained the trial."""
        names = sorted(filter(_HISTORY.fullmatch, self._names()))
        rows: dict[float, Row] = {}
        count, seconds = 0, 0.0
        for content in self._storage.read_all(names):
            for line in (content or b"").decode(errors="replace").splitlines():
                row = _row(line)
                if row is None:  # 'rsas check' tells of it
                    continue
                rows[row["epoch"]] = row
                count += 1
                seconds += row.get("seconds", 0.0)
        return History([rows[epoch] for epoch in sorted(rows)], count, seconds)

    def clear(self) -> None:
        """Remove the checkpoints, when the trial has ended."""
        for name in self.checkpoints():
            self._storage.delete(name)

    def set_error(self, text: str) -> None:
        """Keep the traceback of an error, secrets hidden, in a file of mode 0600."""
        self._storage.private.write("error.txt", redact(text).encode())

    def set_record(self, record: dict[str, Any]) -> None:
        """Keep what the study has of the trial, from which a damaged study is made again."""
        self._storage.write("trial.json", self.record_bytes(record))

    @staticmethod
    def record_bytes(record: dict[str, Any]) -> bytes:
        """Return what ``set_record`` writes, with a checksum, which makes changes visible."""
        return (json.dumps({**record, "crc": _checksum(record)}, indent=1) + "\n").encode()

    @staticmethod
    def record_in(content: bytes | None) -> dict[str, Any] | None:
        """Return the record in the content of a file; None where it is missing or changed."""
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
    """Return the row of a line of a history; None where the line is damaged or edited."""
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
    """Keep the final model of a trial in a folder of its own."""
    models.write(f"{trial}/model.pt", _to_bytes(state))


def read_model(models: FileStore, trial: str) -> dict[str, Any] | None:
    """What ``write_model`` was given, on the CPU; None if there is none.

    Raises:
        Exception: of zipfile or torch, when the file is damaged.
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

    # torch.save packs nothing; torch.load would unpack what another has packed, of any size.
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        if sum(member.file_size for member in file.infolist()) > len(content):
            raise ValueError("it unpacks to more than its size")
        if (damaged := file.testzip()) is not None:  # torch.load compares no checksums
            raise ValueError(f"{damaged} is damaged")
    # weights_only: nothing in the file is executed.
    state: dict[str, Any] = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    return state
