"""The lease: the right to run a sweep, which one process has at a time. The study keeps the lease.

Each process that takes the lease increases its number, the epoch. The storage of the study compares
the epoch at each write. So a process that has lost the lease cannot write, even if that process was
stopped for hours or runs on another machine. The epoch is a fencing token (Kleppmann 2016, "How to
do distributed locking"). A process may take over the lease of an owner that is provably dead, or of
any owner if the user asks for this.
"""

from __future__ import annotations

import dataclasses
import os
import socket
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rsas.errors import InputError, LeaseLost

__all__ = ["Lease", "LeaseStore", "Owner", "acquire", "is_alive"]


@dataclass(frozen=True)
class Owner:
    """A process, with the facts from which another process can tell whether this one is dead."""

    pid: int
    started: int  # clock ticks from the start of the machine to that of the process; 0 if unknown
    host: str  # for messages
    machine: str
    boot: str  # differs each time the machine starts
    namespace: str  # in which the pid is valid: containers have their own


@dataclass(frozen=True)
class Lease:
    """The right of one process to write the study."""

    epoch: int  # from 1, one more each time the owner changes
    owner: Owner
    is_released: bool = False  # the owner has ended normally

    def to_dict(self) -> dict[str, Any]:
        """Return the lease as JSON types."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Lease:
        """Return the lease of a ``to_dict()``."""
        return cls(values["epoch"], Owner(**values["owner"]), values["is_released"])

    def lost_to(self, other: Lease | None) -> LeaseLost:
        """Return the error for the owner of this lease after another process took it over."""
        by = f"process {other.owner.pid} on {other.owner.host}" if other else "another process"
        return LeaseLost(f"{by} has taken the sweep over; this process ends")


class LeaseStore(Protocol):
    """The storage of the lease of a study."""

    def lease(self) -> Lease | None:
        """Return the current lease, or None if the study never had one."""

    def put(self, lease: Lease, over: Lease | None) -> None:
        """Replace the lease ``over``.

        Raises:
            LeaseLost: another process has replaced the lease first.
        """


def acquire(store: LeaseStore, sweep: str, *, take_over: bool) -> Lease:
    """Take the lease of a sweep.

    Args:
        store: keeps the lease of the sweep's study.
        sweep: name of the sweep, for messages.
        take_over: take the lease also from an owner that is alive, or whose state is unknown here.

    Raises:
        InputError: another process has the lease.
    """
    held = store.lease()
    if held is not None and not held.is_released and not take_over:
        alive = is_alive(held.owner)
        if alive is not False:
            raise InputError(f"sweep {sweep!r} is {_reason(held.owner, alive, sweep)}")
    mine = Lease(1 if held is None else held.epoch + 1, _me())
    try:
        store.put(mine, over=held)
    except LeaseLost as error:
        raise InputError(f"sweep {sweep!r}: {error}") from None
    return mine


def is_alive(owner: Owner) -> bool | None:
    """Return whether a process exists; None if this machine cannot see that process.

    The system may give the pid of a dead process to a new one, so the start time is compared, too.
    No process survives a restart of its machine.
    """
    me = _me()
    if owner.machine != me.machine:
        return None
    if owner.boot != me.boot:
        return False
    if owner.namespace != me.namespace:
        return None
    return _started(owner.pid) == owner.started


def _reason(owner: Owner, alive: bool | None, sweep: str) -> str:
    """Return the reason why the lease of an owner is not taken over, for a message."""
    if alive is None:
        return (
            f"held by process {owner.pid} on {owner.host}, and this machine cannot see whether "
            "that process is alive; if it is dead, --take-over resumes the sweep here"
        )
    if _state(owner.pid) == "T":
        return (
            f"held by process {owner.pid}, which is stopped; 'kill -CONT {owner.pid}' lets that "
            "process continue, and --take-over resumes the sweep here instead"
        )
    return (
        f"being run by process {owner.pid}; 'rsas status {sweep}' follows it, and --take-over "
        "takes the sweep away from that process"
    )


def _me() -> Owner:
    pid, host, boot = os.getpid(), socket.gethostname(), _text("/proc/sys/kernel/random/boot_id")
    # Neither name is unique: containers of one image share the machine-id, and two pods may share a
    # host name. The network address separates these cases.
    address = uuid.getnode()
    is_random = bool(address >> 40 & 1)  # the machine has no network address (RFC 9562, 6.10)
    return Owner(
        pid=pid,
        started=_started(pid) or 0,
        host=host,
        machine=f"{_text('/etc/machine-id')} {host} {boot if is_random else f'{address:x}'}",
        boot=boot,
        namespace=_namespace(),
    )


def _started(pid: int) -> int | None:
    """Return the start time of a process: 0 if the system hides it, None if the process is dead."""
    if not Path("/proc/self/stat").exists():  # not Linux
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:  # the process exists and belongs to another user
            pass
        return 0
    fields = _fields(pid)
    return None if not fields or fields[0] in "ZX" else int(fields[19])


def _state(pid: int) -> str:
    fields = _fields(pid)
    return fields[0] if fields else ""


def _fields(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on (proc(5)); empty if PID is dead."""
    return _text(f"/proc/{pid}/stat").rpartition(")")[2].split()


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _text(path: str) -> str:
    try:
        return Path(path).read_text("utf-8").strip()
    except OSError:
        return ""
